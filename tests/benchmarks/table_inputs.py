"""What the peers and the table of the benchmark are tested on: pictures and a row."""

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.scenes.render import draw_scene
from fcn_deploy.results.bench import BenchRow
from fcn_deploy.results.runner import RunnerDescription
from tests.result_files import bare_row

THREADS = 2


def pictures(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    count, height, width = shape
    return np.stack([draw_scene(0, index, (height, width))[0] for index in range(count)])


def row(
    backend: str, *repeats_ms: float, tier: str = "host", library: str = "Library 1.0"
) -> BenchRow:
    """Return a row in which each repeat comes twice: three are too few for a verdict."""
    runner = RunnerDescription(
        backend, "cpu", "fp32", "fp32", library, 2, "model", "sha256:0", "sha256:0"
    )
    return bare_row(runner, 2 * repeats_ms, tier=tier, size=(320, 480))
