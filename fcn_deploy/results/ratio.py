"""How many times faster one row is than another, and whether that is more than noise.

    repeats of one run, in pairs ─┬─ 6 and more: signed-rank interval (Wilcoxon, exact)
                                  └─ 5:          Student's t interval
    repeats of two runs           ─── 5 and more of each: rank-sum interval (Mann-Whitney, exact)

All are intervals of the log ratio that miss the true one in at most :data:`ERROR_RATE` of the
cases.  A row is faster, or slower, where its interval does not hold a ratio of 1; else it is a tie.
With fewer repeats there is no verdict.

Repeats of one run pair up, because rows take turns: a slow minute of the machine hits both sides
and leaves their ratio.  Their order is drawn by lot, so that between equal rows a log ratio is as
often above zero as below: the signed-rank interval asks for no more.  With five repeats even five
ratios on one side come up by chance in 6 % of the cases, so that ranks alone decide nothing there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from fcn_deploy.results.fields import Fields
from fcn_deploy.results.record import Positive, Record, read_fields

if TYPE_CHECKING:
    from typing_extensions import Self

#: Fewest repeats for a verdict.
MIN_REPEATS_FOR_VERDICT = 5
#: How often two equal rows are called apart, at most.
ERROR_RATE = 0.05
TOO_FEW = f"too few repeats for a verdict (at least {MIN_REPEATS_FOR_VERDICT})"
#: Student's t for four degrees of freedom, two-sided at :data:`ERROR_RATE`.
_T_OF_FIVE = 2.7764
#: Lower and upper end of an interval, of ratios or of their logarithms.
Bounds = tuple[float, float]
Verdict = Literal["faster", "slower", "tie"]


@dataclass(frozen=True)
class Ratio(Record):
    """How many times faster a row is than another of the same workload, repeat by repeat.

    Attributes:
        median: over the repeats.
        low: the worst repeat.
        high: the best repeat.
        interval: that holds the true ratio in 95 % of the cases; None with too few repeats.
    """

    median: Positive
    low: Positive
    high: Positive
    interval: Bounds | None

    @property
    def verdict(self) -> Verdict | None:
        """Whether the row is faster than the other; None with too few repeats."""
        return None if self.interval is None else verdict_of(self.interval)

    @property
    def shown(self) -> Bounds:
        """The interval; without one, the worst and the best repeat."""
        return (self.low, self.high) if self.interval is None else self.interval

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read back what :meth:`to_json` gave.

        Raises:
            ArtifactError: a field is missing or damaged.
        """
        interval = fields.sequence_or_none("interval", 2)
        if interval is not None and not 0 < interval[0] <= interval[1]:
            raise fields.wrong("interval", "two rising numbers above 0")
        return cls(**read_fields(cls, fields, interval=interval))


def verdict_of(interval: Bounds) -> Verdict:
    """Return what an interval of a ratio says."""
    low, high = interval
    if low > 1:
        return "faster"
    return "slower" if high < 1 else "tie"


def paired_ratio(ratios: Sequence[float], resolution: float = 0.0) -> Ratio:
    """Return the ratio of two rows of one run.

    Args:
        ratios: one for each repeat that both rows have.
        resolution: share by which each ratio may be wrong either way: how finely it was searched.
    """
    unknown = 1 + resolution
    return Ratio(
        median=statistics.median(ratios),
        low=min(ratios) / unknown,
        high=max(ratios) * unknown,
        interval=_as_ratios(_paired_logs([math.log(ratio) for ratio in ratios]), unknown),
    )


def interval_between_runs(
    then: Sequence[float], now: Sequence[float], resolution: float = 0.0
) -> Bounds | None:
    """Return how many times larger the figures of a run are than those of another.

    Args:
        then: the other's, one for each repeat; no repeat of the two runs has a pair.
        now: the run's.
        resolution: as for :func:`paired_ratio`.

    Returns:
        The interval; None with too few repeats.
    """
    if min(len(then), len(now)) < MIN_REPEATS_FOR_VERDICT:
        return None
    shifts = sorted(math.log(b) - math.log(a) for a in then for b in now)
    cut = _cut(_rank_sums(len(then), len(now)))
    return _as_ratios((shifts[cut], shifts[-1 - cut]), 1 + resolution)


def _as_ratios(logs: Bounds | None, unknown: float) -> Bounds | None:
    return None if logs is None else (math.exp(logs[0]) / unknown, math.exp(logs[1]) * unknown)


def _paired_logs(logs: Sequence[float]) -> Bounds | None:
    count = len(logs)
    if count < MIN_REPEATS_FOR_VERDICT:
        return None
    if count == MIN_REPEATS_FOR_VERDICT:
        mean = statistics.fmean(logs)
        reach = _T_OF_FIVE * statistics.stdev(logs) / math.sqrt(count)
        return mean - reach, mean + reach
    # Walsh averages: as many lie below zero as the ranks of the ratios below 1 add up to.
    means = sorted((logs[i] + logs[j]) / 2 for i in range(count) for j in range(i, count))
    cut = _cut(_signed_ranks(count))
    return means[cut], means[-1 - cut]


def _cut(cases: Sequence[int]) -> int:
    """Return how many values to leave out at either end.

    Args:
        cases: number of equally likely cases in which the statistic is 0, 1, 2, …
    """
    total, below = sum(cases), 0
    for value, count in enumerate(cases):
        below += count
        if 2 * below > ERROR_RATE * total:
            return value - 1
    raise AssertionError("more than all cases")


@lru_cache
def _signed_ranks(count: int) -> tuple[int, ...]:
    """Return how many of the sign patterns of ranks 1 … count add up to 0, 1, 2, …"""
    cases = [1] + [0] * (count * (count + 1) // 2)
    for rank in range(1, count + 1):
        for total in range(len(cases) - 1, rank - 1, -1):
            cases[total] += cases[total - rank]
    return tuple(cases)


@lru_cache
def _rank_sums(one: int, other: int) -> tuple[int, ...]:
    """Return in how many orders of two samples 0, 1, 2, … pairs have the first one's larger."""
    cases = [1] + [0] * (one * other)
    # The Gaussian binomial coefficient: ∏ (1 - qᵒᵗʰᵉʳ⁺ⁱ) / (1 - qⁱ).
    for i in range(1, one + 1):
        for total in range(len(cases) - 1, other + i - 1, -1):
            cases[total] -= cases[total - other - i]
        for total in range(i, len(cases)):
            cases[total] += cases[total - i]
    return tuple(cases)
