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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, OnnxFileError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec, Precision
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.onnx_file import FOREIGN_REPAIR, OnnxMetadata, load_onnx, require_model
from fcn_deploy.graph.session import cpu_session
from fcn_deploy.machine.description import usable_cores
from fcn_deploy.results.runner import COMPUTE, COPY_IN, RunnerDescription
from fcn_deploy.runners.base import Outputs, Runner
from fcn_deploy.runners.cpu_streams import LANES, in_threads
from fcn_deploy.runners.ncnn.split import SplitGraph, as_batch, split_graph

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


def unavailable_reason() -> str | None:
    """Return why ncnn cannot run here, or None."""
    for package in ("ncnn", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            return f"{package} cannot be imported ({error}); pip install 'fcn-deploy[ncnn]'"
    return None


def takes(precision: Precision) -> bool:
    """Say whether files of that precision are computed: float32 alone."""
    return precision is Precision.FP32


def open(
    run: Run,
    *,
    precision: Precision,
    outputs: tuple[str, ...],
    threads: int | None,
    device: str,
) -> NcnnRunner:
    """Open a run's ONNX file; see :func:`fcn_deploy.runners.base.open_runner`.

    Raises:
        BackendError: ``device`` is ``cuda``, or the file is not FP32.
        OnnxFileError: the file is not ours, or was made from another checkpoint of this run.
    """
    if device == "cuda":
        raise BackendError("backend ncnn runs on the CPU", "drop --device cuda")
    path, metadata = require_model(run, precision)
    if not takes(metadata.precision):
        raise BackendError(
            f"backend ncnn does not take {metadata.precision.value} files",
            f"drop{metadata.precision.flag}, or use --backend ort",
        )
    return NcnnRunner(path, metadata, outputs, threads)


class NcnnRunner(Runner):
    """An exported file, its body in ncnn, its two ends in ONNX Runtime.

    The mask always comes from the file as shipped; for logits that it does not give, the tail is
    opened a second time with its logits made visible.  The filtering is chosen for the typical size
    of the training pictures: much larger ones take a few per cent longer than they might.
    """

    def __init__(
        self,
        path: Path,
        metadata: OnnxMetadata,
        outputs: tuple[str, ...],
        threads: int | None,
    ) -> None:
        self._path = path
        self._metadata = metadata
        self._digest = file_digest(path)
        self._threads = threads or usable_cores()
        self._wanted = outputs
        typical = metadata.spec.image_sizes.typical
        self._graph = split_graph(load_onnx(path), typical_size=typical)
        self._network: _Network | None = _Network(self._graph, self._threads, self._threads)
        hidden = [name for name in outputs if name not in metadata.outputs]
        self._derive_margin = "margin" in hidden
        self._probe: Any = None
        if hidden and "logits" not in metadata.outputs:
            rest = split_graph(with_logits(load_onnx(path))).rest
            self._probe = _waiting_session(rest, self._threads)
        # Who wants to see the logits measures no throughput; one thread has nothing to share.
        self._takes_lanes = outputs == ("mask",) and self._threads % LANES == 0
        self._lane_network: _Network | None = None

    @property
    def spec(self) -> ModelSpec:
        """Classes, colours, normalisation of the network."""
        return self._metadata.spec

    def describe(self) -> RunnerDescription:
        """Say what this runner is, as built."""
        import ncnn
        import onnxruntime

        return RunnerDescription(
            backend="ncnn",
            device="cpu",
            precision=self._metadata.precision.value,
            library=f"ncnn {ncnn.__version__}, ends in ONNX Runtime {onnxruntime.__version__}",
            threads=self._threads,
            file=str(self._path),
            digest=self._digest,
            checkpoint_digest=self._metadata.checkpoint_digest,
        )

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        network = self._require_open()
        self._ended(COPY_IN)  # nothing to do: the head reads the array where it lies
        seam = network.seam(images)
        arrays = finished(network.rest, images, seam)
        self._ended(COMPUTE)
        if self._probe is not None:
            arrays["logits"] = finished(self._probe, images, seam)["logits"]
        if self._derive_margin:
            arrays["margin"] = margin_of(arrays["logits"])
        return Outputs(**{name: arrays[name] for name in self._wanted})

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each batch, in order; see :func:`in_threads`."""
        if not self._takes_lanes:
            yield from super().stream(batches)
            return
        yield from in_threads(self, batches, lambda: self._network_of_lanes().run)

    def _network_of_lanes(self) -> _Network:
        """Return the network that computes ``LANES`` batches at once, opened when first needed."""
        self._require_open()
        if self._lane_network is None:
            # A session's pool counts the thread that calls it: each lane brings one.
            threads = self._threads // LANES, self._threads - LANES + 1
            self._lane_network = _Network(self._graph, *threads)
        return self._lane_network

    def _require_open(self) -> _Network:
        if self._network is None:
            raise BackendError("the ncnn runner is closed")
        return self._network

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
        """
        (entries,) = self._head.run(None, {"image": images})
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
