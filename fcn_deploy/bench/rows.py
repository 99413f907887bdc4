"""From the repeats of a case to the row of a bench."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from fcn_deploy.bench import loadgen
from fcn_deploy.bench.case import Case, Query
from fcn_deploy.bench.scenarios import Repeat
from fcn_deploy.results.bench import ALL_STAGES, CDF_POINTS, BenchRow, LoadGenVerdict
from fcn_deploy.results.ranking import RATE_RESOLUTION
from fcn_deploy.results.scenarios import SERVER

#: Fewest queries below which a percentile is not printed (MLPerf's rule for its early stopping).
MIN_QUERIES = {"p90": loadgen.P90_QUERIES, "p95": 130, "p99": loadgen.P99_QUERIES}


def row_of_repeats(case: Case, scenario: str, by_repeat: Mapping[int, Repeat]) -> BenchRow:
    """Return the row that the repeats of a case make together, without a ratio yet."""
    repeats = [*by_repeat.values()]
    seen = [query for repeat in repeats for query in repeat.seen]
    latencies = [1000 * query.latency for query in seen]
    return BenchRow(
        runner=case.runner.describe(),
        scenario=scenario,
        tier=case.tier,
        batch_size=case.batch_size,
        size=case.inputs.size,
        inputs_digest=case.inputs.digest,
        queries=sum(repeat.queries for repeat in repeats),
        latency_ms=percentiles(latencies) if seen else _worst_latencies(repeats),
        cdf_ms=_cdf(latencies),
        stages_ms=_mean_stages(seen),
        wall_ms=_mean_wall(seen),
        loadgen=verdict_of_repeats([r.verdict for r in repeats if r.verdict is not None]),
        energy_j_per_image=_energy_per_image(repeats),
        **timing({n: repeat.ms for n, repeat in by_repeat.items()}, scenario, case.batch_size),
    )


class Timing(TypedDict):
    """The fields of a :class:`BenchRow` that follow from its repeats."""

    repeats_ms: tuple[float, ...]
    repeat_numbers: tuple[int, ...]
    median_ms: float
    spread_ms: tuple[float, float]
    cv: float
    images_per_s: float


def timing(by_repeat: Mapping[int, float], scenario: str, batch_size: int) -> Timing:
    """Return the median of some repeats with what follows from it and from their spread.

    Args:
        by_repeat: number of a repeat → what it took, in milliseconds.
        scenario: of ``SCENARIOS``.
        batch_size: pictures per query.
    """
    repeats_ms = [*by_repeat.values()]
    median = statistics.median(repeats_ms)
    fastest, slowest = min(repeats_ms), max(repeats_ms)
    if scenario == SERVER:  # its rate is known no finer
        fastest /= 1 + RATE_RESOLUTION
    return Timing(
        repeats_ms=tuple(repeats_ms),
        repeat_numbers=tuple(by_repeat),
        median_ms=median,
        spread_ms=(fastest, slowest),
        cv=statistics.stdev(repeats_ms) / statistics.mean(repeats_ms),
        images_per_s=1000 * batch_size / median,
    )


def verdict_of_repeats(verdicts: Sequence[LoadGenVerdict]) -> LoadGenVerdict | None:
    """Return LoadGen's verdict on a row from those on its repeats; None where it was not asked.

    One repeat that is invalid makes the row invalid.
    """
    if not verdicts:
        return None
    early = [v.early_stopping_ms for v in verdicts if v.early_stopping_ms is not None]
    settings = [v.settings for v in verdicts if v.settings is not None]
    return LoadGenVerdict(
        valid=all(verdict.valid for verdict in verdicts),
        early_stopping_ms=max(early, default=None),
        target_p99_ms=verdicts[0].target_p99_ms,
        problems=tuple(dict.fromkeys(p for verdict in verdicts for p in verdict.problems)),
        settings=min(settings, key=lambda s: (s.min_seconds, s.min_queries), default=None),
    )


def _energy_per_image(repeats: Sequence[Repeat]) -> float | None:
    joules = [repeat.joules for repeat in repeats if repeat.joules is not None]
    if len(joules) < len(repeats):
        return None
    return sum(joules) / sum(repeat.pictures for repeat in repeats)


def _worst_latencies(repeats: Sequence[Repeat]) -> dict[str, float]:
    names = repeats[0].latency_ms.keys()
    return {name: max(repeat.latency_ms[name] for repeat in repeats) for name in names}


def _cdf(latencies: Sequence[float]) -> tuple[float, ...] | None:
    if len(latencies) < MIN_QUERIES["p90"]:
        return None
    quantiles = np.quantile(latencies, np.linspace(0, 1, CDF_POINTS))
    return tuple(round(float(latency), 4) for latency in quantiles)


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
