"""When a row is faster than another: intervals of paired ratios, and how often they err."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.results import ratio
from fcn_deploy.results.ratio import ERROR_RATE, interval_between_runs, paired_ratio

RATIOS = st.lists(st.floats(0.1, 10), min_size=5, max_size=12)


def test_pairs_on_one_side_decide_however_far_they_spread() -> None:
    # Repeats from 8.8 to 19 ms: the absolute times of the two rows overlap, the ratios do not.
    found = paired_ratio([2.31, 2.5, 2.76, 2.83, 3.1, 3.5, 4.01])
    assert found.verdict == "faster"
    assert found.interval is not None
    assert 2.31 <= found.interval[0] < found.median < found.interval[1] <= 4.01
    # One repeat far off, as when another program starts, takes nothing from six that agree.
    assert paired_ratio([1.02, 1.03, 1.02, 1.04, 1.02, 1.03, 2.5]).verdict == "faster"
    assert paired_ratio([0.97, 0.98, 0.97, 0.96, 0.98, 0.97, 0.4]).verdict == "slower"


def test_pairs_on_both_sides_are_a_tie() -> None:
    assert paired_ratio([0.9, 0.95, 0.99, 1.01, 1.02, 1.06, 1.1]).verdict == "tie"
    assert paired_ratio([0.7, 1.02, 1.03, 1.02, 1.01, 1.02, 0.8]).verdict == "tie"


def test_fewer_than_five_pairs_have_no_verdict() -> None:
    found = paired_ratio([2.0, 2.0, 2.0, 2.0])
    assert (found.interval, found.verdict, found.shown) == (None, None, (2.0, 2.0))
    assert paired_ratio([2.0, 2.1, 2.0, 2.1, 2.0]).verdict == "faster"
    assert interval_between_runs([1.0] * 4, [2.0] * 9) is None


def test_the_interval_of_five_is_student_s() -> None:
    # Mean 0.1 and standard deviation 0.0158 of the logs: 0.1 ± 2.776 · 0.0158 / √5.
    logs = [0.08, 0.09, 0.1, 0.11, 0.12]
    interval = paired_ratio([math.exp(log) for log in logs]).interval
    assert interval is not None
    assert np.log(interval) == pytest.approx([0.1 - 0.01963, 0.1 + 0.01963], abs=1e-5)


def test_few_sign_patterns_are_left_out_at_either_end() -> None:
    # Against counting them all: how often ranks with random signs add up to so little.
    for count in range(6, 11):
        signs = np.array(list(itertools.product((0, 1), repeat=count)))
        sums = signs @ np.arange(1, count + 1)
        cut = ratio._cut(ratio._signed_ranks(count))
        assert 2 * (sums <= cut).mean() <= ERROR_RATE < 2 * (sums <= cut + 1).mean()
    # Published critical values of the signed-rank and the rank-sum test, two-sided at 5 %.
    assert [ratio._cut(ratio._signed_ranks(n)) for n in (6, 7, 8, 10, 20)] == [0, 2, 3, 8, 52]
    assert [ratio._cut(ratio._rank_sums(n, n)) for n in (5, 7, 10, 20)] == [2, 8, 23, 127]


@given(RATIOS)
def test_the_other_way_round_says_the_opposite(ratios: list[float]) -> None:
    one, other = paired_ratio(ratios), paired_ratio([1 / value for value in ratios])
    assert one.interval is not None
    assert other.interval is not None
    assert other.interval == pytest.approx((1 / one.interval[1], 1 / one.interval[0]))
    # The verdict is that of the interval: it may be too close to 1 for rounding to keep its side.
    if all(abs(bound - 1) > 1e-9 for bound in one.interval):
        opposite = {"faster": "slower", "slower": "faster", "tie": "tie", None: None}
        assert other.verdict == opposite[one.verdict]


class TestErrorRate:
    """On simulated machines: slow minutes hit all rows, and each row has noise of its own."""

    RUNS = 4000

    def logs(self, repeats: int, true_ratio: float, seed: int) -> np.ndarray:  # type: ignore[type-arg]
        """Return log ratios [RUNS, repeats] of two rows."""
        draw = np.random.default_rng(seed)
        shape = (self.RUNS, repeats)
        # Minutes in which everything takes up to three times as long, and a machine that drifts;
        # now and then one row alone is hit, as where a slow minute ends between the two.
        slow = np.where(draw.random(shape) < 0.4, draw.uniform(0, math.log(3), shape), 0.0)
        minutes = slow + 0.3 * np.cumsum(draw.standard_normal(shape), axis=1)
        rows = []
        for shift in (math.log(true_ratio), 0.0):
            hit = np.where(draw.random(shape) < 0.02, draw.uniform(0, 0.7, shape), 0.0)
            rows.append(minutes + shift + hit + 0.04 * draw.standard_t(4, shape))
        return np.asarray(rows[0] - rows[1])

    def called_apart(self, logs: np.ndarray) -> float:  # type: ignore[type-arg]
        verdicts = [paired_ratio(ratios).verdict for ratios in np.exp(logs).tolist()]
        return sum(verdict != "tie" for verdict in verdicts) / len(verdicts)

    @pytest.mark.parametrize("repeats", [5, 6, 7, 9])
    def test_equal_rows_are_called_apart_in_at_most_one_of_twenty(self, repeats: int) -> None:
        rate = self.called_apart(self.logs(repeats, 1.0, seed=repeats))
        assert 0.005 < rate <= ERROR_RATE

    def test_the_spreads_of_such_rows_overlap(self) -> None:
        """What tied before: the two rows' repeats, of which the slow minutes are the widest."""
        draw = np.random.default_rng(7)
        minutes = np.where(draw.random((1000, 7)) < 0.4, draw.uniform(0, math.log(3), (1000, 7)), 0)
        ours, theirs = minutes, minutes + math.log(1.3)
        overlap = (ours.max(axis=1) >= theirs.min(axis=1)).mean()
        assert overlap > 0.9
        assert self.called_apart(theirs - ours) == 1.0

    @pytest.mark.parametrize(("repeats", "found"), [(5, 0.85), (7, 0.95)])
    def test_a_true_ratio_of_1_3_is_found(self, repeats: int, found: float) -> None:
        assert self.called_apart(self.logs(repeats, 1.3, seed=10 + repeats)) >= found

    def test_two_runs_of_equal_speed_are_called_apart_as_rarely(self) -> None:
        draw = np.random.default_rng(3)

        def apart(shift: float) -> float:
            then, now = 0.04 * draw.standard_t(4, (2, 1000, 7))
            pairs = zip(np.exp(then).tolist(), np.exp(now + shift).tolist(), strict=True)
            intervals = [interval_between_runs(a, b) for a, b in pairs]
            return float(np.mean([i is not None and not i[0] <= 1 <= i[1] for i in intervals]))

        assert 0.005 < apart(0.0) <= ERROR_RATE
        assert apart(math.log(1.3)) > 0.97
