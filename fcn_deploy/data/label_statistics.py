"""LabelStatistics: which classes occur together, and into how many regions each falls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: A region of fewer pixels is tiny: 8×8, what one score of an FCN-8s stands for.
TINY = 64


@dataclass(frozen=True)
class LabelStatistics:
    """What masks hold, beside how much.

    Attributes:
        together: int64 [C, C], images in which both classes occur; on the diagonal, the one.
        regions: int64 [C], connected regions (by edges) of the class.
        tiny: int64 [C], those of fewer than ``TINY`` pixels.
    """

    together: NDArray[np.int64]
    regions: NDArray[np.int64]
    tiny: NDArray[np.int64]

    @classmethod
    def empty(cls, num_classes: int) -> LabelStatistics:
        """Return those of no masks."""
        zeros = np.zeros(num_classes, np.int64)
        return cls(np.zeros((num_classes, num_classes), np.int64), zeros, zeros)

    @classmethod
    def of(cls, mask: NDArray[np.uint8], num_classes: int) -> LabelStatistics:
        """Return those of one mask, uint8 [H, W]; values from C on are void."""
        present = np.bincount(mask.ravel(), minlength=256)[:num_classes] > 0
        classes, pixels = connected_regions(mask)
        labelled = classes < num_classes
        classes, pixels = classes[labelled], pixels[labelled]
        return cls(
            np.outer(present, present).astype(np.int64),
            np.bincount(classes, minlength=num_classes).astype(np.int64),
            np.bincount(classes[pixels < TINY], minlength=num_classes).astype(np.int64),
        )

    def __add__(self, other: LabelStatistics) -> LabelStatistics:
        return LabelStatistics(
            self.together + other.together, self.regions + other.regions, self.tiny + other.tiny
        )


def connected_regions(mask: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the value and the pixels of each region of equal values that touch by edges.

    Args:
        mask: uint8 [H, W].

    Returns:
        Two arrays, one entry for each region.
    """
    starts = np.ones(mask.shape, np.bool_)
    starts[:, 1:] = mask[:, 1:] != mask[:, :-1]
    run = np.cumsum(starts.ravel()).reshape(mask.shape) - 1  # runs of a row, numbered throughout
    above, below = _touching(mask, starts, run)
    region = np.arange(int(run[-1, -1]) + 1)
    while True:
        # Of two regions that touch, the one with the higher number gets the lower one's.
        lowest = np.minimum(region[above], region[below])
        merged = region.copy()
        np.minimum.at(merged, region[above], lowest)
        np.minimum.at(merged, region[below], lowest)
        while not np.array_equal(merged, shorter := merged[merged]):
            merged = shorter
        if np.array_equal(merged, region):
            break
        region = merged
    lengths = np.bincount(run.ravel())
    pixels = np.bincount(region, weights=lengths).astype(np.int64)
    roots = np.flatnonzero(region == np.arange(region.size))
    values = mask.ravel()[np.flatnonzero(starts.ravel())][roots].astype(np.int64)
    return values, pixels[roots]


def _touching(
    mask: NDArray[np.uint8], starts: NDArray[np.bool_], run: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of runs of equal values in rows below each other, each pair once."""
    equal = mask[1:] == mask[:-1]
    # Where neither run begins, the pair is that of the pixel before.
    first = equal & (starts[1:] | starts[:-1])
    first[:, 0] = equal[:, 0]
    return run[:-1][first], run[1:][first]
