"""Look into an ONNX graph, and tidy it: producers, consumers, pixels, dead nodes.  Knows no torch.

What is returned is of the graph as it stands: whoever changes it afterwards asks again.  Graphs
have no subgraphs (If, Loop): ours never do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def producers_of(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Return tensor → the node that gives it."""
    return {output: node for node in graph.node for output in node.output if output}


def consumers_of(graph: onnx.GraphProto) -> Mapping[str, Sequence[onnx.NodeProto]]:
    """Return each tensor of a graph → the nodes that read it; one that reads it twice, twice."""
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for tensor in (*graph.input, *graph.initializer):
        consumers[tensor.name] = []
    for node in graph.node:
        for name in filter(None, (*node.input, *node.output)):  # without a name: left out
            consumers.setdefault(name, [])
        for name in filter(None, node.input):
            consumers[name].append(node)
    return consumers


def initializers_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return name → initializer; constants that a Constant node gives are none."""
    return {tensor.name: tensor for tensor in graph.initializer}


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a model is written in."""
    return max(int(entry.version) for entry in model.opset_import if entry.domain == "")


def cast_to(node: onnx.NodeProto) -> int | None:
    """Return the element type that a Cast gives; None of any other node."""
    if node.op_type != "Cast":
        return None
    return next(int(attribute.i) for attribute in node.attribute if attribute.name == "to")


def is_never_negative(tensor: str, producers: Mapping[str, onnx.NodeProto]) -> bool:
    """Say whether a tensor is what a Relu gave, or the largest of that."""
    node = producers.get(tensor)
    while node is not None and node.op_type == "MaxPool":
        node = producers.get(node.input[0])
    return node is not None and node.op_type == "Relu"


def unchanged_pixels(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors that hold a picture's bytes: uint8 inputs, and what keeps their values."""
    from onnx import TensorProto

    holds_bytes = {
        TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16,
        TensorProto.UINT8, TensorProto.UINT16, TensorProto.INT16, TensorProto.INT32,
        TensorProto.INT64,
    }  # fmt: skip

    def keeps_values(node: onnx.NodeProto) -> bool:
        if node.op_type == "Cast":
            return cast_to(node) in holds_bytes
        return node.op_type in ("Transpose", "Identity")

    pixels = {
        value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8
    }
    for node in graph.node:  # in the order of computing
        if node.input and node.input[0] in pixels and keeps_values(node):
            pixels.add(node.output[0])
    return pixels


def remove_dead_nodes(graph: onnx.GraphProto) -> None:
    """Take out nodes and initializers that no output needs."""
    needed = {output.name for output in graph.output}
    alive: list[onnx.NodeProto] = []
    for node in reversed(graph.node):  # ONNX graphs are sorted
        if not needed.isdisjoint(node.output):
            needed.update(filter(None, node.input))
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
