"""ONNX Runtime on the CPU and on the GPU.  Knows no torch: it goes onto the target device.

The module itself is the backend ``ort``; ``cuda`` and ``rtx`` at its end are the GPU's.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, OnnxFileError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec, Precision
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.graph.int8_for_ort_cpu import SATURATION, for_onnx_runtime_cpu
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.onnx_file import OnnxMetadata, load_onnx, require_model
from fcn_deploy.graph.session import cpu_session
from fcn_deploy.machine import cuda as gpu
from fcn_deploy.machine.description import int8_sums_saturate, usable_cores
from fcn_deploy.results.runner import COMPUTE, COPY_IN, WIDENED, RunnerDescription
from fcn_deploy.runners.base import Outputs, Runner
from fcn_deploy.runners.cpu_streams import LANES, in_threads
from fcn_deploy.runners.ort.sessions import RTX_REPAIR, cuda_missing, cuda_session, rtx_session


def unavailable_reason() -> str | None:
    """Return why ONNX Runtime cannot run here, or None."""
    try:
        import onnxruntime
    except ImportError as error:
        return f"ONNX Runtime cannot be imported ({error}); pip install onnxruntime"
    if "CPUExecutionProvider" not in onnxruntime.get_available_providers():
        return "this ONNX Runtime has no CPUExecutionProvider; pip install onnxruntime"
    return None


def open(
    run: Run,
    *,
    precision: Precision,
    outputs: tuple[str, ...],
    threads: int | None,
    device: str,
) -> OrtRunner:
    """Open a run's ONNX file; see :func:`fcn_deploy.runners.base.open_runner`.

    Raises:
        BackendError: ``device`` is ``cuda``; this backend is the CPU's.
        OnnxFileError: the file is not ours, or was made from another checkpoint of this run.
    """
    if device == "cuda":
        raise BackendError("backend ort runs on the CPU", "drop --device cuda")
    return OrtRunner(*require_model(run, precision), outputs, threads)


class OrtRunner(Runner):
    """An exported file in an ONNX Runtime session.

    The mask always comes from the file as shipped.  Where logits are asked for and the file has
    none, a second session is opened on the same graph with its logits made visible: it serves
    measurement, and the shipped graph stays what is measured.
    """

    def __init__(
        self,
        path: Path,
        metadata: OnnxMetadata,
        outputs: tuple[str, ...],
        threads: int | None,
        open_session: Callable[[bytes, int], Any] = cpu_session,
    ) -> None:
        self._path = path
        self._metadata = metadata
        self._digest = file_digest(path)
        self._threads = threads or usable_cores()
        hidden = [name for name in outputs if name not in metadata.outputs]
        self._shipped_outputs = tuple(name for name in outputs if name in metadata.outputs)
        self._derive_margin = "margin" in hidden
        self._wanted = outputs
        on_cpu = open_session is cpu_session
        # On ARM it has kernels for halves of their own.
        on_x86 = platform.machine().lower() in ("x86_64", "amd64")
        self._widens_halves = metadata.precision is Precision.FP16 and on_cpu and on_x86
        integers_on_cpu = metadata.precision is Precision.INT8 and on_cpu
        self._rewrite = for_onnx_runtime_cpu if integers_on_cpu else None
        self._session: Any = open_session(self._graph(path.read_bytes()), self._threads)
        # Who wants to see the logits measures no throughput; one thread has nothing to share.
        self._takes_lanes = on_cpu and outputs == ("mask",) and self._threads >= LANES
        self._lane_session: Any = None
        self._probe: Any = None
        if hidden and "logits" not in metadata.outputs:
            exposed = with_logits(load_onnx(path)).SerializeToString()
            self._probe = open_session(self._graph(exposed), self._threads)

    def _graph(self, content: bytes) -> bytes:
        """Return a file's content as the session is to see it."""
        if self._rewrite is None:
            return content
        import onnx

        rewritten: bytes = self._rewrite(onnx.load_from_string(content)).SerializeToString()
        return rewritten

    @property
    def spec(self) -> ModelSpec:
        """Classes, colours, normalisation of the network."""
        return self._metadata.spec

    def describe(self) -> RunnerDescription:
        """Say what this runner is, as built."""
        import onnxruntime

        return RunnerDescription(
            backend="ort",
            device="cpu",
            precision=self._metadata.precision.value,
            library=f"ONNX Runtime {onnxruntime.__version__}"
            + (WIDENED if self._widens_halves else "")
            + (", activations made unsigned" if self._rewrite is not None else "")
            + (SATURATION if self._rewrite is not None and int8_sums_saturate() else ""),
            providers=tuple(self._open_session().get_providers()),
            threads=self._threads,
            file=str(self._path),
            digest=self._digest,
            checkpoint_digest=self._metadata.checkpoint_digest,
        )

    def _open_session(self) -> Any:
        if self._session is None:
            raise BackendError("the ort runner is closed")
        return self._session

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        arrays = self._run_session(self._open_session(), self._shipped_outputs, images)
        if self._probe is not None:
            arrays |= self._run_session(self._probe, ("logits",), images)
        if self._derive_margin:
            if "logits" not in arrays:
                arrays |= self._run_session(self._session, ("logits",), images)
            arrays["margin"] = margin_of(arrays["logits"])
        return Outputs(**{name: arrays[name] for name in self._wanted})

    def _run_session(
        self, session: Any, names: tuple[str, ...], images: NDArray[np.uint8]
    ) -> dict[str, NDArray[Any]]:
        self._ended(COPY_IN)  # nothing to do: the session reads the array where it lies
        arrays = session.run(list(names), {"image": images})
        self._ended(COMPUTE)
        return dict(zip(names, arrays, strict=True))

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each batch, in order; see :func:`in_threads`."""
        if not self._takes_lanes:
            yield from super().stream(batches)
            return

        def network() -> Callable[[NDArray[np.uint8]], Outputs]:
            session = self._session_of_lanes()
            return lambda images: Outputs(*session.run(["mask"], {"image": images}))

        yield from in_threads(self, batches, network)

    def _session_of_lanes(self) -> Any:
        """Return the session that computes ``LANES`` batches at once, opened when first needed.

        Its pool serves all lanes, and each lane brings a thread of its own: together they are
        ``threads``.
        """
        self._open_session()
        if self._lane_session is None:
            if file_digest(self._path) != self._digest:
                raise OnnxFileError(f"{self._path} has changed since it was opened", "open it anew")
            content = self._graph(self._path.read_bytes())
            self._lane_session = cpu_session(content, self._threads - LANES + 1)
        return self._lane_session

    def close(self) -> None:
        """Free the sessions; calling it twice is harmless."""
        self._session = self._lane_session = self._probe = None


class OrtGpuRunner(OrtRunner):
    """An exported file in an ONNX Runtime session on the GPU, bound to pinned host memory."""

    def __init__(
        self,
        backend: OrtGpuBackend,
        path: Path,
        metadata: OnnxMetadata,
        outputs: tuple[str, ...],
        threads: int | None,
    ) -> None:
        self._backend = backend.name
        self._device = f"cuda:0 ({gpu.describe_gpu().name})"
        self._pinned: dict[str, gpu.PinnedBuffer] = {}
        super().__init__(path, metadata, outputs, threads, backend.open_session)

    def describe(self) -> RunnerDescription:
        """Say what this runner is, as built."""
        return replace(super().describe(), backend=self._backend, device=self._device)

    def _run_session(
        self, session: Any, names: tuple[str, ...], images: NDArray[np.uint8]
    ) -> dict[str, NDArray[Any]]:
        binding = session.io_binding()
        source = self._pinned_array("image", images.shape, images.dtype)
        np.copyto(source, images)
        self._ended(COPY_IN)  # as far as the host sees it: the bus is inside the session's run
        pointer = self._pinned["image"].pointer
        binding.bind_input("image", "cpu", 0, images.dtype, images.shape, pointer)
        produced = {}
        for name in names:
            shape, dtype = self._output_type(name, images.shape)
            produced[name] = self._pinned_array(name, shape, dtype)
            binding.bind_output(name, "cpu", 0, dtype, shape, self._pinned[name].pointer)
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        self._ended(COMPUTE)
        return {name: array.copy() for name, array in produced.items()}

    def _output_type(
        self, name: str, images: tuple[int, ...]
    ) -> tuple[tuple[int, ...], np.dtype[Any]]:
        batch, height, width, _channels = images
        if name == "logits":
            return (batch, self.spec.num_classes, height, width), np.dtype(np.float32)
        return (batch, height, width), np.dtype(np.uint8 if name == "mask" else np.float32)

    def _pinned_array(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        nbytes = int(np.prod(shape)) * dtype.itemsize
        buffer = self._pinned.get(name)
        if buffer is None or buffer.nbytes < nbytes:
            if buffer is not None:
                # Out of the dictionary first: should the next line fail, it must not be found.
                self._pinned.pop(name).close()
            buffer = self._pinned[name] = gpu.PinnedBuffer(nbytes)
        return buffer.array(shape, dtype)

    def close(self) -> None:
        """Free the sessions and the pinned memory; calling it twice is harmless."""
        super().close()
        for buffer in self._pinned.values():
            buffer.close()
        self._pinned = {}


@dataclass(frozen=True)
class OrtGpuBackend:
    """ONNX Runtime with one provider of the GPU's.

    Attributes:
        name: of the backend.
        missing: why its provider cannot be had, apart from the GPU; None if it can.
        open_session: from an ONNX file's bytes and a number of threads.
    """

    name: str
    missing: Callable[[], str | None]
    open_session: Callable[[bytes, int], Any]

    def takes(self, precision: Precision) -> bool:
        """Say whether all of a file of that precision runs on the GPU: the quantised one's not."""
        return precision in (Precision.FP32, Precision.FP16)

    def unavailable_reason(self) -> str | None:
        """Return what is missing and what to install, or None."""
        reasons = (self.missing(), gpu.unavailable_reason())
        return "; ".join(reason for reason in reasons if reason) or None

    def open(
        self,
        run: Run,
        *,
        precision: Precision,
        outputs: tuple[str, ...],
        threads: int | None,
        device: str,
    ) -> OrtGpuRunner:
        """Open a run's ONNX file; see :func:`fcn_deploy.runners.base.open_runner`.

        Raises:
            BackendError: ``device`` is ``cpu``, or the provider cannot be had.
            OnnxFileError: the file is not ours, or was made from another checkpoint of this run.
        """
        if device == "cpu":
            raise BackendError(f"backend {self.name} runs on a GPU", "use --backend ort")
        return OrtGpuRunner(self, *require_model(run, precision), outputs, threads)


def _rtx_missing() -> str | None:
    for name in ("onnxruntime", "onnxruntime_ep_nv_tensorrt_rtx"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed; {RTX_REPAIR}"
    import onnxruntime

    if not hasattr(onnxruntime, "register_execution_provider_library"):
        return "this ONNX Runtime takes no plugin providers; pip install 'onnxruntime-gpu>=1.23'"
    return None


#: Backend ``ort-cuda``.
cuda = OrtGpuBackend("ort-cuda", cuda_missing, cuda_session)
#: Backend ``ort-rtx``.
rtx = OrtGpuBackend("ort-rtx", _rtx_missing, rtx_session)
