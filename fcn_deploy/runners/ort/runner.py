"""ONNX Runtime on the CPU and on the GPU.  Knows no torch: it goes onto the target device."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import cannot_import
from fcn_deploy.core.spec import Precision
from fcn_deploy.graph.int8_for_ort_cpu import SATURATION, for_onnx_runtime_cpu
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.onnx_file import OnnxFile, require_model
from fcn_deploy.graph.session import cpu_session
from fcn_deploy.machine import cuda as gpu
from fcn_deploy.machine.description import int8_sums_saturate
from fcn_deploy.results.runner import COMPUTE, COPY_IN
from fcn_deploy.runners.base import Backend, OpenRequest, Outputs, Runner
from fcn_deploy.runners.cpu_streams import LANES, in_threads
from fcn_deploy.runners.onnx_runner import OnnxRunner
from fcn_deploy.runners.ort.sessions import RTX_REPAIR, cuda_missing, cuda_session, rtx_session

if TYPE_CHECKING:
    import onnx


def _cpu_missing() -> str | None:
    """Return why ONNX Runtime cannot run here, or None."""
    try:
        import onnxruntime
    except ImportError as error:
        return f"{cannot_import('backend ort', error)}; pip install onnxruntime"
    if "CPUExecutionProvider" not in onnxruntime.get_available_providers():
        return "this ONNX Runtime has no CPUExecutionProvider; pip install onnxruntime"
    return None


def _open_on_cpu(request: OpenRequest) -> OrtRunner:
    return OrtRunner("ort", require_model(request.run, request.precision), request)


class OrtRunner(OnnxRunner):
    """An exported file in an ONNX Runtime session.

    Args:
        backend: the name it is opened by.
        file: the exported file.
        request: what it is opened for.
        open_session: from an ONNX file's bytes and a number of threads.
    """

    def __init__(
        self,
        backend: str,
        file: OnnxFile,
        request: OpenRequest,
        open_session: Callable[[bytes, int], Any] = cpu_session,
    ) -> None:
        import onnxruntime

        super().__init__(backend, file, request)
        on_cpu = open_session is cpu_session
        self._rewrites = self._metadata.precision is Precision.INT8 and on_cpu
        self._library = f"ONNX Runtime {onnxruntime.__version__}"
        # On ARM it has kernels for halves of their own.
        on_x86 = platform.machine().lower() in ("x86_64", "amd64")
        if self._metadata.precision is Precision.FP16 and on_cpu and on_x86:
            self._arithmetic = Precision.FP32.value
            self._library += ", half precision computed in float32"
        if self._rewrites:
            self._library += ", activations made unsigned"
            self._library += SATURATION if int8_sums_saturate() else ""
        self._derives_margin = "margin" in self._wanted and "margin" not in self._shipped_outputs
        content = self._content()
        exposed = self._content(with_logits(file.model)) if self._needs_probe else None
        file.release()  # before the session takes memory of its own
        self._session: Any = open_session(content, self._threads)
        self._providers = tuple(self._session.get_providers())
        self._probe: Any = None if exposed is None else open_session(exposed, self._threads)
        # One thread has nothing to share.
        self._takes_lanes = on_cpu and self._masks_alone and self._threads >= LANES
        self._lane_session: Any = None

    def _content(self, changed: onnx.ModelProto | None = None) -> bytes:
        """Return the file's content as a session is to see it, or that of a changed graph."""
        if changed is None and not self._rewrites:
            return self._file.bytes
        model = self._file.model if changed is None else changed
        if self._rewrites:
            model = for_onnx_runtime_cpu(model)
        content: bytes = model.SerializeToString()
        return content

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        session = self._require_open(self._session)
        arrays = self._run_session(session, self._shipped_outputs, images)
        if self._probe is not None:
            arrays |= self._run_session(self._probe, ("logits",), images)
        if self._derives_margin and "logits" not in arrays:
            arrays |= self._run_session(session, ("logits",), images)
        return Outputs.chosen(arrays, self._wanted)

    def _run_session(
        self, session: Any, names: tuple[str, ...], images: NDArray[np.uint8]
    ) -> dict[str, NDArray[Any]]:
        self.stage_done(COPY_IN)  # nothing to do: the session reads the array where it lies
        arrays = session.run(list(names), {"image": images})
        self.stage_done(COMPUTE)
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
        self._require_open(self._session)
        if self._lane_session is None:
            content = self._content()  # read again: kept, it would cost its size in memory
            self._file.release()
            self._lane_session = cpu_session(content, self._threads - LANES + 1)
        return self._lane_session

    def close(self) -> None:
        """Free the sessions; calling it twice is harmless."""
        self._session = self._lane_session = self._probe = None


class OrtGpuRunner(OrtRunner):
    """An exported file in an ONNX Runtime session on the GPU, bound to pinned host memory."""

    def __init__(
        self,
        backend: str,
        file: OnnxFile,
        request: OpenRequest,
        open_session: Callable[[bytes, int], Any],
    ) -> None:
        self._device = f"cuda:0 ({gpu.describe_gpu().name})"
        self._pinned: dict[str, gpu.PinnedBuffer] = {}
        super().__init__(backend, file, request, open_session)

    def _run_session(
        self, session: Any, names: tuple[str, ...], images: NDArray[np.uint8]
    ) -> dict[str, NDArray[Any]]:
        binding = session.io_binding()
        source = self._pinned_array("image", images.shape, images.dtype)
        np.copyto(source, images)
        self.stage_done(COPY_IN)  # as far as the host sees it: the bus is inside the session's run
        pointer = self._pinned["image"].pointer
        binding.bind_input("image", "cpu", 0, images.dtype, images.shape, pointer)
        produced = {}
        for name in names:
            shape, dtype = self._output_type(name, images.shape)
            produced[name] = self._pinned_array(name, shape, dtype)
            binding.bind_output(name, "cpu", 0, dtype, shape, self._pinned[name].pointer)
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        self.stage_done(COMPUTE)
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


def gpu_backend(
    name: str, missing: Callable[[], str | None], open_session: Callable[[bytes, int], Any]
) -> Backend:
    """Return ONNX Runtime with one provider of the GPU's as a backend.

    Args:
        name: of the backend.
        missing: says why its provider cannot be had, apart from the GPU, or None.
        open_session: from an ONNX file's bytes and a number of threads.
    """

    def open_backend(request: OpenRequest) -> Runner:
        file = require_model(request.run, request.precision)
        return OrtGpuRunner(name, file, request, open_session)

    def why_unavailable() -> str | None:
        reasons = (missing(), gpu.unavailable_reason())
        return "; ".join(reason for reason in reasons if reason) or None

    return Backend(name, open_backend, why_unavailable, _takes_on_gpu, runs_on="cuda")


def _takes_on_gpu(precision: Precision) -> bool:
    # Of a quantised file not everything would run there.
    return precision in (Precision.FP32, Precision.FP16)


def _rtx_missing() -> str | None:
    for name in ("onnxruntime", "onnxruntime_ep_nv_tensorrt_rtx"):
        if importlib.util.find_spec(name) is None:
            absent = ModuleNotFoundError(name=name)
            return f"{cannot_import('backend ort-rtx', absent)}; {RTX_REPAIR}"
    import onnxruntime

    if not hasattr(onnxruntime, "register_execution_provider_library"):
        return "this ONNX Runtime takes no plugin providers; pip install 'onnxruntime-gpu>=1.23'"
    return None


CPU = Backend("ort", _open_on_cpu, _cpu_missing, runs_on="cpu")
CUDA = gpu_backend("ort-cuda", cuda_missing, cuda_session)
RTX = gpu_backend("ort-rtx", _rtx_missing, rtx_session)
