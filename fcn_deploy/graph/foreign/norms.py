"""Folds batch normalisations into the convolutions before them, as `export` does with ours.

A variance may be too small for half precision, and a normalisation apart is one more tensor to
round; folded, both are gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.graph.nodes import consumers_of, initializers_of, producers_of, replace_nodes

if TYPE_CHECKING:
    import onnx

#: What ONNX takes where a node does not say it.
_EPSILON = 1e-5


def fold_norms(graph: onnx.GraphProto) -> int:
    """Fold batch normalisations whose convolution nobody else reads; return how many there were."""
    from onnx import numpy_helper

    tensors = {name: numpy_helper.to_array(t) for name, t in initializers_of(graph).items()}
    producers, readers = producers_of(graph), consumers_of(graph)
    outputs = {output.name for output in graph.output}
    gone: set[str] = set()
    for norm in graph.node:
        convolution = producers.get(norm.input[0]) if _is_constant_norm(norm, tensors) else None
        if (
            convolution is None
            or convolution.op_type != "Conv"
            or not all(name in tensors for name in convolution.input[1:] if name)
            or len(readers[norm.input[0]]) != 1
            or norm.input[0] in outputs
        ):
            continue
        weight, bias = _folded(convolution, norm, tensors)
        given = norm.output[0]
        names = [f"{given}.folded_weight", f"{given}.folded_bias"]
        for name, values in zip(names, (weight, bias), strict=True):
            tensors[name] = values.astype(tensors[convolution.input[1]].dtype)
            graph.initializer.append(numpy_helper.from_array(tensors[name], name))
        inputs = [convolution.input[0], *names]
        del convolution.input[:]
        convolution.input.extend(inputs)
        convolution.output[0] = given
        gone.add(norm.name)
    replace_nodes(graph, [node for node in graph.node if node.name not in gone])
    return len(gone)


def _is_constant_norm(node: onnx.NodeProto, tensors: Mapping[str, NDArray[np.float32]]) -> bool:
    trained = any(a.name == "training_mode" and a.i for a in node.attribute)
    return (
        node.op_type == "BatchNormalization"
        and not trained
        and len(node.output) == 1
        and all(name in tensors for name in node.input[1:])
    )


def _folded(
    convolution: onnx.NodeProto, norm: onnx.NodeProto, tensors: Mapping[str, NDArray[np.float32]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scale, shift, mean, variance = (tensors[name].astype(np.float64) for name in norm.input[1:5])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), _EPSILON)
    factor = scale / np.sqrt(variance + epsilon)
    weight = tensors[convolution.input[1]].astype(np.float64)
    has_bias = len(convolution.input) > 2 and convolution.input[2]
    bias = tensors[convolution.input[2]].astype(np.float64) if has_bias else 0.0
    return weight * factor.reshape(-1, 1, 1, 1), (bias - mean) * factor + shift
