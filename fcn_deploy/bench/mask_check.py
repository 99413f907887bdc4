"""Are the masks right that are timed?  Some are kept on the clock and compared off it.

case, on the clock ──masks of a few batches──▶ MaskSamples ──▶ compared with a run of each
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import MaskMismatchError
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.bench import PEER
from fcn_deploy.results.runner import RunnerDescription

if TYPE_CHECKING:
    from fcn_deploy.bench.case import Case

#: Batches of a repeat that are kept: a copy of a mask is next to nothing beside computing it.
MOST_BATCHES = 4
#: Share of the pixels that may differ on a GPU, where a stream may be given other kernels than a
#: single run: as many as the gate of `parity` lets differ.  The figures stand here again because
#: bench and parity import nothing of each other.
_FP32_GPU_SHARE, _GPU_SHARE = 1e-4, 1e-3


class MaskSamples:
    """Masks of some of the batches that were timed, drawn so that each batch is as likely."""

    def __init__(self) -> None:
        self._draw = random.Random(0)  # which are kept decides nothing but what is seen
        self._seen = 0
        self._kept: list[tuple[tuple[int, ...], NDArray[np.uint8]]] = []

    def keep(self, pictures: Sequence[int], masks: NDArray[np.uint8]) -> None:
        """Take note of a batch: numbers of its inputs, and the masks that it was given."""
        self._seen += 1
        place = self._draw.randrange(self._seen)
        if place < MOST_BATCHES:
            # A copy: a runner may use its buffers again.
            entry = tuple(pictures), masks.copy()
            if len(self._kept) < MOST_BATCHES:
                self._kept.append(entry)
            else:
                self._kept[place] = entry

    def check(self, case: Case) -> None:
        """Compare what was kept with a run of each batch, and forget it.

        Raises:
            MaskMismatchError: they differ: what was timed is not the network's work.
        """
        kept, self._kept, self._seen = self._kept, [], 0
        flips = pixels = 0
        for pictures, masks in kept:
            expected = case.runner.run(case.inputs.batch(pictures)).mask
            same_shape = expected.shape == masks.shape
            flips += int((expected != masks).sum()) if same_shape else expected.size
            pixels += expected.size
        runner = case.runner.describe()
        if flips > _allowed_share(runner) * pixels:
            raise MaskMismatchError(
                f"{case.name}: the masks that were timed are not those of a single run "
                f"({flips:,} of {pixels:,} pixels differ)",
                _advice(runner),
            )


def _allowed_share(runner: RunnerDescription) -> float:
    if not runner.on_gpu:
        return 0
    return _FP32_GPU_SHARE if runner.precision == Precision.FP32.value else _GPU_SHARE


def _advice(runner: RunnerDescription) -> str | None:
    """Return the command that tells the cause; None for runners that it does not take."""
    if runner.is_baseline or runner.backend.startswith(PEER):
        return None
    flag = Precision(runner.precision).flag
    return f"run `fcn-deploy parity --backend {runner.backend}{flag}`, which tells the cause"
