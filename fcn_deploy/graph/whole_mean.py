"""A graph that subtracts a mean of few bits, for arithmetic of few bits.  Knows no torch.

A pixel is a whole number and the mean is not: all differences of a channel have the same fraction,
so rounding moves all that lie between two powers of two by the same amount.  bfloat16 keeps eight
significant bits: it moves them by up to a quarter of a grey level from 64 on, half a level from
128 on; half precision keeps eleven: an eighth of that.  That is no noise but another picture,
slightly other in colour and contrast.  Differences from a whole mean are whole numbers of eight
bits, those from a mean in eighths have eleven, and none is rounded; what the mean lacks goes into
the first convolution's bias.

Around the picture that convolution reads zeros, which then stand for the mean that is subtracted:
it is half a grey level at most from the mean itself, or a sixteenth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import UnfitNetworkError
from fcn_deploy.graph.nodes import consumers_of, initializers_of, unchanged_pixels

if TYPE_CHECKING:
    import onnx

#: What stands behind the library's name where a file is computed so.
WHOLE_MEAN = ", mean made whole"
#: A difference is below 256: half's eleven bits leave three behind the point.
STEPS_OF_HALF = 8
#: Operators that divide by the deviation of what they read.
_NORMALISING = ("LayerNormalization", "InstanceNormalization", "GroupNormalization")
_REPAIR = "export it again, or compute it in float32"


def with_whole_mean(model: onnx.ModelProto, *, steps: int = 1) -> onnx.ModelProto:
    """Return a graph that subtracts a mean of whole steps, the rest of it in a bias.

    The difference has a new name, for it is another quantity than in the graph that is given.

    Args:
        model: FP32, as `fcn-deploy export` writes it: a picture of bytes, less a mean [1, C, 1, 1]
            in grey levels, padded with zeros where no layer is normalised, is read by one
            convolution alone, weights [K, C, kh, kw].  It is not changed.
        steps: of a grey level: 1 for bfloat16, :data:`STEPS_OF_HALF` for half precision.

    Raises:
        UnfitNetworkError: it is another graph.
    """
    from onnx import ModelProto, numpy_helper

    whole = ModelProto()
    whole.CopyFrom(model)
    tensors = initializers_of(whole.graph)
    found = _first_convolution(whole.graph, tensors)
    if found is None:
        raise UnfitNetworkError(
            "the graph does not subtract a mean from bytes right before its first convolution",
            _REPAIR,
        )
    subtraction, reader, convolution = found
    mean, weight, *bias = (
        numpy_helper.to_array(tensors[name]).astype(np.float64)
        for name in (*subtraction.input[1:], *convolution.input[1:])
    )
    nearest = np.round(mean * steps) / steps
    # conv(x - mean) = conv(x - nearest) + conv(nearest - mean), the last a constant per filter.
    moved = np.einsum("kcyx,c->k", weight, (nearest - mean).reshape(-1))
    # Under new names: exporters let nodes share constants that are equal.
    _replace(whole.graph, subtraction, 1, nearest)
    _replace(whole.graph, convolution, 2, sum(bias, start=moved))
    subtraction.output[0] = reader.input[0] = f"{subtraction.output[0]}.whole_mean"
    return whole


def _first_convolution(
    graph: onnx.GraphProto, tensors: Mapping[str, onnx.TensorProto]
) -> tuple[onnx.NodeProto, onnx.NodeProto, onnx.NodeProto] | None:
    """Return the subtraction of the mean, its only reader, and the convolution.

    They are one, or the reader pads with zeros what the convolution alone reads.
    """
    pixels, reading = unchanged_pixels(graph), consumers_of(graph)
    # Where the frame is all that a layer sees, it would be made as large as a picture.
    normalised = any(node.op_type in _NORMALISING for node in graph.node)
    outputs = {output.name for output in graph.output}
    for node in graph.node:
        if node.op_type != "Sub" or node.input[0] not in pixels or node.output[0] in outputs:
            continue
        readers = first = reading[node.output[0]]
        if len(readers) == 1 and not normalised and _pads_with_zeros(readers[0], tensors):
            readers = reading[readers[0].output[0]]
        if len(readers) != 1 or readers[0].op_type != "Conv":
            return None
        (convolution,) = readers
        if not all(name in tensors for name in (node.input[1], *convolution.input[1:])):
            return None
        channels = tensors[convolution.input[1]].dims[1]
        # Of a grouped convolution the weights have fewer channels than the mean.
        if list(tensors[node.input[1]].dims) == [1, channels, 1, 1]:
            return node, first[0], convolution
    return None


def _pads_with_zeros(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> bool:
    from onnx import helper, numpy_helper

    if node.op_type != "Pad":
        return False
    modes = [helper.get_attribute_value(a) for a in node.attribute if a.name == "mode"]
    value = node.input[2] if len(node.input) > 2 else ""
    zero = not value or (value in tensors and not numpy_helper.to_array(tensors[value]).any())
    return zero and modes in ([], [b"constant"])


def _replace(
    graph: onnx.GraphProto, node: onnx.NodeProto, place: int, values: NDArray[np.float64]
) -> None:
    """Let a node read a constant of its own, float32, in an input that it has or gets."""
    from onnx import numpy_helper

    name = f"{node.output[0]}.whole_mean.{place}"
    graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    if place == len(node.input):
        node.input.append(name)
    else:
        node.input[place] = name
