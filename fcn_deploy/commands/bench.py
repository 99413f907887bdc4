"""``fcn-deploy bench``: what is measured, on which pictures, and its table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fcn_deploy.bench.conditions import ConditionWatch
from fcn_deploy.bench.inputs import one_picture_warnings
from fcn_deploy.commands.bench_tables import print_cold_starts, print_rows, print_stages
from fcn_deploy.commands.shared.backends import (
    open_backend,
    open_baselines,
    require_backends,
    usable_backends,
)
from fcn_deploy.commands.shared.cold_starts import cold_starts
from fcn_deploy.commands.shared.console import EXIT_FAILED, bar, console
from fcn_deploy.commands.shared.options import (
    Counts,
    Percentage,
    Size,
    device_option,
    precision_options,
    run_argument,
    threads_option,
    trust_option,
    typed_options,
)
from fcn_deploy.commands.shared.pictures import bench_pictures
from fcn_deploy.commands.shared.runs import result_name, run_from_argument
from fcn_deploy.core.errors import BackendError, InputError
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.bench import OFFLINE, SCENARIOS, SERVER, SINGLE_STREAM

if TYPE_CHECKING:
    from fcn_deploy.bench.regression import SpeedChange
    from fcn_deploy.bench.scenarios import Scenario


@click.command()
@run_argument
@click.option(
    "--backend", "backends", multiple=True, help="Backend, repeatable; default: all that run."
)
@precision_options
@click.option(
    "--scenario", "scenario_name", type=click.Choice(SCENARIOS),
    default=SINGLE_STREAM, show_default=True,
    help="MLPerf's: one query after another; all at once; at random moments.",
)  # fmt: skip
@click.option(
    "--target-p99-ms", type=click.FloatRange(min=0, min_open=True),
    help="Server: bound of the 99th percentile.",
)  # fmt: skip
@click.option(
    "--clock", type=click.Choice(["auto", "loadgen", "loop"]), default="auto", show_default=True,
    help="MLPerf LoadGen, or a plain timed loop (single stream only); auto: LoadGen if installed.",
)  # fmt: skip
@click.option(
    "--tier", "tiers", type=click.Choice(["device", "host", "end-to-end"]), multiple=True,
    help="What is in the time, repeatable; default: all that a backend has.",
)  # fmt: skip
@click.option("--batch", "batches", type=Counts(), default="1", show_default=True)
@click.option(
    "--size", "sizes", type=Size(), multiple=True, default=[(320, 480)], help="Default 320x480."
)
@click.option("--repeats", type=click.IntRange(min=3), default=5, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=0.5, show_default=True,
    help="A row is timed at least so long per repeat (and LoadGen asks at least 64 queries).",
)  # fmt: skip
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Pictures to measure with; default: built-in scenes.",
)
@click.option(
    "--cold-start/--no-cold-start", default=True, show_default=True,
    help="Also start every backend in a process of its own: cold start and peak memory.",
)  # fmt: skip
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Result file.")
@click.option(
    "--compare", "older", type=click.Path(path_type=Path),
    help="An older result of this machine: exit code 1 where a row is slower, or lost.",
)  # fmt: skip
@click.option(
    "--max-slowdown", type=Percentage(), default="10%", show_default=True,
    help="How much slower counts, if it is beyond the spread as well.",
)  # fmt: skip
@device_option
@threads_option
@trust_option
def bench(
    run: str | None,
    backends: tuple[str, ...],
    precision: Precision,
    scenario_name: str,
    target_p99_ms: float | None,
    clock: str,
    tiers: tuple[str, ...],
    batches: tuple[int, ...],
    sizes: tuple[tuple[int, int], ...],
    repeats: int,
    seconds: float,
    images: Path | None,
    cold_start: bool,
    json_file: Path | None,
    older: Path | None,
    max_slowdown: float,
    device: str,
    threads: int | None,
    trust: bool,
) -> None:
    """Measure backends and the plain-export baseline, interleaved, with their spread."""
    import tempfile
    from contextlib import ExitStack

    from fcn_deploy.bench.inputs import make_inputs
    from fcn_deploy.bench.measure import measure
    from fcn_deploy.bench.regression import Asked, compare, read_bench, require_machine
    from fcn_deploy.bench.rows import bench_document
    from fcn_deploy.core.files import probe, write_json
    from fcn_deploy.machine.description import describe_machine, usable_cores
    from fcn_deploy.machine.sensors import energy_joules
    from fcn_deploy.results.bench import TIERS
    from fcn_deploy.results.workload import LOADGEN, LOOP, Workload

    source = run_from_argument(run, trust)
    pinned, threads = threads, threads or usable_cores()
    scenario, loop_reason = _scenario(scenario_name, clock, seconds, target_p99_ms)
    before = None if older is None else read_bench(older)  # before the minutes are spent
    if before is not None:
        here = {k: str(v) for k, v in describe_machine().items() if v is not None}
        require_machine(before, here)
    # Said twice is meant once: a row beside itself would be a tie.
    backends, tiers = tuple(dict.fromkeys(backends)), tuple(dict.fromkeys(tiers))
    batches, sizes = tuple(dict.fromkeys(batches)), tuple(dict.fromkeys(sizes))
    chosen = backends or usable_backends(precision)
    require_backends(chosen, device)
    target = json_file or source.bench_folder / result_name(
        "-".join(backends) or "all",
        precision.value,
        "-".join(f"{h}x{w}" for h, w in sizes),
        "b" + "-".join(map(str, batches)),
        None if scenario_name == SINGLE_STREAM else scenario_name,
        f"p99-{target_p99_ms:g}ms" if target_p99_ms is not None else None,
        "loop" if clock == "loop" else None,
        "-".join(tiers),
        f"t{pinned}" if pinned is not None else None,
        device if device != "auto" else None,
        images,
    )
    if older is not None and older.resolve() == target.resolve():
        raise InputError(f"{target} would replace what it is compared with", "name another --json")
    probe(target)
    pictures, origin = bench_pictures(images)
    watch = ConditionWatch(threads)
    with ExitStack() as stack:
        runners = [
            stack.enter_context(
                open_backend(source, backend, precision=precision, device=device, threads=threads)
            )
            for backend in chosen
        ]
        runners = [*open_baselines(source, threads, runners, stack), *runners]
        files = {
            runner: Precision.FP32 if runner.describe().is_baseline else precision
            for runner in runners
        }
        started = cold_starts(source, files, device, threads, batches, sizes) if cold_start else []
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        inputs = [make_inputs(pictures, size, folder) for size in sizes]
        distinct = min(entry.distinct for entry in inputs)
        warnings = one_picture_warnings(distinct)
        asked = Asked(
            tuple(runner.describe() for runner in runners),
            frozenset(
                Workload(
                    scenario_name, target_p99_ms, LOADGEN if loop_reason is None else LOOP,
                    tier, batch_size, pictures.size, pictures.digest,
                )
                for tier in tiers or TIERS
                for batch_size in batches
                for pictures in inputs
            ),
        )  # fmt: skip
        console.print(f"{threads} CPU threads pinned, {repeats} interleaved repeats")
        with bar("bench") as show:
            rows = measure(
                runners,
                inputs,
                batches,
                scenario,
                folder,
                tiers=tiers or TIERS,
                repeats=repeats,
                threads=threads,
                device_seconds=seconds,
                energy_joules=energy_joules,
                on_dropped=warnings.append,
                on_step=show,
            )
        conditions = watch.ended(rows, warnings)  # before the GPU's clocks fall
    options = typed_options(but=("json_file", "older", "max_slowdown"))
    write_json(
        target,
        bench_document(
            rows,
            origin,
            conditions,
            started,
            loop_reason,
            seconds,
            options,
            distinct,
        ),
    )
    print_rows(rows, scenario_name)
    print_stages(rows)
    print_cold_starts(started)
    for warning in conditions.warnings:
        console.print(f"warning: {warning}")
    console.print(f"wrote {target}")
    if before is not None:
        _gate(compare(before, read_bench(target), max_slowdown, asked))


def _scenario(
    name: str, clock: str, seconds: float, target_p99_ms: float | None
) -> tuple[Scenario, str | None]:
    """Return who asks, and why it is not LoadGen where it is not."""
    from fcn_deploy.bench import loadgen
    from fcn_deploy.bench.scenarios import Offline, Server, SingleStream, TimedLoop

    if (target_p99_ms is None) == (name == SERVER):
        raise InputError(
            "--target-p99-ms belongs to --scenario server, and it needs it",
            "e.g. --scenario server --target-p99-ms 100",
        )
    missing = loadgen.unavailable_reason()
    if clock == "loop" or (clock == "auto" and missing is not None and name == SINGLE_STREAM):
        if name != SINGLE_STREAM:
            raise InputError(
                f"a plain loop cannot run scenario {name}", "drop --clock loop: LoadGen runs it"
            )
        reason = "asked for" if clock == "loop" else missing
        console.print(f"timed by a plain loop, not by MLPerf LoadGen: {reason}")
        return TimedLoop(seconds), reason
    if missing is not None:
        raise BackendError(missing, "or use --scenario single-stream --clock loop")
    if target_p99_ms is not None:
        console.print("each rate that is tried takes at least 662 queries")
        return Server(seconds, target_p99_ms), None
    return (Offline if name == OFFLINE else SingleStream)(seconds), None


def _gate(comparison: SpeedChange) -> None:
    for sentence in comparison.sentences():
        console.print(sentence)
    if not comparison.passed:
        sys.exit(EXIT_FAILED)
