"""The fastest backend that was proven here: its masks by `parity`, its speed by `bench`.

    parity/*.json ─▶ passed gates ─┐
                                   ├─▶ rows of one bench ─▶ the fastest ─▶ ProvenChoice
    bench/*.json  ─▶ rows ─────────┘

A result counts for the machine that it was measured on and for the model file that it was measured
with, by digest; one from the future, by this machine's clock, does not: which verdict is the newest
could not be told.  Rows are compared within one bench alone, where they took turns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.bench import Bench, BenchRow
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.parity import Comparison, ParityFile
from fcn_deploy.results.ranking import speedup
from fcn_deploy.results.ratio import Ratio
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.scenarios import DEVICE, END_TO_END, HOST, SINGLE_STREAM
from fcn_deploy.results.workload import Workload

#: Taken where nothing is faster: what every run that was exported can do everywhere.
DEFAULT = "ort"
#: What people wait for comes first.
_TIERS = (END_TO_END, HOST, DEVICE)


class Unproven(str, Enum):
    """Why no backend can be chosen by proof, as a clause."""

    NOTHING = "no gate of `parity` has passed for this run"
    ELSEWHERE = "backends were proven on another machine only"
    FUTURE = "what was proven here is from the future, by this machine's clock"
    OTHER_FILE = "the model file has changed since backends were proven"
    NOT_ALLOWED = "what is proven here computes in a precision that was not allowed"
    NOT_TIMED = "what is proven here has not been timed"


@dataclass(frozen=True)
class ProvenChoice:
    """The backend to take.

    Attributes:
        runner: as it was measured; one that is opened now must be the same.
        over_default: how many times faster it is than ``ort`` in float32; None where that was not
            measured beside it, or is the choice.
        rivals: how many proven runners were timed together, with it.
        is_tie: whether it is ``ort``, and another one was faster by no more than the noise.
        parity_file: where its gate passed.
        bench_file: where it was timed.
    """

    runner: RunnerDescription
    over_default: float | None
    rivals: int
    is_tie: bool
    parity_file: str
    bench_file: str

    @property
    def backend(self) -> str:
        """Its name, as `--backend` takes it."""
        return self.runner.backend

    @property
    def precision(self) -> Precision:
        """Of the model file to open."""
        return file_precision(self.runner)

    def __str__(self) -> str:
        """Return why it is taken."""
        faster = (
            "" if self.over_default is None else f"; {self.over_default:.3g} × as fast as {DEFAULT}"
        )
        others = "" if self.rivals < 2 else f", the fastest of {self.rivals} proven here"
        if self.is_tie:
            others = f"; of {self.rivals} proven here none is faster beyond the noise"
        return (
            f"{self.backend} {self.runner.precision_name}{others}: same masks by "
            f"{self.parity_file}, timed in {self.bench_file}{faster}"
        )


def file_precision(runner: RunnerDescription) -> Precision:
    """Return the precision of the model file behind a runner: bf16 is computed from float32."""
    return Precision.FP32 if runner.precision == "bf16" else Precision(runner.precision)


def kind_of(runner: RunnerDescription) -> str:
    """Return what a user must allow for this runner: ``fp32``, or what is named as ``--allow``."""
    return runner.arithmetic if runner.precision == Precision.FP32.value else runner.precision


def same_runner(one: RunnerDescription, other: RunnerDescription) -> bool:
    """Say whether two runners compute the same: file, library, device and arithmetic agree."""
    return _identity(one) == _identity(other)


def choose_proven(
    parity_files: Sequence[ParityFile],
    benches: Sequence[Bench],
    *,
    kinds: Collection[str],
    is_current: Callable[[RunnerDescription], bool],
) -> ProvenChoice | Unproven:
    """Return the fastest runner that was proven on this machine, or why there is none.

    Where `ort` in float32 was timed in the same bench and nothing is faster beyond the noise, it
    is taken.

    Args:
        parity_files: of the run, newest last.
        benches: of the run, newest last.
        kinds: of :func:`kind_of`, those that may be taken.
        is_current: says whether the model file behind a runner is what it was then.
    """
    here = Environment.current()
    # Of these alone: what another machine found later neither proves nor disproves anything here.
    local = _passed([file for file in parity_files if _counts(file.environment, here)])
    if not local:
        return _why_not_here(parity_files, here)
    current = [(runner, file) for runner, file in local if is_current(runner)]
    allowed = [(runner, file) for runner, file in current if kind_of(runner) in kinds]
    for found, reason in (
        (current, Unproven.OTHER_FILE),
        (allowed, Unproven.NOT_ALLOWED),
    ):
        if not found:
            return reason
    proofs = {_identity(runner): file.environment.file for runner, file in allowed}
    groups = [
        (bench, rows)
        for bench in benches
        if _counts(bench.environment, here)
        for rows in _groups(bench, proofs)
    ]
    if not groups:
        return Unproven.NOT_TIMED
    # Of equally rich groups the tier that people wait for, then the newest.
    bench, rows = max(
        enumerate(groups),
        key=lambda entry: (
            len(entry[1][1]), -_TIERS.index(entry[1][1][0].tier), entry[0],
        ),
    )[1]  # fmt: skip
    return _fastest(bench, rows, proofs)


def _why_not_here(files: Sequence[ParityFile], here: Environment) -> Unproven:
    passed = [file.environment for file in files if _passed([file])]
    if any(then.same_machine(here) and not _counts(then, here) for then in passed):
        return Unproven.FUTURE
    if any(not then.same_machine(here) for then in passed):
        return Unproven.ELSEWHERE
    return Unproven.NOTHING


def _counts(then: Environment, here: Environment) -> bool:
    return then.same_machine(here) and then.created <= here.created


def _identity(runner: RunnerDescription) -> tuple[object, ...]:
    return (
        runner.backend, runner.device, runner.precision, runner.arithmetic, runner.library,
        runner.providers, runner.digest,
    )  # fmt: skip


def newest_verdicts(
    comparisons: Iterable[Comparison],
) -> dict[tuple[object, ...], Comparison]:
    """Return the last comparison of each runner, of comparisons in the order of their time."""
    return {_identity(comparison.candidate): comparison for comparison in comparisons}


def _passed(files: Sequence[ParityFile]) -> list[tuple[RunnerDescription, ParityFile]]:
    """Return the runners whose newest verdict is good, with the file that says so."""
    newest = {
        _identity(comparison.candidate): (comparison, file)
        for file in files
        for comparison in file.comparisons
    }
    return [
        (comparison.candidate, file) for comparison, file in newest.values() if comparison.passed
    ]


def _groups(bench: Bench, proofs: Collection[tuple[object, ...]]) -> list[list[BenchRow]]:
    """Return the proven rows of one picture at a time, those of one workload together."""
    groups: dict[Workload, list[BenchRow]] = {}
    for row in bench.rows:
        if (
            row.scenario == SINGLE_STREAM
            and row.batch_size == 1
            and row.is_valid
            and row.tier in _TIERS
            and _identity(row.runner) in proofs
        ):
            groups.setdefault(row.workload, []).append(row)
    return list(groups.values())


def _fastest(
    bench: Bench, rows: Sequence[BenchRow], proofs: dict[tuple[object, ...], str]
) -> ProvenChoice:
    best = fastest = min(rows, key=lambda row: row.median_ms)
    usual = next(
        (
            row
            for row in rows
            if row.runner.backend == DEFAULT and kind_of(row.runner) == Precision.FP32.value
        ),
        None,
    )
    over_default = None
    if usual is not None and usual is not best:
        ratio = _speedup(best, usual)
        if ratio is not None and ratio.shown[0] > 1:
            over_default = ratio.median
        else:
            best = usual
    return ProvenChoice(
        runner=best.runner,
        over_default=over_default,
        rivals=len(rows),
        is_tie=best is not fastest,
        parity_file=proofs[_identity(best.runner)],
        bench_file=bench.environment.file,
    )


def _speedup(row: BenchRow, over: BenchRow) -> Ratio | None:
    try:
        return speedup(row, over)
    except InputError:  # no repeat in common
        return None
