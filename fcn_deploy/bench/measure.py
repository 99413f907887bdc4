"""What runners take: every case in turn, all runners interleaved, figures with their spread.

    for each repeat                    # so that a slow minute of the machine hits everyone
        for each case                  # tier × batch × size × runner, in an order of its own
            warm up, then one turn of the scenario

A scenario says who asks and when: MLPerf LoadGen where it is installed, else a plain timed loop.
The device tier is always the loop's: LoadGen cannot read a device's events.
"""

from __future__ import annotations

import math
import random
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fcn_deploy.bench import loadgen
from fcn_deploy.bench.case import Case, Query
from fcn_deploy.bench.inputs import NUM_INPUTS, Inputs
from fcn_deploy.bench.loadgen import Verdict
from fcn_deploy.core.errors import FcnDeployError, InputError, MeasurementError
from fcn_deploy.results.bench import (
    ALL_STAGES,
    DEVICE,
    OFFLINE,
    SERVER,
    SINGLE_STREAM,
    TIERS,
    Settings,
)
from fcn_deploy.results.environment import result_header
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.workload import LOADGEN, LOOP, Workload, baseline_of, tie
from fcn_deploy.runners.base import Runner

BENCH_SCHEMA = 2
#: Fewest queries below which a percentile is not printed (MLPerf's rule for its early stopping).
MIN_QUERIES = {"p90": loadgen.P90_QUERIES, "p95": 130, "p99": loadgen.P99_QUERIES}
#: Samples that LoadGen draws from: single pictures, or numbers of queries that walk through them.
SAMPLES = NUM_INPUTS
WARM_UP_RUNS = 2
#: Of a stream: more than any runner has in flight at once.
WARM_UP_BATCHES = 4
MIN_REPEATS = 3
#: How often a turn is begun anew because it ended sooner than was foreseen.
TRIES = 3
#: A server's rate is searched to this share of itself.
RATE_RESOLUTION = 0.05
#: A server that cannot keep its bound at this share of its throughput is given up: each trial runs
#: 662 queries, and takes the longer the lower its rate.
LOWEST_UTILISATION = 0.1


Meter = Callable[[], "float | None"]


@dataclass(frozen=True)
class Turn:
    """What one turn of a case gave.

    Attributes:
        ms: single stream: median latency of a query; else the time per query at the throughput
            that was reached.
        queries: how many were run.
        pictures: how many those were of; the last query may have been no full batch.
        seen: each query; empty where the scenario, not the query, is timed.
        latency_ms: where the scenario, not the query, is timed.
        verdict: LoadGen's, or None where the timed loop ran.
        target_p99_ms: of the server scenario.
        joules: used by the GPU for these queries and no others, or None.
    """

    ms: float
    queries: int
    pictures: int
    seen: tuple[Query, ...] = ()
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    verdict: Verdict | None = None
    target_p99_ms: float | None = None
    joules: float | None = None


class Scenario(ABC):
    """Who asks, and when."""

    name: str

    def batches(self, batch_size: int) -> Sequence[int]:
        """Return the sizes of the batches that a runner is given in a case of that batch size."""
        return (batch_size,)

    def warm_up(self, case: Case) -> None:
        """Have all prepared that the turn will ask for: nothing is compiled on the clock."""
        for number in range(WARM_UP_RUNS):  # the one before has left its threads and caches behind
            case.query(number)

    @abstractmethod
    def turn(self, case: Case, meter: Meter) -> Turn:
        """Ask a warmed-up case for one repeat; ``meter`` reads the GPU's energy counter."""


#: Of one repeat of the timed loop: each query's times are kept.
MOST_QUERIES = 10_000


class TimedLoop(Scenario):
    """Single stream by a plain loop, for where LoadGen is not to be had."""

    name = SINGLE_STREAM

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._counts: dict[Case, int] = {}

    def turn(self, case: Case, meter: Meter) -> Turn:
        """Time queries one after another; a case gets the same number of them in every turn."""
        if case not in self._counts:
            once = case.query(0).wall
            self._counts[case] = max(3, min(MOST_QUERIES, round(self._seconds / max(once, 1e-6))))
        before = meter()
        seen = tuple(case.query(number) for number in range(self._counts[case]))
        joules = _difference(before, meter())
        median = statistics.median(query.latency for query in seen)
        return Turn(1000 * median, len(seen), len(seen) * case.batch_size, seen, joules=joules)


class SingleStream(Scenario):
    """One query after another, asked by LoadGen."""

    name = SINGLE_STREAM

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def turn(self, case: Case, meter: Meter) -> Turn:
        """Ask until LoadGen is content: long enough, and 64 queries for its p90."""
        expected = _seconds_per_query(case)
        for _ in range(TRIES):
            seen: list[Query] = []

            def answer(
                number: int, result_is_there: Callable[[], None], seen: list[Query] = seen
            ) -> None:
                seen.append(case.query(number, result_is_there))

            before = meter()
            verdict = loadgen.single_stream(
                answer, samples=SAMPLES, min_seconds=self._seconds, expected_seconds=expected
            )
            joules = _difference(before, meter())
            if verdict.valid:
                break
            # It ran out of prepared queries: they were faster than the first ones had promised.
            expected = min(query.latency for query in seen) / 2
        return Turn(
            verdict.latency_ms["p50"],
            verdict.samples,
            verdict.samples * case.batch_size,
            tuple(seen),
            verdict=verdict,
            joules=joules,
        )


class Offline(Scenario):
    """All pictures at once, in whole batches: throughput."""

    name = OFFLINE

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._rates: dict[Case, float] = {}

    def warm_up(self, case: Case) -> None:
        """Also stream: a runner may compute streams by something of their own."""
        super().warm_up(case)
        for _ in case.stream([n % SAMPLES for n in range(WARM_UP_BATCHES * case.batch_size)]):
            pass

    def turn(self, case: Case, meter: Meter) -> Turn:
        """Give all samples to the runner's stream and count pictures per second."""
        if case not in self._rates:
            self._rates[case] = case.batch_size / _seconds_per_query(case)

        def answer(pictures: Sequence[int], results_are_there: Callable[[int], None]) -> None:
            for count in case.stream(pictures):
                results_are_there(count)

        for _ in range(TRIES):
            before = meter()
            verdict = loadgen.offline(
                answer,
                samples=SAMPLES,
                min_seconds=self._seconds,
                expected_per_s=self._rates[case],
                batch_size=case.batch_size,
            )
            joules = _difference(before, meter())
            if verdict.valid:
                break
            # The pictures were done sooner than was foreseen: ask for more.
            self._rates[case] *= 2
        assert verdict.samples_per_s is not None  # LoadGen counts them in this scenario
        ms = 1000 * case.batch_size / verdict.samples_per_s
        queries = -(-verdict.samples // case.batch_size)
        return Turn(ms, queries, verdict.samples, verdict=verdict, joules=joules)


class Server(Scenario):
    """Pictures at random moments: the highest rate at which p99 stays below a bound.

    rate valid?   yes ─▶ half as much again … until one is not  ─▶ bisect between the two
                  no  ─▶ half of it         … until one is      ─▶
    """

    name = SERVER

    def __init__(self, seconds: float, target_p99_ms: float) -> None:
        self._seconds = seconds
        self._target = target_p99_ms
        self._found: dict[Case, float] = {}
        self._warm: set[Case] = set()

    def batches(self, batch_size: int) -> Sequence[int]:
        """Return every size from the full batch to a lone picture: a batch is whatever waits."""
        return range(batch_size, 0, -1)

    def warm_up(self, case: Case) -> None:
        """Answer a batch of every size before the first turn, later the largest and the least."""
        sizes = self.batches(case.batch_size)
        for size in sizes if case not in self._warm else {sizes[0], sizes[-1]}:
            for _ in range(WARM_UP_RUNS):
                case.answer([number % SAMPLES for number in range(size)])
        self._warm.add(case)

    def turn(self, case: Case, meter: Meter) -> Turn:
        """Search the highest valid rate, starting where the last turn ended.

        Raises:
            MeasurementError: no rate is valid: a lone picture takes longer than the bound.
        """
        verdict, rate = self._search(case)
        self._found[case] = rate
        return Turn(
            1000 * case.batch_size / rate,
            verdict.samples,
            verdict.samples,
            latency_ms=verdict.latency_ms,
            verdict=verdict,
            target_p99_ms=self._target,
        )

    def _search(self, case: Case) -> tuple[Verdict, float]:
        alone = _seconds_alone(case)
        if 1000 * alone > self._target:
            raise self._hopeless(case, alone)
        rate = self._found.get(case, 0.6 / alone)
        best: Verdict | None = None
        low, high = 0.0, math.inf  # valid, invalid
        while high > low * (1 + RATE_RESOLUTION):
            verdict = self._trial(case, rate)
            if verdict.valid:
                best, low = verdict, rate
            else:
                high = rate
            if high * alone < LOWEST_UTILISATION:
                raise self._hopeless(case, alone)
            if high == math.inf:
                # A later turn begins at a rate that was valid: one small step up may do.
                rate = low * ((1 + RATE_RESOLUTION) if case in self._found else 1.5)
            else:
                rate = (low + high) / 2
        assert best is not None  # low has left 0
        return best, low

    def _hopeless(self, case: Case, alone: float) -> MeasurementError:
        return MeasurementError(
            f"no rate keeps p99 below {self._target:g} ms; a lone picture takes "
            f"{1000 * alone:.3g} ms",
            "raise --target-p99-ms",
        )

    def _trial(self, case: Case, rate: float) -> Verdict:
        return loadgen.server(
            case.answer,
            samples=SAMPLES,
            # A rate that is too high by one step of the search must be given the time to show it:
            # so long that its backlog outgrows the bound.
            min_seconds=max(self._seconds, self._target / 1000 / RATE_RESOLUTION),
            rate=rate,
            target_p99_ms=self._target,
            max_batch=case.batch_size,
        )


def _seconds_per_query(case: Case) -> float:
    return statistics.median(max(case.query(number).latency, 1e-6) for number in range(3))


def _seconds_alone(case: Case) -> float:
    lone = replace(case, batch_size=1)
    for number in range(WARM_UP_RUNS):
        lone.query(number)
    return _seconds_per_query(lone)


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


@dataclass(frozen=True)
class Row:
    """One line of the table: what a case took.

    Attributes:
        runner: what ran.
        scenario: of ``SCENARIOS``.
        tier: of ``TIERS``.
        batch_size: pictures per query.
        size: (height, width) in pixels.
        inputs_digest: of the pictures.
        repeats_ms: each turn's :attr:`Turn.ms`.
        numbers: which repeats of the run those are; empty where none is missing.
        queries: in all turns together.
        latency_ms: mean, p50, and of p90, p95, p99 those for which there were enough queries.
        cdf_ms: latencies at 0, 1, …, 100 % of the queries, or None.
        stages_ms: end to end, mean per query of each stage, or None.
        wall_ms: mean per query, the writing of masks included; None where ``stages_ms`` is.
        verdicts: LoadGen's, one a turn; empty where the timed loop ran.
        target_p99_ms: of the server scenario.
        energy_j_per_image: over all turns, or None.
    """

    runner: RunnerDescription
    scenario: str
    tier: str
    batch_size: int
    size: tuple[int, int]
    inputs_digest: str
    repeats_ms: tuple[float, ...]
    queries: int
    latency_ms: dict[str, float]
    cdf_ms: tuple[float, ...] | None = None
    stages_ms: dict[str, float] | None = None
    wall_ms: float | None = None
    verdicts: tuple[Verdict, ...] = ()
    target_p99_ms: float | None = None
    energy_j_per_image: float | None = None
    numbers: tuple[int, ...] = ()

    @property
    def by_repeat(self) -> dict[int, float]:
        """Number of a repeat → what it took, in milliseconds."""
        return dict(zip(self.numbers or range(len(self.repeats_ms)), self.repeats_ms, strict=True))

    @property
    def median_ms(self) -> float:
        """Median of the repeats, in milliseconds."""
        return statistics.median(self.repeats_ms)

    @property
    def spread_ms(self) -> tuple[float, float]:
        """Fastest and slowest repeat, in milliseconds; a server's rate is known no finer."""
        low, high = min(self.repeats_ms), max(self.repeats_ms)
        if self.scenario == SERVER:
            return low / (1 + RATE_RESOLUTION), high
        return low, high

    @property
    def variation(self) -> float:
        """Coefficient of variation of the repeats: standard deviation over mean."""
        return statistics.stdev(self.repeats_ms) / statistics.mean(self.repeats_ms)

    @property
    def images_per_s(self) -> float:
        """Throughput, in pictures per second; single stream: at one query at a time."""
        return 1000 * self.batch_size / self.median_ms

    @property
    def question(self) -> Workload:
        """Rows of the same question may be ranked against each other."""
        return Workload(
            self.scenario,
            self.target_p99_ms,
            LOADGEN if self.verdicts else LOOP,
            self.tier,
            self.batch_size,
            self.size,
            self.inputs_digest,
        )

    @property
    def verdict(self) -> str | None:
        """``VALID`` where every turn was, else ``INVALID``; None where LoadGen did not run."""
        if not self.verdicts:
            return None
        return "VALID" if all(verdict.valid for verdict in self.verdicts) else "INVALID"

    @property
    def early_stopping_ms(self) -> float | None:
        """LoadGen's estimate of p90 in single stream, of the slowest turn; or None."""
        known = [v.early_stopping_ms for v in self.verdicts if v.early_stopping_ms is not None]
        return max(known, default=None)

    @property
    def settings(self) -> Settings | None:
        """The least that LoadGen was asked for in any turn, or None."""
        known = [v.settings for v in self.verdicts if v.settings is not None]
        return min(known, key=lambda s: (s.min_seconds, s.min_queries), default=None)

    @property
    def label(self) -> str:
        """Runner and conditions, for messages."""
        height, width = self.size
        return (
            f"{self.runner.backend} {self.runner.precision} {self.tier} "
            f"{self.batch_size}×{height}×{width}"
        )


@dataclass(frozen=True)
class Ratio:
    """How many times faster a row is than another of the same question, repeat by repeat.

    Attributes:
        median: over the repeats.
        low: the worst repeat.
        high: the best repeat.
        tie: whether the spreads of the two rows overlap: then neither is faster.
    """

    median: float
    low: float
    high: float
    tie: bool


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
        runner.keep(len(shapes))
    on_device = TimedLoop(device_seconds)
    needed = max(MIN_REPEATS, repeats // 2 + 1)  # of any two rows, some repeats pair up
    turns: dict[Case, dict[int, Turn]] = {case: {} for case in cases}
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
    return [_row(case, scenario.name, taken) for case, taken in turns.items()]


def _one_turn(case: Case, scenario: Scenario, energy_joules: Meter) -> Turn:
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


def _row(case: Case, scenario: str, by_repeat: Mapping[int, Turn]) -> Row:
    turns = [*by_repeat.values()]
    seen = [query for turn in turns for query in turn.seen]
    queries = sum(turn.queries for turn in turns)
    latencies = [1000 * query.latency for query in seen]
    return Row(
        runner=case.runner.describe(),
        scenario=scenario,
        tier=case.tier,
        batch_size=case.batch_size,
        size=case.inputs.size,
        inputs_digest=case.inputs.digest,
        repeats_ms=tuple(turn.ms for turn in turns),
        numbers=tuple(by_repeat),
        queries=queries,
        latency_ms=percentiles(latencies) if seen else _worst_latencies(turns),
        cdf_ms=_cdf(latencies),
        stages_ms=_mean_stages(seen),
        wall_ms=_mean_wall(seen),
        verdicts=tuple(turn.verdict for turn in turns if turn.verdict is not None),
        target_p99_ms=turns[0].target_p99_ms,
        energy_j_per_image=_energy_per_image(turns),
    )


def _energy_per_image(turns: Sequence[Turn]) -> float | None:
    joules = [turn.joules for turn in turns if turn.joules is not None]
    if len(joules) < len(turns):
        return None
    return sum(joules) / sum(turn.pictures for turn in turns)


def _worst_latencies(turns: Sequence[Turn]) -> dict[str, float]:
    names = turns[0].latency_ms.keys()
    return {name: max(turn.latency_ms[name] for turn in turns) for name in names}


def _cdf(latencies: Sequence[float]) -> tuple[float, ...] | None:
    if len(latencies) < MIN_QUERIES["p90"]:
        return None
    quantiles = np.quantile(latencies, np.linspace(0, 1, 101))
    return tuple(float(latency) for latency in quantiles)


def _mean_stages(seen: Sequence[Query]) -> dict[str, float] | None:
    staged = [query.stages for query in seen if query.stages is not None]
    if not staged:
        return None
    return {
        stage: 1000 * statistics.fmean(stages[stage] for stages in staged) for stage in ALL_STAGES
    }


def _mean_wall(seen: Sequence[Query]) -> float | None:
    walls = [query.wall for query in seen if query.stages is not None]
    return 1000 * statistics.fmean(walls) if walls else None


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """Return mean, p50 and the nearest-rank p90, p95, p99 for which there are enough queries."""
    ordered = sorted(latencies)
    return {"mean": statistics.fmean(ordered), "p50": statistics.median(ordered)} | {
        name: ordered[-(-int(name[1:]) * len(ordered) // 100) - 1]
        for name, fewest in MIN_QUERIES.items()
        if len(ordered) >= fewest
    }


def speedup(row: Row, over: Row) -> Ratio:
    """Return how many times faster ``row`` is than ``over``, from repeats side by side.

    Raises:
        InputError: they answer different questions.
    """
    if row.question != over.question:
        raise InputError(
            "rows of different scenario, bound, clock, tier, batch, size or inputs are not ranked"
        )
    ours, theirs = row.by_repeat, over.by_repeat
    ratios = [theirs[number] / ours[number] for number in ours.keys() & theirs.keys()]
    unknown = 1 + RATE_RESOLUTION if row.scenario == SERVER and row is not over else 1.0
    return Ratio(
        statistics.median(ratios),
        min(ratios) / unknown,
        max(ratios) * unknown,
        tie(row.spread_ms, over.spread_ms),
    )


@dataclass(frozen=True)
class Conditions:
    """What the machine was doing, as JSON values.

    Attributes:
        threads: CPU threads that every runner was pinned to.
        load_before: load average of the minute before.
        load_after: and of the last one.
        steal_share: of the CPU's time that the host gave to others, or None.
        others_share: of the machine's CPU time, what other programs took, or None.
        gpu_before: readings of each GPU.
        gpu_after: readings of each GPU.
        warnings: sentences: why to doubt the figures.
    """

    threads: int
    load_before: float | None = None
    load_after: float | None = None
    steal_share: float | None = None
    others_share: float | None = None
    gpu_before: tuple[dict[str, Any], ...] = ()
    gpu_after: tuple[dict[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()


def bench_document(
    rows: Sequence[Row],
    inputs_source: str,
    conditions: Conditions,
    cold_starts: Sequence[Mapping[str, Any]] = (),
    loop_reason: str | None = None,
    seconds: float | None = None,
    options: Sequence[str] | None = None,
    distinct: int = NUM_INPUTS,
) -> dict[str, Any]:
    """Return the JSON document of a run of the clock on this machine.

    Args:
        rows: what was measured.
        inputs_source: where the pictures come from.
        conditions: what the machine was doing.
        cold_starts: what each backend costs before its first figure.
        loop_reason: why the timed loop ran in LoadGen's stead, if it did.
        seconds: that a row was timed at least, per repeat.
        options: of the command line, as they were typed; None where no command measured.
        distinct: how many of the pictures differ, the fewest of a size.
    """
    by_loadgen = any(row.verdicts for row in rows)
    return {
        **result_header("bench", BENCH_SCHEMA),
        "options": None if options is None else list(options),
        "inputs": {"source": inputs_source, "distinct": distinct},
        "clock": {
            "name": LOADGEN if by_loadgen else LOOP,
            "version": loadgen.version() if by_loadgen else None,
            "reason": loop_reason,
            "seconds": seconds,
        },
        "conditions": asdict(conditions),
        "runners": list(cold_starts),
        "rows": [_row_json(row, rows) for row in rows],
    }


def _row_json(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    baseline = baseline_of(row, rows)
    ratio = None if baseline is None else speedup(row, baseline)
    return {
        "runner": row.runner.to_json(),
        "scenario": row.scenario,
        "tier": row.tier,
        "batch_size": row.batch_size,
        "size": list(row.size),
        "concurrency": 1 if row.scenario == SINGLE_STREAM else None,
        "inputs_digest": row.inputs_digest,
        "repeats_ms": list(row.repeats_ms),
        "queries": row.queries,
        "latency_ms": row.latency_ms,
        "cdf_ms": None if row.cdf_ms is None else [round(ms, 4) for ms in row.cdf_ms],
        "median_ms": row.median_ms,
        "spread_ms": list(row.spread_ms),
        "cv": row.variation,
        "images_per_s": row.images_per_s,
        "stages_ms": row.stages_ms,
        "wall_ms": row.wall_ms,
        "loadgen": _loadgen_json(row),
        "energy_j_per_image": row.energy_j_per_image,
        "speedup_over_baseline": None if ratio is None else asdict(ratio),
    }


def _loadgen_json(row: Row) -> dict[str, Any] | None:
    if not row.verdicts:
        return None
    problems = [problem for verdict in row.verdicts for problem in verdict.problems]
    settings = row.settings
    return {
        "valid": row.verdict == "VALID",
        "verdict": row.verdict,
        "early_stopping_ms": row.early_stopping_ms,
        "target_p99_ms": row.target_p99_ms,
        "problems": list(dict.fromkeys(problems)),
        "settings": None if settings is None else asdict(settings),
    }
