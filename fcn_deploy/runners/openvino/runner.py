"""OpenVINO on the CPU.  Knows no torch: it goes onto the target device.

    model.onnx ──read once──▶ graph ──per N×H×W, kept for the last few──▶ compiled ──▶ mask

The module itself is the backend ``openvino``: a file is computed in the precision that it has.
At its end stand two more for float32 files, of which the graph is changed before it is compiled:
``bf16``, the backend ``openvino-bf16``, computes them in bfloat16, with the mean's fraction moved
into a bias so that no pixel is rounded; ``int8x3``, the backend ``openvino-int8x3``, in float32,
large convolutions as three products of 8-bit integers.

Nothing is cached on disk: of the 0.17 s in which ``openvino`` compiles a ResNet-18 for 320×480,
OpenVINO's CACHE_DIR saves 0.04 s, and it would leave 44 MiB for each shape, without bound.
"""

from __future__ import annotations

import ctypes
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, OnnxFileError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec, Precision
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.graph.int8_for_ort_cpu import SATURATION, quantized_convolutions
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.onnx_file import FOREIGN_REPAIR, OnnxMetadata, load_onnx, require_model
from fcn_deploy.machine.description import cpu_flags, int8_sums_saturate, usable_cores
from fcn_deploy.results.runner import COMPUTE, COPY_IN, RunnerDescription
from fcn_deploy.runners.base import Outputs, Runner
from fcn_deploy.runners.cpu_streams import LANES, in_lanes
from fcn_deploy.runners.openvino.bf16 import WHOLE_MEAN, with_whole_mean
from fcn_deploy.runners.openvino.int8x3 import PRODUCTS_EACH, THREE_PRODUCTS, with_three_products
from fcn_deploy.runners.openvino.workarounds import (
    give_spare_column,
    runtime_info,
    strided_to_one_column,
)

if TYPE_CHECKING:
    import onnx


class _SignalStack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Give the thread back the stack on which it handles signals, whatever is done meanwhile.

    OpenVINO with more than one thread puts in a stack of its own with a model (seen with 2026.4),
    and puts the one that it found back when the model goes.  Models that do not go in the reverse
    order of their coming leave a stack that is freed, on which the next signal that Python handles
    kills the process: a Ctrl-C, or the end of a child while PyTorch loads in processes.
    """
    if sys.platform != "linux":
        yield
        return
    kept = _SignalStack()
    _libc().sigaltstack(None, ctypes.byref(kept))
    try:
        yield
    finally:
        _libc().sigaltstack(ctypes.byref(kept), None)


#: Shapes that stay compiled of one graph, unless more are asked for.  Each holds its weights once
#: more, laid out for its kernels (65 MiB for a ResNet-18).
KEPT_SHAPES = 8
#: Since then its ArgMax gives the lowest class of a tie (openvino pull request 32217).
OLDEST_RELEASE = (2025, 4)
_INSTALL = "pip install 'fcn-deploy[openvino]'"
#: What its CPU plugin calls the types that a CPU computes in by instructions of its own.
_CAPABILITIES = {"bf16": "BF16", "f16": "FP16"}
#: The kernels of its compiled graph end in the type that they compute in: brgconv_avx512_f32.
_KERNEL_TYPES = {
    Precision.FP32: "f32",
    Precision.FP16: "f16",
    Precision.BF16: "bf16",
    Precision.INT8: "i8",
}
#: Share of the convolutions that must be computed in what was asked for: of an INT8 file, of those
#: that it quantises.  Half and bfloat16 leave to float32 what has no kernel of theirs.
_LEAST_SHARE = {
    Precision.FP32: 1.0,
    Precision.FP16: 0.75,
    Precision.BF16: 0.75,
    Precision.INT8: 0.9,
}


@dataclass(frozen=True)
class Arithmetic:
    """How files of one precision are computed.

    Attributes:
        kind: OpenVINO's name of the type for what is not quantised.
        precision: that the file is computed in.
        change: what is made of an ONNX graph before OpenVINO reads it; None: nothing.
        note: stands behind the library's name and tells so.
    """

    kind: str
    precision: Precision
    change: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None
    note: str = ""


@dataclass(frozen=True)
class OpenVinoBackend:
    """OpenVINO with one type for the arithmetic of each kind of file.

    The type is always said: on a CPU with AMX, OpenVINO would take bfloat16 for a float32 file.

    Attributes:
        name: of the backend.
        arithmetic: precision of the file → how it is computed.
        needs: the flag of Intel's AMX without which it is expected to take longer than float32, or
            None.
    """

    name: str
    arithmetic: Mapping[Precision, Arithmetic]
    needs: str | None = None

    def unavailable_reason(self) -> str | None:
        """Return why OpenVINO cannot run in this precision here, or None."""
        try:
            import openvino

            release = tuple(int(part) for part in openvino.__version__.split(".")[:2])
            if release < OLDEST_RELEASE:
                oldest = ".".join(map(str, OLDEST_RELEASE))
                newer = f"pip install -U 'openvino>={oldest}'"
                return f"OpenVINO {openvino.__version__} is older than {oldest}; {newer}"
            if self.needs is not None and self.needs not in cpu_flags():
                missing = f"this CPU has no Intel AMX ({self.needs}), or does not say so"
                return f"{missing}; use --backend openvino"
            return self._missing(openvino.Core(), Precision.FP32)
        except ImportError as error:
            return f"OpenVINO cannot be imported ({error}); {_INSTALL}"
        except Exception as error:  # its exceptions share no base but Exception
            return f"OpenVINO does not work here ({type(error).__name__}: {error}); {_INSTALL}"

    def takes(self, precision: Precision) -> bool:
        """Say whether files of that precision are computed as this backend's name says."""
        import openvino

        return precision in self.arithmetic and not self._missing(openvino.Core(), precision)

    @signal_stack_kept()
    def open(
        self,
        run: Run,
        *,
        precision: Precision,
        outputs: tuple[str, ...],
        threads: int | None,
        device: str,
    ) -> OpenVinoRunner:
        """Open a run's ONNX file; see :func:`fcn_deploy.runners.base.open_runner`.

        Raises:
            BackendError: ``device`` is ``cuda``, or this CPU has no such arithmetic.
            OnnxFileError: the file is not ours, or was made from another checkpoint of this run.
        """
        if device == "cuda":
            raise BackendError(f"backend {self.name} runs on the CPU", "drop --device cuda")
        return OpenVinoRunner(self, *require_model(run, precision), outputs, threads)

    def require_arithmetic(self, core: Any, precision: Precision) -> Arithmetic:
        """Return how a file is computed.

        Raises:
            BackendError: it would be computed in another type than this backend stands for.
        """
        if precision not in self.arithmetic:
            taken = " and ".join(kind.value for kind in self.arithmetic)
            raise BackendError(
                f"backend {self.name} takes {taken} files, not {precision.value} ones",
                f"drop{precision.flag}, or use --backend openvino",
            )
        reason = self._missing(core, precision)
        if reason is not None:
            raise BackendError(reason, f"drop{precision.flag}, or use --backend ort")
        return self.arithmetic[precision]

    def _missing(self, core: Any, precision: Precision) -> str | None:
        # Where the CPU lacks a type, OpenVINO computes in float32 and lets it pass.
        kind = self.arithmetic[precision].kind
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if kind in _CAPABILITIES and _CAPABILITIES[kind] not in capabilities:
            return f"OpenVINO says that this CPU has no {_CAPABILITIES[kind].lower()} arithmetic"
        return None


class _Network:
    """One graph, compiled for each shape when the first batch of it comes.

    OpenVINO computes faster where all sizes are known beforehand.

    Args:
        core: OpenVINO's.
        graph: read once, so that all shapes are of the same file.
        settings: OpenVINO's properties, by name; the compiled graph must have taken them all.
        arithmetic: in which it is to be computed.
        quantized: convolutions that the graph wants computed in integers of 8 bits.
    """

    def __init__(
        self,
        core: Any,
        graph: Any,
        settings: Mapping[str, Any],
        arithmetic: Arithmetic,
        quantized: int,
    ) -> None:
        self._core = core
        self._graph = graph
        self._settings = settings
        self._arithmetic = arithmetic
        self.quantized = quantized
        self._compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self.kept_shapes = KEPT_SHAPES

    def run(self, images: NDArray[np.uint8], names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return outputs by name, as views that the next run of this shape overwrites."""
        # It reads the array where it lies, unless that is read-only; and has one request for all.
        results = self.compiled(images.shape)(
            {"image": images}, share_inputs=True, share_outputs=True
        )
        return {name: results[name] for name in names}

    def with_settings(self, settings: Mapping[str, Any]) -> _Network:
        """Return the same graph under other settings."""
        other = copy(self)
        other._settings = {**self._settings, **settings}
        other._compiled = OrderedDict()
        return other

    def compiled(self, shape: tuple[int, ...]) -> Any:
        """Return the graph compiled for a shape."""
        if shape in self._compiled:
            self._compiled.move_to_end(shape)
        else:
            while len(self._compiled) >= self.kept_shapes:  # first, so that the peak is bounded too
                self._compiled.popitem(last=False)
            self._compiled[shape] = self._compile(shape)
        return self._compiled[shape]

    def _compile(self, shape: tuple[int, ...]) -> Any:
        graph = self._graph.clone()
        graph.reshape(list(shape))
        if self._arithmetic.precision is not Precision.FP32 or self.quantized:
            give_spare_column(strided_to_one_column(graph))
        compiled = self._core.compile_model(graph, "CPU", self._settings)
        for name, wanted in self._settings.items():
            given = compiled.get_property(name)
            if given != wanted:
                repair = f"use --threads {given}" if name == "INFERENCE_NUM_THREADS" else None
                raise BackendError(
                    f"OpenVINO was asked for {name} {_word(wanted)} and took {_word(given)}", repair
                )
        _require_convolutions(compiled, self._arithmetic.precision, self.quantized)
        return compiled


def _opened(
    core: Any,
    path: Path,
    settings: Mapping[str, Any],
    arithmetic: Arithmetic,
    *,
    visible_logits: bool = False,
) -> _Network:
    """Read a file's graph, changed as its arithmetic demands.

    Raises:
        OnnxFileError: it is none that can be changed so, or OpenVINO refuses it.
    """
    quantized = 0
    if (
        arithmetic.change is None
        and not visible_logits
        and arithmetic.precision is not Precision.INT8
    ):
        content = path.read_bytes()  # not parsed here, which takes longer than reading
    else:
        model = load_onnx(path)
        if visible_logits:
            model = with_logits(model)
        if arithmetic.change is not None:
            model = arithmetic.change(model)
        content, quantized = model.SerializeToString(), quantized_convolutions(model)
    try:
        graph = core.read_model(content)
    except Exception as error:  # its exceptions share no base but Exception
        raise OnnxFileError(f"OpenVINO refuses the file: {error}", FOREIGN_REPAIR) from error
    return _Network(core, graph, settings, arithmetic, quantized)


def _require_convolutions(compiled: Any, precision: Precision, quantized: int) -> None:
    """Raise unless the convolutions of a compiled graph are computed in what was asked for.

    Args:
        compiled: by OpenVINO.
        precision: that the file is computed in.
        quantized: how many of them are to be computed in integers of 8 bits.  What an INT8 file
            does not quantise has no precision of its own.
    """
    # By the kernel: a node may call itself i8 and be computed by a float32 kernel.
    kernels = Counter(
        runtime_info(node, "primitiveType").rpartition("_")[2].lower()
        for node in compiled.get_runtime_model().get_ops()
        if runtime_info(node, "layerType") == "Convolution"
    )
    wanted = {Precision.INT8: quantized}
    if precision is not Precision.INT8:
        wanted[precision] = sum(kernels.values()) - quantized
    share = _LEAST_SHARE[precision]  # of a float32 file all, in integers or not
    for kind, count in wanted.items():
        if kernels[_KERNEL_TYPES[kind]] < share * count:
            found = ", ".join(f"{n} in {kernel}" for kernel, n in sorted(kernels.items()))
            raise BackendError(
                f"OpenVINO was asked for {count} {kind.value} convolutions and computes {found}",
                "pip install -U openvino, or use --backend ort",
            )


def _word(value: Any) -> str:
    # A type prints itself as <Type: 'float32'>.
    return value.get_type_name() if hasattr(value, "get_type_name") else str(value)


#: A shape, and the request that computes a batch of it.
_Request = tuple[tuple[int, ...], Any]


class _Requests:
    """Requests of one stream, used again for batches of the same shape."""

    def __init__(self, network: _Network) -> None:
        self._network = network
        self._idle: dict[tuple[int, ...], list[Any]] = {}

    @signal_stack_kept()
    def begin(self, images: NDArray[np.uint8]) -> _Request:
        """Begin a batch; it is copied, so that its owner may use the array again."""
        idle = self._idle.get(images.shape, [])
        request = idle.pop() if idle else None
        if request is None:
            if images.shape not in self._idle:
                self._idle.clear()  # of another shape: batches come in rows of one size
            request = self._network.compiled(images.shape).create_infer_request()
        request.start_async({"image": images})
        return images.shape, request

    @signal_stack_kept()
    def finish(self, begun: _Request) -> NDArray[np.uint8]:
        """Wait for a batch that was begun and return its mask."""
        shape, request = begun
        request.wait()
        mask: NDArray[np.uint8] = np.array(request.get_tensor("mask").data)
        self._idle.setdefault(shape, []).append(request)
        return mask


class OpenVinoRunner(Runner):
    """An exported file in OpenVINO.

    The mask always comes from the file as shipped, changed as :class:`Arithmetic` says; for
    logits that it does not give, the same graph is compiled a second time with its logits made
    visible.
    """

    def __init__(
        self,
        backend: OpenVinoBackend,
        path: Path,
        metadata: OnnxMetadata,
        outputs: tuple[str, ...],
        threads: int | None,
    ) -> None:
        import openvino

        core = openvino.Core()
        arithmetic = backend.require_arithmetic(core, metadata.precision)
        self._backend = backend.name
        self._precision = arithmetic.precision
        self._path = path
        self._metadata = metadata
        self._digest = file_digest(path)
        self._library = f"OpenVINO {openvino.__version__.split('-')[0]}{arithmetic.note}"
        if self._precision is Precision.INT8 and int8_sums_saturate():
            self._library += SATURATION
        self._threads = threads or usable_cores()
        self._wanted = outputs
        hidden = [name for name in outputs if name not in metadata.outputs]
        self._derive_margin = "margin" in hidden
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": getattr(openvino.Type, arithmetic.kind),
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
        }
        self._network: _Network | None = _opened(core, path, settings, arithmetic)
        if self._precision is Precision.FP32 and self._network.quantized:
            self._library += f", {self._network.quantized // PRODUCTS_EACH} {THREE_PRODUCTS}"
        self._streams: _Network | None = None
        # An odd thread would idle, and who wants to see the logits measures no throughput.
        if outputs == ("mask",) and self._threads % LANES == 0:
            settings_of_streams = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": LANES}
            self._streams = self._network.with_settings(settings_of_streams)
        self._probe: _Network | None = None
        if hidden and "logits" not in metadata.outputs:
            self._probe = _opened(core, path, settings, arithmetic, visible_logits=True)

    @property
    def spec(self) -> ModelSpec:
        """Classes, colours, normalisation of the network."""
        return self._metadata.spec

    def describe(self) -> RunnerDescription:
        """Say what this runner is, as built."""
        return RunnerDescription(
            backend=self._backend,
            device="cpu",
            precision=self._precision.value,
            library=self._library,
            threads=self._threads,
            file=str(self._path),
            digest=self._digest,
            checkpoint_digest=self._metadata.checkpoint_digest,
        )

    @signal_stack_kept()
    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        network = self._require_open()
        there = np.ascontiguousarray(images)
        self._ended(COPY_IN)
        arrays = network.run(there, self._metadata.outputs)
        self._ended(COMPUTE)
        if self._probe is not None:
            arrays |= self._probe.run(there, ["logits"])
        if self._derive_margin:
            arrays["margin"] = margin_of(arrays["logits"])
        # Copied: what OpenVINO wrote lies in buffers that the next run uses again.
        return Outputs(**{name: np.array(arrays[name]) for name in self._wanted})

    def keep(self, shapes: int) -> None:
        """Keep so many shapes compiled of each graph; never fewer than ``KEPT_SHAPES``."""
        for network in (self._network, self._streams, self._probe):
            if network is not None:
                network.kept_shapes = max(KEPT_SHAPES, shapes)

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each batch, in order; see :func:`in_lanes`."""
        if self._streams is None:
            return super().stream(batches)
        requests = _Requests(self._streams)

        def begin(images: NDArray[np.uint8]) -> _Request:
            self._require_open()
            return requests.begin(images)

        def finish(request: _Request) -> Outputs:
            self._require_open()
            return Outputs(requests.finish(request))

        return in_lanes(self, batches, begin, finish)

    def _require_open(self) -> _Network:
        if self._network is None:
            raise BackendError(f"the {self._backend} runner is closed")
        return self._network

    @signal_stack_kept()
    def close(self) -> None:
        """Free what was compiled; calling it twice is harmless."""
        self._network = self._streams = self._probe = None


_plain = OpenVinoBackend(
    "openvino",
    MappingProxyType(
        {
            Precision.FP32: Arithmetic("f32", Precision.FP32),
            Precision.FP16: Arithmetic("f16", Precision.FP16),
            Precision.INT8: Arithmetic("f32", Precision.INT8),
        }
    ),
)
unavailable_reason, takes, open = _plain.unavailable_reason, _plain.takes, _plain.open
#: Backend ``openvino-bf16``.
bf16 = OpenVinoBackend(
    "openvino-bf16",
    # Of a quantised file it would leave integers and bfloat16 side by side: OpenVINO 2026.4 finds
    # no kernels for that.
    MappingProxyType(
        {Precision.FP32: Arithmetic("bf16", Precision.BF16, with_whole_mean, WHOLE_MEAN)}
    ),
)
#: Backend ``openvino-int8x3``.
int8x3 = OpenVinoBackend(
    "openvino-int8x3",
    MappingProxyType(
        {Precision.FP32: Arithmetic("f32", Precision.FP32, with_three_products)},
    ),
    needs="amx_int8",
)
