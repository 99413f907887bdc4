"""Warm-up: the sizes that requests will have are computed once before the server is ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BatchShapeError
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.runners.base import Runner


def warm_up(
    runner: Runner,
    run: Callable[[NDArray[np.uint8]], object],
    max_batch: int,
    max_pixels: int,
    say: Callable[[str], None],
    is_wanted: Callable[[], bool] = lambda: True,
) -> int:
    """Compute a grey picture of each size that the training had; the typical one last.

    Args:
        runner: the runner.
        run: computes a batch with it, uint8 [N, H, W, 3].
        max_batch: pictures that the server computes at once.
        max_pixels: pixels that it takes in one request.
        say: called with a line on each shape.
        is_wanted: asked before each shape; once it says no, no more is computed.

    Returns:
        ``max_batch``, or where the runner takes fewer pictures of the typical size at once (an
        engine for smaller batches), a number that it takes.

    Raises:
        FcnDeployError: the runner computes none of them, or fails.
    """
    shapes = list(dict.fromkeys(warm_up_shapes(runner.spec, max_batch, max_pixels)))
    runner.reserve_shapes(len(shapes))
    most, computed = max_batch, 0
    refusal: BatchShapeError | None = None
    while shapes and is_wanted():
        images, height, width = shapes.pop(0)
        began = time.perf_counter()
        try:
            run(np.full((images, height, width, 3), 128, dtype=np.uint8))
        except BatchShapeError as error:  # an engine for other sizes than the training's
            refusal = error
            say(f"not warmed up: {error}")
            if images == most > 1 and runner.spec.input_shape.batch is None:
                most = images // 2
                if most > 1:
                    shapes.insert(0, (most, height, width))
            continue
        computed += 1
        seconds = time.perf_counter() - began
        say(f"warmed up {images}×{height}×{width} in {seconds:.2f} s")
    if refusal is not None and not computed:
        raise refusal
    return most


def warm_up_shapes(
    spec: ModelSpec, max_batch: int, max_pixels: int
) -> Iterator[tuple[int, int, int]]:
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
