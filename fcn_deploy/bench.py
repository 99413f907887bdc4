"""The only clock in the project: what a runner takes, tier by tier, all runners interleaved.

    for each repeat                    # so that a slow minute of the machine hits everyone
        for each runner and batch      # in rotating order
            warm up, then time queries over several distinct inputs

Tiers, never mixed: ``device`` is computing alone, by the device's own events, and only for runners
that have them; ``host`` is uint8 pictures in host memory → masks in host memory; ``end-to-end`` is
encoded pictures on disk → masks in host memory.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.artifacts import write_error
from fcn_deploy.errors import InputError
from fcn_deploy.images import read_image
from fcn_deploy.machine import describe_machine, describe_versions, utc_now
from fcn_deploy.runners.base import Runner, RunnerDescription

BENCH_SCHEMA = 1
DEVICE, HOST, END_TO_END = "device", "host", "end-to-end"
TIERS = (DEVICE, HOST, END_TO_END)
#: Fewest queries below which a percentile is not printed (MLPerf's rule for its early stopping).
MIN_QUERIES = {"p90": 64, "p95": 130, "p99": 662}
#: Distinct pictures per size: one alone would measure warm caches.
NUM_INPUTS = 8
WARM_UP_RUNS = 2
MIN_REPEATS = 3


@dataclass(frozen=True)
class Inputs:
    """Pictures of one size, encoded on disk and decoded in memory; the same for all runners.

    Attributes:
        size: (height, width) in pixels.
        files: JPEG files.
        images: uint8 [n, H, W, 3], what the files decode to.
        digest: of the decoded pixels.
    """

    size: tuple[int, int]
    files: tuple[Path, ...]
    images: NDArray[np.uint8]
    digest: str

    def batch(self, query: int, batch_size: int) -> NDArray[np.uint8]:
        """Return the pictures of a query, uint8 [batch_size, H, W, 3]."""
        return self.images[self._picked(query, batch_size)]

    def batch_files(self, query: int, batch_size: int) -> list[Path]:
        """Return the files of a query."""
        return [self.files[i] for i in self._picked(query, batch_size)]

    def _picked(self, query: int, batch_size: int) -> list[int]:
        return [(query * batch_size + k) % len(self.files) for k in range(batch_size)]


def make_inputs(
    pictures: Sequence[NDArray[np.uint8]], size: tuple[int, int], folder: Path
) -> Inputs:
    """Encode pictures at a size, for the end-to-end tier, and decode them for the host tier.

    Args:
        pictures: uint8 [h, w, 3] of any size, at least one.
        size: (height, width) in pixels to resize them to.
        folder: where the JPEG files go.

    Raises:
        InputError: there are no pictures.
        ArtifactError: the folder cannot be written.
    """
    if not pictures:
        raise InputError("no pictures to measure with", "name a folder with --images")
    height, width = size
    files = []
    for number in range(NUM_INPUTS):
        path = folder / f"{height}x{width}-{number}.jpg"
        picture = Image.fromarray(pictures[number % len(pictures)])
        try:
            picture.resize((width, height), Image.Resampling.BILINEAR).save(path, quality=92)
        except OSError as error:
            raise write_error(path, error) from error
        files.append(path)
    images = np.stack([read_image(path) for path in files])
    digest = hashlib.sha256(repr(images.shape).encode() + images.tobytes()).hexdigest()
    return Inputs(size, tuple(files), images, f"sha256:{digest}")


@dataclass(frozen=True)
class Case:
    """One thing to measure: a runner at a tier, batch size and picture size."""

    runner: Runner
    tier: str
    batch_size: int
    inputs: Inputs

    def seconds(self, number: int) -> float:
        """Run one query, start to finish, and return what it took."""
        if self.tier == DEVICE:
            spent = self.runner.device_seconds(self.inputs.batch(number, self.batch_size))
            assert spent is not None  # _can_measure has asked
            return spent
        started = time.perf_counter()
        self._run(number)
        return time.perf_counter() - started

    def _run(self, number: int) -> None:
        if self.tier == HOST:
            self.runner.run(self.inputs.batch(number, self.batch_size))
        else:
            files = self.inputs.batch_files(number, self.batch_size)
            self.runner.run(np.stack([read_image(path) for path in files]))


@dataclass(frozen=True)
class Row:
    """One line of the table: what a case took.

    Attributes:
        runner: what ran.
        tier: of ``TIERS``.
        batch_size: pictures per query.
        size: (height, width) in pixels.
        inputs_digest: of the pictures.
        repeats_ms: median latency per query of each repeat, in milliseconds.
        queries: timed in all repeats together.
        latency_ms: over all queries, those of p90, p95, p99 for which there were enough.
    """

    runner: RunnerDescription
    tier: str
    batch_size: int
    size: tuple[int, int]
    inputs_digest: str
    repeats_ms: tuple[float, ...]
    queries: int
    latency_ms: dict[str, float]

    @property
    def median_ms(self) -> float:
        """Median of the repeats' medians, in milliseconds."""
        return statistics.median(self.repeats_ms)

    @property
    def spread_ms(self) -> tuple[float, float]:
        """Fastest and slowest repeat, in milliseconds."""
        return min(self.repeats_ms), max(self.repeats_ms)

    @property
    def images_per_s(self) -> float:
        """Throughput at one query at a time, in pictures per second."""
        return 1000 * self.batch_size / self.median_ms

    @property
    def group(self) -> tuple[str, int, tuple[int, int]]:
        """Rows of one group may be ranked against each other."""
        return self.tier, self.batch_size, self.size


@dataclass(frozen=True)
class Ratio:
    """How many times faster a row is than another of its group, repeat by repeat.

    Attributes:
        median: over the repeats.
        low: the worst repeat.
        high: the best repeat.
    """

    median: float
    low: float
    high: float

    @property
    def tie(self) -> bool:
        """Whether the spread includes 1: then neither is faster."""
        return self.low <= 1 <= self.high


def measure(
    runners: Sequence[Runner],
    inputs: Sequence[Inputs],
    batch_sizes: Sequence[int],
    *,
    tiers: Sequence[str] = TIERS,
    repeats: int = 5,
    seconds_per_repeat: float = 0.5,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Measure every runner at every tier, batch size and picture size, interleaved.

    Args:
        runners: open runners.
        inputs: pictures, one entry per size.
        batch_sizes: pictures per query.
        tiers: of ``TIERS``.
        repeats: how often every case takes its turn, at least 3.
        seconds_per_repeat: about how long a case is timed in each turn.
        on_step: told after each turn of a case how many are done, and of how many.

    Raises:
        InputError: too few repeats.
    """
    if repeats < MIN_REPEATS:
        raise InputError(f"{repeats} repeats show no spread", f"use at least {MIN_REPEATS}")
    cases = [
        Case(runner, tier, batch_size, pictures)
        for pictures in inputs
        for batch_size in batch_sizes
        for tier in tiers
        for runner in runners
        if _can_measure(runner, tier, pictures, batch_size)
    ]
    counts = [_queries_in(case, seconds_per_repeat) for case in cases]
    samples: list[list[list[float]]] = [[] for _ in cases]
    for repeat in range(repeats):
        for step in range(len(cases)):
            index = (step + repeat) % len(cases)
            samples[index].append(_time_queries(cases[index], counts[index]))
            on_step(repeat * len(cases) + step + 1, repeats * len(cases))
    return [_row(case, times) for case, times in zip(cases, samples, strict=True)]


def _can_measure(runner: Runner, tier: str, inputs: Inputs, batch_size: int) -> bool:
    return tier != DEVICE or runner.device_seconds(inputs.batch(0, batch_size)) is not None


def _queries_in(case: Case, seconds: float) -> int:
    for number in range(WARM_UP_RUNS):
        case.seconds(number)
    once = case.seconds(0)
    return max(3, min(1000, round(seconds / max(once, 1e-6))))


def _time_queries(case: Case, queries: int) -> list[float]:
    for number in range(WARM_UP_RUNS):  # the runner before has left its threads and caches behind
        case.seconds(number)
    return [1000 * case.seconds(number) for number in range(queries)]


def _row(case: Case, repeats: list[list[float]]) -> Row:
    everything = [latency for repeat in repeats for latency in repeat]
    return Row(
        runner=case.runner.describe(),
        tier=case.tier,
        batch_size=case.batch_size,
        size=case.inputs.size,
        inputs_digest=case.inputs.digest,
        repeats_ms=tuple(statistics.median(repeat) for repeat in repeats),
        queries=len(everything),
        latency_ms=percentiles(everything),
    )


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """Return the nearest-rank p90, p95, p99 for which there are enough queries."""
    ordered = sorted(latencies)
    return {
        name: ordered[-(-int(name[1:]) * len(ordered) // 100) - 1]
        for name, fewest in MIN_QUERIES.items()
        if len(ordered) >= fewest
    }


def speedup(row: Row, over: Row) -> Ratio:
    """Return how many times faster ``row`` is than ``over``, from repeats side by side.

    Raises:
        InputError: the two are of different tiers, batch sizes or picture sizes.
    """
    if row.group != over.group or row.inputs_digest != over.inputs_digest:
        raise InputError("rows of different tier, batch, size or inputs are not ranked")
    ratios = [b / a for a, b in zip(row.repeats_ms, over.repeats_ms, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def baseline_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """Return the baseline's row of the same group, or None where it was not measured."""
    for other in rows:
        if other.runner.backend == "baseline" and other.group == row.group:
            return other
    return None


def bench_document(
    rows: Sequence[Row], inputs_source: str, load_before: float | None
) -> dict[str, Any]:
    """Return the JSON document of a run of the clock on this machine.

    Args:
        rows: what was measured.
        inputs_source: where the pictures come from.
        load_before: the system's load average before the run.
    """
    return {
        "schema": BENCH_SCHEMA,
        "kind": "bench",
        "created": utc_now(),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "inputs": {"source": inputs_source, "distinct": NUM_INPUTS},
        "load_before": load_before,
        "rows": [_row_json(row, rows) for row in rows],
    }


def _row_json(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    baseline = baseline_of(row, rows)
    ratio = None if baseline is None else speedup(row, baseline)
    return {
        "runner": row.runner.to_json(),
        "tier": row.tier,
        "batch_size": row.batch_size,
        "size": list(row.size),
        "concurrency": 1,
        "inputs_digest": row.inputs_digest,
        "repeats_ms": list(row.repeats_ms),
        "queries": row.queries,
        "latency_ms": row.latency_ms,
        "median_ms": row.median_ms,
        "spread_ms": list(row.spread_ms),
        "images_per_s": row.images_per_s,
        "speedup_over_baseline": None if ratio is None else {**asdict(ratio), "tie": ratio.tie},
    }


def system_load() -> float | None:
    """Return the load average of the last minute, or None where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
