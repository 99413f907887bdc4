"""A float32 graph made ready for arithmetic in bfloat16.  Knows no torch.

bfloat16 keeps eight significant bits.  A pixel is a whole number and the mean is not: all
differences of a channel have the same fraction, so rounding moves all that lie between two powers
of two by the same amount, up to a quarter of a grey level from 64 on, half a level from 128 on.
That is no noise but another picture, slightly other in colour and contrast.  Less a whole mean,
pixels are whole numbers of no more than eight bits, and none is rounded; what the mean lacks goes
into the first convolution's bias.

Around the picture that convolution reads zeros, which then stand for the whole mean, half a grey
level at most from the mean itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import OnnxFileError

if TYPE_CHECKING:
    import onnx

_REPAIR = "export it again, or use --backend openvino"
#: Between the picture and the subtraction of the mean: what changes no pixel.
_KEEPS_PIXELS = ("Cast", "Transpose", "Identity")


def with_whole_mean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that subtracts a mean of whole grey levels, the rest of it in a bias.

    Args:
        model: FP32, as `fcn-deploy export` writes it: the picture less a mean [1, C, 1, 1] in grey
            levels is read by one convolution alone, weights [K, C, kh, kw].  It is not changed.

    Raises:
        OnnxFileError: it is another graph.
    """
    from onnx import ModelProto, numpy_helper

    whole = ModelProto()
    whole.CopyFrom(model)
    constants = {
        entry.name: numpy_helper.to_array(entry).astype(np.float64)
        for entry in whole.graph.initializer
        if entry.name in _constants_of_small_nodes(whole.graph)
    }
    found = _first_convolution(whole.graph, constants)
    if found is None:
        raise OnnxFileError(
            "the graph has no mean that its first convolution alone reads pixels without",
            _REPAIR,
        )
    subtraction, convolution = found
    mean, weight = constants[subtraction.input[1]], constants[convolution.input[1]]
    nearest = np.round(mean)
    # conv(x - mean) = conv(x - nearest) + conv(nearest - mean), the last a constant per filter.
    bias = np.einsum("kcyx,c->k", weight, (nearest - mean).reshape(-1))
    if len(convolution.input) > 2:
        bias += constants[convolution.input[2]]
    # Under new names: exporters let nodes share constants that are equal.
    _replace(whole.graph, subtraction, 1, nearest)
    _replace(whole.graph, convolution, 2, bias)
    return whole


def _constants_of_small_nodes(graph: onnx.GraphProto) -> set[str]:
    """Return what subtractions and convolutions read: other constants may be of any type."""
    return {
        name for node in graph.node if node.op_type in ("Sub", "Conv") for name in node.input[1:]
    }


def _first_convolution(
    graph: onnx.GraphProto, constants: dict[str, NDArray[np.float64]]
) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """Return the subtraction of the mean and the convolution that is its only reader."""
    pixels = {graph.input[0].name}
    outputs = {output.name for output in graph.output}
    for node in graph.node:  # in the order of computing
        if node.op_type in _KEEPS_PIXELS and node.input[0] in pixels:
            pixels.add(node.output[0])
        if node.op_type != "Sub" or node.input[0] not in pixels or node.output[0] in outputs:
            continue
        mean = constants.get(node.input[1])
        readers = [reader for reader in graph.node if node.output[0] in reader.input]
        if mean is None or len(readers) != 1 or readers[0].op_type != "Conv":
            return None
        (convolution,) = readers
        known = all(name in constants for name in convolution.input[1:])
        if known and mean.shape == (1, constants[convolution.input[1]].shape[1], 1, 1):
            return node, convolution
    return None


def _replace(graph: onnx.GraphProto, node: onnx.NodeProto, place: int, values: Any) -> None:
    """Let a node read a constant of its own, float32, in an input that it has or gets."""
    from onnx import numpy_helper

    name = f"{node.output[0]}.whole_mean.{place}"
    graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    if place == len(node.input):
        node.input.append(name)
    else:
        node.input[place] = name
