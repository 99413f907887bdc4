"""ncnn on the CPU.  Knows no torch: it goes onto the target device.

    model.onnx ─split─▶ head │ body │ rest
    image ─ONNX Runtime: head─▶ ncnn: body─▶ ONNX Runtime: rest─▶ mask

ncnn computes 3×3 convolutions of stride 1 by Winograd's minimal filtering, in float32: of a
ResNet-18's products two fifths are left.  The other backends multiply them all.  What ncnn computes
no faster stays in ONNX Runtime: the layers before, and the tail, since ncnn has no argmax over
classes and the masks are the shipped graph's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, MissingExtraError, OnnxFileError
from fcn_deploy.core.extras import missing_extra
from fcn_deploy.core.spec import Precision
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.onnx_file import FOREIGN_REPAIR, OnnxFile, require_model
from fcn_deploy.graph.session import cpu_session
from fcn_deploy.results.runner import COMPUTE, COPY_IN
from fcn_deploy.runners.base import Backend, OpenRequest, Outputs
from fcn_deploy.runners.cpu_streams import LANES, in_threads
from fcn_deploy.runners.ncnn.split import SplitGraph, as_batch, split_graph
from fcn_deploy.runners.onnx_runner import OnnxRunner

if TYPE_CHECKING:
    import onnx

#: float32 means float32: switched off is whatever would store or multiply anything shorter.
_SWITCHED_OFF = (
    "use_fp16_packed",
    "use_fp16_storage",
    "use_fp16_arithmetic",
    "use_bf16_packed",
    "use_bf16_storage",
    "use_int8_packed",
    "use_int8_storage",
    "use_int8_arithmetic",
    "use_int8_inference",
    "use_vulkan_compute",
)


def _missing_extra() -> MissingExtraError | None:
    return missing_extra("backend ncnn", "ncnn", "ncnn", "onnxruntime")


def _missing() -> str | None:
    error = _missing_extra()
    return None if error is None else str(error)


def _takes(precision: Precision) -> bool:
    return precision is Precision.FP32


def _open(request: OpenRequest) -> NcnnRunner:
    file = require_model(request.run, request.precision)
    precision = file.metadata.precision
    if not _takes(precision):
        raise BackendError(
            f"backend ncnn does not take {precision.value} files",
            f"drop{precision.flag}, or use --backend ort",
        )
    return NcnnRunner("ncnn", file, request)


class NcnnRunner(OnnxRunner):
    """An exported file, its body in ncnn, its two ends in ONNX Runtime.

    For logits that the file does not give, the tail is opened a second time with its logits made
    visible.  The filtering is chosen for the typical size of the training pictures: much larger
    ones take a few per cent longer than they might.
    """

    def __init__(self, backend: str, file: OnnxFile, request: OpenRequest) -> None:
        import ncnn
        import onnxruntime

        super().__init__(backend, file, request)
        self._library = f"ncnn {ncnn.__version__}, ends in ONNX Runtime {onnxruntime.__version__}"
        model = file.model
        file.release()
        self._graph = split_graph(model, typical_size=self.spec.image_sizes.typical)
        rest = split_graph(with_logits(model)).rest if self._needs_probe else None
        del model  # before the libraries take memory of their own
        self._network: _Network | None = _Network(self._graph, self._threads, self._threads)
        self._probe = None if rest is None else _waiting_session(rest, self._threads)
        # One thread has nothing to share.
        self._takes_lanes = self._masks_alone and self._threads % LANES == 0
        self._lane_network: _Network | None = None

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        network = self._require_open(self._network)
        self.stage_done(COPY_IN)  # nothing to do: the head reads the array where it lies
        seam = network.seam(images)
        arrays = finished(network.rest, images, seam)
        self.stage_done(COMPUTE)
        if self._probe is not None:
            arrays["logits"] = finished(self._probe, images, seam)["logits"]
        return Outputs.chosen(arrays, self._wanted)

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each batch, in order; see :func:`in_threads`."""
        if not self._takes_lanes:
            yield from super().stream(batches)
            return
        yield from in_threads(self, batches, lambda: self._network_of_lanes().run)

    def _network_of_lanes(self) -> _Network:
        """Return the network that computes ``LANES`` batches at once, opened when first needed."""
        self._require_open(self._network)
        if self._lane_network is None:
            # A session's pool counts the thread that calls it: each lane brings one.
            threads = self._threads // LANES, self._threads - LANES + 1
            self._lane_network = _Network(self._graph, *threads)
        return self._lane_network

    def close(self) -> None:
        """Free both parts; calling it twice is harmless."""
        self._network = self._lane_network = self._probe = None


class _Network:
    """A split graph, opened in ncnn and in ONNX Runtime.

    Args:
        graph: of an FP32 file.
        threads: CPU threads of a call into ncnn.
        session_threads: of each pool of ONNX Runtime.

    Attributes:
        rest: the session of the third part.
    """

    def __init__(self, graph: SplitGraph, threads: int, session_threads: int) -> None:
        import ncnn

        self._ncnn = ncnn
        self._graph = graph
        self._net: Any = ncnn.Net()
        self._net.opt.num_threads = threads
        for name in _SWITCHED_OFF:
            setattr(self._net.opt, name, False)
        if self._net.load_param_mem(graph.param) != 0:
            raise OnnxFileError("ncnn refuses the file's layers", FOREIGN_REPAIR)
        self._net.load_model_mem(graph.weights)  # it reads them where they lie, in ``graph``
        self._head: Any = _waiting_session(graph.head, session_threads)
        self.rest: Any = _waiting_session(graph.rest, session_threads)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Return the masks of uint8 [N, H, W, 3]."""
        return Outputs(finished(self.rest, images, self.seam(images))["mask"])

    def seam(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return the seam's tensors for uint8 [N, H, W, 3], float32 [N, K, h, w] each.

        Raises:
            BackendError: ncnn gave up, for want of memory for example.
            OnnxFileError: the two parts do not fit.
        """
        (entries,) = self._head.run(None, {"image": images})
        if self._graph.channels not in (None, entries.shape[1]):  # ncnn would read beyond them
            raise OnnxFileError(
                f"{self._graph.entry} has {entries.shape[1]} channels, not {self._graph.channels}",
                FOREIGN_REPAIR,
            )
        tensors: dict[str, list[NDArray[np.float32]]] = {name: [] for name in self._graph.seam}
        for entry in entries:
            extractor = self._net.create_extractor()
            extractor.input(self._graph.entry, self._ncnn.Mat(entry))
            for name, found in tensors.items():
                code, mat = extractor.extract(name)
                if code != 0:
                    raise BackendError(
                        f"ncnn failed with code {code}", "if memory is short, use smaller pictures"
                    )
                found.append(np.array(mat))
        return {name: as_batch(found) for name, found in tensors.items()}


def _waiting_session(part: onnx.ModelProto, threads: int) -> Any:
    """Open a part of the graph whose threads wait asleep while ncnn's compute.

    Left to spin, they take the cores from ncnn: a picture then takes 1.6 times as long (measured).
    """
    return cpu_session(part.SerializeToString(), threads, spinning=False)


def finished(
    session: Any, images: NDArray[np.uint8], seam: dict[str, NDArray[np.float32]]
) -> dict[str, NDArray[Any]]:
    """Return what the third part gives for the seam, by name."""
    given = {"image": images, **seam}
    fed = {entry.name: given[entry.name] for entry in session.get_inputs()}
    names = [entry.name for entry in session.get_outputs()]
    return dict(zip(names, session.run(names, fed), strict=True))


NCNN = Backend("ncnn", _open, _missing, _takes, runs_on="cpu", missing_extra=_missing_extra)
