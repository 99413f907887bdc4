"""Convolutions in float32 as three products in bfloat16.  Knows no torch.

    x ≈ h + r     h = x rounded to bfloat16, r = x - h rounded to bfloat16: 16 significant bits
    x·w ≈ hₓ·h_w + hₓ·r_w + rₓ·h_w            left out is rₓ·r_w, below 2⁻¹⁶ of x·w

Intel's matrix extension (AMX) multiplies bfloat16 and adds up in float32, many times as fast as a
CPU multiplies float32: three such products can take less time than one.  What they give lies
between the two in exactness, a thousand times nearer to float32.  The method is known as
``float_to_bf16x3`` in oneMKL and as ``BF16_BF16_F32_X3`` in XLA.

    x ──▶ [h, h, r], thrice the channels ──▶ one convolution with [h_w, r_w, h_w] ──▶ float32
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

#: So end the names of the nodes that may be computed in bfloat16.  All others keep float32, or what
#: they give is no better than bfloat16.
IN_BF16 = ".bf16"
#: What stands behind the library's name where a file is computed so.
THREE_PRODUCTS = ", as three products in bfloat16"
#: Between the picture and the subtraction of the mean: what changes no pixel.
_KEEPS_PIXELS = ("Cast", "Transpose", "Identity")


def with_three_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its large convolutions as three products each.

    Large is what has a kernel beyond 1×1, where splitting its input costs less than it saves, no
    groups and no dilation (OpenVINO 2026.4 takes twice as long for a dilated one as in float32).
    What it gives must go into one Relu, or into one Add as its first term, and nowhere else:
    runtimes compute that along with the convolution, from sums not yet rounded.

    Args:
        model: FP32, weights inside.  It is not changed.
    """
    from onnx import ModelProto, helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    outputs = {output.name for output in model.graph.output}

    def is_large(node: onnx.NodeProto) -> bool:
        if node.op_type != "Conv" or any(name not in weights for name in node.input[1:]):
            return False
        given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        return (
            given.get("group", 1) == 1
            and set(given.get("dilations", [1])) == {1}
            and any(size > 1 for size in weights[node.input[1]].dims[2:])
        )

    def is_read_along(tensor: str) -> bool:
        if tensor in outputs or len(readers[tensor]) != 1:
            return False
        (reader,) = readers[tensor]
        return bool(
            reader.op_type == "Relu" or (reader.op_type == "Add" and reader.input[0] == tensor)
        )

    split = ModelProto()
    split.CopyFrom(model)
    del split.graph.node[:]
    parts = _Parts(split.graph, weights)
    pixels = {value.name for value in model.graph.input}
    for node in model.graph.node:  # in the order of computing
        if is_large(node) and is_read_along(node.output[0]):
            parts.add_convolution(node)
            continue
        kept = split.graph.node.add()
        kept.CopyFrom(node)
        if node.op_type in _KEEPS_PIXELS and node.input[0] in pixels:
            pixels.add(node.output[0])
            kept.name = f"{node.output[0]}{IN_BF16}"  # which holds whole numbers up to 256
    read = {name for node in split.graph.node for name in node.input}
    still_read = [tensor for tensor in split.graph.initializer if tensor.name in read]
    del split.graph.initializer[:]
    split.graph.initializer.extend(still_read)
    return split


def products_of(model: onnx.ModelProto) -> int:
    """Count the convolutions that a graph of :func:`with_three_products` has in bfloat16."""
    return sum(node.op_type == "Conv" and node.name.endswith(IN_BF16) for node in model.graph.node)


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
        column = f"{given}.bias"  # a bias may be shared, and would be stored twice under one name
        self._graph.initializer.append(numpy_helper.from_array(values, column))
        self._add("Add", [tensor, column], given)

    def _add_split_picture(self, tensor: str) -> str:
        """Add [h, h, r] of a tensor."""
        from onnx import TensorProto

        high = self._add("Cast", [tensor], f"{tensor}.high", to=TensorProto.BFLOAT16)
        seen = self._add("Cast", [high], f"{tensor}.seen", to=TensorProto.FLOAT)
        left = self._add("Sub", [tensor, seen], f"{tensor}.left")
        rest = self._add("Cast", [left], f"{tensor}.rest", to=TensorProto.BFLOAT16)
        joined = self._add("Concat", [high, high, rest], f"{tensor}.thrice{IN_BF16}", axis=1)
        return self._add("Cast", [joined], f"{tensor}.floats{IN_BF16}", to=TensorProto.FLOAT)

    def _add_split_weight(self, tensor: str) -> str:
        """Add [h, r, h] of a weight, h and r computed here: OpenVINO cuts constants off."""
        from onnx import TensorProto, helper, numpy_helper

        weight = numpy_helper.to_array(self._weights[tensor])
        high = rounded_to_bf16(weight)
        names = []
        for kind, values in (("high", high), ("rest", rounded_to_bf16(weight - high))):
            bits = (values.view(np.uint32) >> 16).astype("<u2")
            name = f"{tensor}.{kind}"
            stored = helper.make_tensor(
                name, TensorProto.BFLOAT16, weight.shape, bits.tobytes(), raw=True
            )
            self._graph.initializer.append(stored)
            names.append(self._add("Cast", [name], f"{name}.floats", to=TensorProto.FLOAT))
        high_name, rest_name = names
        return self._add("Concat", [high_name, rest_name, high_name], f"{tensor}.thrice", axis=1)

    def _add(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node that is called like what it gives."""
        from onnx import helper

        node = helper.make_node(operator, inputs, [name], name=name, **attributes)
        self._graph.node.append(node)
        return name


def rounded_to_bf16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return finite values rounded to bfloat16's eight significant bits, a tie to the even one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    upwards = ((bits >> 16) & 1) + np.uint32(0x7FFF)
    rounded: NDArray[np.uint32] = (bits + upwards) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)
