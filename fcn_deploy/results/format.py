"""Numbers, percentages and runner names as text for tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fcn_deploy.results.bench import BenchRow, Settings
from fcn_deploy.results.evaluation import CHOSE_EPOCH, TRAINED_ON, UNUSED, Estimate
from fcn_deploy.results.parity import SAME_MASKS
from fcn_deploy.results.ratio import TOO_FEW, Ratio
from fcn_deploy.results.runner import RunnerDescription


def number(value: float | None) -> str:
    """Return a figure with 3 significant digits; ``n/a`` for None."""
    if value is None:
        return "n/a"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e9:
        return f"{value:.2e}"
    magnitude = math.floor(math.log10(abs(value)))
    rounded = round(value, 2 - magnitude)
    magnitude = math.floor(math.log10(abs(rounded)))  # 9.996 has become 10.0
    return f"{rounded:,.{max(0, 2 - magnitude)}f}"


def percent(share: float | None) -> str:
    """Return a share as a percentage; what is not all of it never reads ``100%``."""
    if share is None:
        return "n/a"
    if share in (0, 1):
        return f"{share:.0%}"
    if 0 < 100 * share < 1e-4:
        return "<0.0001%"
    if not 0.99 < share < 1:
        return f"{number(100 * share)}%"
    decimals = max(1, 1 - math.floor(math.log10(100 * (1 - share))))
    scale = 10.0**decimals
    # Rounded down: a thousandth of the last digit forgives what floats cannot say.
    shown = f"{math.floor(100 * share * scale + 1e-3) / scale:.{decimals}f}"
    return f"{shown.rstrip('0')}%"


def score(share: float | None, decimals: int = 1) -> str:
    """Return an IoU or accuracy as a percentage; no validation set resolves more digits."""
    return "n/a" if share is None else f"{100 * share:.{decimals}f}%"


def points(change: float | None) -> str:
    """Return a change in points (hundredths) with its sign."""
    return "n/a" if change is None else f"{change:+.3f}"


def estimate_words(estimate: Estimate) -> str:
    """Return a score as a percentage with its interval: ``58.72% [56.10–61.02]``."""
    if estimate.interval is None or estimate.value is None:
        return score(estimate.value, 2)
    low, high = 100 * estimate.interval.low, 100 * estimate.interval.high
    return f"{score(estimate.value, 2)} [{low:.2f}–{high:.2f}]"


def points_words(change: Estimate | None) -> str:
    """Return a change in points with its interval; what it is a change to has none."""
    if change is None:
        return ""
    if change.interval is None or change.value is None:
        return points(None if change.value is None else 100 * change.value)
    low, high = 100 * change.interval.low, 100 * change.interval.high
    return f"{points(100 * change.value)} [{low:+.3f} to {high:+.3f}]"


def role_words(role: str | None) -> str:
    """Say what the pictures of an evaluation were to the training."""
    return {
        UNUSED: "training used none of these images, not even to choose the epoch",
        CHOSE_EPOCH: "all or some of these images chose the epoch: the scores are slightly "
        "optimistic",
        TRAINED_ON: "the network learned from all or some of these images: the scores say nothing "
        "of others",
        None: "whether training used these images is not known: metrics.json of this checkpoint, "
        "or the lists that it names, are not there",
    }[role]


def runner_name(runner: RunnerDescription) -> str:
    """Return backend, precision and, beyond the CPU, device: ``ort fp32``."""
    place = "" if runner.device == "cpu" else f" on {runner.device}"
    if runner.is_baseline:
        return f"plain export{place}"
    return f"{runner.backend} {runner.precision}{place}"


def speed_words(ratio: Ratio) -> str:
    """Say how a row compares with the baseline; a tie is called a tie."""
    low, high = map(number, ratio.shown)
    if ratio.verdict is None:
        return f"{low}–{high}× the plain export's speed, {TOO_FEW}"
    if ratio.verdict == "tie":
        return f"a tie with the plain export ({low}–{high}× its speed)"
    if ratio.verdict == "faster":
        return f"{number(ratio.median)}× faster than the plain export ({low}–{high})"
    slow, slower = (number(1 / bound) for bound in reversed(ratio.shown))
    return f"{number(1 / ratio.median)}× slower than the plain export ({slow}–{slower})"


def gate_words(
    candidate: RunnerDescription, agreement: float, pictures: int, *, labelled: bool
) -> str:
    """Say what a gate that holds has shown: the same masks, or masks within a wider gate.

    Args:
        candidate: whose masks they are.
        agreement: share of the pixels with the reference's class.
        pictures: how many were compared; copies of some in odd sizes always are as well.
        labelled: whether mean IoUs were compared as well.
    """
    where = "on 1 picture" if pictures == 1 else f"on {pictures:,} pictures"
    where += " and odd sizes" if labelled else " and odd sizes, none labelled"
    agreeing = f"{percent(agreement)} of the pixels agree"
    # Nobody may take it for what a GPU will give.
    widened = "; computed in float32 here: says nothing of a GPU's rounding"
    limits = widened if candidate.widens_halves else ""
    if agreement < SAME_MASKS:
        return f"masks within the {candidate.precision} gate ({agreeing} {where}{limits})"
    share = "" if agreement == 1 else f", {agreeing}"
    return f"same masks (gate passed {where}{share}{limits})"


def verdict_words(row: BenchRow) -> str:
    """Say what LoadGen thinks of a row: ``VALID`` with its p90, ``INVALID: why``, or a loop's."""
    if row.loadgen is None:
        return "timed loop"
    if row.loadgen.valid:
        early = row.loadgen.early_stopping_ms
        return "VALID" if early is None else f"VALID, p90 ≤ {number(early)}"
    return f"INVALID: {'; '.join(row.loadgen.problems) or 'LoadGen does not say why'}"


def settings_words(all_of_them: Iterable[Settings | None]) -> str:
    """Say what LoadGen was asked for, the least of some rows; empty where nothing is known."""
    known = [settings for settings in all_of_them if settings is not None]
    if not known:
        return ""
    seconds = min(settings.min_seconds for settings in known)
    queries = min(settings.min_queries for settings in known)
    return (
        f"VALID means at least {seconds:g} s and {queries} queries a repeat, and no submission to "
        "MLPerf"
    )
