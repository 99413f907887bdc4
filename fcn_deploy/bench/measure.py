"""What runners take: every case in turn, all runners interleaved, figures with their spread.

    for each repeat                    # so that a slow minute of the machine hits everyone
        for each case                  # tier × batch × size × runner, in an order of its own
            warm up, then one turn of the scenario

A scenario says who asks and when: MLPerf LoadGen where it is installed, else a plain timed loop.
The device tier is always the loop's: LoadGen cannot read a device's events.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from fcn_deploy.bench.case import Case
from fcn_deploy.bench.inputs import Inputs
from fcn_deploy.bench.rows import Row, row_of_repeats
from fcn_deploy.bench.scenarios import Meter, Repeat, Scenario, TimedLoop
from fcn_deploy.core.errors import FcnDeployError, InputError
from fcn_deploy.results.bench import DEVICE, SINGLE_STREAM, TIERS
from fcn_deploy.runners.base import Runner

MIN_REPEATS = 3


def measure(
    runners: Sequence[Runner],
    inputs: Sequence[Inputs],
    batch_sizes: Sequence[int],
    scenario: Scenario,
    folder: Path,
    *,
    tiers: Sequence[str] = TIERS,
    repeats: int = 5,
    threads: int | None = None,
    device_seconds: float = 0.5,
    energy_joules: Meter = lambda: None,
    on_dropped: Callable[[str], None] = lambda sentence: None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Measure every runner at every tier, batch size and picture size, interleaved.

    Args:
        runners: open runners.
        inputs: pictures, one entry per size.
        batch_sizes: pictures per query.
        scenario: who asks, at the host and end-to-end tiers.
        folder: for masks that nobody keeps.
        tiers: of ``TIERS``; the device tier is left out where the scenario is not single stream.
        repeats: how often every case takes its turn, at least 3.
        threads: that the runners were pinned to: no more of them decode ahead.
        device_seconds: about how long the device tier is timed in each turn.
        energy_joules: reads the GPU's energy counter, or gives None.
        on_dropped: told why a case, or one repeat of it, has no figure; the others go on.  A case
            keeps its row as long as most of its repeats, and ``MIN_REPEATS`` of them, have one.
        on_step: told after each turn of a case how many are done, and of how many.

    Raises:
        InputError: too few repeats, or nothing to measure.
        FcnDeployError: no case has a figure: why the last one has none.
    """
    if repeats < MIN_REPEATS:
        raise InputError(f"{repeats} repeats show no spread", f"use at least {MIN_REPEATS}")
    cases = _measurable(
        _cases(runners, inputs, batch_sizes, tiers, scenario, folder, threads), on_dropped
    )
    if not cases:
        raise InputError(
            f"nothing to measure: no backend has the tier {', '.join(tiers)} in scenario "
            f"{scenario.name}",
            "choose another --tier or --scenario",
        )
    shapes = {
        (size, pictures.size)
        for pictures in inputs
        for batch_size in batch_sizes
        for size in scenario.batches(batch_size)
    }
    for runner in runners:
        runner.reserve_shapes(len(shapes))
    on_device = TimedLoop(device_seconds)
    needed = max(MIN_REPEATS, repeats // 2 + 1)  # of any two rows, some repeats pair up
    turns: dict[Case, dict[int, Repeat]] = {case: {} for case in cases}
    for repeat in range(repeats):
        for step, case in enumerate(_order(cases, repeat)):
            if case in turns:
                who = on_device if case.tier == DEVICE else scenario
                try:
                    turns[case][repeat] = _one_turn(case, who, energy_joules)
                except FcnDeployError as error:
                    why = f"{case.name}, repeat {repeat + 1} of {repeats}: {error.message}"
                    possible = len(turns[case]) + repeats - (repeat + 1)
                    # What fails at once would fail again.
                    if not turns[case] or possible < needed:
                        del turns[case]
                        why += "; the row is left out"
                    on_dropped(why)
                    if not turns:
                        raise
            on_step(repeat * len(cases) + step + 1, repeats * len(cases))
    return [row_of_repeats(case, scenario.name, taken) for case, taken in turns.items()]


def _one_turn(case: Case, scenario: Scenario, energy_joules: Meter) -> Repeat:
    scenario.warm_up(case)
    # What a GPU draws idly beside a case of the CPU is not that case's.
    on_gpu = case.runner.describe().on_gpu
    return scenario.turn(case, energy_joules if on_gpu else lambda: None)


def _cases(
    runners: Sequence[Runner],
    inputs: Sequence[Inputs],
    batch_sizes: Sequence[int],
    tiers: Sequence[str],
    scenario: Scenario,
    folder: Path,
    threads: int | None,
) -> list[Case]:
    return [
        Case(runner, tier, batch_size, pictures, folder, threads)
        for pictures in inputs
        for batch_size in batch_sizes
        for tier in tiers
        for runner in runners
        if tier != DEVICE or scenario.name == SINGLE_STREAM
    ]


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


def _order(cases: Sequence[Case], repeat: int) -> list[Case]:
    """Return the cases in the order of a repeat, drawn anew for each, but the same in every run.

    Rows that will be ranked stay side by side, so that what slows the machine down meets them all;
    and none comes behind the same one, with what that leaves behind, every time.
    """
    draw = random.Random(repeat)
    questions: dict[tuple[object, ...], list[Case]] = {}
    for case in cases:
        questions.setdefault((case.tier, case.batch_size, case.inputs.size), []).append(case)
    drawn = [*questions.values()]
    draw.shuffle(drawn)
    for asked in drawn:
        draw.shuffle(asked)
    return [case for asked in drawn for case in asked]
