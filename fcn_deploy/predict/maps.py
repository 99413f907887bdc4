"""One map → its mask, tile by tile: read ahead ‖ compute ‖ write behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.pipeline import (
    Reserve,
    in_order,
    loaded_ahead,
    picture_threads,
    written_behind,
)
from fcn_deploy.predict.geotiff import Bands, MapReader, MapWriter, block_cache, counts_of_mask
from fcn_deploy.predict.stream import FiniteCheck, not_finite
from fcn_deploy.predict.tiles import Tile, Tiling, batches_of
from fcn_deploy.runners.base import Runner, stream_by_key

#: Batches of tiles that are read ahead, and that wait to be written.
_AHEAD = 2


@dataclass(frozen=True)
class MapOptions:
    """How maps are segmented.

    Attributes:
        tiling_of: says how a map of (height, width) is cut.
        bands: that the network sees.
        on_tile: called with the tiles done and the tiles in all.
    """

    tiling_of: Callable[[tuple[int, int]], Tiling]
    bands: Bands | None = None
    on_tile: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True, eq=False)
class MapMask:
    """What was written.

    Attributes:
        size: (height, width) in pixels.
        counts: of the pixels of each value, int64 [256].
        nodata: the value of those that stand for nothing, or None.
        seconds: it took.
    """

    size: tuple[int, int]
    counts: NDArray[np.int64]
    nodata: int | None
    seconds: float | None


def read_mask_of_map(path: Path) -> MapMask:
    """Return what a file holds that :func:`segment_map` wrote.

    Raises:
        ImageError: it cannot be read.
    """
    size, counts, nodata = counts_of_mask(path)
    return MapMask(size, counts, nodata, None)


@dataclass(frozen=True, eq=False)
class _Read:
    tiles: list[Tile]
    images: NDArray[np.uint8]
    nothing: list[NDArray[np.bool_] | None]


@dataclass(frozen=True, eq=False)
class _Part:
    place: int
    tile: Tile
    mask: NDArray[np.uint8]
    nothing: NDArray[np.bool_] | None


def segment_map(
    runner: Runner,
    source: Path,
    target: Path,
    options: MapOptions,
    *,
    batch_size: int = 1,
    has_finite_logits: FiniteCheck = lambda image: True,
) -> MapMask:
    """Write the mask of a map.

    Args:
        runner: an open runner, asked from the caller's thread alone.
        source: the map.
        target: the mask; it is whole when this returns.
        options: see :class:`MapOptions`.
        batch_size: most tiles to segment at once.
        has_finite_logits: asked of tiles whose mask is of class 0 alone.

    Raises:
        ImageError: the map cannot be read, or be cut into tiles.
        FcnDeployError: the runner failed.
        ArtifactError: the mask cannot be written.
    """
    begun = time.perf_counter()
    with MapReader(source, options.bands) as reader:
        tiling = options.tiling_of(reader.size)
        tiles = tiling.tiles(*reader.size)
        with (
            block_cache(reader.size[1], tiling.side),
            MapWriter(target, reader, runner.spec.palette) as writer,
            picture_threads(1) as readers,
            picture_threads(1) as writers,
        ):

            def load(some: list[Tile], reserve: Reserve) -> _Read:
                asked = writer.nodata is not None
                nothing = [reader.is_nothing(tile) if asked else None for tile in some]
                return _Read(some, np.stack([reader.read(tile) for tile in some]), nothing)

            def write(part: _Part) -> tuple[int, None]:
                mask = part.mask
                if part.nothing is not None:
                    mask = np.where(part.nothing, np.uint8(writer.nodata or 0), mask)
                writer.write(part.tile, mask)
                return part.place, None

            batches = loaded_ahead(batches_of(tiles, batch_size), load, readers, _AHEAD)
            parts = _parts(runner, batches, has_finite_logits)
            for done, _ in enumerate(
                in_order(written_behind(parts, write, writers, _AHEAD * batch_size)), 1
            ):
                options.on_tile(done, len(tiles))
    return MapMask(reader.size, writer.counts, writer.nodata, time.perf_counter() - begun)


def _parts(
    runner: Runner, batches: Iterator[_Read], has_finite_logits: FiniteCheck
) -> Iterator[_Part]:
    """Segment tiles, and yield what is kept of each."""
    keyed = ((read, read.images) for read in batches)
    place = 0
    for read, outputs in stream_by_key(runner, keyed):
        for tile, image, mask, nothing in zip(
            read.tiles, read.images, outputs.mask, read.nothing, strict=True
        ):
            if not mask.any() and not has_finite_logits(image):
                raise not_finite()
            yield _Part(place, tile, mask[tile.inner], nothing)
            place += 1
