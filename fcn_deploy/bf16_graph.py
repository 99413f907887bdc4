"""A float32 graph made ready for arithmetic in bfloat16.  Knows no torch.

bfloat16 keeps eight significant bits.  A pixel is a whole number and the mean is not: their
difference has the same fraction at every pixel, so rounding moves all of them the same way, by up
to half a grey level, and the network sees a picture in other colours (of a fcn32s-resnet18's error
nine tenths, in squares, were this).  Less a whole mean, pixels are whole numbers of no more than
eight bits, and none is rounded; what the mean lacks goes into the first convolution's bias.

Around the picture that convolution reads zeros, which then stand for the whole mean, half a grey
level at most from the mean itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx


def with_whole_mean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that subtracts a mean of whole grey levels, the rest in a bias.

    A graph without a convolution that alone reads pixels less a mean comes back as it is.

    Args:
        model: FP32, as `fcn-deploy export` writes it; not changed.
    """
    from onnx import ModelProto, numpy_helper

    whole = ModelProto()
    whole.CopyFrom(model)
    tensors = {entry.name: entry for entry in whole.graph.initializer}
    found = _first_convolution(whole.graph, tensors)
    if found is None:
        return model
    subtraction, convolution = found
    mean = numpy_helper.to_array(tensors[subtraction.input[1]])
    weight = numpy_helper.to_array(tensors[convolution.input[1]])
    nearest = np.round(mean)
    lacking = (nearest.astype(np.float64) - mean).reshape(-1)  # (3)
    # conv(x - mean) = conv(x - nearest) + conv(nearest - mean), the last a constant per filter.
    bias = np.einsum("ochw,c->o", weight.astype(np.float64), lacking)
    if len(convolution.input) > 2:
        bias += numpy_helper.to_array(tensors[convolution.input[2]])
    else:  # an export leaves out a bias of zeros
        convolution.input.append(f"{convolution.input[1]}.moved_mean")
        tensors[convolution.input[2]] = whole.graph.initializer.add()
    for name, values in ((subtraction.input[1], nearest), (convolution.input[2], bias)):
        tensors[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    return whole


def _first_convolution(
    graph: onnx.GraphProto, tensors: dict[str, onnx.TensorProto]
) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """Return the subtraction of the mean and the convolution that is its only reader."""
    for subtraction in graph.node:
        if subtraction.op_type != "Sub" or subtraction.input[1] not in tensors:
            continue
        readers = [node for node in graph.node if subtraction.output[0] in node.input]
        if (
            len(readers) == 1
            and readers[0].op_type == "Conv"
            and all(name in tensors for name in readers[0].input[1:])
        ):
            return subtraction, readers[0]
    return None
