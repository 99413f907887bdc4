"""The receptive field of a network: which pixels of a picture a pixel of its mask depends on.

    field = receptive_field(OnnxFile(Path("runs/fcn/model.onnx")).model)
    field.margin, field.stride, field.unbounded

Found by walking the graph from the picture to the mask: each axis of a tensor that runs along a
side of the picture is an :class:`~fcn_deploy.graph.receptive_axes.AxisField`, and each operator
says what becomes of it.  The walk is done at several sizes of the picture: what depends on the size
would be computed differently in a part of the picture.  Knows no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.graph.cost import resolved_graph
from fcn_deploy.graph.receptive_axes import AxisField, Fields
from fcn_deploy.graph.receptive_rules import fields_of

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
        walks = [_Walk(model, size) for size in _SIZES]
    except OnnxFileError:
        return ReceptiveField(0, 0, 1, "it takes pictures of one size alone")
    first, second, odd = walks
    problem = first.problem or second.problem
    stride = math.lcm(*(field.jump.numerator for field in first.axes()))
    if problem is None and first.raw != second.raw:
        problem = "what it reads depends on the picture's size"
    if problem is None and _GRID % stride:
        problem = f"its stride of {stride} is an unusual one"
    low = min((f.low for walk in walks for f in walk.mask_axes), default=Fraction(0))
    high = max((f.high for walk in walks for f in walk.mask_axes), default=Fraction(0))
    return ReceptiveField(
        before=max(0, math.ceil(-low)),
        after=max(0, math.ceil(high)),
        stride=stride,
        unbounded=problem,
        multiples_alone=odd.problem is not None or odd.raw != first.raw,
    )


class _Walk:
    """The fields of all tensors that depend on a picture of one size."""

    def __init__(self, model: onnx.ModelProto, size: tuple[int, int]) -> None:
        graph, shapes = resolved_graph(model, {"image": (1, *size, 3)})
        problems: list[str] = []
        self._fields: dict[str, Fields] = {
            "image": (None, AxisField.of_picture(0), AxisField.of_picture(1), None)
        }
        constants = _constants(graph)
        for node in graph.node:
            if self._fields.keys().isdisjoint(node.input):
                continue
            fields, noted = fields_of(node, self._fields, shapes, constants, size)
            problems += noted
            self._fields.update((name, fields) for name in node.output if name)
        mask = self._fields.get(graph.output[0].name, ())
        one = Fraction(1)
        self.mask_axes = [field for field in mask if field is not None]
        if [(field.side, field.jump) for field in self.mask_axes] != [(0, one), (1, one)]:
            problems.append("its mask does not lie pixel on pixel on the picture")
        self.problem = next(iter(problems), None)

    def axes(self) -> list[AxisField]:
        return [axis for fields in self._fields.values() for axis in fields if axis is not None]

    @property
    def raw(self) -> Mapping[str, object]:
        return {
            name: [axis and (axis.side, axis.jump, axis.first, axis.last) for axis in fields]
            for name, fields in self._fields.items()
        }


def _constants(graph: onnx.GraphProto) -> dict[str, list[int | float]]:
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return {name: numpy_helper.to_array(t).ravel().tolist() for name, t in tensors.items()}
