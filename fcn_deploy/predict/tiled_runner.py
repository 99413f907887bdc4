"""TiledRunner: a runner that segments pictures beyond a size tile by tile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.predict.stream import FiniteCheck
from fcn_deploy.predict.tiles import Tile, Tiling, batches_of
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import Outputs, Runner

#: Called with (height, width) of a picture; None: it is segmented as a whole.
TilingOf = Callable[[tuple[int, int]], Tiling | None]
#: Masks that are put together, the tiles that are in work, and whether these are the last.
_Parts = tuple[NDArray[np.uint8], list[Tile], bool]


class TiledRunner(Runner):
    """Another runner, which gets large pictures in tiles; of these it gives masks alone.

    Args:
        runner: it is not closed with this one.
        tiling_of: says how a picture is cut; what it raises, the picture's run raises.
        batch_size: most tiles to segment at once.
    """

    def __init__(self, runner: Runner, tiling_of: TilingOf, batch_size: int = 1) -> None:
        self._runner = runner
        self._tiling_of = tiling_of
        self._batch_size = batch_size

    @property
    def spec(self) -> ModelSpec:
        """That of the other runner."""
        return self._runner.spec

    def describe(self) -> RunnerDescription:
        """Describe the other runner."""
        return self._runner.describe()

    def close(self) -> None:
        """Do nothing: whoever opened the other runner closes it."""

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        return next(iter(self.stream([images])))

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the masks of each batch, in order; see :meth:`Runner.stream`."""
        in_work: deque[_Parts | None] = deque()
        for outputs in self._runner.stream(self._parts(batches, in_work)):
            parts = in_work.popleft()
            if parts is None:
                yield outputs
                continue
            whole, tiles, last = parts
            for tile, masks in zip(tiles, np.split(outputs.mask, len(tiles)), strict=True):
                whole[_of_all(tile.kept)] = masks[_of_all(tile.inner)]
            if last:
                yield Outputs(whole)

    def _parts(
        self, batches: Iterable[NDArray[np.uint8]], in_work: deque[_Parts | None]
    ) -> Iterator[NDArray[np.uint8]]:
        for images in batches:
            self.check(images)
            count, height, width = images.shape[:3]
            tiling = self._tiling_of((height, width))
            if tiling is None:
                in_work.append(None)
                yield images
                continue
            tiles = tiling.tiles(height, width)
            whole = np.empty((count, height, width), np.uint8)
            for some in batches_of(tiles, max(1, self._batch_size // count)):
                in_work.append((whole, some, some[-1] == tiles[-1]))
                yield np.concatenate([images[_of_all(tile.read)] for tile in some])


def _of_all(place: tuple[slice, slice]) -> tuple[slice, ...]:
    return (slice(None), *place)


def checked_in_tiles(check: FiniteCheck, tiling_of: TilingOf) -> FiniteCheck:
    """Return a check of pictures that asks for each tile of a large one."""

    def checked(image: NDArray[np.uint8]) -> bool:
        height, width = image.shape[:2]
        tiling = tiling_of((height, width))
        if tiling is None:
            return check(image)
        return all(check(image[tile.read]) for tile in tiling.tiles(height, width))

    return checked
