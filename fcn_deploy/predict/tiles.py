"""Tiles: the parts in which a large picture is segmented, so that the mask is that of the whole.

    |<------------- side ------------->|
    | margin |        kept        | margin |
                                  | margin |        kept        | …

A tile begins at a multiple of the network's stride, where its grid lies as in the whole picture.
Near an edge that the picture does not have, the margin is thrown away: at least the receptive
field.  At the picture's own edges nothing is, and the last tile ends there: that padding belongs to
the picture.  All other tiles are of one shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from fcn_deploy.core.errors import InputError

#: Rows and columns.
Place = tuple[slice, slice]


@dataclass(frozen=True)
class Tile:
    """A part of a picture.

    Attributes:
        read: what is segmented, in the picture.
        kept: what is kept of its mask, in the picture.
    """

    read: Place
    kept: Place

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width) of what is segmented."""
        return tuple(side.stop - side.start for side in self.read)

    @property
    def inner(self) -> Place:
        """What is kept, in the tile."""
        rows, columns = (
            slice(kept.start - read.start, kept.stop - read.start)
            for read, kept in zip(self.read, self.kept, strict=True)
        )
        return rows, columns


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut into tiles; see :meth:`of`.

    Attributes:
        side: height and width of a tile.
        margin: pixels on each side that are thrown away.
    """

    side: int
    margin: int

    @classmethod
    def of(cls, side: int, margin: int, stride: int) -> Tiling:
        """Return a tiling whose sizes are rounded up to multiples of the stride.

        Raises:
            InputError: the margins leave nothing of a tile.
        """
        side, margin = (-(-size // stride) * stride for size in (side, margin))
        if side <= 2 * margin:
            raise InputError(
                f"a tile of {side} pixels is too small: {margin} are thrown away on each side",
                f"use --tile {2 * margin + stride} or more; several times that computes less twice",
            )
        return cls(side, margin)

    def tiles(self, height: int, width: int) -> list[Tile]:
        """Return the tiles of a picture, row by row; each of its pixels is kept by one."""
        rows, columns = self._along(height), self._along(width)
        return [
            Tile((row, column), (kept_row, kept_column))
            for row, kept_row in rows
            for column, kept_column in columns
        ]

    def _along(self, length: int) -> list[tuple[slice, slice]]:
        """Return what is segmented, and what is kept, of the tiles along a side."""
        found: list[tuple[slice, slice]] = []
        start = keep = 0
        while (stop := start + self.side) < length:
            found.append((slice(start, stop), slice(keep, stop - self.margin)))
            start, keep = stop - 2 * self.margin, stop - self.margin
        return [*found, (slice(start, length), slice(keep, length))]


def batches_of(tiles: Iterable[Tile], batch_size: int) -> Iterator[list[Tile]]:
    """Join tiles of one shape that follow one another, up to so many."""
    for _, group in groupby(tiles, lambda tile: tile.shape):
        alike = list(group)
        for start in range(0, len(alike), batch_size):
            yield alike[start : start + batch_size]
