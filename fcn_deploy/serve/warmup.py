"""Warm-up: the sizes that requests will have are computed once before the server is ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from fcn_deploy.core.errors import BatchShapeError
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.runners.base import Runner


def warm_up(
    runner: Runner, max_batch: int, max_pixels: int, say: Callable[[str], None]
) -> tuple[int, int, int]:
    """Compute a grey picture of each size that the training had; the typical one last.

    Args:
        runner: the runner.
        max_batch: pictures that the server computes at once.
        max_pixels: pixels that it takes in one request.
        say: called with a line on each shape.

    Returns:
        (N, H, W) of the last one.

    Raises:
        FcnDeployError: the runner computes none of them, or fails.
    """
    shapes = list(dict.fromkeys(warm_shapes(runner.spec, max_batch, max_pixels)))
    runner.reserve_shapes(len(shapes))
    done: tuple[int, int, int] | None = None
    refusal: BatchShapeError | None = None
    for shape in shapes:
        began = time.perf_counter()
        try:
            runner.run(np.full((*shape, 3), 128, dtype=np.uint8))
        except BatchShapeError as error:  # an engine for other sizes than the training's
            refusal = error
            say(f"not warmed up: {error}")
            continue
        done = shape
        say(f"warmed up {'×'.join(map(str, shape))} in {time.perf_counter() - began:.2f} s")
    if done is None:
        assert refusal is not None  # there is one shape at least
        raise refusal
    return done


def warm_shapes(spec: ModelSpec, max_batch: int, max_pixels: int) -> Iterator[tuple[int, int, int]]:
    """Yield (N, H, W): the sizes of the training alone, and the typical one in a full batch."""
    sizes = spec.image_sizes
    batch = spec.input_shape.batch or 1
    typical = spec.input_shape.fitted(*sizes.typical)
    for size in (sizes.smallest, sizes.largest):
        height, width = spec.input_shape.fitted(*size)
        if batch * height * width <= max_pixels:
            yield batch, height, width
    if max_batch > batch and max_batch * typical[0] * typical[1] <= max_pixels:
        yield max_batch, *typical
    yield batch, *typical
