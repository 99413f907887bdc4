"""Samples to rows and ratios."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fcn_deploy.bench import loadgen
from fcn_deploy.bench.case import Case, Query
from fcn_deploy.bench.inputs import NUM_INPUTS
from fcn_deploy.bench.loadgen import RATE_RESOLUTION, Verdict
from fcn_deploy.bench.scenarios import Repeat
from fcn_deploy.core.errors import InputError
from fcn_deploy.results.bench import ALL_STAGES, SERVER, SINGLE_STREAM, Settings
from fcn_deploy.results.environment import result_header
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.workload import LOADGEN, LOOP, Workload, baseline_of, tie

BENCH_SCHEMA = 2
#: Fewest queries below which a percentile is not printed (MLPerf's rule for its early stopping).
MIN_QUERIES = {"p90": loadgen.P90_QUERIES, "p95": 130, "p99": loadgen.P99_QUERIES}


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


def row_of_repeats(case: Case, scenario: str, by_repeat: Mapping[int, Repeat]) -> Row:
    """Return the row that the repeats of a case make together."""
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


def _energy_per_image(turns: Sequence[Repeat]) -> float | None:
    joules = [turn.joules for turn in turns if turn.joules is not None]
    if len(joules) < len(turns):
        return None
    return sum(joules) / sum(turn.pictures for turn in turns)


def _worst_latencies(turns: Sequence[Repeat]) -> dict[str, float]:
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
