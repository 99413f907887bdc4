"""What bench files and turns say of speed on a GPU, and of the machine meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from fcn_deploy.core.errors import InputError
from fcn_deploy.results.bench import Bench, BenchRow
from fcn_deploy.results.bench_table import ratio_cell
from fcn_deploy.results.conditions import ColdStart, Sensor
from fcn_deploy.results.format import number
from fcn_deploy.results.ranking import speedup
from fcn_deploy.results.ratio import Ratio
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.scenarios import OFFLINE
from gpu_page.findings import FP16, MISSED, REACHED, Finder, Finding, label, shape_words, variant
from gpu_page.results import GpuResults, unique

TRT = "trt"
#: What the engine has to be over the plain export, from host memory to host memory.
TIMES_PLAIN_EXPORT = 10


def speed(*backends: str, precision: str = FP16) -> Finder:
    """Return the finder of the rows of some backends, and of the plain export beside them."""

    def find(results: GpuResults) -> Iterator[Finding]:
        for bench in results.benches:
            rows = [
                row
                for row in bench.rows
                if row.runner.on_gpu and row.runner.backend in backends
                and (row.is_baseline or row.runner.precision == precision)
            ]  # fmt: skip
            for runner in dict.fromkeys(row.runner for row in rows):
                own = [row for row in rows if row.runner == runner]
                parts = {f"{label(runner)}, {row.conditions}": row_words(row) for row in own}
                yield _of_rows(bench, own, parts, f"{label(runner)}: ")

    return find


def peers() -> Finder:
    """Return the finder of a bench that has peers on a GPU: all its rows there."""

    def find(results: GpuResults) -> Iterator[Finding]:
        for bench in results.benches:
            rows = [row for row in bench.rows if row.runner.on_gpu]
            if any(row.is_peer for row in rows):
                rows.sort(key=lambda row: (row.conditions, row.median_ms))
                words = "; ".join(f"{label(row.runner)}: {row_words(row)}" for row in rows)
                yield _of_rows(bench, rows, {"": words})

    return find


def row_words(row: BenchRow) -> str:
    """Return a row's workload and its figure; milliseconds are those of a batch."""
    fastest, slowest = row.spread_ms
    doubt = "" if row.is_valid else " (INVALID by LoadGen)"
    figure = (
        f"{number(row.images_per_s)} images/s"
        if row.scenario == OFFLINE
        else f"{number(row.median_ms)} ms [{number(fastest)}–{number(slowest)}]"
    )
    return f"{row.conditions}: {figure}{doubt}"


def ahead_of_others(tier: str, batch_size: int) -> Finder:
    """Return the finder of how ``trt`` FP16 stands against all others of its own run."""

    def find(results: GpuResults) -> Iterator[Finding]:
        for bench, row in results.rows_on_gpu():
            if not is_trt(row.runner, FP16) or not row.is_valid:
                continue
            others = [(o, ratio) for o, ratio in _ratios(row, bench) if o.runner.backend != TRT]
            if (row.tier, row.batch_size) == (tier, batch_size) and others:
                ahead = all(ratio.verdict == "faster" for _other, ratio in others)
                told = [f"{ratio_cell(ratio)} × {label(other.runner)}" for other, ratio in others]
                words = "; ".join(["ahead of all" if ahead else "not ahead of all", *told])
                compared = [row, *(other for other, _ratio in others)]
                tail = variant(row.runner)
                yield _of_rows(bench, compared, {tail: words}, f"{tail}: " if tail else "")

    return find


def is_trt(runner: RunnerDescription, precision: str) -> bool:
    """Say whether a runner is an engine of a precision on a GPU."""
    return runner.on_gpu and (runner.backend, runner.precision) == (TRT, precision)


def _ratios(row: BenchRow, bench: Bench) -> Iterator[tuple[BenchRow, Ratio]]:
    """Yield how many times faster a row is than each other one on a GPU, of the same workload."""
    for other in bench.rows:
        if other is not row and other.workload == row.workload and other.runner.on_gpu:
            try:
                yield other, speedup(row, other)
            except InputError:  # no repeat in common
                continue


def in_turns(*, over_plain_export: bool) -> Finder:
    """Return the finder of ratios between an engine and what took turns with it.

    Args:
        over_plain_export: over that alone, with the verdict on :data:`TIMES_PLAIN_EXPORT`;
            otherwise over all others.
    """

    def find(results: GpuResults) -> Iterator[Finding]:
        for turns in results.turns:
            parts: dict[str, str] = {}
            engine = turns.engine
            for row in turns.rows if is_trt(engine, FP16) else ():
                if row.over.startswith("baseline") != over_plain_export:
                    continue
                reached = REACHED if row.median >= TIMES_PLAIN_EXPORT else MISSED
                other = f"`{row.over}` {row.precision}"
                asked = f"{row.engine_tier}, {shape_words(row.batch_size, row.size)}"
                parts[f"{label(engine)}, {asked}, {other}, {row.tier}"] = (
                    f"{asked}: {number(row.median)} × ({number(row.low)}–{number(row.high)}) "
                    + (reached if over_plain_export else other)
                )
            if parts:
                tail = variant(engine)
                head = f"{tail}: " if tail else ""
                yield Finding.of(turns.environment, engine.device, engine.library, parts, head)

    return find


# -- what the machine did meanwhile -------------------------------------------------------------


def sensors() -> Finder:
    """Return the finder of clocks, temperature, power and energy beside a bench."""

    def find(results: GpuResults) -> Iterator[Finding]:
        for bench in results.benches:
            readings = [*bench.conditions.gpu_before[:1], *bench.conditions.gpu_after[:1]]
            rows = [row for row in bench.rows if row.runner.on_gpu]
            energies = [
                f"{label(row.runner)}, {row.conditions}: {number(row.energy_j_per_image)} J/image"
                for row in rows
                if row.energy_j_per_image is not None
            ]
            if readings:
                words = [" → ".join(map(_reading, readings)), *energies]
                yield _of_rows(bench, rows, {"": "; ".join(words)})

    return find


def _reading(sensor: Sensor) -> str:
    figures = [
        f"{number(value)} {unit}"
        for value, unit in (
            (sensor.sm_clock_mhz, "MHz"), (sensor.temperature_c, "°C"), (sensor.power_w, "W"),
        )
        if value is not None
    ]  # fmt: skip
    held = sensor.throttle_reasons
    return ", ".join(figures + ([f"held back by {', '.join(held)}"] if held else []))


def cold_starts(backend: str) -> Finder:
    """Return the finder of what a backend costs before its first mask."""

    def find(results: GpuResults) -> Iterator[Finding]:
        for bench in results.benches:
            for start in bench.cold_starts:
                runner = start.runner
                if runner.on_gpu and runner.backend == backend:
                    name = label(runner)
                    yield Finding.of(
                        bench.environment,
                        runner.device,
                        runner.library,
                        {name: f"{name}: {_start(start)}"},
                    )

    return find


def _start(start: ColdStart) -> str:
    if start.error is not None:
        return f"FAILED: {start.error}"
    words = f"{number(start.cold_start_ms)} ms to the first mask"
    memory = start.device_memory_mib
    return words + ("" if memory is None else f", {number(memory)} MiB of the GPU's memory")


def _of_rows(
    bench: Bench, rows: Iterable[BenchRow], parts: Mapping[str, str], head: str = ""
) -> Finding:
    """Return what rows of a bench say, which all ran on one GPU."""
    runners = [row.runner for row in rows]
    versions = "; ".join(unique(runner.library for runner in runners))
    return Finding.of(bench.environment, runners[0].device, versions, parts, head)
