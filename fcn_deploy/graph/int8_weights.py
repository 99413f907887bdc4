"""An INT8 graph's weights, as int8 or as floats that are quantized in the graph.  Knows no torch.

    int8 ──DequantizeLinear──▶ Conv                       opset 18 and later: a quarter of the size
    float ──QuantizeLinear──▶ ──DequantizeLinear──▶ Conv  opset 17: for TensorRT 8.6

TensorRT 8.6 refuses int8 weights ("TensorRT does not support INT8 weights for explicit
quantization", release/8.6 of NVIDIA/TensorRT, trt-engine-explorer); from 10 on it takes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ExportError
from fcn_deploy.graph.nodes import initializers_of, remove_dead_nodes, replace_nodes

if TYPE_CHECKING:
    import onnx

#: The newest opset whose reader, TensorRT 8.6, takes no int8 weights.
FLOAT_WEIGHTS_OPSET = 17


def with_float_weights(model: onnx.ModelProto) -> None:
    """Turn int8 weights into floats with a QuantizeLinear behind them, in place.

    The floats are the int8 values times their scales, so that dividing by the scale and rounding
    gives every int8 value back.

    Raises:
        ExportError: one would not come back.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    values = initializers_of(graph)
    nodes = []
    for node in graph.node:
        name = node.input[0] if node.input else ""
        if node.op_type == "DequantizeLinear" and name in values:
            tensor = values[name]
            if tensor.data_type == TensorProto.INT8:
                integers, scale = numpy_helper.to_array(tensor), _scale(node, values)
                with np.errstate(over="ignore"):  # what overflows does not come back either
                    floats = (integers * scale).astype(np.float32)
                if not np.array_equal(quantized(floats, scale), integers):
                    raise ExportError(f"the weights {name} do not come back from their floats")
                written = f"{name}_float"
                graph.initializer.append(numpy_helper.from_array(floats, written))
                quantize = helper.make_node(
                    "QuantizeLinear",
                    [written, *node.input[1:]],
                    [f"{name}_integers"],
                    name=f"{name}_QuantizeLinear",
                )
                quantize.attribute.extend(node.attribute)
                nodes.append(quantize)
                node.input[0] = quantize.output[0]
        nodes.append(node)
    replace_nodes(graph, nodes)
    remove_dead_nodes(graph)  # the int8 values


def with_integer_weights(model: onnx.ModelProto) -> None:
    """Turn float weights with a QuantizeLinear behind them into int8, in place."""
    from onnx import numpy_helper

    graph = model.graph
    values = initializers_of(graph)
    nodes = []
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in values:
            floats = numpy_helper.to_array(values[node.input[0]])
            integers = quantized(floats, _scale(node, values))
            graph.initializer.append(numpy_helper.from_array(integers, node.output[0]))
        else:
            nodes.append(node)
    replace_nodes(graph, nodes)
    remove_dead_nodes(graph)  # the floats


def quantized(floats: NDArray[Any], scale: NDArray[Any]) -> NDArray[np.int8]:
    """Return what QuantizeLinear gives with a zero point of 0 of int8."""
    integers: NDArray[np.int8] = np.clip(np.rint(floats / scale), -128, 127).astype(np.int8)
    return integers


def _scale(node: onnx.NodeProto, values: dict[str, onnx.TensorProto]) -> NDArray[Any]:
    """Return a node's scale, shaped so that it multiplies its tensor along the node's axis."""
    from onnx import numpy_helper

    scale: NDArray[Any] = numpy_helper.to_array(values[node.input[1]])
    if scale.ndim == 0:
        return scale
    rank = len(values[node.input[0]].dims)
    axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
    return scale.reshape([-1 if place == axis % rank else 1 for place in range(rank)])
