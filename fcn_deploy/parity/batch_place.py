"""Whether a mask depends on its picture's place in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import InputError
from fcn_deploy.data.dataset import NamedImage
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.results.parity_parts import BatchCheck
from fcn_deploy.runners.base import Runner


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
        reference: asked about a picture where a candidate gives it two masks: once, however many
            candidates do.
        pictures: in the order in which they stand in the batch.
    """

    def __init__(self, reference: Runner, pictures: Sequence[NamedImage]) -> None:
        self._reference = reference
        self._images = [picture.image for picture in pictures]
        self._margins: dict[int, NDArray[np.float32]] = {}

    def places_of(self, candidate: Runner) -> BatchPlaces:
        """Return at which places a candidate gives another mask than to the picture alone."""
        together = candidate.run(np.stack(self._images)).mask
        alone = [candidate.run(image[None]).mask[0] for image in self._images]
        flips, widest = 0, 0.0
        sources: list[int | None] = []
        for place, mask in enumerate(together):
            differ = alone[place] != mask
            if not differ.any():
                sources.append(place)
                continue
            flips += int(differ.sum())
            widest = max(widest, float(self._margin(place)[differ].max()))
            same = (other for other, known in enumerate(alone) if np.array_equal(known, mask))
            sources.append(next(same, None))
        return BatchPlaces(BatchCheck(len(self._images), flips, widest), tuple(sources))

    def _margin(self, place: int) -> NDArray[np.float32]:
        if place not in self._margins:
            logits = self._reference.run(self._images[place][None]).logits
            if logits is None:
                raise InputError(
                    "parity needs runners that give logits", "open them with outputs=logits"
                )
            self._margins[place] = margin_of(logits)[0]
        return self._margins[place]
