"""Convolutions in float32 as three products of 8-bit integers.  Knows no torch.

    x ≈ s·(256·h + l)     0 ≤ h ≤ 255, -128 ≤ l ≤ 127: 16 bits of an image's largest activation
    w ≈ t·(256·H + L)     -127 ≤ H ≤ 127, L like l: 16 bits of a filter's largest weight
    x·w ≈ s·t·(65536·hH + 256·hL + 256·lH)    left out is lL; with what was rounded before, the
                                              error is below 2⁻¹⁴ of the largest x·w

A CPU's matrix unit (Intel's AMX) multiplies integers of 8 bits and adds up in 32 many times as fast
as the CPU multiplies float32: three such products take less time than one.  Integers add up without
rounding, and s is taken anew from every image, so that no activation is too large for it.  How
exact and how fast that is was measured: docs/numerics.md.  Source: Ootomo, Ozaki, Yokota,
"DGEMM on Integer Matrix Multiplication Unit" (2024), where rows and columns of matrices have the
scales that images and filters have here.

    x ─▶ s, h, l ─▶ Conv(h, H), Conv(h, L), Conv(l, H) ─▶ sum ─▶ ·s, + bias ─▶ float32
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.graph.nodes import (
    initializers_of,
    is_never_negative,
    opset_of,
    producers_of,
    remove_dead_nodes,
    replace_nodes,
)

if TYPE_CHECKING:
    import onnx


#: So many convolutions one becomes.
PRODUCTS_EACH = 3
#: Stands behind the library's name, and a number before it, where a file is computed so.
THREE_PRODUCTS = "convolutions as three int8 products"
#: What the largest activation of an image becomes: 255·256 + 127.
LARGEST_ACTIVATION = 65407
#: What the largest weight of a filter becomes: 127·256 + 127.
LARGEST_WEIGHT = 32639
#: Of fewer channels, in or out, splitting takes what the products save (measured:
#: docs/numerics.md).
LEAST_CHANNELS = 64
#: Largest number of products of 255 and 128 whose sum 32 bits hold.
MOST_TERMS = (2**31 - 1) // (255 * 128)
#: Stands for less where there is nothing to divide by: activations or weights of zero.
_NOTHING = 1e-20
_REPAIR = "use --backend openvino"


def with_three_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its large convolutions as three products each.

    Large is a 2-D convolution without groups whose kernel is larger than 1×1, of at least
    :data:`LEAST_CHANNELS` and no more products to a sum than :data:`MOST_TERMS`; of a smaller one,
    splitting its input costs more than it saves.  Weights and bias are initializers, float32.  The
    input must be what a Relu gave, or a MaxPool of that, of which h needs no sign.

    Args:
        model: FP32, weights inside and finite, no subgraphs.  It is not changed.

    Returns:
        A graph of the same inputs, outputs and opset; the products are convolutions that read Q/DQ
        pairs, :data:`PRODUCTS_EACH` for each.

    Raises:
        OnnxFileError: it has no such convolution.
    """
    from onnx import ModelProto

    weights, makers = initializers_of(model.graph), producers_of(model.graph)
    large = {
        node.output[0]
        for node in model.graph.node
        if _is_large(node, weights) and is_never_negative(node.input[0], makers)
    }
    if not large:
        raise OnnxFileError("the graph has no convolution that three products would speed", _REPAIR)
    split = ModelProto()
    split.CopyFrom(model)
    products = _Products(split, weights)
    for node in model.graph.node:  # in the order of computing
        if node.output[0] in large:
            products.add_convolution(node)
        else:
            products.nodes.append(node)
    replace_nodes(split.graph, products.nodes)
    remove_dead_nodes(split.graph)
    return split


def _is_large(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    from onnx import TensorProto, helper

    if node.op_type != "Conv" or any(name not in weights for name in node.input[1:]):
        return False
    weight = weights[node.input[1]]
    if weight.data_type != TensorProto.FLOAT or len(weight.dims) != 4:
        return False
    filters, channels, *kernel = weight.dims
    groups = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "group"), 1)
    return bool(
        groups == 1
        and max(kernel) > 1
        and min(filters, channels) >= LEAST_CHANNELS
        and channels * kernel[0] * kernel[1] <= MOST_TERMS
    )


@dataclass(frozen=True)
class _Filters:
    """Tensors of a weight: H for products with h, H for those with l, L for those with h."""

    high_of_high: str
    high: str
    low: str


class _Products:
    """Convolutions of three products, added to a graph.

    Args:
        model: whose initializers are added to.
        initializers: of the model, by name.

    Attributes:
        nodes: that the graph is to consist of.
    """

    def __init__(self, model: onnx.ModelProto, initializers: dict[str, onnx.TensorProto]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._graph = model.graph
        self._opset = opset_of(model)
        self._initializers = initializers
        self._activations: dict[str, tuple[str, str, str]] = {}  # tensor → its largest, h, l
        self._filters: dict[str, _Filters] = {}
        self._constants = {
            word: self._constant(f"int8x3.{word}", value)
            for word, value in (
                ("one", np.float32(1)),
                ("unsigned", np.uint8(0)),
                ("signed", np.int8(0)),
                ("base", np.float32(256)),
                ("digit", np.float32(1 / 256)),
                ("largest", np.float32(LARGEST_ACTIVATION)),
                ("nothing", np.float32(_NOTHING)),
                ("axes", np.array([1, 2, 3], np.int64)),
            )
        }

    def add_convolution(self, node: onnx.NodeProto) -> None:
        """Add what gives the same tensor as a Conv."""
        from onnx import helper, numpy_helper

        activations, weight, *bias = node.input
        given = node.output[0]
        if activations not in self._activations:
            self._activations[activations] = self._add_split_activations(activations)
        if weight not in self._filters:
            self._filters[weight] = self._add_split_filters(weight)
        top, high, low = self._activations[activations]
        filters = self._filters[weight]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}

        def product(part: str, digits: str, weights: str) -> str:
            return self._add("Conv", [digits, weights], _new(given, part), **attributes)

        minor = [
            product("high_low", high, filters.low),
            product("low_high", low, filters.high),
        ]
        leading = product("high_high", high, filters.high_of_high)
        sums = self._add("Add", minor, _new(given, "minor"))
        sums = self._add("Add", [sums, leading], _new(given, "sums"))
        if not bias:
            self._add("Mul", [sums, top], given)
            return
        values = numpy_helper.to_array(self._initializers[bias[0]]).reshape(1, -1, 1, 1)
        scaled = self._add("Mul", [sums, top], _new(given, "scaled"))
        self._add("Add", [scaled, self._constant(_new(given, "bias"), values)], given)

    def _add_split_activations(self, tensor: str) -> tuple[str, str, str]:
        """Add the largest value of each image [N, 1, 1, 1], and h and l of a tensor [N, C, H, W].

        The largest of each image, not of all: a mask does not depend on what else is in a batch.
        Where l would be 128, of one value in 512, it is 127: a step off instead of half a step.
        """
        known = self._constants
        if self._opset < 18:
            top = self._add("ReduceMax", [tensor], _new(tensor, "max"), axes=[1, 2, 3])
        else:
            top = self._add("ReduceMax", [tensor, known["axes"]], _new(tensor, "max"))
        top = self._add("Max", [top, known["nothing"]], _new(tensor, "top"))
        scale = self._add("Div", [known["largest"], top], _new(tensor, "scale"))
        steps = self._add("Mul", [tensor, scale], _new(tensor, "steps"))
        digits = self._add("Mul", [steps, known["digit"]], _new(tensor, "digits"))
        high = self._add_rounded(digits, "unsigned", _new(tensor, "high"))
        whole = self._add("Mul", [high, known["base"]], _new(tensor, "whole"))
        rest = self._add("Sub", [steps, whole], _new(tensor, "rest"))
        return top, high, self._add_rounded(rest, "signed", _new(tensor, "low"))

    def _add_rounded(self, tensor: str, zero: str, name: str) -> str:
        """Add a tensor's values as integers of 8 bits."""
        scale_and_zero = [self._constants["one"], self._constants[zero]]
        integers = self._add("QuantizeLinear", [tensor, *scale_and_zero], f"{name}.integers")
        return self._add("DequantizeLinear", [integers, *scale_and_zero], name)

    def _add_split_filters(self, tensor: str) -> _Filters:
        """Add H and L of a weight [K, C, kh, kw], times what their product with h or l stands for.

        Of s there is 1 / LARGEST_ACTIVATION in it; the image's largest activation comes later.
        """
        from onnx import numpy_helper

        step, high, low = split_weight(numpy_helper.to_array(self._initializers[tensor]))
        zeros = self._constant(_new(tensor, "zeros"), np.zeros(len(step), np.int8))
        integers = {
            "high": self._constant(_new(tensor, "high.integers"), high),
            "low": self._constant(_new(tensor, "low.integers"), low),
        }

        def filters(part: str, worth: int, name: str) -> str:
            scales = (step * worth / LARGEST_ACTIVATION).astype(np.float32)
            scale = self._constant(_new(tensor, f"{name}.scales"), scales)
            inputs = [integers[part], scale, zeros]
            return self._add("DequantizeLinear", inputs, _new(tensor, name), axis=0)

        return _Filters(
            high_of_high=filters("high", 65536, "high_of_high"),
            high=filters("high", 256, "high"),
            low=filters("low", 256, "low"),
        )

    def _constant(self, name: str, values: Any) -> str:
        from onnx import numpy_helper

        self._graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def _add(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node that is called like what it gives."""
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name


def _new(tensor: str, part: str) -> str:
    # No exporter names a tensor so.
    return f"{tensor}.int8x3.{part}"


def split_weight(
    weight: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.int8], NDArray[np.int8]]:
    """Return t, H and L of filters: weight ≈ t·(256·H + L), to half a t.

    Args:
        weight: float32 [K, C, kh, kw].

    Returns:
        t float64 [K], never 0; H and L int8 [K, C, kh, kw].
    """
    largest = np.abs(weight.astype(np.float64)).max(axis=(1, 2, 3))
    step = np.maximum(largest, _NOTHING) / LARGEST_WEIGHT
    steps = np.round(weight / step[:, None, None, None])
    high = np.round(steps / 256)
    # A tie between two H goes to the even one: L may be 128 then.
    high += steps - 256 * high > 127
    return step, high.astype(np.int8), (steps - 256 * high).astype(np.int8)
