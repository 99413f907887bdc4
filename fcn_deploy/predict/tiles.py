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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fcn_deploy.core.errors import InputError


@dataclass(frozen=True)
class Span:
    """A tile along one side: pixels of the picture that are segmented, and those that are kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


@dataclass(frozen=True)
class Tile:
    """A part of a picture."""

    rows: Span
    columns: Span

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width) of what is segmented."""
        return tuple(span.stop - span.start for span in (self.rows, self.columns))

    @property
    def read(self) -> tuple[slice, slice]:
        """What is segmented, in the picture."""
        return slice(self.rows.start, self.rows.stop), slice(self.columns.start, self.columns.stop)

    @property
    def kept(self) -> tuple[slice, slice]:
        """What is kept, in the picture."""
        rows, columns = self.rows, self.columns
        return (
            slice(rows.keep_start, rows.keep_stop), slice(columns.keep_start, columns.keep_stop),
        )  # fmt: skip

    @property
    def inner(self) -> tuple[slice, slice]:
        """What is kept, in the tile."""
        rows, columns = (
            slice(kept.start - span.start, kept.stop - span.start)
            for kept, span in zip(self.kept, (self.rows, self.columns), strict=True)
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
        rows, columns = self._spans(height), self._spans(width)
        return [Tile(row, column) for row in rows for column in columns]

    def _spans(self, length: int) -> list[Span]:
        spans: list[Span] = []
        start = keep = 0
        while start + self.side < length:
            stop = start + self.side
            spans.append(Span(start, stop, keep, stop - self.margin))
            start, keep = stop - 2 * self.margin, stop - self.margin
        return [*spans, Span(start, length, keep, length)]


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
