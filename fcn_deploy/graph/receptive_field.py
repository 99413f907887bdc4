"""The receptive field of a network: which pixels of a picture a pixel of its mask depends on.

    field = receptive_field(OnnxFile(Path("runs/fcn/model.onnx")).model)
    field.margin, field.stride, field.unbounded

Found by walking the graph from the picture to the mask: each operator says what becomes of the axes
that run along a side of the picture.  Done at several sizes of the picture: what depends on the
size would be computed differently in a part of the picture.  Knows no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.graph.cost import resolved_graph
from fcn_deploy.graph.nodes import remove_dead_nodes
from fcn_deploy.graph.receptive_rules import AxisField, Fields, Step, fields_of

if TYPE_CHECKING:
    import onnx

#: (H, W) of the pictures that the graph is walked for: two of multiples of every usual stride, and
#: one of none.  Nothing is computed, so that large ones cost nothing.
_SIZES = ((3840, 5376), (5376, 3840), (3851, 5389))
_GRID = math.gcd(*_SIZES[0])


@dataclass(frozen=True)
class ReceptiveField:
    """What a pixel of the mask depends on.

    Attributes:
        before, after: it reads pixels from ``before`` in front of its own to ``after`` behind it,
            along both sides; what is in front of or behind the picture is padding.
        stride: of the network: a part of a picture that begins at a multiple of it, along both
            sides, is computed as in the whole picture, but for its edges.
        unbounded: why a pixel may depend on all others, or on where it stands; None: it does not.
        multiples_alone: whether the above holds only for pictures whose sides are multiples of
            ``stride``.
    """

    before: int
    after: int
    stride: int
    unbounded: str | None = None
    multiples_alone: bool = False

    @property
    def margin(self) -> int:
        """What must lie around a part of a picture, on each side: a multiple of the stride."""
        return -(-max(self.before, self.after) // self.stride) * self.stride


def receptive_field(model: onnx.ModelProto) -> ReceptiveField:
    """Return what a pixel of the mask depends on.

    Args:
        model: a deploy graph: ``image`` [N, H, W, 3] → ``mask`` [N, H, W] first of all outputs.
    """
    try:
        first, second, odd = (_Walk(model, size) for size in _SIZES)
    except OnnxFileError:
        return ReceptiveField(0, 0, 1, "it takes pictures of one size alone")
    problem = next(iter(first.problems + second.problems), None)
    axes = [axis for fields in first.fields.values() for axis in fields if axis is not None]
    stride = math.lcm(*(axis.jump.numerator for axis in axes))
    if problem is None and first.fields != second.fields:
        problem = "what it reads depends on the picture's size"
    if problem is None and _GRID % stride:
        problem = f"its stride of {stride} is an unusual one"
    return ReceptiveField(
        before=max((math.ceil(-axis.first) for axis in first.mask), default=0),
        after=max((math.ceil(axis.last) for axis in first.mask), default=0),
        stride=stride,
        unbounded=problem,
        multiples_alone=bool(odd.problems) or odd.fields != first.fields,
    )


class _Walk:
    """The fields of all tensors that depend on a picture of one size, and of its mask."""

    def __init__(self, model: onnx.ModelProto, size: tuple[int, int]) -> None:
        graph, shapes = resolved_graph(model, {"image": (1, *size, 3)})
        del graph.output[1:]
        remove_dead_nodes(graph)
        self.problems: list[str] = []
        self.fields: dict[str, Fields] = {"image": (None, AxisField(0), AxisField(1), None)}
        constants = _constants(graph)
        for node in graph.node:
            if not self.fields.keys().isdisjoint(node.input):
                step = Step(node, self.fields, shapes, constants, size, self.problems)
                fields = fields_of(step)
                self.fields.update((name, fields) for name in node.output if name)
        fields = self.fields.get(graph.output[0].name, ())
        self.mask = [axis for axis in fields if axis is not None]
        if [(axis.side, axis.jump) for axis in self.mask] != [(0, Fraction(1)), (1, Fraction(1))]:
            self.problems.append("its mask does not lie pixel on pixel on the picture")


def _constants(graph: onnx.GraphProto) -> dict[str, list[int | float]]:
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return {name: numpy_helper.to_array(t).ravel().tolist() for name, t in tensors.items()}
