"""Whether a stream of batches, as `predict` runs it, gives the masks that were compared.

the candidate, run batch by batch ───────────────▶ masks ─┐
                                                          ├─ equal to the pixel? ─▶ StreamCheck
the same, opened for the mask alone, one stream ─▶ masks ─┘
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError
from fcn_deploy.parity.candidate import (
    Batch,
    Candidate,
    Masks,
    ReferenceLogits,
    passing_over_too_large,
    stacked,
)
from fcn_deploy.results.parity_parts import StreamCheck


@dataclass(frozen=True)
class StreamedMasks:
    """What a candidate's stream gives.

    Attributes:
        check: the figures.
        misplaced: (place, place): the first batch of the stream has the masks that the second
            should have; of the batches that got others than their own.
    """

    check: StreamCheck
    misplaced: tuple[tuple[int, int], ...]


def run_and_stream(
    candidate: Candidate, batches: Sequence[Batch]
) -> tuple[list[Batch], list[Masks], list[Masks]]:
    """Run batches one by one, and stream them as the candidate ships.

    Returns:
        The batches that the candidate takes, what a run of each gives, and what the stream gives;
        masks are uint8 [N, H, W].

    Raises:
        BackendError: the stream gives more or fewer results than it was given batches.
    """
    taken, expected = [], []
    for batch in batches:
        with passing_over_too_large():
            expected.append(candidate.masks_of(batch))
            taken.append(batch)
    with candidate.open_shipped() as shipped:
        backend = shipped.describe().backend
        # A runner may use its buffers again once the next result is asked for.
        given = [outputs.mask.copy() for outputs in shipped.stream(stacked(b) for b in taken)]
    if len(given) != len(taken):
        raise BackendError(
            f"the stream of backend {backend} gave {len(given)} results for {len(taken)} batches"
        )
    return taken, expected, given


class StreamTest:
    """Batches of mixed sizes, one stream of them.

    Args:
        reference: what masks that differ are measured by.
        batches: in the order of the stream.
    """

    def __init__(self, reference: ReferenceLogits, batches: Sequence[Batch]) -> None:
        self._reference, self._batches = reference, batches

    def masks_of(self, candidate: Candidate) -> StreamedMasks:
        """Compare the stream of the candidate as it ships with its runs batch by batch.

        Raises:
            BackendError: the stream gives more or fewer results than it was given batches.
        """
        batches, expected, given = run_and_stream(candidate, self._batches)
        flips, widest = 0, 0.0
        misplaced: list[tuple[int, int]] = []
        for place, (batch, one, other) in enumerate(zip(batches, expected, given, strict=True)):
            if np.array_equal(one, other):
                continue
            differ = one != other if one.shape == other.shape else np.ones(one.shape, bool)
            flips += int(differ.sum())
            widest = max(widest, self._widest(batch, differ))
            same = (where for where, known in enumerate(expected) if np.array_equal(known, other))
            misplaced += [(place, where) for where in [next(same, place)] if where != place]
        pictures = sum(map(len, batches))
        pixels = sum(masks.size for masks in expected)
        refused = len(self._batches) - len(batches)
        check = StreamCheck(len(batches), pictures, pixels, flips, widest, refused)
        return StreamedMasks(check, tuple(misplaced))

    def _widest(self, batch: Batch, differ: NDArray[np.bool_]) -> float:
        return max(
            float(self._reference.margin_of(picture)[where].max())
            for picture, where in zip(batch, differ, strict=True)
            if where.any()
        )
