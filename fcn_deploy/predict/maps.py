"""One map → its mask, tile by tile: read ahead ‖ compute ‖ write behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.pipeline import Reserve, loaded_ahead, picture_threads, written_behind
from fcn_deploy.predict.geotiff import Bands, MapMask, MapReader, MapWriter, block_cache
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
    bands: Bands = field(default_factory=Bands)
    on_tile: Callable[[int, int], None] = lambda done, total: None


#: A tile, what is kept of its mask, and which pixels of that stand for nothing.
_Written = tuple[Tile, NDArray[np.uint8], NDArray[np.bool_] | None]


@dataclass(frozen=True, eq=False)
class _Batch:
    tiles: list[Tile]
    images: NDArray[np.uint8]
    nothing: list[NDArray[np.bool_] | None]


def segment_map(
    runner: Runner,
    source: Path,
    target: Path,
    options: MapOptions,
    *,
    batch_size: int = 1,
    has_finite_logits: FiniteCheck = lambda image: True,
) -> MapMask:
    """Write the mask of a map; it is whole when this returns.

    Args:
        runner: an open runner, asked from the caller's thread alone.
        source: the map.
        target: the mask.
        options: how.
        batch_size: most tiles to segment at once.
        has_finite_logits: asked of tiles whose mask is of class 0 alone.

    Raises:
        FcnDeployError: the map cannot be read or cut, the runner failed, the mask is not written.
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

            def load(some: list[Tile], reserve: Reserve) -> _Batch:
                images = np.stack([reader.read(tile) for tile in some])
                return _Batch(some, images, list(map(reader.nothing, some)))

            batches = loaded_ahead(batches_of(tiles, batch_size), load, readers, _AHEAD)
            written = written_behind(
                _kept(runner, batches, has_finite_logits),
                lambda part: writer.write(*part),
                writers,
                _AHEAD * batch_size,
            )
            for done, _ in enumerate(written, 1):
                options.on_tile(done, len(tiles))
    return MapMask(reader.size, writer.counts, time.perf_counter() - begun)


def _kept(
    runner: Runner, batches: Iterator[_Batch], has_finite_logits: FiniteCheck
) -> Iterator[_Written]:
    """Segment tiles, and yield what is kept of each."""
    for batch, outputs in stream_by_key(runner, ((each, each.images) for each in batches)):
        for tile, image, nothing, mask in zip(
            batch.tiles, batch.images, batch.nothing, outputs.mask, strict=True
        ):
            if not mask.any() and not has_finite_logits(image):
                raise not_finite()
            yield tile, mask[tile.inner], nothing
