"""Scores of a segmentation: count once, then every score is a pure function of the counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.spec import IGNORE_INDEX


@dataclass(frozen=True)
class ConfusionMatrix:
    """Pixel counts by true class (row) and predicted class (column).

    Attributes:
        counts: int64 [C, C].
    """

    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, num_classes: int) -> ConfusionMatrix:
        """Return a matrix with no pixel counted."""
        return cls(np.zeros((num_classes, num_classes), dtype=np.int64))

    @classmethod
    def of(
        cls, truth: NDArray[np.uint8], prediction: NDArray[np.uint8], num_classes: int
    ) -> ConfusionMatrix:
        """Count one pair of masks.

        Args:
            truth: uint8, any shape; ``IGNORE_INDEX`` pixels are left out.
            prediction: uint8, same shape, class indices below ``num_classes``.
            num_classes: C.

        Raises:
            ValueError: the shapes differ, or a counted value is not below C.
        """
        if truth.shape != prediction.shape:
            raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ")
        counted = truth != IGNORE_INDEX
        true, predicted = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
        if true.size and max(int(true.max()), int(predicted.max())) >= num_classes:
            raise ValueError(f"a mask value is not below {num_classes}")
        cells = np.bincount(true * num_classes + predicted, minlength=num_classes**2)
        return cls(cells.reshape(num_classes, num_classes))

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        return ConfusionMatrix(self.counts + other.counts)

    def iou(self) -> NDArray[np.float64]:
        """Return intersection over union per class, float64 [C]; NaN where the union is empty."""
        intersection = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - np.diag(self.counts)
        iou = np.full(len(intersection), np.nan)
        np.divide(intersection, union, out=iou, where=union > 0)
        return iou

    def mean_iou(self) -> float:
        """Return the mean IoU over the classes that occur; NaN where nothing was counted."""
        iou = self.iou()
        present = ~np.isnan(iou)
        return float(iou[present].mean()) if present.any() else float("nan")

    def pixel_accuracy(self) -> float:
        """Return the share of counted pixels with the true class; NaN where none was counted."""
        total = int(self.counts.sum())
        return float(np.trace(self.counts) / total) if total else float("nan")


def near_class_edge(mask: NDArray[np.uint8], distance: int = 3) -> NDArray[np.bool_]:
    """Mark pixels at most ``distance`` px (Chebyshev) from a pixel of another class.

    Args:
        mask: uint8 [H, W] class indices.
        distance: in pixels.

    Returns:
        bool [H, W].
    """
    lowest, highest = mask, mask
    for axis in (0, 1):  # a square window's minimum is separable
        lowest = _sliding(np.minimum, lowest, distance, axis)
        highest = _sliding(np.maximum, highest, distance, axis)
    near: NDArray[np.bool_] = lowest != highest
    return near


def _sliding(
    reduce: np.ufunc, values: NDArray[np.uint8], distance: int, axis: int
) -> NDArray[np.uint8]:
    padding = [(0, 0), (0, 0)]
    padding[axis] = (distance, distance)
    padded = np.pad(values, padding, mode="edge")
    length = values.shape[axis]
    windows = [
        padded.take(range(shift, shift + length), axis=axis) for shift in range(2 * distance + 1)
    ]
    result: NDArray[np.uint8] = reduce.reduce(windows)
    return result


def margin_of(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return top-1 minus top-2 logit: float32 [N, C, H, W] → float32 [N, H, W]."""
    second, first = np.partition(logits, -2, axis=1)[:, -2:].transpose(1, 0, 2, 3)
    margin: NDArray[np.float32] = first - second
    return margin
