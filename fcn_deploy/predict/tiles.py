"""Tiles: the parts in which a large picture is segmented, so that the mask is that of the whole.

    |<------------- side ------------->|
    | margin |        kept        | margin |
                                  | margin |        kept        | …

A tile begins at a multiple of the network's stride, since there its grid lies as in the whole
picture.  What is computed near an edge that the picture does not have is thrown away: the margin,
which is at least the network's receptive field.  At the picture's own edges nothing is thrown away,
and the last tile ends where the picture does: the padding there belongs to the picture.  All other
tiles are of one shape.  Nothing is blended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fcn_deploy.core.errors import InputError


@dataclass(frozen=True)
class Span:
    """A tile along one side of the picture, in pixels of the picture.

    Attributes:
        start, stop: what is segmented.
        keep_start, keep_stop: what is kept of it.
    """

    start: int
    stop: int
    keep_start: int
    keep_stop: int

    @property
    def size(self) -> int:
        """Pixels that are segmented."""
        return self.stop - self.start

    @property
    def inner(self) -> slice:
        """What is kept, counted from the tile's own first pixel."""
        return slice(self.keep_start - self.start, self.keep_stop - self.start)


@dataclass(frozen=True)
class Tile:
    """A part of a picture."""

    rows: Span
    columns: Span

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of what is segmented."""
        return self.rows.size, self.columns.size

    @property
    def read(self) -> tuple[slice, slice]:
        """What is segmented, in the picture."""
        return slice(self.rows.start, self.rows.stop), slice(self.columns.start, self.columns.stop)

    @property
    def kept(self) -> tuple[slice, slice]:
        """What is kept, in the picture."""
        return (
            slice(self.rows.keep_start, self.rows.keep_stop),
            slice(self.columns.keep_start, self.columns.keep_stop),
        )

    @property
    def inner(self) -> tuple[slice, slice]:
        """What is kept, in the tile."""
        return self.rows.inner, self.columns.inner


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut into tiles; see :meth:`of`.

    Attributes:
        side: height and width of a tile, a multiple of ``stride``.
        margin: pixels on each side that are thrown away, a multiple of ``stride``.
        stride: of the network.
    """

    side: int
    margin: int
    stride: int = 1

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
        return cls(side, margin, stride)

    def fits(self, height: int, width: int) -> bool:
        """Say whether a picture is one tile."""
        return max(height, width) <= self.side

    def tiles(self, height: int, width: int) -> list[Tile]:
        """Return the tiles of a picture, row by row; each of its pixels is kept by one."""
        rows, columns = self._spans(height), self._spans(width)
        return [Tile(row, column) for row in rows for column in columns]

    def _spans(self, length: int) -> list[Span]:
        spans: list[Span] = []
        step = self.side - 2 * self.margin
        start = 0
        while start + self.side < length:
            keep_start = start + self.margin if start else 0
            spans.append(
                Span(start, start + self.side, keep_start, start + self.side - self.margin)
            )
            start += step
        return [*spans, Span(start, length, start + self.margin if start else 0, length)]


def batches_of(tiles: Sequence[Tile], batch_size: int) -> Iterator[list[Tile]]:
    """Join tiles of one shape that follow one another, up to so many."""
    batch: list[Tile] = []
    for tile in tiles:
        if batch and (len(batch) == batch_size or tile.shape != batch[0].shape):
            yield batch
            batch = []
        batch.append(tile)
    if batch:
        yield batch
