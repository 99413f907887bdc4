"""The argmax of an early-argmax tail as a tournament of the classes.  Knows no torch.

TensorRT has no argmax: its parser makes a TopK of an ArgMax, a layer that sorts and that is fused
with nothing.  Comparisons are fused with one another, so that one kernel holds the whole choice:

    cells [N, h, w, C·s²] ─Split─▶ C tensors [N, h, w, s²]
    best, index = class 0, 0
    for each class k from 1 on:
        better = class k > best                     Greater
        index  = k where better, else index         Where
        best   = class k where better, else best    Where

Of equal logits the first class wins, because a later one must be greater.  A NaN is never greater,
and nothing is greater than one: it loses, but in class 0, where it wins; the same as in ONNX
Runtime's ArgMax.  Nothing is computed, only compared, so the result is exact in any precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.graph.nodes import (
    cast_to,
    consumers_of,
    initializers_of,
    producers_of,
    remove_dead_nodes,
    replace_nodes,
)

if TYPE_CHECKING:
    import onnx

_REPAIR = "export it again with --tail early-argmax"


@dataclass(frozen=True)
class Tournament:
    """Where a graph chooses among classes by comparisons.

    Attributes:
        cells: tensor of the logits, [N, h, w, C·s²].
        index: tensor of the chosen classes, float32 [N, h, w, s²].
    """

    cells: str
    index: str


def with_tournament(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with a tournament in its ArgMax's place; the outputs are the same.

    Args:
        model: its tail takes the argmax early, as `fcn-deploy export` writes it; it is not changed.

    Raises:
        OnnxFileError: it is another graph.
    """
    from onnx import ModelProto, TensorProto

    changed = ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    argmaxes = [node for node in graph.node if node.op_type == "ArgMax"]
    if len(argmaxes) != 1:
        raise OnnxFileError(
            f"expected one ArgMax in the graph, found {len(argmaxes)}", "export it again"
        )
    (argmax,) = argmaxes
    cells, axis, classes, pixels = _classes_apart(graph, argmax)
    readers = consumers_of(graph)[argmax.output[0]]
    if [cast_to(node) for node in readers] != [TensorProto.FLOAT]:
        raise OnnxFileError("the graph's class indices are not cast to floats", _REPAIR)
    made = _comparisons(graph, argmax, cells, axis, classes, pixels, readers[0].output[0])
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node == argmax:
            nodes += made
        elif node != readers[0]:
            nodes.append(node)
    replace_nodes(graph, nodes)
    remove_dead_nodes(graph)
    return changed


def _classes_apart(graph: onnx.GraphProto, argmax: onnx.NodeProto) -> tuple[str, int, int, int]:
    """Return the tensor that holds C·s² logits on its last axis, that axis, C and s²."""
    from onnx import numpy_helper

    known = initializers_of(graph)
    split = producers_of(graph).get(argmax.input[0])
    form = {attribute.name: attribute.i for attribute in argmax.attribute}
    if split is not None and split.op_type == "Reshape" and split.input[1] in known:
        shape = [int(size) for size in numpy_helper.to_array(known[split.input[1]])]
        axis = form.get("axis", 0)
        last_first = not form.get("keepdims", 1) and not form.get("select_last_index", 0)
        if last_first and axis == len(shape) - 2 and min(shape[-2:]) > 0:
            return split.input[0], axis, shape[-2], shape[-1]
    raise OnnxFileError("the graph's tail does not take the argmax early", _REPAIR)


def _comparisons(
    graph: onnx.GraphProto,
    argmax: onnx.NodeProto,
    cells: str,
    axis: int,
    classes: int,
    pixels: int,
    result: str,
) -> list[onnx.NodeProto]:
    """Return the nodes of the tournament; what they read goes into the graph."""
    from onnx import helper, numpy_helper

    scope = argmax.name.rpartition(".")[0] or "tournament"

    def constant(name: str, values: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(values, f"{scope}.{name}"))
        return f"{scope}.{name}"

    def tensor(name: str, number: int) -> str:
        return f"{scope}.{name}_{number}"

    numbers = [
        # Of the tensors' rank: TensorRT's parser would add a layer that reshapes a scalar.
        constant(f"class_{number}.index", np.full((1,) * (axis + 1), number, np.float32))
        for number in range(classes)
    ]
    sizes = constant("classes", np.full(classes, pixels, np.int64))
    logits = [tensor("class", number) for number in range(classes)]
    nodes = [helper.make_node("Split", [cells, sizes], logits, name=f"{scope}.Split", axis=axis)]
    best, index = logits[0], numbers[0]
    for number in range(1, classes):
        better = tensor("better", number)
        chosen = result if number == classes - 1 else tensor("index", number)
        nodes += [
            helper.make_node(
                "Greater", [logits[number], best], [better], name=tensor("Greater", number)
            ),
            helper.make_node(
                "Where", [better, numbers[number], index], [chosen], name=tensor("Index", number)
            ),
        ]
        index = chosen
        if number < classes - 1:  # nobody asks for the last one's logit
            kept = tensor("best", number)
            nodes.append(
                helper.make_node(
                    "Where", [better, logits[number], best], [kept], name=tensor("Best", number)
                )
            )
            best = kept
    return nodes


def tournament_of(graph: onnx.GraphProto) -> Tournament | None:
    """Return the tournament of a graph; None where it has none that this module makes."""
    readers, numbers = consumers_of(graph), _numbers(graph)
    for node in graph.node:
        if node.op_type == "Split" and len(node.output) > 1:
            index = _winner(list(node.output), readers, numbers)
            if index is not None:
                return Tournament(node.input[0], index)
    return None


def _winner(
    logits: Sequence[str],
    readers: Mapping[str, Sequence[onnx.NodeProto]],
    numbers: Mapping[str, float],
) -> str | None:
    """Return the class index that a chain of comparisons ends with; None: it is another chain."""
    best: str | None = logits[0]
    index: str | None = None
    for number, challenger in enumerate(logits[1:], 1):
        better = next(
            (
                node.output[0]
                for node in readers[challenger]
                if node.op_type == "Greater" and list(node.input) == [challenger, best]
            ),
            None,
        )
        if better is None:
            return None
        chosen = kept = None
        for node in readers[better]:
            if node.op_type != "Where" or node.input[0] != better:
                return None
            if list(node.input[1:]) == [challenger, best]:
                kept = node.output[0]
            elif numbers.get(node.input[1]) == number and (
                node.input[2] == index if index is not None else numbers.get(node.input[2]) == 0
            ):
                chosen = node.output[0]
        if chosen is None:
            return None
        best, index = kept, chosen
    return index


def _numbers(graph: onnx.GraphProto) -> dict[str, float]:
    """Return the constants that are a single number."""
    from onnx import numpy_helper

    found = {}
    for tensor in graph.initializer:
        if all(size == 1 for size in tensor.dims):
            found[tensor.name] = float(numpy_helper.to_array(tensor).item())
    return found
