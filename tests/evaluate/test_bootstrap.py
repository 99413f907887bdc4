"""The bootstrap, against one that draws pictures and adds confusion matrices one by one."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.data.metrics import ClassTotals, ConfusionMatrix
from fcn_deploy.evaluate import bootstrap
from fcn_deploy.evaluate.bootstrap import Resamples
from fcn_deploy.results.evaluation import Bootstrap, Interval


def matrices(count: int, seed: int = 0) -> list[ConfusionMatrix]:
    counts = np.random.default_rng(seed).integers(0, 9, (count, 3, 3))
    counts[:, 2] = 0  # a class that no picture has, and that is predicted
    counts[1:, 1] = 0  # and one that a single picture has
    return [ConfusionMatrix(one) for one in counts]


def slow_scores(pictures: list[ConfusionMatrix], resamples: int) -> list[list[float]]:
    """mIoU, accuracy and IoU of each class of every resample, by the scalar path."""
    count = len(pictures)
    draws = np.random.default_rng(0).multinomial(count, [1 / count] * count, size=resamples)
    scores = []
    for draw in draws:
        total = ConfusionMatrix.empty(3)
        for times, matrix in zip(draw, pictures, strict=True):
            for _ in range(times):
                total += matrix
        scores.append([total.mean_iou(), total.pixel_accuracy(), *total.iou().tolist()])
    return scores


def test_all_resamples_at_once_are_as_one_by_one() -> None:
    pictures = matrices(5)
    resamples = Resamples(5, resamples=40)
    totals = resamples.totals([one.totals() for one in pictures])
    together = [
        [float(mean), float(accuracy), *iou]
        for mean, accuracy, iou in zip(
            totals.mean_iou(), totals.pixel_accuracy(), totals.iou().tolist(), strict=True
        )
    ]
    np.testing.assert_allclose(together, slow_scores(pictures, 40), rtol=1e-12)


@pytest.mark.parametrize("values", [1, 5, 33])
def test_blocks_of_resamples_change_nothing(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    totals = [one.totals() for one in matrices(5)]
    whole = Resamples(5, resamples=40).totals(totals)
    monkeypatch.setattr(bootstrap, "BLOCK_VALUES", values)
    blocks = Resamples(5, resamples=40).totals(totals)
    np.testing.assert_array_equal(blocks.hits, whole.hits)
    np.testing.assert_array_equal(blocks.predicted, whole.predicted)
    assert len(blocks.hits) == 40


def test_an_interval_holds_its_share_of_the_resamples() -> None:
    pictures = matrices(12, seed=3)
    resamples = Resamples(12)
    scores = resamples.totals([one.totals() for one in pictures]).mean_iou()
    interval = resamples.interval(scores)
    assert interval is not None
    inside = np.mean((scores >= interval.low) & (scores <= interval.high))
    assert inside == pytest.approx(0.95, abs=0.01)
    assert resamples.settings == Bootstrap(2000, 0, 0.95)


def coverage(rights: NDArray[np.int64]) -> bool:
    """Whether the interval of the accuracy of pictures of 100 pixels holds the true 0.7."""
    totals = [
        ClassTotals(np.array([hits]), np.array([100]), np.array([100])) for hits in rights.tolist()
    ]
    resamples = Resamples(len(totals), resamples=200)
    interval = resamples.interval(resamples.totals(totals).pixel_accuracy())
    assert interval is not None
    return interval.low <= 0.7 <= interval.high


def test_of_many_samples_about_95_percent_hold_the_truth() -> None:
    # The pixels of a picture go together: each picture has an accuracy of its own around 0.7.
    generator = np.random.default_rng(5)
    kept = [coverage(np.round(generator.beta(7, 3, 40) * 100).astype(int)) for _ in range(200)]
    assert 0.90 <= np.mean(kept) <= 0.98


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    totals = [one.totals() for one in matrices(6)]
    first, again, other = (Resamples(6, seed=seed).totals(totals).mean_iou() for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_class_that_some_resamples_lack_has_an_interval_of_the_others() -> None:
    # Class 1 lies in the first of five pictures only: a third of the resamples do not draw it.
    pictures = matrices(5)
    for matrix in pictures:
        matrix.counts[:, 1:] = 0
    pictures[0].counts[1, 1] = 5
    resamples = Resamples(5)
    iou = resamples.totals([one.totals() for one in pictures]).iou()[:, 1]
    assert 0.2 < np.isnan(iou).mean() < 0.5
    interval = resamples.interval(iou)
    assert interval is not None
    assert not math.isnan(interval.low + interval.high)


def test_no_interval_where_none_can_be_had() -> None:
    assert Resamples(1).interval(np.array([0.5, 0.5])) is None
    assert Resamples(3).interval(np.array([math.nan, math.nan])) is None
    assert Resamples(3).interval(np.array([0.5, 0.5])) == Interval(0.5, 0.5)
