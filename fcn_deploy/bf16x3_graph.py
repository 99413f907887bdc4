"""Convolutions in float32 as three products in bfloat16.  Knows no torch.

    x ≈ h + r     h = x rounded to bfloat16, r = x - h rounded to bfloat16: 16 significant bits
    x·w ≈ hₓ·h_w + hₓ·r_w + rₓ·h_w            left out is rₓ·r_w, below 2⁻¹⁶ of x·w

Intel's matrix extension (AMX) multiplies bfloat16 and adds up in float32, many times as fast as a
CPU multiplies float32: three such products can take less time than one.  Their error is about a
thousandth of bfloat16's (measured: docs/architecture.md).  Source: Henry, Tang, Heinecke,
"Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations" (2019);
XLA calls it ``BF16_BF16_F32_X3``, after the products, oneMKL ``float_to_bf16x2``, after the parts.

    x ──▶ [h, h, r], thrice the channels ──▶ one convolution with [h_w, r_w, h_w] ──▶ float32
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import OnnxFileError
from fcn_deploy.onnx_graph import (
    consumers_of,
    initializers_of,
    remove_dead_nodes,
    unchanged_pixels,
)

if TYPE_CHECKING:
    import onnx

#: So end the names of the nodes that may be computed in bfloat16.  All others keep float32, or what
#: they give is no better than bfloat16.
IN_BF16 = ".bf16"
#: So end the names of the nodes that give the second part of a tensor, as bfloat16, from float32.
REST = ".rest"
#: Stands behind the library's name, and a number before it, where a file is computed so.  Narrow is
#: what :func:`fcn_deploy.openvino_graph.strided_to_one_column` finds.
THREE_PRODUCTS = "convolutions as three bfloat16 products (of narrow pictures, in float32)"
_REPAIR = "use --backend openvino"


def with_three_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its large convolutions as three products each.

    Large is a 2-D convolution whose kernel is larger than 1×1 (of a smaller one, splitting its
    input costs more than it saves), without groups or dilation (OpenVINO 2026.4 takes twice as long
    for a dilated one as in float32).  What it gives must go into one Relu, or into one Add as its
    first term, and nowhere else: runtimes compute that along with the convolution, from sums not
    yet rounded.

    What is done to the bytes of a picture before the mean goes off them may be computed in bfloat16
    too: it holds whole numbers up to 256.

    Args:
        model: FP32, weights inside, no subgraphs; its pictures uint8.  It is not changed.

    Returns:
        A graph of the same inputs, outputs and opset; bfloat16 is what :data:`IN_BF16` names.

    Raises:
        OnnxFileError: it has no such convolution.
    """
    from onnx import ModelProto

    weights = initializers_of(model.graph)
    large = _large_convolutions(model.graph, weights)
    if not large:
        raise OnnxFileError("the graph has no convolution that three products would speed", _REPAIR)
    split = ModelProto()
    split.CopyFrom(model)
    del split.graph.node[:]
    parts = _Parts(split.graph, weights)
    pixels = unchanged_pixels(model.graph)
    for node in model.graph.node:  # in the order of computing
        if node.output[0] in large:
            parts.add_convolution(node)
            continue
        kept = split.graph.node.add()
        kept.CopyFrom(node)
        if node.output[0] in pixels:
            kept.name = f"{node.output[0]}{IN_BF16}"
    remove_dead_nodes(split.graph)
    return split


def products_of(model: onnx.ModelProto) -> int:
    """Count the convolutions that a graph of :func:`with_three_products` has in bfloat16."""
    return sum(node.op_type == "Conv" and node.name.endswith(IN_BF16) for node in model.graph.node)


def _large_convolutions(graph: onnx.GraphProto, weights: dict[str, onnx.TensorProto]) -> set[str]:
    """Return the outputs of the convolutions that become three products."""
    readers = consumers_of(graph)
    outputs = {output.name for output in graph.output}

    def is_read_along(tensor: str) -> bool:
        if tensor in outputs or len(readers[tensor]) != 1:
            return False
        (reader,) = readers[tensor]
        return bool(
            reader.op_type == "Relu" or (reader.op_type == "Add" and reader.input[0] == tensor)
        )

    return {
        node.output[0]
        for node in graph.node
        if _is_large(node, weights) and is_read_along(node.output[0])
    }


def _is_large(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    from onnx import TensorProto, helper

    if node.op_type != "Conv" or any(name not in weights for name in node.input[1:]):
        return False
    given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    weight = weights[node.input[1]]
    return (
        given.get("group", 1) == 1
        and set(given.get("dilations", [1])) == {1}
        and weight.data_type == TensorProto.FLOAT
        and len(weight.dims) == 4
        and any(size > 1 for size in weight.dims[2:])
    )


class _Parts:
    """Convolutions of three products, added to a graph.

    Args:
        graph: that they are added to.
        weights: name → tensor, float32.
    """

    def __init__(self, graph: onnx.GraphProto, weights: dict[str, onnx.TensorProto]) -> None:
        self._graph = graph
        self._weights = weights
        self._split: dict[str, str] = {}  # tensor → its parts, joined for a convolution to read

    def add_convolution(self, node: onnx.NodeProto) -> None:
        """Add what gives the same tensor as a Conv."""
        picture, weight = node.input[:2]
        if picture not in self._split:
            self._split[picture] = self._add_split_picture(picture)
        if weight not in self._split:
            self._split[weight] = self._add_split_weight(weight)
        convolution = self._graph.node.add()
        convolution.CopyFrom(node)
        convolution.name = f"{node.output[0]}{IN_BF16}"
        convolution.input[:] = [self._split[picture], self._split[weight]]
        if len(node.input) == 3:
            convolution.output[0] = convolution.name
            self._add_bias(convolution.name, node.input[2], node.output[0])

    def _add_bias(self, tensor: str, bias: str, given: str) -> None:
        """Add a node of its own for what keeps float32 beside the products."""
        from onnx import numpy_helper

        values = numpy_helper.to_array(self._weights[bias]).reshape(1, -1, 1, 1)
        column = _new(given, "bias")  # of each reader, as a bias may be shared
        self._graph.initializer.append(numpy_helper.from_array(values, column))
        self._add("Add", [tensor, column], given)

    def _add_split_picture(self, tensor: str) -> str:
        """Add [h, h, r] of a tensor [N, C, H, W]: [N, 3C, H, W]."""
        from onnx import TensorProto

        high = self._add("Cast", [tensor], _new(tensor, "high"), to=TensorProto.BFLOAT16)
        seen = self._add("Cast", [high], _new(tensor, "seen"), to=TensorProto.FLOAT)
        left = self._add("Sub", [tensor, seen], _new(tensor, "left"))
        rest = self._add("Cast", [left], _new(tensor, REST), to=TensorProto.BFLOAT16)
        joined = self._add("Concat", [high, high, rest], _new(tensor, f"thrice{IN_BF16}"), axis=1)
        return self._add("Cast", [joined], _new(tensor, f"float{IN_BF16}"), to=TensorProto.FLOAT)

    def _add_split_weight(self, tensor: str) -> str:
        """Add [h, r, h] of a weight [K, C, kh, kw]: [K, 3C, kh, kw].

        Its parts are rounded here, to the nearest: OpenVINO 2026.4 cuts constants off.
        """
        from onnx import TensorProto, helper, numpy_helper

        weight = numpy_helper.to_array(self._weights[tensor])
        high = rounded_to_bf16(weight)
        floats = []
        for part, values in (("high", high), ("rest", rounded_to_bf16(weight - high))):
            bits = (values.view(np.uint32) >> 16).astype("<u2")
            name = _new(tensor, part)
            stored = helper.make_tensor(
                name, TensorProto.BFLOAT16, weight.shape, bits.tobytes(), raw=True
            )
            self._graph.initializer.append(stored)
            floats.append(self._add("Cast", [name], f"{name}.float", to=TensorProto.FLOAT))
        high_name, rest_name = floats
        kernels = [high_name, rest_name, high_name]
        return self._add("Concat", kernels, _new(tensor, "thrice"), axis=1)

    def _add(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node that is called like what it gives."""
        from onnx import helper

        node = helper.make_node(operator, inputs, [name], name=name, **attributes)
        self._graph.node.append(node)
        return name


def _new(tensor: str, part: str) -> str:
    # No exporter names a tensor so.
    return f"{tensor}.bf16x3.{part.removeprefix('.')}"


def rounded_to_bf16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return finite values rounded to bfloat16's eight significant bits, a tie to the even one.

    Args:
        values: float32, any shape.

    Returns:
        float32, the same shape.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    upwards = ((bits >> 16) & 1) + np.uint32(0x7FFF)
    rounded: NDArray[np.uint32] = (bits + upwards) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)
