"""Compiles OpenVINO networks once per batch shape, and keeps their inference requests."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, OnnxFileError
from fcn_deploy.core.spec import Precision
from fcn_deploy.graph.int8_for_ort_cpu import quantized_convolutions
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.onnx_file import FOREIGN_REPAIR, OnnxFile
from fcn_deploy.runners.openvino.signal_stack import signal_stack_kept
from fcn_deploy.runners.openvino.workarounds import (
    pad_single_column,
    runtime_info,
    strided_to_one_column,
)

if TYPE_CHECKING:
    import onnx


#: Shapes that stay compiled of one graph, unless more are asked for.  Each holds its weights once
#: more, laid out for its kernels (65 MiB for a ResNet-18).
KEPT_SHAPES = 8
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
        name: of the arithmetic, where it is not that of ``precision``.
    """

    kind: str
    precision: Precision
    change: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None
    note: str = ""
    name: str | None = None


class Network:
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

    def with_settings(self, settings: Mapping[str, Any]) -> Network:
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
            pad_single_column(strided_to_one_column(graph))
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


@dataclass(frozen=True)
class Prepared:
    """A file as OpenVINO is to read it.

    Attributes:
        content: an ONNX file's bytes.
        quantized: convolutions in it that are to be computed in integers of 8 bits.
    """

    content: bytes
    quantized: int


def prepared(file: OnnxFile, arithmetic: Arithmetic, *, visible_logits: bool = False) -> Prepared:
    """Return a file changed as its arithmetic demands.

    Raises:
        OnnxFileError: it is none that can be changed so.
    """
    changed = visible_logits or arithmetic.change is not None
    if not changed and arithmetic.precision is not Precision.INT8:
        return Prepared(file.bytes, 0)
    model = file.model
    if visible_logits:
        model = with_logits(model)
    if arithmetic.change is not None:
        model = arithmetic.change(model)
    return Prepared(model.SerializeToString(), quantized_convolutions(model))


def opened(
    core: Any, graph: Prepared, settings: Mapping[str, Any], arithmetic: Arithmetic
) -> Network:
    """Let OpenVINO read a file.

    Raises:
        OnnxFileError: it refuses the file.
    """
    try:
        read = core.read_model(graph.content)
    except Exception as error:  # its exceptions share no base but Exception
        raise OnnxFileError(f"OpenVINO refuses the file: {error}", FOREIGN_REPAIR) from error
    return Network(core, read, settings, arithmetic, graph.quantized)


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
Request = tuple[tuple[int, ...], Any]


class Requests:
    """Requests of one stream, used again for batches of the same shape."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._idle: dict[tuple[int, ...], list[Any]] = {}

    @signal_stack_kept()
    def begin(self, images: NDArray[np.uint8]) -> Request:
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
    def finish(self, begun: Request) -> NDArray[np.uint8]:
        """Wait for a batch that was begun and return its mask."""
        shape, request = begun
        request.wait()
        mask: NDArray[np.uint8] = np.array(request.get_tensor("mask").data)
        self._idle.setdefault(shape, []).append(request)
        return mask
