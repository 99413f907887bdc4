"""Pixels per class of a dataset, and the loss weights that follow: median frequency balancing."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.dataset import Dataset


@dataclass(frozen=True)
class ClassCounts:
    """How often each class occurs.

    Attributes:
        pixels: int64 [C], of the class.
        around: int64 [C], labelled pixels of the images in which the class occurs.
        images: int64 [C], in which the class occurs.
        void: pixels that count for nothing.
    """

    pixels: NDArray[np.int64]
    around: NDArray[np.int64]
    images: NDArray[np.int64]
    void: int = 0

    @classmethod
    def of(cls, mask: NDArray[np.uint8], num_classes: int) -> ClassCounts:
        """Count one mask, uint8 [H, W]; values from C on are void."""
        counts = np.bincount(mask.ravel(), minlength=256)
        pixels = counts[:num_classes].astype(np.int64)
        present = (pixels > 0).astype(np.int64)
        return cls(pixels, present * pixels.sum(), present, int(counts[num_classes:].sum()))

    def __add__(self, other: ClassCounts) -> ClassCounts:
        return ClassCounts(
            self.pixels + other.pixels,
            self.around + other.around,
            self.images + other.images,
            self.void + other.void,
        )


def class_counts(dataset: Dataset) -> ClassCounts:
    """Count the classes of a data set that is not empty; of its files only masks are decoded."""
    num_classes = len(dataset.class_names)
    masks = (dataset.mask(index) for index in range(len(dataset)))
    return functools.reduce(operator.add, (ClassCounts.of(mask, num_classes) for mask in masks))


def median_frequency(counts: ClassCounts) -> NDArray[np.float32]:
    """Return a weight for each class: rare ones weigh more, the one in the middle weighs 1.

    A class's frequency is its share of the labelled pixels of the images in which it occurs; its
    weight is the median of the frequencies over its own.  A class that never occurs weighs 1, which
    changes nothing.

    Source: Eigen & Fergus, "Predicting Depth, Surface Normals and Semantic Labels" (2015).

    Returns:
        float32 [C].
    """
    present = counts.pixels > 0
    weights = np.ones(len(counts.pixels), np.float32)
    if present.any():
        frequency = counts.pixels[present] / counts.around[present]
        weights[present] = np.median(frequency) / frequency
    return weights
