"""The contract of all backends, and the one way to open one.

    with open_runner(run, "ort") as runner:
        masks = runner.run(images).mask

A runner gives what was asked for or raises: it never falls back to another device in silence.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, FcnDeployError, InputError, MissingExtraError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec, Precision, ordered_outputs
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.results.runner import BASELINES, RunnerDescription

#: Backend → where its :class:`Backend` stands, module:name.  Looked up by name at the last moment,
#: so that this module (and whoever imports it) loads no backend, and a machine needs only the
#: packages of the one it uses.
_PLACES = {
    "torch": "pytorch:EAGER",
    "torch-compile": "pytorch:COMPILED",
    "torch-graphs": "pytorch:GRAPHS",
    "ort": "ort.runner:CPU",
    "ncnn": "ncnn.runner:NCNN",
    "openvino": "openvino.runner:AS_STORED",
    "openvino-bf16": "openvino.runner:BF16",
    "openvino-int8x3": "openvino.runner:INT8X3",
    "ort-cuda": "ort.runner:CUDA",
    "ort-rtx": "ort.runner:RTX",
    "trt": "trt:TRT",
    "original": "original:CPU",
    "baseline": "baseline:CPU",
    "baseline-cuda": "baseline:CUDA",
}
#: The backends a user may ask for, in the order in which they are listed and measured.
BACKENDS = tuple(name for name in _PLACES if name not in BASELINES)
_Key = TypeVar("_Key")
#: Called with a line for the user.
Say = Callable[[str], None]
#: Called with a build's progress: the phase's name, the steps done and the steps in all.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class OpenRequest:
    """What a runner is opened for.

    Attributes:
        run: the run directory, where the checkpoint and the ONNX files lie, or one such file.
        precision: of the file to take (``torch``: of the arithmetic).
        outputs: of ``mask``, ``logits``, ``margin``, in this order; ``mask`` is always among them.
        threads: CPU threads; None leaves the library's own choice.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    run: Run
    precision: Precision = Precision.FP32
    outputs: tuple[str, ...] = ("mask",)
    threads: int | None = None
    device: str = "auto"


def _any_precision(precision: Precision) -> bool:
    return True


def _no_extra() -> None:
    return None


@dataclass(frozen=True)
class Backend:
    """A way to run a network, found by its name with :func:`find_backend`.

    Attributes:
        name: as users type it.
        open: returns the runner; raises a BackendError for a precision that is not taken.
        unavailable_reason: says why it cannot run here and what to install, or None.
        takes: whether files of a precision are computed, where the backend works.
        runs_on: the one kind of device that it is for; None: where ``device`` says.
        on_request: never taken unasked: every batch shape is prepared anew, for minutes, or it is
            what the others are held against.
        build_missing: builds the engine that a request needs and that is missing, or None where
            nothing is built.
        build_seconds: how long the model file of a runner took to build, or None.
        missing_extra: gives the error of a package of its extra that cannot be imported, or None;
            ``unavailable_reason`` says it too.
    """

    name: str
    open: Callable[[OpenRequest], Runner]
    unavailable_reason: Callable[[], str | None]
    takes: Callable[[Precision], bool] = _any_precision
    runs_on: Literal["cpu", "cuda"] | None = None
    on_request: bool = False
    build_missing: Callable[[OpenRequest, Say, Progress], None] | None = None
    build_seconds: Callable[[Path], float | None] = lambda file: None
    missing_extra: Callable[[], MissingExtraError | None] = _no_extra

    def device_of(self, asked: str) -> str:
        """Return the device to open it for where several backends are asked for one."""
        return asked if self.runs_on is None else "auto"

    def refusal_of(self, device: str) -> BackendError | None:
        """Return why it does not run on a device that was asked for, or None."""
        if self.runs_on in (None, device) or device == "auto":
            return None
        if self.runs_on == "cpu":
            return BackendError(
                f"backend {self.name} runs on the CPU, and --device is PyTorch's",
                f"drop --device {device}, or use --backend ort-cuda",
            )
        return BackendError(
            f"backend {self.name} runs on a GPU, and --device is PyTorch's",
            f"drop --device {device}, or use --backend ort",
        )


@dataclass(frozen=True)
class Outputs:
    """What one run gives, on the host.

    Attributes:
        mask: uint8 [N, H, W], class indices.
        logits: float32 [N, C, H, W], or None where not asked for.
        margin: float32 [N, H, W], top-1 minus top-2 logit, or None where not asked for.
    """

    mask: NDArray[np.uint8]
    logits: NDArray[np.float32] | None = None
    margin: NDArray[np.float32] | None = None

    @classmethod
    def chosen(cls, arrays: Mapping[str, NDArray[Any]], wanted: Iterable[str]) -> Outputs:
        """Return what was asked for, by name; a margin that is not among it is the logits'."""
        found = dict(arrays)
        if "margin" in wanted and "margin" not in found:
            found["margin"] = margin_of(found["logits"])
        return cls(**{name: found[name] for name in wanted})


class Runner(ABC):
    """A network ready to run on one backend.

    Subclasses implement ``_infer``, ``describe`` and ``close``; inputs are checked here, before
    any device is touched.
    """

    _on_stage: Callable[[str], None] | None = None

    @property
    @abstractmethod
    def spec(self) -> ModelSpec:
        """Classes, colours, normalisation of the network."""

    @abstractmethod
    def describe(self) -> RunnerDescription:
        """Say what this runner is, as built."""

    @abstractmethod
    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        """Run on checked input; results are on the host when this returns."""

    @abstractmethod
    def close(self) -> None:
        """Free the device; calling it twice is harmless."""

    @property
    def _watched(self) -> bool:
        """Whether ``on_stage`` was given: then a device is waited for at the end of each stage."""
        return self._on_stage is not None

    def stage_done(self, stage: str) -> None:
        """Call ``on_stage``, inside ``_infer``, for a stage that has just ended."""
        if self._on_stage is not None:
            self._on_stage(stage)

    def run(
        self, images: NDArray[np.uint8], *, on_stage: Callable[[str], None] | None = None
    ) -> Outputs:
        """Segment a batch.

        Args:
            images: uint8 [N, H, W, 3], RGB, N, H, W ≥ 1.
            on_stage: called with the name of each of ``STAGES`` when it has ended; the bench times
                stages with it.  A backend that cannot tell its stages apart never calls it.

        Returns:
            The outputs that the runner was opened for, on the host.

        Raises:
            InputError: wrong type, dtype, rank, channel count, or an empty batch.
            BatchShapeError: the network does not take batches of that shape.
            BackendError: the backend failed, for want of memory for example.
        """
        self.check(images)
        self._on_stage = on_stage
        try:
            with self.translate_errors(images.shape):
                return self._infer(images)
        finally:
            self._on_stage = None

    def check(self, images: NDArray[np.uint8]) -> None:
        """Refuse a batch before any device is touched.

        Raises:
            InputError: see :func:`check_images`.
            BatchShapeError: the network does not take that shape.
        """
        check_images(images)
        self.spec.input_shape.require(images.shape)

    @contextmanager
    def translate_errors(self, shape: tuple[int, ...]) -> Iterator[None]:
        """Turn a library's exception, in the block that computes images of ``shape``, into ours.

        Raises:
            BackendError: saying what failed, at which shape.
        """
        try:
            yield
        except FcnDeployError:
            raise
        except Exception as error:  # the backends' exceptions share no base
            raise BackendError(
                f"backend {self.describe().backend} failed at N×H×W "
                f"{'×'.join(map(str, shape[:3]))} ({type(error).__name__}: {error})",
                "if memory is short, use smaller pictures or batches",
            ) from error

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each batch, in order; a runner may have several batches in work.

        The n-th result is always the n-th batch's.  A batch that is refused, and one that fails
        while it is computed, raises after the results of those before it, and no result follows:
        so an error concerns the first batch that has none.  Those that were taken behind it are
        given up.  What the source of the batches raises comes after the results of all that it
        gave.
        """
        for images in batches:
            yield self.run(images)

    def reserve_shapes(self, shapes: int) -> None:  # noqa: B027 (most prepare nothing for one)
        """Keep what is prepared for so many shapes of batches at once.

        Whoever knows which shapes will come again asks for this, so that none makes room for
        another; each costs memory.
        """

    def device_seconds(self, images: NDArray[np.uint8]) -> float | None:
        """Run a batch and return the device's own time for computing it, without the copies.

        None where the backend cannot ask its device.
        """
        return None

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def stream_by_key(
    runner: Runner, batches: Iterable[tuple[_Key, NDArray[np.uint8]]]
) -> Iterator[tuple[_Key, Outputs]]:
    """Yield the outputs of a runner's stream, each with the key of its batch.

    Args:
        runner: an open runner; see :meth:`Runner.stream`.
        batches: key and images, uint8 [N, H, W, 3], of each.
    """
    in_flight: deque[_Key] = deque()

    def images() -> Iterator[NDArray[np.uint8]]:
        for key, batch in batches:
            in_flight.append(key)
            yield batch

    for outputs in runner.stream(images()):
        yield in_flight.popleft(), outputs


def check_images(images: NDArray[np.uint8]) -> None:
    """Raise unless ``images`` is uint8 [N, H, W, 3] with N, H, W ≥ 1.

    Raises:
        InputError: saying what was expected and what came.
    """
    expected = "images must be a uint8 array [N, H, W, 3]"
    if not isinstance(images, np.ndarray):
        raise InputError(f"{expected}, not {type(images).__name__}")
    if images.dtype != np.uint8:
        raise InputError(f"{expected}, not {images.dtype}", "pass RGB values 0 to 255")
    if images.ndim != 4:
        raise InputError(f"{expected}, not of rank {images.ndim}", "one picture is images[None]")
    if images.shape[3] != 3:
        raise InputError(f"{expected}, not {images.shape[3]} channels", "pass RGB, channels last")
    if 0 in images.shape:
        raise InputError(f"{expected} with N, H, W ≥ 1, not {images.shape}")


def open_runner(
    run: Run | str | Path,
    backend: str,
    *,
    precision: Precision = Precision.FP32,
    outputs: Iterable[str] = ("mask",),
    threads: int | None = None,
    device: str = "auto",
) -> Runner:
    """Open the run's network on a backend.

    Args:
        run: as for :class:`OpenRequest`, like what follows; a path is that of a run, or of a file.
        backend: one of :data:`BACKENDS`.
        precision: of the file to take (``torch``: of the arithmetic).
        outputs: of ``mask``, ``logits``, ``margin``.
        threads: CPU threads; None leaves the library's own choice.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        MissingExtraError: a package of its extra cannot be imported.
        BackendError: unknown, not to be had on this machine, or not for that device or precision.
        MissingStageError: the file it needs has not been made; the repair names the command.
    """
    if not isinstance(run, Run):
        run = Run.from_argument(run)
    found = find_backend(backend)
    if (refusal := found.refusal_of(device)) is not None:
        raise refusal
    require_backend(backend)
    return found.open(OpenRequest(run, precision, ordered_outputs(outputs), threads, device))


def find_backend(name: str) -> Backend:
    """Return a backend, whether it works here or not; its module is loaded.

    Raises:
        BackendError: there is no backend of that name.
    """
    if name not in _PLACES:
        raise BackendError(
            f"no backend {name!r} in this version", f"choose one of {', '.join(BACKENDS)}"
        )
    module, _, member = _PLACES[name].partition(":")
    backend: Backend = getattr(importlib.import_module(f"fcn_deploy.runners.{module}"), member)
    return backend


def require_backend(name: str) -> None:
    """Raise unless the backend runs here.

    Raises:
        MissingExtraError: a package of its extra cannot be imported.
        BackendError: unknown, or not to be had on this machine; the message says what to install.
    """
    if (missing := find_backend(name).missing_extra()) is not None:
        raise missing
    if (reason := unavailable_reason(name)) is not None:
        raise BackendError(f"backend {name} does not work here: {reason}")


def unavailable_reason(name: str) -> str | None:
    """Return why a backend cannot run here and what to install, or None if it can.

    Raises:
        BackendError: there is no backend of that name.
    """
    return find_backend(name).unavailable_reason()


def takes(name: str, precision: Precision) -> bool:
    """Say whether a backend that works here takes files of that precision."""
    return find_backend(name).takes(precision)
