"""Who makes and who reads what in an ONNX graph.  Knows no torch.

Computed once from a graph as it stands: whoever changes it afterwards asks again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

#: They change no pixel, only its type or its place in memory.
_KEEPS_PIXELS = ("Cast", "Transpose", "Identity")


def makers_of(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Return tensor → the node that gives it."""
    return {output: node for node in graph.node for output in node.output}


def readers_of(graph: onnx.GraphProto) -> Mapping[str, Sequence[onnx.NodeProto]]:
    """Return tensor → the nodes that read it, one that reads it twice standing there twice.

    Of a tensor that no node reads: an empty list.
    """
    readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    return readers


def constants_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return name → constant that the graph holds."""
    return {tensor.name: tensor for tensor in graph.initializer}


def unchanged_pixels(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors that hold a picture's bytes: uint8 inputs, and what keeps their values."""
    from onnx import TensorProto

    pixels = {
        value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8
    }
    for node in graph.node:  # in the order of computing
        if node.op_type in _KEEPS_PIXELS and node.input[0] in pixels:
            pixels.add(node.output[0])
    return pixels


def drop_dead(graph: onnx.GraphProto) -> None:
    """Take out nodes and constants that no output needs, of a graph without subgraphs."""
    needed = {output.name for output in graph.output}
    alive: list[onnx.NodeProto] = []
    for node in reversed(graph.node):  # ONNX graphs are sorted
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            alive.append(node)
    replace_nodes(graph, alive[::-1])
    kept = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Let a graph consist of these nodes, which may be its own."""
    kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
