"""The summary of the report: one sentence per backend on its masks and its speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fcn_deploy.report.repeat_commands import verb_command
from fcn_deploy.results.bench import Bench, BenchRow
from fcn_deploy.results.bench_table import MASK_REFERENCE, mask_label
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.format import gate_words, number, runner_name, speed_words
from fcn_deploy.results.parity import Comparison
from fcn_deploy.results.ranking import baseline_of
from fcn_deploy.results.results import Results
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.scenarios import END_TO_END, SINGLE_STREAM

State = Literal["failed", "unchecked", "passed", "reference"]
_LOUDEST_FIRST: tuple[State, ...] = ("failed", "unchecked", "passed", "reference")


@dataclass(frozen=True)
class SummaryLine:
    """One backend in one sentence.

    Attributes:
        label: which backend.
        state: of its masks.
        sentence: masks first, then speed; commands stand between backticks.
    """

    label: str
    state: State
    sentence: str

    def __str__(self) -> str:
        return f"{self.label}: {self.sentence}"


@dataclass(frozen=True)
class _Place:
    """What is known of one machine."""

    environment: Environment
    comparisons: tuple[Comparison, ...]
    benches: tuple[Bench, ...]


def _places(results: Results) -> list[_Place]:
    places = {results.machine_of(entry): entry for entry in results.proving_environments}
    return [
        _Place(
            environment,
            tuple(
                comparison
                for file, comparison in results.compared
                if results.machine_of(file.environment) == number
            ),
            tuple(b for b in results.benches if results.machine_of(b.environment) == number),
        )
        for number, environment in places.items()
    ]


def summary_lines(results: Results) -> list[SummaryLine]:
    """Say of each backend whether its masks are the same and how fast it is.

    A backend is a backend at a precision on a device, and on a machine: masks that are the same
    on one say nothing of another, whose libraries compute with other instructions.  Parity counts
    only where it was run on the very file that was measured, from the checkpoint that lies in the
    run.  The speed is that of the newest bench file, end to end where measured so, one query after
    another, at the smallest batch.
    """
    lines = [
        _summary_line(results, place, label)
        for place in _places(results)
        for label in _labels(place)
    ]
    return sorted(lines, key=lambda line: _LOUDEST_FIRST.index(line.state))


def _labels(place: _Place) -> list[str]:
    compared = [comparison.candidate for comparison in place.comparisons]
    measured = [
        row.runner
        for bench in place.benches
        for row in bench.rows
        if not row.is_baseline and not row.is_peer
    ]
    return list(dict.fromkeys(map(runner_name, compared + measured)))


def _summary_line(results: Results, place: _Place, label: str) -> SummaryLine:
    row = _headline_row(place, label)
    state, masks = _mask_words(results, place, label, row)
    if row is None:
        runner = _known_runner(place, label)
        speed = f"; speed not measured: run `{verb_command('bench', results, runner)}`"
    else:
        speed = f", {_row_words(results, place, row)}"
        if state == "failed":
            speed += ", for different masks"
    name = f"{label} on {results.machine_label(place.environment)}"
    return SummaryLine(name if results.several_machines else label, state, masks + speed)


def _headline_row(place: _Place, label: str) -> BenchRow | None:
    """Return the row to name first: of the model file measured last, end to end, single stream."""
    newest_first = [
        row
        for bench in reversed(place.benches)
        for row in bench.rows
        if runner_name(row.runner) == label
    ]
    if not newest_first:
        return None
    current = newest_first[0].runner.digest
    return min(  # the first of equals, so the newest
        newest_first,
        key=lambda row: (
            row.runner.digest != current,
            not row.is_valid,
            row.tier != END_TO_END,
            row.scenario != SINGLE_STREAM,
            row.batch_size,
        ),
    )


def _row_words(results: Results, place: _Place, row: BenchRow) -> str:
    if row.over_baseline is None:
        words = f"{number(row.median_ms)} ms per query, {row.conditions}, no baseline beside it"
    else:
        words = f"{speed_words(row.over_baseline)}, {row.conditions}"
    words += _invalid_words(row, _baseline_of(place, row))
    return f"{words}, measured on an older checkpoint" if results.is_stale(row.runner) else words


def _baseline_of(place: _Place, row: BenchRow) -> BenchRow | None:
    """Return the row that a row's speed is a multiple of, None without one."""
    if row.over_baseline is None:
        return None
    bench = next(b for b in place.benches if any(other is row for other in b.rows))
    return baseline_of(row, bench.rows)


def _invalid_words(row: BenchRow, baseline: BenchRow | None) -> str:
    """Say which of the two LoadGen does not let count: a ratio needs both."""
    baseline_is_valid = baseline is None or baseline.is_valid
    if row.is_valid:
        held = ", against a plain export that MLPerf LoadGen calls INVALID"
        return "" if baseline_is_valid else held
    words = ", which MLPerf LoadGen calls INVALID"
    return words if baseline_is_valid else f"{words}, and the plain export as well"


def _mask_words(
    results: Results, place: _Place, label: str, row: BenchRow | None
) -> tuple[State, str]:
    ours = [c for c in place.comparisons if runner_name(c.candidate) == label]
    command = f"run `{verb_command('parity', results, _known_runner(place, label))}`"
    if not ours:
        if any(runner_name(c.reference) == label for c in place.comparisons):
            return "reference", "the reference for the masks"
        if mask_label(_known_runner(place, label)) == MASK_REFERENCE:
            return "reference", "the reference for the masks (nothing was compared with it yet)"
        here = " ON THIS MACHINE" if results.several_machines else ""
        return "unchecked", f"MASKS NOT CHECKED{here}: {command}"
    fresh = [c for c in ours if not results.is_stale(c.candidate)]
    if not fresh:
        return "unchecked", f"MASKS CHECKED ON AN OLDER CHECKPOINT ONLY: {command}"
    measured = None if row is None or results.is_stale(row.runner) else row.runner.digest
    same_file = [c for c in fresh if measured in (None, c.candidate.digest)]
    if not same_file:
        return "unchecked", f"MASKS CHECKED ON ANOTHER FILE THAN THE ONE MEASURED: {command}"
    failed = [c for c in same_file if not c.passed]
    if failed:
        points_missed = ", ".join(dict.fromkeys(n for c in failed for n in c.failed_checks))
        return "failed", f"MASKS DIFFER, THE GATE FAILED ({points_missed or 'see below'})"
    # Of equals the one that shows most: labelled pictures, then many.
    worst = min(same_file, key=lambda c: (c.agreement, not c.is_labelled, -c.images.count))
    labelled = worst.is_labelled
    return "passed", gate_words(
        worst.candidate, worst.agreement, worst.images.count, labelled=labelled
    )


def _known_runner(place: _Place, label: str) -> RunnerDescription:
    runners = [comparison.candidate for comparison in place.comparisons]
    runners += [row.runner for bench in place.benches for row in bench.rows]
    return next(runner for runner in runners if runner_name(runner) == label)
