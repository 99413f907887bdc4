"""Axes of tensors that run along a side of a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

Shape = tuple[int, ...]


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
