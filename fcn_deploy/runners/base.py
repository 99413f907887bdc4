"""The contract of all backends, and the one way to open one.

    with open_runner(run, "ort") as runner:
        masks = runner.run(images).mask

A runner gives what was asked for or raises: it never falls back to another device in silence.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, FcnDeployError, InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import BatchShape, ModelSpec, Precision, ordered_outputs
from fcn_deploy.results.runner import RunnerDescription

#: Backend → its module, or a member of it after a colon.  Resolved by name at the last moment, so
#: that this room (and whoever imports it) loads no backend, and a machine needs only the packages
#: of the one it uses.
_MODULES = {
    "torch": "fcn_deploy.runners.pytorch:eager",
    "torch-compile": "fcn_deploy.runners.pytorch:compiled",
    "torch-graphs": "fcn_deploy.runners.pytorch:graphs",
    "ort": "fcn_deploy.runners.ort.runner",
    "ort-cuda": "fcn_deploy.runners.ort.runner:cuda",
    "ort-rtx": "fcn_deploy.runners.ort.runner:rtx",
    "trt": "fcn_deploy.runners.trt",
    "openvino": "fcn_deploy.runners.openvino.runner",
    "openvino-bf16": "fcn_deploy.runners.openvino.runner:bf16",
    "openvino-int8x3": "fcn_deploy.runners.openvino.runner:int8x3",
    "ncnn": "fcn_deploy.runners.ncnn.runner",
    "baseline": "fcn_deploy.runners.baseline:cpu",
    "baseline-cuda": "fcn_deploy.runners.baseline:cuda",
}
#: The backends a user may ask for.
BACKENDS = (
    "torch", "torch-compile", "torch-graphs",
    "ort", "ncnn", "openvino", "openvino-bf16", "openvino-int8x3", "ort-cuda", "ort-rtx", "trt",
)  # fmt: skip
#: They run where ``device`` says; the others say by their name where they run.
TORCH_BACKENDS = ("torch", "torch-compile", "torch-graphs")
#: Never taken unasked: they prepare every batch shape anew, the compiler for minutes.
ON_REQUEST = ("torch-compile", "torch-graphs")


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
        """Whether somebody takes the stages' times: then a device is waited for at their ends."""
        return self._on_stage is not None

    def _ended(self, stage: str) -> None:
        """Say, inside ``_infer``, that a stage has just ended."""
        if self._on_stage is not None:
            self._on_stage(stage)

    def run(
        self, images: NDArray[np.uint8], *, on_stage: Callable[[str], None] | None = None
    ) -> Outputs:
        """Segment a batch.

        Args:
            images: uint8 [N, H, W, 3], RGB, N, H, W ≥ 1.
            on_stage: told each of ``STAGES`` as it ends, for whoever holds a clock.  A backend
                that cannot tell its stages apart names none of them.

        Returns:
            The outputs that the runner was opened for, on the host.

        Raises:
            InputError: wrong type, dtype, rank, channel count, or an empty batch.
            BackendError: the backend failed, for want of memory for example.
        """
        check_images(images)
        self._on_stage = on_stage
        try:
            with self.failures_explained(images.shape):
                return self._infer(images)
        finally:
            self._on_stage = None

    @contextmanager
    def failures_explained(self, shape: tuple[int, ...]) -> Iterator[None]:
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

    def keep(self, shapes: int) -> None:  # noqa: B027 (most prepare nothing for a shape)
        """Keep what is prepared for so many shapes of batches at once.

        Whoever knows which shapes will come again asks for this, so that none makes room for
        another; each costs memory.
        """

    def stream_views(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Do as :meth:`stream`, without a copy of the results where they need none.

        A result is valid until the next one is asked for or the runner is closed: its memory may
        be the next one's.
        """
        return self.stream(batches)

    def batch_buffer(self, shape: BatchShape) -> NDArray[np.uint8]:
        """Return memory for a batch, uint8 [N, H, W, 3], that the runner reads without a copy.

        It is filled by the caller, handed to :meth:`run` or a stream as it is or as its first
        pictures, and left alone until the result of that batch has come.  Three buffers in turn
        keep a stream busy.  Getting one takes a while: make a few and use them again.

        Args:
            shape: N, H, W.
        """
        return np.empty((*shape, 3), dtype=np.uint8)

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
        run: the run directory, where the checkpoint and the ONNX files lie, or one such file.
        backend: one of :data:`BACKENDS`.
        precision: of the file to take (``torch``: of the arithmetic).
        outputs: of ``mask``, ``logits``, ``margin``.
        threads: CPU threads; None leaves the library's own choice.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        BackendError: unknown, or not to be had on this machine.
        MissingStageError: the file it needs has not been made; the repair names the command.
    """
    if not isinstance(run, Run):
        run = Run.from_argument(run)
    require_backend(backend)
    runner: Runner = _backend_module(backend).open(
        run, precision=precision, outputs=ordered_outputs(outputs), threads=threads, device=device
    )
    return runner


def require_backend(backend: str) -> None:
    """Raise unless the backend runs here.

    Raises:
        BackendError: unknown, or not to be had on this machine; the message says what to install.
    """
    reason = unavailable_reason(backend)
    if reason is not None:
        raise BackendError(f"backend {backend} does not work here: {reason}")


def unavailable_reason(backend: str) -> str | None:
    """Return why a backend cannot run here and what to install, or None if it can.

    Raises:
        BackendError: there is no backend of that name.
    """
    reason: str | None = _backend_module(backend).unavailable_reason()
    return reason


def takes(backend: str, precision: Precision) -> bool:
    """Say whether a backend that works here takes files of that precision."""
    module = _backend_module(backend)
    return not hasattr(module, "takes") or bool(module.takes(precision))


def _backend_module(backend: str) -> Any:
    if backend not in _MODULES:
        raise BackendError(
            f"no backend {backend!r} in this version", f"choose one of {', '.join(BACKENDS)}"
        )
    name, _, member = _MODULES[backend].partition(":")
    module = importlib.import_module(name)
    return getattr(module, member) if member else module
