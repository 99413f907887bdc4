"""What runners take: every case in turn, all runners interleaved, figures with their spread.

    for each repeat                    # so that a slow minute of the machine hits everyone
        for each case                  # tier × batch × size × runner, in an order drawn by lot
            warm up, then one repeat of the scenario

A scenario says who asks and when: MLPerf LoadGen where it is installed, else a plain timed loop.
The device tier is always the loop's: LoadGen cannot read a device's events.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcn_deploy.bench import loadgen
from fcn_deploy.bench.case import Case
from fcn_deploy.bench.conditions import ConditionWatch
from fcn_deploy.bench.inputs import Inputs, one_picture_warnings
from fcn_deploy.bench.rows import row_of_repeats
from fcn_deploy.bench.scenarios import Meter, Repeat, Scenario, TimedLoop
from fcn_deploy.core.errors import FcnDeployError, InputError, MaskMismatchError
from fcn_deploy.results.bench import Bench, BenchRow
from fcn_deploy.results.conditions import ColdStart
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.ranking import with_ratios
from fcn_deploy.results.scenarios import DEVICE, SINGLE_STREAM, TIERS
from fcn_deploy.results.workload import LOADGEN, LOOP, Workload
from fcn_deploy.runners.base import Runner

#: Below, a row has no spread; for a verdict it takes more: fcn_deploy.results.ratio.
MIN_REPEATS = 3
DEFAULT_REPEATS = 7


@dataclass(frozen=True)
class BenchPlan:
    """What is measured, and what a result file says of it beside the figures.

    Attributes:
        runners: open runners.
        inputs: pictures, one entry per size.
        scenario: who asks, at the host and end-to-end tiers.
        folder: for masks that nobody keeps.
        batch_sizes: pictures per query.
        tiers: of ``TIERS``; the device tier is left out where the scenario is not single stream.
        repeats: how often every case takes its turn, at least 3.
        seconds: that a row is timed at least in each repeat; the device tier about so long.
        threads: that the runners were pinned to: no more of them decode ahead.
        source: where the pictures come from.
        loop_reason: why the timed loop runs in LoadGen's stead, if it does.
        cold_starts: what each runner cost before its first figure.
        options: of the command line, as they were typed.
        order_seed: the order of the cases in each repeat is drawn from it.
    """

    runners: Sequence[Runner]
    inputs: Sequence[Inputs]
    scenario: Scenario
    folder: Path
    batch_sizes: Sequence[int] = (1,)
    tiers: Sequence[str] = TIERS
    repeats: int = DEFAULT_REPEATS
    seconds: float = 0.5
    threads: int | None = None
    source: str = ""
    loop_reason: str | None = None
    cold_starts: Sequence[ColdStart] = ()
    options: Sequence[str] = ()
    order_seed: int = 0

    @property
    def distinct_inputs(self) -> int:
        """How many of the pictures differ, the fewest of a size."""
        return min(pictures.distinct for pictures in self.inputs)

    @property
    def workloads(self) -> frozenset[Workload]:
        """Every workload that some runner is to have a row of."""
        return frozenset(
            Workload(
                self.scenario.name,
                self.scenario.target_p99_ms,
                LOOP if tier == DEVICE else self.scenario.clock,
                tier,
                batch_size,
                pictures.size,
                pictures.digest,
            )
            for pictures in self.inputs
            for batch_size in self.batch_sizes
            for tier in self._tiers()
        )

    def cases(self) -> list[Case]:
        """Return every runner at every tier, batch size and picture size."""
        return [
            Case(runner, tier, batch_size, pictures, self.folder, self.threads)
            for pictures in self.inputs
            for batch_size in self.batch_sizes
            for tier in self._tiers()
            for runner in self.runners
        ]

    def num_shapes(self) -> int:
        """Return how many batch shapes a runner is given."""
        return len(
            {
                (size, pictures.size)
                for pictures in self.inputs
                for batch_size in self.batch_sizes
                for size in self.scenario.batches(batch_size)
            }
        )

    def _tiers(self) -> list[str]:
        streams = self.scenario.name == SINGLE_STREAM
        return [tier for tier in self.tiers if tier != DEVICE or streams]


def measure(
    plan: BenchPlan,
    watch: ConditionWatch,
    *,
    energy_joules: Meter = lambda: None,
    on_dropped: Callable[[str], None] = lambda sentence: None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Bench:
    """Measure a plan and return what a result file holds.

    Args:
        plan: what is measured.
        watch: on the machine, since before the runners were opened.
        energy_joules: as for :func:`measure_rows`, like what follows.
        on_dropped: told what the warnings say, too.
        on_step: told how far it is.

    Raises:
        InputError: too few repeats, or nothing to measure.
        FcnDeployError: no case has a figure: why the last one has none.
    """
    dropped: list[str] = []

    def drop(sentence: str) -> None:
        dropped.append(sentence)
        on_dropped(sentence)

    rows = measure_rows(plan, energy_joules=energy_joules, on_dropped=drop, on_step=on_step)
    warnings = [*one_picture_warnings(plan.distinct_inputs), *dropped]
    conditions = watch.ended(rows, warnings)  # before a GPU's clocks fall
    by_loadgen = any(row.loadgen is not None for row in rows)
    return Bench(
        environment=Environment.current(),
        options=tuple(plan.options),
        source=plan.source,
        distinct_inputs=plan.distinct_inputs,
        clock=LOADGEN if by_loadgen else LOOP,
        clock_version=loadgen.version() if by_loadgen else None,
        clock_reason=plan.loop_reason,
        seconds=plan.seconds,
        conditions=conditions,
        cold_starts=tuple(plan.cold_starts),
        rows=rows,
        order_seed=plan.order_seed,
    )


def measure_rows(
    plan: BenchPlan,
    *,
    energy_joules: Meter = lambda: None,
    on_dropped: Callable[[str], None] = lambda sentence: None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[BenchRow, ...]:
    """Measure every runner at every tier, batch size and picture size, interleaved.

    Args:
        plan: what is measured.
        energy_joules: reads the GPU's energy counter, or gives None.
        on_dropped: told why a case, or one repeat of it, has no figure; the others go on.  A case
            keeps its row as long as most of its repeats, and ``MIN_REPEATS`` of them, have one, and
            all masks that were checked are right.
        on_step: told after each repeat of a case how many are done, and of how many.

    Raises:
        InputError: too few repeats, or nothing to measure.
        FcnDeployError: no case has a figure: why the last one has none.
    """
    repeats, scenario = plan.repeats, plan.scenario
    if repeats < MIN_REPEATS:
        raise InputError(f"{repeats} repeats show no spread", f"use at least {MIN_REPEATS}")
    cases = _measurable(plan.cases(), on_dropped)
    if not cases:
        raise InputError(
            f"nothing to measure: no backend has the tier {', '.join(plan.tiers)} in scenario "
            f"{scenario.name}",
            "choose another --tier or --scenario",
        )
    for runner in plan.runners:
        runner.reserve_shapes(plan.num_shapes())
    on_device = TimedLoop(plan.seconds)
    needed = max(MIN_REPEATS, repeats // 2 + 1)  # of any two rows, some repeats pair up
    taken: dict[Case, dict[int, Repeat]] = {case: {} for case in cases}
    draw = random.Random(plan.order_seed)
    for number in range(repeats):
        for step, case in enumerate(_order(cases, draw)):
            if case in taken:
                who = on_device if case.tier == DEVICE else scenario
                try:
                    taken[case][number] = _one_repeat(case, who, energy_joules)
                except FcnDeployError as error:
                    why = _said(error, case, f"repeat {number + 1} of {repeats}")
                    possible = len(taken[case]) + repeats - (number + 1)
                    wrong = isinstance(error, MaskMismatchError)
                    # What fails at once would fail again.
                    if wrong or not taken[case] or possible < needed:
                        del taken[case]
                        why += "; the row is left out"
                    on_dropped(why)
                    if not taken:
                        raise
            on_step(number * len(cases) + step + 1, repeats * len(cases))
    return with_ratios(
        [row_of_repeats(case, scenario.name, by_repeat) for case, by_repeat in taken.items()]
    )


def _one_repeat(case: Case, scenario: Scenario, energy_joules: Meter) -> Repeat:
    scenario.warm_up(case)
    # What a GPU draws idly beside a case of the CPU is not that case's.
    on_gpu = case.runner.describe().on_gpu
    repeat = scenario.repeat(case, energy_joules if on_gpu else lambda: None)
    case.samples.check(case)
    return repeat


def _said(error: FcnDeployError, case: Case, repeat: str) -> str:
    """Return why a repeat has no figure; of wrong masks also what tells the cause."""
    if not isinstance(error, MaskMismatchError):
        return f"{case.name}, {repeat}: {error.message}"
    advice = "" if error.repair is None else f"; {error.repair}"
    return f"{error.message} in {repeat}{advice}"


def _measurable(cases: Sequence[Case], on_dropped: Callable[[str], None]) -> list[Case]:
    """Return the cases whose runner has their tier; raise if others are lost and none is left."""
    found: list[Case] = []
    failure: FcnDeployError | None = None
    for case in cases:
        try:
            if case.measurable:
                found.append(case)
        except FcnDeployError as error:
            failure = error
            on_dropped(f"{case.name}: {error.message}; the row is left out")
    if failure is not None and not found:
        raise failure
    return found


def _order(cases: Sequence[Case], draw: random.Random) -> list[Case]:
    """Return the cases in the order of one more repeat.

    Rows that will be ranked stay side by side, so that what slows the machine down meets them all;
    and none comes behind the same one, with what that leaves behind, every time.
    """
    alike: dict[tuple[object, ...], list[Case]] = {}
    for case in cases:
        alike.setdefault((case.tier, case.batch_size, case.inputs.size), []).append(case)
    drawn = [*alike.values()]
    draw.shuffle(drawn)
    for together in drawn:
        draw.shuffle(together)
    return [case for together in drawn for case in together]
