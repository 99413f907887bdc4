"""``fcn-deploy bench``: how fast the backends are, interleaved with the plain export."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fcn_deploy.commands.bench_options import MAX_SLOWDOWN, QUICKER, BenchOptions
from fcn_deploy.commands.bench_tables import print_bench
from fcn_deploy.commands.shared.backends import (
    open_backend,
    open_baselines,
    opened_unasked,
    require_backends,
    say_unusual,
    usable_backends,
)
from fcn_deploy.commands.shared.code_options import trust_option
from fcn_deploy.commands.shared.cold_starts import cold_starts
from fcn_deploy.commands.shared.console import EXIT_FAILED, bar, console
from fcn_deploy.commands.shared.options import (
    BackendName,
    Counts,
    PathType,
    Percentage,
    Size,
    device_option,
    run_argument,
    threads_option,
    typed_names,
    typed_options,
)
from fcn_deploy.commands.shared.pictures import bench_pictures
from fcn_deploy.commands.shared.runs import run_from_argument
from fcn_deploy.core.errors import BackendError, InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.scenarios import OFFLINE, SCENARIOS, SERVER, SINGLE_STREAM, TIERS

if TYPE_CHECKING:
    from fcn_deploy.bench.measure import BenchPlan
    from fcn_deploy.bench.regression import SpeedChange
    from fcn_deploy.bench.scenarios import Scenario
    from fcn_deploy.results.bench import Bench
    from fcn_deploy.results.conditions import ColdStart
    from fcn_deploy.runners.base import Runner


def once(_context: click.Context, _param: click.Parameter, values: tuple[Any, ...]) -> Any:
    """Return values without repetitions: a row beside itself would be a tie."""
    return tuple(dict.fromkeys(values))


@click.command()
@run_argument
@click.option(
    "--backend", "backends", multiple=True, callback=once, type=BackendName(),
    help="Measure this backend; may be repeated; by default all backends that run here are "
    "measured.",
)  # fmt: skip
@click.option(
    "--fp32", is_flag=True,
    help="Measure the float32 network, as without any such flag; flags add up, and all rows take "
    "turns.",
)  # fmt: skip
@click.option("--fp16", is_flag=True, help="Measure the half precision network of model.fp16.onnx.")
@click.option("--int8", is_flag=True, help="Measure the 8-bit network of model.int8.onnx.")
@click.option(
    "--scenario", "scenario_name", type=click.Choice(SCENARIOS),
    default=SINGLE_STREAM, show_default=True,
    help="Send queries as this scenario of MLPerf does: one after another (single-stream), all "
    "at once (offline), or at random moments (server).",
)  # fmt: skip
@click.option(
    "--target-p99-ms", type=click.FloatRange(min=0, min_open=True),
    help="In scenario server, find the highest rate whose 99th percentile of latency stays "
    "below this bound, in milliseconds.",
)  # fmt: skip
@click.option(
    "--clock", type=click.Choice(["auto", "loadgen", "loop"]), default="auto", show_default=True,
    help="Let MLPerf LoadGen measure, or a plain timed loop (single stream only); auto: "
    "LoadGen where it is installed.",
)  # fmt: skip
@click.option(
    "--tier", "tiers", type=click.Choice(["device", "host", "end-to-end"]), multiple=True,
    callback=once,
    help="Measure this part of the work: the network on the device, with copies to and from "
    "the host, or from file to file; may be repeated; by default all that a backend has.",
)  # fmt: skip
@click.option(
    "--batch", "batches", type=Counts(), default="1", show_default=True, callback=once,
    help="Measure batches of these sizes, e.g. 1,8.",
)  # fmt: skip
@click.option(
    "--size", "sizes", type=Size(), multiple=True, default=["320x480"], callback=once,
    show_default=True,
    help="Measure pictures of this height and width, in pixels; may be repeated.",
)  # fmt: skip
@click.option(
    "--repeats", type=click.IntRange(min=3), default=7, show_default=True,
    help="Measure each row so many times, interleaved with the others; with fewer than 5, no row "
    "is called faster than another.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=0.5, show_default=True,
    help="Time each row for at least so many seconds per repeat; LoadGen sends at least 64 "
    "queries as well.",
)  # fmt: skip
@click.option(
    "--images", type=PathType(),
    help="Measure with pictures of this folder; by default with the built-in scenes.",
)  # fmt: skip
@click.option(
    "--cold-start/--no-cold-start", default=True, show_default=True,
    help="Start every backend in a process of its own as well, to measure its cold start and "
    "its peak memory.",
)  # fmt: skip
@click.option(
    "--quick", is_flag=True,
    help="Take a quick look: 3 repeats of 0.2 seconds by a plain loop, no cold starts, unless "
    "these are set; with fewer than 5 repeats, no row is called faster than another.",
)  # fmt: skip
@click.option(
    "--order-seed", type=click.IntRange(min=0, max=2**32 - 1),
    help="Draw the order of the rows in each repeat from this number; by default from a new one, "
    "which the result names.",
)  # fmt: skip
@click.option(
    "--json", "json_file", type=PathType(),
    help="Write the result to this file; by default to one in RUN/bench that is named after "
    "what was measured.",
)  # fmt: skip
@click.option(
    "--compare", "older", type=PathType(),
    help="Compare with this older result of the same machine, and end with exit code 1 where a "
    "row is slower or missing.",
)  # fmt: skip
@click.option(
    "--max-slowdown", type=Percentage(),
    help="With --compare, let a row be slower by this much, by default by 10%; what lies within "
    "the noise of the repeats never counts.",
)  # fmt: skip
@device_option
@threads_option
@trust_option
def bench(**typed: Any) -> None:
    """Measure backends and the plain-export baseline, interleaved, with their spread."""
    from fcn_deploy.bench.conditions import ConditionWatch
    from fcn_deploy.bench.measure import measure
    from fcn_deploy.bench.regression import RequestedCases, compare
    from fcn_deploy.core.files import probe, write_json
    from fcn_deploy.machine.description import usable_cores
    from fcn_deploy.machine.sensors import energy_joules

    options = BenchOptions(**typed)
    if options.max_slowdown is not None and options.older is None:
        raise InputError("--max-slowdown is of use with --compare only", "add it, or drop this")
    if options.quick:
        options = options.as_quick_look(typed_names())
    source = run_from_argument(options.run, options.trust)
    options = _for_shape(options, source)
    scenario, loop_reason = _scenario(options)
    before = None if options.older is None else _older(options)  # before minutes are spent
    chosen = {
        precision: options.backends or usable_backends(precision, source=source)
        for precision in options.precisions
    }
    every = tuple(dict.fromkeys(name for names in chosen.values() for name in names))
    require_backends(every, options.device)
    target = options.result_file(source, typed_names())
    if options.older is not None and options.older.resolve() == target.resolve():
        raise InputError(f"{target} would replace what it is compared with", "name another --json")
    probe(target)
    options = replace(options, backends=every, threads=options.threads or usable_cores())
    watch = ConditionWatch(options.threads or 1)
    with ExitStack() as stack:
        files = _opened(options, source, chosen, stack)
        plan = replace(
            _plan(options, files, scenario, stack),
            loop_reason=loop_reason,
            options=typed_options(but=("json_file", "older", "max_slowdown")),
        )
        asked = RequestedCases(tuple(runner.describe() for runner in plan.runners), plan.workloads)
        console.print(_announcement(options, plan))
        plan = replace(plan, cold_starts=_cold_starts(options, source, files))
        with bar("bench") as show:
            measured = measure(plan, watch, energy_joules=energy_joules, on_step=show)
        described = [runner.describe() for runner in plan.runners]
    write_json(target, measured.to_json())
    print_bench(measured)
    say_unusual(described)
    console.print(f"wrote {target}")
    if before is not None:
        allowed = MAX_SLOWDOWN if options.max_slowdown is None else options.max_slowdown
        _gate(compare(before, measured, allowed, asked))


def _for_shape(options: BenchOptions, source: Run) -> BenchOptions:
    """Return the options with what a network from ONNX takes in place of what was not typed."""
    from fcn_deploy.graph.onnx_file import OnnxFile

    path = source.onnx(Precision.FP32)
    if not source.is_foreign or not path.is_file():
        return options
    shape, typed = OnnxFile(path).metadata.spec.input_shape, typed_names()
    if "sizes" not in typed:
        options = replace(options, sizes=tuple(shape.fitted(*size) for size in options.sizes))
    if "batches" not in typed and shape.batch is not None:
        options = replace(options, batches=(shape.batch,))
    if not shape.takes_all:
        sizes = ", ".join(f"{height}×{width}" for height, width in options.sizes)
        batches = ", ".join(map(str, options.batches))
        console.print(f"the network takes {shape.words}: measured at {sizes}, {batches} in a batch")
    return options


def _older(options: BenchOptions) -> Bench:
    """Read the result to compare with; refuse one that no verdict can come of."""
    from fcn_deploy.bench.regression import read_bench, require_machine, require_repeats
    from fcn_deploy.results.environment import Environment

    assert options.older is not None
    before = read_bench(options.older)
    require_machine(before, Environment.current())
    require_repeats(before, options.repeats)
    return before


def _announcement(options: BenchOptions, plan: BenchPlan) -> str:
    """Say what comes, how long it will take, and what to leave out."""
    from fcn_deploy.bench.duration import duration_sentence

    words = f"{options.threads} CPU threads pinned; {duration_sentence(plan, options.cold_start)}"
    about = "a quick look" if options.quick else QUICKER
    from fcn_deploy.results.ratio import MIN_REPEATS_FOR_VERDICT

    if options.repeats < MIN_REPEATS_FOR_VERDICT:
        about += f"; with {options.repeats} repeats no row is called faster than another"
    return f"{words} ({about})"


def _plan(
    options: BenchOptions, files: Mapping[Runner, Precision], scenario: Scenario, stack: ExitStack
) -> BenchPlan:
    """Make the pictures; backends and threads of the options are chosen."""
    from secrets import randbits
    from tempfile import TemporaryDirectory

    from fcn_deploy.bench.inputs import make_inputs
    from fcn_deploy.bench.measure import BenchPlan

    pictures, origin = bench_pictures(options.images)
    folder = Path(stack.enter_context(TemporaryDirectory()))
    return BenchPlan(
        runners=tuple(files),
        inputs=tuple(make_inputs(pictures, size, folder) for size in options.sizes),
        scenario=scenario,
        folder=folder,
        batch_sizes=options.batches,
        tiers=options.tiers or TIERS,
        repeats=options.repeats,
        seconds=options.seconds,
        threads=options.threads,
        source=origin,
        order_seed=randbits(32) if options.order_seed is None else options.order_seed,
    )


def _cold_starts(
    options: BenchOptions, source: Run, files: Mapping[Runner, Precision]
) -> tuple[ColdStart, ...]:
    if not options.cold_start or options.threads is None:
        return ()
    return cold_starts(
        source, files, options.device, options.threads, options.batches, options.sizes
    )


def _opened(
    options: BenchOptions,
    source: Run,
    chosen: Mapping[Precision, tuple[str, ...]],
    stack: ExitStack,
) -> dict[Runner, Precision]:
    """Open the baselines and the backends: runner → precision of the file it was opened on."""
    threads = options.threads or 1
    unasked = "backends" not in typed_names()
    foreign = source.is_foreign and unasked

    def opened(precision: Precision) -> list[Runner]:
        def open_one(backend: str) -> Runner:
            runner = open_backend(
                source, backend, precision=precision, device=options.device, threads=threads
            )
            return stack.enter_context(runner)

        return list(opened_unasked(foreign, chosen[precision], open_one, unasked=unasked).values())

    runners = {runner: precision for precision in chosen for runner in opened(precision)}
    baselines = open_baselines(source, threads, list(runners), stack)
    return {
        **dict.fromkeys(baselines, Precision.FP32),
        **{
            runner: Precision.FP32 if runner.describe().is_baseline else precision
            for runner, precision in runners.items()
        },
    }


def _scenario(options: BenchOptions) -> tuple[Scenario, str | None]:
    """Return who asks, and why it is not LoadGen where it is not."""
    from fcn_deploy.bench import loadgen
    from fcn_deploy.bench.scenarios import Offline, Server, SingleStream, TimedLoop

    name, clock, seconds = options.scenario_name, options.clock, options.seconds
    if (options.target_p99_ms is None) == (name == SERVER):
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
        reason = missing
        if clock == "loop":
            reason = "a quick look" if options.quick else "asked for"
        console.print(f"timed by a plain loop, not by MLPerf LoadGen: {reason}")
        return TimedLoop(seconds), reason
    if missing is not None:
        raise BackendError(missing, "or use --scenario single-stream --clock loop")
    if options.target_p99_ms is not None:
        console.print("each rate that is tried takes at least 662 queries")
        return Server(seconds, options.target_p99_ms), None
    return (Offline if name == OFFLINE else SingleStream)(seconds), None


def _gate(comparison: SpeedChange) -> None:
    for sentence in comparison.sentences():
        console.print(sentence)
    if not comparison.passed:
        sys.exit(EXIT_FAILED)
