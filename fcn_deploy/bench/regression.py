"""Has it become slower?  Two benches of one machine, row by row.

A machine that is slower today is slower for the baseline too.  So where both files hold the same
baseline beside a row, what is compared is the row's speed in units of the baseline's, measured in
the same minute; else milliseconds.  A baseline is the same where its file and its library are.

A row that had a figure, was asked for again and has none now, or too few repeats for a verdict, is
lost: that fails as slowness does.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fcn_deploy.core.errors import InputError
from fcn_deploy.results.bench import Bench, BenchRow
from fcn_deploy.results.environment import Environment, differing
from fcn_deploy.results.format import runner_name
from fcn_deploy.results.ranking import baseline_of, resolution_of
from fcn_deploy.results.ratio import (
    MIN_REPEATS_FOR_VERDICT,
    TOO_FEW,
    Bounds,
    interval_between_runs,
    verdict_of,
)
from fcn_deploy.results.read import read_files
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.workload import Workload

#: Properties that make a machine; its system and Python may move on.
MACHINE_PROPERTIES = ("cpu", "cores", "architecture", "memory_gib")
Outcome = Literal["slower", "faster", "same"]


@dataclass(frozen=True)
class Change:
    """A row then and now.

    Attributes:
        before: the older row.
        now: the newer one.
        slowdown: 0.1 where it takes 10 % longer, negative where it is faster.
        interval: of how many times longer it takes, from the repeats of then and now.
        by_baseline: whether the baseline of its own minute is the unit.
        limit: slowdown that is allowed.
    """

    before: BenchRow
    now: BenchRow
    slowdown: float
    interval: Bounds
    by_baseline: bool
    limit: float

    @property
    def outcome(self) -> Outcome:
        """Whether it has changed by more than the limit, beyond the noise."""
        if not self.beyond_noise:
            return "same"
        if self.slowdown > self.limit:
            return "slower"
        return "faster" if 1 / (1 + self.slowdown) - 1 > self.limit else "same"

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves no doubt that it has changed."""
        return verdict_of(self.interval) != "tie"

    def __str__(self) -> str:
        unit = "against the baseline of its minute" if self.by_baseline else "in milliseconds"
        words = f"{abs(self.slowdown):.1%} {'slower' if self.slowdown > 0 else 'faster'} {unit}"
        noise = "beyond the noise" if self.beyond_noise else "within the noise"
        return (
            f"{_label(self.now)}: {words}, {noise} "
            f"({self.before.median_ms:.4g} → {self.now.median_ms:.4g} ms)"
        )


@dataclass(frozen=True)
class SpeedChange:
    """Two benches, compared.

    Attributes:
        changes: rows that could be compared, in the newer one's order.
        lost: sentences: rows that were asked for and have no figure any more, or too few repeats.
        uncompared: sentences: rows that could not be compared, and why.
        units: sentences: baselines that have changed themselves.
        limit: slowdown that is allowed.
    """

    changes: tuple[Change, ...]
    lost: tuple[str, ...]
    uncompared: tuple[str, ...]
    units: tuple[str, ...]
    limit: float

    @property
    def slower(self) -> tuple[Change, ...]:
        """Rows that have become slower by more than the limit, beyond the noise."""
        return tuple(change for change in self.changes if change.outcome == "slower")

    @property
    def passed(self) -> bool:
        """Whether nothing has become slower, or was lost."""
        return not self.slower and not self.lost

    def sentences(self) -> Iterator[str]:
        """Yield what was found, the verdict last."""
        for change in self.changes:
            yield (
                f"{change.outcome.upper() if change.outcome == 'slower' else change.outcome}: "
                + (str(change))
            )
        for sentence in self.lost:
            yield f"LOST: {sentence}"
        for sentence in self.units:
            yield f"note: {sentence}"
        for sentence in self.uncompared:
            yield f"not compared: {sentence}"
        allowed = f"more than {self.limit:.0%} slower and beyond the noise"
        rows = "1 row is" if len(self.slower) == 1 else f"{len(self.slower) or 'no'} rows are"
        lost = f"; {len(self.lost)} lost" if self.lost else ""
        yield f"{rows} {allowed}, of {len(self.changes)} compared{lost}"


@dataclass(frozen=True)
class RequestedCases:
    """Cases that a measurement was asked for: each runner, each workload.

    Attributes:
        runners: as they describe themselves.
        workloads: of which each was to have a row.
    """

    runners: tuple[RunnerDescription, ...]
    workloads: frozenset[Workload]

    def __contains__(self, row: BenchRow) -> bool:
        """Say whether a row's case is among them, by all that makes rows comparable."""
        return row.workload in self.workloads and any(
            _identity(runner) == _identity(row.runner) for runner in self.runners
        )


def read_bench(path: Path) -> Bench:
    """Read a result of ``bench``.

    Raises:
        ArtifactError: the file is missing, damaged, or of another schema.
        InputError: it is a result of another command.
    """
    benches = read_files([path]).benches
    if not benches:
        raise InputError(f"{path} is no result of bench", "give one that `fcn-deploy bench` wrote")
    return benches[0]


def require_machine(before: Bench, machine: Environment) -> None:
    """Refuse a bench file of another machine.

    Args:
        before: the file.
        machine: that it has to be of.

    Raises:
        InputError: naming what differs.
    """
    then, now = before.environment.properties, machine.properties
    if names := differing(then, now, MACHINE_PROPERTIES):
        changes = "; ".join(f"{name} {then.get(name)} → {now.get(name)}" for name in names)
        raise InputError(
            f"{before.environment.file} is of another machine ({changes})",
            "compare with a result of this machine",
        )


def require_repeats(before: Bench, repeats: int) -> None:
    """Refuse a comparison that will have no verdict.

    Args:
        before: the older file.
        repeats: of the measurement that it is to be compared with.

    Raises:
        InputError: one of the two has too few repeats.
    """
    recorded = max((len(row.repeats_ms) for row in before.rows), default=0)
    for where, count in ((str(before.environment.file), recorded), ("--repeats", repeats)):
        if count < MIN_REPEATS_FOR_VERDICT:
            raise InputError(
                f"{where}: {count} repeats are {TOO_FEW}",
                f"measure both with --repeats {MIN_REPEATS_FOR_VERDICT} or more",
            )


def compare(
    before: Bench, now: Bench, limit: float, asked: RequestedCases | None = None
) -> SpeedChange:
    """Compare the rows that two benches share.

    Rows are the same where the workload is, the runner, its threads and its model file.

    Args:
        before: the older one, read from a file.
        now: the newer one, of the same machine.
        limit: slowdown that is allowed, as a share.
        asked: what the newer one was to measure; None where that is not known: then a row that is
            missing in it is not taken for lost.

    Raises:
        InputError: the machines differ, or the two share no row: that would pass unseen.
    """
    require_machine(before, now.environment)
    changes, lost, uncompared = [], [], []
    for row in now.rows:
        if row.is_baseline:
            continue  # the unit, not ours to judge
        older = _same_case(row, before)
        if older is None:
            uncompared.append(f"{_label(row)}: {_incomparable_reason(row, before)}")
        elif not older.is_valid:
            uncompared.append(f"{_label(row)}: INVALID by LoadGen then")
        elif not row.is_valid:
            lost.append(f"{_label(row)}: VALID then, INVALID by LoadGen now")
        elif (change := _change(older, before, row, now, limit)) is not None:
            changes.append(change)
        else:
            repeats = f"{len(older.repeats_ms)} then, {len(row.repeats_ms)} now"
            was_enough = len(older.repeats_ms) >= MIN_REPEATS_FOR_VERDICT
            was_asked = asked is not None and row in asked
            (lost if was_enough and was_asked else uncompared).append(
                f"{_label(row)}: {TOO_FEW}, {repeats}"
            )
    for row in before.rows:
        if row.is_baseline or any(_case(row) == _case(other) for other in now.rows):
            continue
        was_asked = asked is not None and row.is_valid and row in asked
        (lost if was_asked else uncompared).append(f"{_label(row)}: not measured this time")
    if not changes and not lost:
        raise InputError(
            f"no row could be compared with {before.environment.file}: {'; '.join(uncompared)}",
            f"measure the same cases, each with {MIN_REPEATS_FOR_VERDICT} repeats or more",
        )
    units = tuple(_units(before, now, limit))
    return SpeedChange(tuple(changes), tuple(lost), tuple(uncompared), units, limit)


def _units(before: Bench, now: Bench, limit: float) -> Iterator[str]:
    """Say where the unit itself has changed: what rows share with it is not seen in them."""
    for row in now.rows:
        older = _same_case(row, before) if row.is_baseline else None
        if older is None:
            continue
        if older.runner.library != row.runner.library:
            yield (
                f"the baseline's library has changed ({older.runner.library} → "
                f"{row.runner.library}): it is no unit, {row.conditions}"
            )
        elif not (older.is_valid and row.is_valid):
            yield f"LoadGen calls the baseline INVALID: it is no unit, {row.conditions}"
        elif min(len(older.repeats_ms), len(row.repeats_ms)) < MIN_REPEATS_FOR_VERDICT:
            yield f"the baseline has {TOO_FEW}: it is no unit, {row.conditions}"
        elif verdict_of(_longer(older, row) or (1.0, 1.0)) != "tie":
            slowdown = row.median_ms / older.median_ms - 1
            figures = f"{row.conditions} ({older.median_ms:.4g} → {row.median_ms:.4g} ms)"
            if slowdown > limit:
                yield (
                    f"the baseline itself takes {slowdown:.0%} longer, {figures}: a slower "
                    "machine, or what all rows share with it (decoding, ONNX Runtime)"
                )
            elif 1 / (1 + slowdown) - 1 > limit:
                yield (
                    f"the baseline itself takes {-slowdown:.0%} less time, {figures}: rows that "
                    "have not become faster with it are called slower"
                )


def _change(
    older: BenchRow, before: Bench, newer: BenchRow, now: Bench, limit: float
) -> Change | None:
    """Return how a row has changed; None with too few repeats."""
    then, today = _over_same_baseline(older, before, newer, now)
    by_baseline = bool(then and today)
    if by_baseline:
        # Then and now a quotient of two figures, each of them known to the resolution alone.
        resolution = (1 + resolution_of(newer)) ** 2 - 1
        interval = interval_between_runs(today, then, resolution)
        slowdown = statistics.median(then) / statistics.median(today) - 1
    else:
        interval = _longer(older, newer)
        slowdown = newer.median_ms / older.median_ms - 1
    return (
        None if interval is None else Change(older, newer, slowdown, interval, by_baseline, limit)
    )


def _longer(older: BenchRow, newer: BenchRow) -> Bounds | None:
    """Return how many times longer a row takes than then."""
    return interval_between_runs(older.repeats_ms, newer.repeats_ms, resolution_of(newer))


def _over_same_baseline(
    older: BenchRow, before: Bench, newer: BenchRow, now: Bench
) -> tuple[list[float], list[float]]:
    """Return how many times faster than the baseline a row was in each repeat, then and now.

    Both are empty where it is no unit, or shares too few repeats with the row.
    """
    then, today = baseline_of(older, before.rows), baseline_of(newer, now.rows)
    if then is None or today is None or not (then.is_valid and today.is_valid):
        return [], []
    one, other = then.runner, today.runner
    if (one.backend, one.digest, one.library) != (other.backend, other.digest, other.library):
        return [], []
    ratios = _times_faster(older, then), _times_faster(newer, today)
    return ratios if min(map(len, ratios)) >= MIN_REPEATS_FOR_VERDICT else ([], [])


def _times_faster(row: BenchRow, baseline: BenchRow) -> list[float]:
    theirs = baseline.by_repeat
    return [theirs[number] / ms for number, ms in row.by_repeat.items() if number in theirs]


def _same_case(row: BenchRow, bench: Bench) -> BenchRow | None:
    return next((other for other in bench.rows if _key(other) == _key(row)), None)


def _case(row: BenchRow) -> tuple[object, ...]:
    """Return what a row is called by: two of the same name may still not be comparable."""
    runner = row.runner
    return (
        runner.backend, runner.precision, runner.device,
        row.scenario, row.tier, row.batch_size, row.size,
    )  # fmt: skip


def _identity(runner: RunnerDescription) -> tuple[object, ...]:
    """Return what makes a runner the same as then, but for its library."""
    return (
        runner.backend, runner.precision, runner.device, runner.digest, runner.threads,
    )  # fmt: skip


def _key(row: BenchRow) -> tuple[object, ...]:
    return row.workload, _identity(row.runner)


def _incomparable_reason(row: BenchRow, bench: Bench) -> str:
    same = [other for other in bench.rows if _case(other) == _case(row)]
    if not same:
        return f"not in {bench.environment.file}"
    other = same[0]
    then, now = other.workload, row.workload
    reasons = [
        (other.runner.digest != row.runner.digest, "another model file"),
        (then.inputs_digest != now.inputs_digest, "other pictures"),
        (then.clock != now.clock, f"clock {then.clock} then, {now.clock} now"),
        (
            then.target_p99_ms != now.target_p99_ms,
            f"p99 bound {_bound(then.target_p99_ms)} then, {_bound(now.target_p99_ms)} now",
        ),
        (other.runner.threads != row.runner.threads, "other threads"),
    ]
    return " and ".join(words for differs, words in reasons if differs) or "other conditions"


def _bound(target_p99_ms: float | None) -> str:
    return "none" if target_p99_ms is None else f"{target_p99_ms:g} ms"


def _label(row: BenchRow) -> str:
    return f"{runner_name(row.runner)} {row.conditions}"
