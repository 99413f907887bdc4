"""Axes of tensors that run along a side of a picture, and nodes with what is known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]
Problems = list[str]


@dataclass(frozen=True)
class AxisField:
    """An axis of a tensor that runs along a side of the picture.

    Position i depends on the pixels from ``jump·i + first`` to ``jump·i + last``.

    Attributes:
        side: 0: rows, 1: columns.
        jump: pixels from one position to the next.
        first, last: as the operators read; the same in pictures of all sizes.
        low, high: the same, widened so that whatever sees padding at the edge of a part of a
            picture also reaches beyond that edge.
    """

    side: int
    jump: Fraction
    first: Fraction
    last: Fraction
    low: Fraction
    high: Fraction

    @classmethod
    def of_picture(cls, side: int) -> AxisField:
        """Return the axis of the picture itself."""
        return cls(side, Fraction(1), *[Fraction(0)] * 4)

    def read(
        self, step: Fraction | int, before: Fraction | int, after: Fraction | int
    ) -> AxisField:
        """Return the axis whose position o reads ``step·o + before`` to ``step·o + after``."""
        jump = self.jump
        return AxisField(
            self.side, jump * step, self.first + jump * before, self.last + jump * after,
            self.low + jump * before, self.high + jump * after,
        )  # fmt: skip

    def padded(self, size: int, picture: Shape) -> AxisField:
        """Widen an axis of ``size`` positions that is read beyond its ends."""
        # Position -1 is padding in a part of the picture alone, unless it reaches before pixel 0.
        end = picture[self.side] - self.jump * size
        return replace(self, low=min(self.low, self.jump - 1), high=max(self.high, end))

    def joined(self, other: AxisField) -> AxisField | None:
        """Return the axis that depends on both, or None where they do not run alike."""
        if (self.side, self.jump) != (other.side, other.jump):
            return None
        return AxisField(
            self.side, self.jump, min(self.first, other.first), max(self.last, other.last),
            min(self.low, other.low), max(self.high, other.high),
        )  # fmt: skip


#: One for each axis of a tensor; None: it does not run along a side of the picture.
Fields = tuple[AxisField | None, ...]


@dataclass(frozen=True)
class Step:
    """A node, with what is known of its inputs.

    Attributes:
        node: the operator.
        fields: of the tensors that depend on the picture.
        shapes: of all tensors.
        constants: small ones, flat.
        picture: (H, W).
        problems: where one is noted.
    """

    node: onnx.NodeProto
    fields: Mapping[str, Fields]
    shapes: Mapping[str, Shape]
    constants: Mapping[str, list[Any]]
    picture: Shape
    problems: Problems

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute's value."""
        from onnx import helper

        for attribute in self.node.attribute:
            if attribute.name == name:
                return helper.get_attribute_value(attribute)
        return default

    def constant(self, place: int) -> list[Any] | None:
        """Return the values of an input, or None where it is left out or not known."""
        return self.constants.get(self.node.input[place]) if place < len(self.node.input) else None

    def axes(self, default: Sequence[int] | None = None) -> Sequence[int] | None:
        """Return what an operator's ``axes`` say, as an attribute or its second input."""
        found = self.attribute("axes") or self.constant(1)
        return default if found is None else found

    @property
    def first(self) -> Fields:
        """Of the first input, which may not depend on the picture."""
        shape = self.shapes.get(self.node.input[0], ())
        return self.fields.get(self.node.input[0], (None,) * len(shape))

    @property
    def read(self) -> Shape:
        """The shape of the first input."""
        return self.shapes[self.node.input[0]]

    @property
    def written(self) -> Shape:
        """The shape of the first output."""
        return self.shapes[self.node.output[0]]

    def note(self, what: str) -> None:
        """Note a problem."""
        name = f" ({self.node.name})" if self.node.name else ""
        self.problems.append(f"its {self.node.op_type}{name} {what}")

    def without(self, fields: Fields, axes: Sequence[int]) -> Fields:
        """Return fields of which some axes are looked along as a whole."""
        wanted = {axis % len(fields) for axis in axes}
        if any(fields[axis] is not None for axis in wanted):
            self.note("looks at the whole picture")
        return tuple(None if axis in wanted else field for axis, field in enumerate(fields))
