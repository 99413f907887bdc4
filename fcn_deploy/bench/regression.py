"""Has it become slower?  Two benches of one machine, row by row.

A machine that is slower today is slower for the baseline too.  So where both files hold the same
baseline beside a row, what is compared is the row's speed in units of the baseline's, measured in
the same minute; else milliseconds.  A baseline is the same where its file and its library are.

A row that had a figure, was asked for again and has none now is lost: that fails as slowness does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fcn_deploy.core.errors import InputError
from fcn_deploy.results.bench import Bench, BenchRow, Ratio, baseline_of
from fcn_deploy.results.environment import Environment, differing
from fcn_deploy.results.format import runner_name
from fcn_deploy.results.read import read_files
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.workload import Workload, tie

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
        beyond_spread: whether the repeats of then and now do not overlap.
        by_baseline: whether the baseline of its own minute is the unit.
        limit: slowdown that is allowed.
    """

    before: BenchRow
    now: BenchRow
    slowdown: float
    beyond_spread: bool
    by_baseline: bool
    limit: float

    @property
    def outcome(self) -> Outcome:
        """Whether it has changed by more than the limit, beyond the spread."""
        if not self.beyond_spread:
            return "same"
        if self.slowdown > self.limit:
            return "slower"
        return "faster" if 1 / (1 + self.slowdown) - 1 > self.limit else "same"

    def __str__(self) -> str:
        unit = "against the baseline of its minute" if self.by_baseline else "in milliseconds"
        words = f"{abs(self.slowdown):.1%} {'slower' if self.slowdown > 0 else 'faster'} {unit}"
        spread = "beyond the spread" if self.beyond_spread else "within the spread"
        return (
            f"{_label(self.now)}: {words}, {spread} "
            f"({self.before.median_ms:.4g} → {self.now.median_ms:.4g} ms)"
        )


@dataclass(frozen=True)
class SpeedChange:
    """Two benches, compared.

    Attributes:
        changes: rows that could be compared, in the newer one's order.
        lost: sentences: rows that were asked for and have no figure any more.
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
        """Rows that have become slower by more than the limit, beyond the spread."""
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
        allowed = f"more than {self.limit:.0%} slower and beyond the spread"
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
        else:
            changes.append(_change(older, before, row, now, limit))
    for row in before.rows:
        if row.is_baseline or any(_case(row) == _case(other) for other in now.rows):
            continue
        was_asked = asked is not None and row.is_valid and row in asked
        (lost if was_asked else uncompared).append(f"{_label(row)}: not measured this time")
    if not changes and not lost:
        raise InputError(
            f"no row could be compared with {before.environment.file}: {'; '.join(uncompared)}",
            "measure the same cases",
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
        elif not tie(older.spread_ms, row.spread_ms):
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


def _change(older: BenchRow, before: Bench, newer: BenchRow, now: Bench, limit: float) -> Change:
    then, today = _over_same_baseline(older, before, newer, now)
    if then is not None and today is not None:
        apart = not tie((then.low, then.high), (today.low, today.high))
        return Change(older, newer, then.median / today.median - 1, apart, True, limit)
    apart = not tie(older.spread_ms, newer.spread_ms)
    return Change(older, newer, newer.median_ms / older.median_ms - 1, apart, False, limit)


def _over_same_baseline(
    older: BenchRow, before: Bench, newer: BenchRow, now: Bench
) -> tuple[Ratio | None, Ratio | None]:
    then, today = baseline_of(older, before.rows), baseline_of(newer, now.rows)
    if then is None or today is None or not (then.is_valid and today.is_valid):
        return None, None
    one, other = then.runner, today.runner
    if (one.backend, one.digest, one.library) != (other.backend, other.digest, other.library):
        return None, None
    return older.over_baseline, newer.over_baseline


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
