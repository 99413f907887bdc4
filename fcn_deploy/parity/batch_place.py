"""Whether what a picture gets depends on its place in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.parity.candidate import (
    Batch,
    Candidate,
    ReferenceLogits,
    passing_over_too_large,
)
from fcn_deploy.results.fields import finite_or_none
from fcn_deploy.results.parity_parts import BatchCheck


@dataclass(frozen=True)
class BatchPlaces:
    """What a candidate makes of pictures that stand in a batch together.

    Attributes:
        check: the figures.
        sources: of each place, the place whose picture alone has the mask that was given there;
            None where no picture's is.
    """

    check: BatchCheck
    sources: tuple[int | None, ...]


class BatchPlaceTest:
    """Distinct pictures of one size, each seen alone and at its place in the batch.

    Args:
        reference: what masks that differ are measured by.
        batches: each of pictures in the order in which they stand in it.
    """

    def __init__(self, reference: ReferenceLogits, batches: Sequence[Batch]) -> None:
        self._reference, self._batches = reference, batches

    def places_of(self, candidate: Candidate) -> tuple[BatchPlaces, ...]:
        """Return, for each batch that the candidate takes, where it gives another mask in it."""
        found = [self._places(candidate, batch) for batch in self._batches[:1]]
        for batch in self._batches[1:]:
            # Of the first batch a refusal is an error: without one there is no proof of batches.
            with passing_over_too_large():
                found.append(self._places(candidate, batch))
        return tuple(found)

    def _places(self, candidate: Candidate, batch: Batch) -> BatchPlaces:
        masks, logits = candidate.run(batch, remember=True)
        flips, widest, epsilon = 0, 0.0, 0.0
        alone: list[NDArray[np.uint8]] = []
        differing: list[NDArray[np.bool_]] = []
        for place, picture in enumerate(batch):
            own_masks, own_logits = candidate.run((picture,), remember=True)
            with np.errstate(invalid="ignore"):  # infinity less infinity
                error = np.abs(logits[place] - own_logits[0])
            epsilon = float(np.maximum(epsilon, error.max()))  # NaN stays NaN
            alone.append(own_masks[0])
            differing.append(own_masks[0] != masks[place])
        sources: list[int | None] = []
        for place, (picture, differ) in enumerate(zip(batch, differing, strict=True)):
            if not differ.any():
                sources.append(place)
                continue
            flips += int(differ.sum())
            widest = max(widest, float(self._reference.margin_of(picture)[differ].max()))
            given = masks[place]
            same = (other for other, known in enumerate(alone) if np.array_equal(known, given))
            sources.append(next(same, None))
        check = BatchCheck(len(batch), masks.size, flips, widest, finite_or_none(epsilon))
        return BatchPlaces(check, tuple(sources))
