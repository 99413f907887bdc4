"""Which rows of a run are held against which: the plain export, PyTorch at its strongest, any two.

Only rows of the same workload are (see :mod:`fcn_deploy.results.workload`), and what runs on a GPU
is held against what runs on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from fcn_deploy.core.errors import InputError
from fcn_deploy.results.bench import BenchRow
from fcn_deploy.results.format import runner_name
from fcn_deploy.results.ratio import MIN_REPEATS_FOR_VERDICT, TOO_FEW, Ratio, paired_ratio
from fcn_deploy.results.scenarios import SERVER

#: The server scenario bisects its rate until valid and invalid are so close together.
RATE_RESOLUTION = 0.05
_PYTORCH = "PyTorch "


def speedup(row: BenchRow, over: BenchRow) -> Ratio:
    """Return how many times faster one row is than another, from repeats side by side.

    Raises:
        InputError: they are of different workloads, or have no repeat in common.
    """
    if row.workload != over.workload:
        raise InputError(
            "rows of different scenario, bound, clock, tier, batch, size or inputs are not ranked"
        )
    ours, theirs = row.by_repeat, over.by_repeat
    ratios = [theirs[number] / ours[number] for number in ours if number in theirs]
    if not ratios:
        raise InputError("rows without a repeat in common are not ranked")
    return paired_ratio(ratios, 0.0 if row is over else resolution_of(row))


def resolution_of(row: BenchRow) -> float:
    """Return how finely a row's figures are known: a server's rate is searched in steps."""
    return RATE_RESOLUTION if row.scenario == SERVER else 0.0


def notes_on_repeats(rows: Sequence[BenchRow]) -> Iterator[str]:
    """Yield sentences: whether ratios between rows of one workload have intervals, else why not.

    Of two rows that share too few repeats for a verdict, the one that lost more is named.
    """
    numbers = [frozenset(row.repeat_numbers) for row in rows]
    shared = [len(one & other) for one, other in combinations(numbers, 2)]
    measured = len(frozenset().union(*numbers))
    if shared and measured < MIN_REPEATS_FOR_VERDICT:
        yield f"{measured} repeats: {TOO_FEW}."
        return
    if not shared or max(shared) >= MIN_REPEATS_FOR_VERDICT:
        yield "Brackets behind a ratio hold its 95 % interval, from the repeats in pairs."
    for row, ours in zip(rows, numbers, strict=True):
        fewest = min(len(ours & theirs) for theirs in numbers if len(theirs) >= len(ours))
        if len(ours) < measured and fewest < MIN_REPEATS_FOR_VERDICT:
            yield (
                f"{runner_name(row.runner)} has {len(ours)} of {measured} repeats and shares "
                f"{fewest} with another row: {TOO_FEW}."
            )


def with_ratios(rows: Sequence[BenchRow]) -> tuple[BenchRow, ...]:
    """Return the rows of a run, each with how many times faster than its baseline it is."""
    found = []
    for row in rows:
        baseline = baseline_of(row, rows)
        ratio = None if baseline is None else speedup(row, baseline)
        found.append(replace(row, over_baseline=ratio))
    return tuple(found)


def baseline_of(row: BenchRow, rows: Iterable[BenchRow]) -> BenchRow | None:
    """Return the baseline's row of the same workload, or None where it was not measured.

    Args:
        row: measured now, or read from a file.
        rows: of the same run.
    """
    return next((other for other in _alike(row, rows) if other.is_baseline), None)


def strongest_pytorch(row: BenchRow, rows: Iterable[BenchRow]) -> BenchRow | None:
    """Return the fastest valid row of the same workload that PyTorch computes, or None.

    Eager or compiled, ours or a peer's, in whatever precision: found from the times.
    """
    candidates = [
        other
        for other in _alike(row, rows)
        if other.runner.library.startswith(_PYTORCH) and other.is_valid
    ]
    return min(candidates, key=lambda other: other.median_ms, default=None)


def _alike(row: BenchRow, rows: Iterable[BenchRow]) -> list[BenchRow]:
    return [
        other
        for other in rows
        if other.workload == row.workload and other.runner.on_gpu == row.runner.on_gpu
    ]
