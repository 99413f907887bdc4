"""Scores of a segmentation: count once, then every score is a pure function of the counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.spec import IGNORE_INDEX


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

    def totals(self) -> ClassTotals:
        """Return what the scores are made of."""
        return ClassTotals(np.diag(self.counts), self.counts.sum(axis=1), self.counts.sum(axis=0))

    def iou(self) -> NDArray[np.float64]:
        """Return intersection over union per class, float64 [C]; NaN where the union is empty."""
        return self.totals().iou()

    def mean_iou(self) -> float:
        """Return the mean IoU over the classes of the truth; NaN where nothing was counted."""
        return float(self.totals().mean_iou())

    def pixel_accuracy(self) -> float:
        """Return the share of counted pixels with the true class; NaN where none was counted."""
        return float(self.totals().pixel_accuracy())


@dataclass(frozen=True)
class ClassTotals:
    """Pixels per class: all of a confusion matrix that its scores need, and what adds up.

    The arrays may have leading axes, one entry per picture or per resample: the scores of all are
    computed at once.

    Attributes:
        hits: with the true class, [..., C].
        labelled: by true class, [..., C].
        predicted: by predicted class, [..., C].
    """

    hits: NDArray[Any]
    labelled: NDArray[Any]
    predicted: NDArray[Any]

    def iou(self) -> NDArray[np.float64]:
        """Return intersection over union, float64 [..., C]; NaN where the union is empty."""
        union = self.labelled + self.predicted - self.hits
        iou = np.full(self.hits.shape, np.nan)
        np.divide(self.hits, union, out=iou, where=union > 0)
        return iou

    def mean_iou(self) -> NDArray[np.float64]:
        """Return the mean IoU over the classes of the truth, [...]; NaN where nothing was counted.

        A class that only the prediction has is no class of the mean: a single pixel of it would
        bring in an IoU of 0.
        """
        present = self.labelled > 0
        return _divided(self.iou().sum(axis=-1, where=present), present.sum(axis=-1))

    def pixel_accuracy(self) -> NDArray[np.float64]:
        """Return the share of pixels with the true class, [...]; NaN where none was counted."""
        return _divided(self.hits.sum(axis=-1), self.labelled.sum(axis=-1))


def _divided(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Return a quotient; NaN where the divisor is 0."""
    quotient = np.full(np.shape(one), np.nan)
    np.divide(one, other, out=quotient, where=other > 0)
    return quotient


def edge_bands(mask: NDArray[np.uint8], distances: Sequence[int]) -> list[NDArray[np.bool_]]:
    """Mark, for each distance, the pixels at most so far from a class edge.

    The distance is Chebyshev's, to the next pixel of another class.

    Args:
        mask: uint8 [H, W], class indices.
        distances: in pixels, from 1, ascending.

    Returns:
        bool [H, W] each; every one contains those before it.
    """
    near = _beside_another_class(mask)
    bands, reached = [], 1
    for distance in distances:
        near = _dilated(near, distance - reached)
        bands.append(near)
        reached = distance
    return bands


def _beside_another_class(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    near = np.zeros(mask.shape, dtype=np.bool_)
    for here, there in (
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
        ((slice(1, None), slice(1, None)), (slice(None, -1), slice(None, -1))),
        ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))),
    ):
        differ = mask[here] != mask[there]
        near[here] |= differ
        near[there] |= differ
    return near


def _dilated(marked: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """Mark all pixels at most ``distance`` (Chebyshev) from a marked one."""
    for axis in (0, 1):  # a square's dilation is separable
        reached = 0
        while reached < distance:
            # Lines of 2r + 1 px, one moved each way by as much as that, still leave no gap.
            step = min(2 * reached + 1, distance - reached)
            lines, grown = marked.swapaxes(0, axis), marked.copy()
            target = grown.swapaxes(0, axis)
            target[step:] |= lines[:-step]
            target[:-step] |= lines[step:]
            marked, reached = grown, reached + step
    return marked


def margin_of(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return top-1 minus top-2 logit: float32 [N, C, H, W] → float32 [N, H, W]."""
    second, first = np.partition(logits, -2, axis=1)[:, -2:].transpose(1, 0, 2, 3)
    margin: NDArray[np.float32] = first - second
    return margin


def uncertainty_of(margin: NDArray[np.float32]) -> float | None:
    """Return the mean of the second largest class probability over the largest, exp(-margin).

    0 is sure, 1 a guess; None where a margin is no number.
    """
    ratio = float(np.exp(-margin).mean(dtype=np.float64))
    return None if math.isnan(ratio) else round(ratio, 6)
