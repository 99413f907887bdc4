"""Scores against a slow reference that counts pixel by pixel."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from fcn_deploy.data.metrics import ConfusionMatrix, edge_bands, margin_of

IGNORED = 255
CLASSES = 4
Mask = NDArray[np.uint8]


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[Mask, Mask]:
    """A truth with void, and a prediction of the same shape; often without some classes."""
    shape = draw(npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8))
    present = draw(st.lists(st.sampled_from([0, 1, 2, 3, IGNORED]), min_size=1, unique=True))
    guessed = draw(st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, unique=True))
    truth = draw(npst.arrays(np.uint8, shape, elements=st.sampled_from(present)))
    prediction = draw(npst.arrays(np.uint8, shape, elements=st.sampled_from(guessed)))
    return truth, prediction


def slow_iou(truth: Mask, prediction: Mask, index: int) -> float:
    """Intersection over union of two sets of places; NaN where both are empty."""
    counted = {place for place, true in np.ndenumerate(truth) if true != IGNORED}
    true = {place for place in counted if truth[place] == index}
    predicted = {place for place in counted if prediction[place] == index}
    union = true | predicted
    return len(true & predicted) / len(union) if union else math.nan


# -- counts and scores --------------------------------------------------------------------------


@given(pair=mask_pairs())
def test_scores_equal_the_slow_reference(pair: tuple[Mask, Mask]) -> None:
    truth, prediction = pair
    matrix = ConfusionMatrix.of(truth, prediction, CLASSES)
    expected = [slow_iou(truth, prediction, index) for index in range(CLASSES)]
    np.testing.assert_allclose(matrix.iou(), expected)
    # The mean is over the classes of the truth, whatever else the prediction has.
    present = [iou for index, iou in enumerate(expected) if index in truth]
    np.testing.assert_allclose(
        matrix.mean_iou(), sum(present) / len(present) if present else math.nan
    )
    hits = [p == t for t, p in zip(truth.flat, prediction.flat, strict=True) if t != IGNORED]
    np.testing.assert_allclose(matrix.pixel_accuracy(), sum(hits) / len(hits) if hits else math.nan)


@given(first=mask_pairs(), second=mask_pairs())
def test_counts_of_two_pairs_add_up(first: tuple[Mask, Mask], second: tuple[Mask, Mask]) -> None:
    together = ConfusionMatrix.of(
        np.concatenate([first[0].ravel(), second[0].ravel()]),
        np.concatenate([first[1].ravel(), second[1].ravel()]),
        CLASSES,
    )
    added = ConfusionMatrix.of(*first, CLASSES) + ConfusionMatrix.of(*second, CLASSES)
    np.testing.assert_array_equal(added.counts, together.counts)
    empty = ConfusionMatrix.empty(CLASSES)
    np.testing.assert_array_equal((empty + added).counts, added.counts)


def test_a_worked_example_rows_are_the_truth() -> None:
    truth = np.array([[0, 0, 1], [0, IGNORED, 1]], np.uint8)
    prediction = np.array([[0, 1, 1], [1, 2, 0]], np.uint8)
    matrix = ConfusionMatrix.of(truth, prediction, 3)
    assert matrix.counts.dtype == np.int64
    assert matrix.counts.tolist() == [[1, 2, 0], [1, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(matrix.iou(), [1 / 4, 1 / 4, math.nan])
    assert matrix.mean_iou() == pytest.approx(1 / 4)
    assert matrix.pixel_accuracy() == pytest.approx(2 / 5)


def test_a_class_that_is_only_predicted_counts_as_a_miss() -> None:
    truth, prediction = np.zeros((2, 2), np.uint8), np.array([[0, 0], [0, 3]], np.uint8)
    iou = ConfusionMatrix.of(truth, prediction, CLASSES).iou()
    np.testing.assert_allclose(iou, [3 / 4, math.nan, math.nan, 0])


@pytest.mark.parametrize("truth", [np.full((3, 3), IGNORED), np.zeros((0, 5))])
def test_where_nothing_counts_the_scores_are_nan(truth: NDArray[np.float64]) -> None:
    truth_mask = truth.astype(np.uint8)
    matrix = ConfusionMatrix.of(truth_mask, np.zeros_like(truth_mask), CLASSES)
    assert matrix.counts.tolist() == ConfusionMatrix.empty(CLASSES).counts.tolist()
    assert np.isnan(matrix.iou()).all()
    assert math.isnan(matrix.mean_iou())
    assert math.isnan(matrix.pixel_accuracy())


@pytest.mark.parametrize(("true", "predicted"), [(4, 0), (0, 4), (0, 255)])
def test_values_beyond_the_classes_are_an_error(true: int, predicted: int) -> None:
    with pytest.raises(ValueError, match="not below 4"):
        ConfusionMatrix.of(
            np.array([[0, true]], np.uint8), np.array([[0, predicted]], np.uint8), CLASSES
        )


def test_what_is_predicted_on_void_may_be_anything() -> None:
    truth, prediction = np.array([[0, IGNORED]], np.uint8), np.array([[0, 200]], np.uint8)
    assert ConfusionMatrix.of(truth, prediction, CLASSES).counts.sum() == 1


def test_masks_of_different_shapes_are_an_error() -> None:
    with pytest.raises(ValueError, match="differ"):
        ConfusionMatrix.of(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), CLASSES)


# -- edge_bands ---------------------------------------------------------------------------------


def slow_near_edge(mask: Mask, distance: int) -> NDArray[np.bool_]:
    """Look at every pixel of the square around each pixel."""
    height, width = mask.shape
    near = np.zeros(mask.shape, bool)
    for y, x in np.ndindex(height, width):
        near[y, x] = any(
            mask[j, i] != mask[y, x]
            for j in range(max(0, y - distance), min(height, y + distance + 1))
            for i in range(max(0, x - distance), min(width, x + distance + 1))
        )
    return near


@given(
    mask=npst.arrays(
        np.uint8,
        npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
        elements=st.sampled_from([0, 0, 0, 0, 1, 2, IGNORED]),
    ),
    distances=st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True).map(sorted),
)
def test_edge_bands_equal_the_slow_reference(mask: Mask, distances: list[int]) -> None:
    for distance, near in zip(distances, edge_bands(mask, distances), strict=True):
        assert near.dtype == np.bool_
        np.testing.assert_array_equal(near, slow_near_edge(mask, distance))


def test_three_pixels_on_either_side_of_an_edge_are_near_it() -> None:
    mask = np.zeros((5, 20), np.uint8)
    mask[:, 10:] = 7
    (near,) = edge_bands(mask, [3])
    assert np.flatnonzero(near[2]).tolist() == [7, 8, 9, 10, 11, 12]
    assert (near == near[2]).all()


# -- margin_of ----------------------------------------------------------------------------------


@given(
    logits=npst.arrays(
        np.float32,
        st.tuples(st.integers(1, 2), st.integers(2, 6), st.integers(1, 4), st.integers(1, 4)),
        elements=st.floats(-100, 100, width=32),
    )
)
def test_the_margin_is_the_best_minus_the_second_best(logits: NDArray[np.float32]) -> None:
    margin = margin_of(logits)
    ordered = np.sort(logits, axis=1)
    assert margin.dtype == np.float32
    np.testing.assert_array_equal(margin, ordered[:, -1] - ordered[:, -2])
    assert (margin >= 0).all()


def test_the_margin_leaves_the_logits_alone_and_ties_have_none() -> None:
    logits = np.array([3.0, -1.0, 3.0], np.float32).reshape(1, 3, 1, 1)
    before = logits.copy()
    assert margin_of(logits).tolist() == [[[0.0]]]
    np.testing.assert_array_equal(logits, before)
