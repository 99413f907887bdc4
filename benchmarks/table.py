"""The table of peers: our backends beside what people deploy with otherwise, in one run.

    python benchmarks/table.py RUN [--update-page [FILE]]

    open ours and every peer ─▶ are the masks the same? ─▶ measure, interleaved ─▶ JSON, Markdown
                 benchmarks/contenders.py                   fcn_deploy.bench   markdown_page.py

Scenario single stream gives latencies.  With ``--scenario offline`` all pictures are there at once:
ours, and on a CPU the peers in PyTorch, compute two batches at a time; decoding goes on meanwhile
for all.  Both scenarios take twice as long, one after the other.

The result is ``benchmarks/results/<machine>.json``, offline ``<machine>.offline.json``.  Where
figures of another network lie there already, they stay, unless ``--replace`` is given: the result
has the network's digest in its name.

A peer that gives other masks than ours is left out and named, and the exit code is 1: fast and
wrong is no peer.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import randbits
from typing import Any

import click
from contenders import check_masks, open_ours, open_peer, open_peers
from gpu_checks import write_gpu_pages
from markdown_page import PARTS, SHORT, markdown, short_table, update_page
from peers import SIZE_REFERENCE

from fcn_deploy.bench import loadgen
from fcn_deploy.bench.conditions import ConditionWatch
from fcn_deploy.bench.duration import duration_sentence
from fcn_deploy.bench.inputs import make_inputs
from fcn_deploy.bench.measure import DEFAULT_REPEATS, BenchPlan, measure, measure_rows
from fcn_deploy.bench.regression import read_bench
from fcn_deploy.bench.scenarios import Offline, Scenario, SingleStream, TimedLoop
from fcn_deploy.commands.bench import once
from fcn_deploy.commands.shared.cold_starts import cold_starts
from fcn_deploy.commands.shared.console import EXIT_FAILED, bar, console
from fcn_deploy.commands.shared.options import Counts, Size, typed_options
from fcn_deploy.commands.shared.pictures import bench_pictures
from fcn_deploy.commands.shared.runs import run_from_argument
from fcn_deploy.core.errors import BackendError, FcnDeployError, MeasurementError
from fcn_deploy.core.files import file_digest, probe, write_bytes, write_json
from fcn_deploy.core.run import Run
from fcn_deploy.machine import cuda, sensors
from fcn_deploy.machine.description import describe_machine, usable_cores
from fcn_deploy.results.bench import Bench, BenchRow
from fcn_deploy.results.bench_table import mask_label
from fcn_deploy.results.scenarios import END_TO_END, HOST, OFFLINE, SINGLE_STREAM
from fcn_deploy.results.workload import LOOP
from fcn_deploy.runners.base import Runner

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
README = Path(__file__).parents[1] / "README.md"
#: The size reference takes ten times as long as the others: few queries of it, at one tier only.
REFERENCE_REPEATS, REFERENCE_SECONDS = 3, 1.5


@dataclass(frozen=True)
class TableOptions:
    """What was typed; the fields are the options of :func:`table`."""

    run: str
    out: Path | None
    replace: bool
    markdown_file: Path | None
    page: Path | None
    scenarios: tuple[str, ...]
    repeats: int
    seconds: float
    tiers: tuple[str, ...]
    batches: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    images: Path | None
    threads: int | None
    cold_start: bool


@click.command()
@click.argument("run")
@click.option(
    "--out", type=click.Path(path_type=Path),
    help="Result file of the first scenario; default: benchmarks/results/<machine>.json, offline "
    "<machine>.offline.json.",
)  # fmt: skip
@click.option("--replace", is_flag=True, help="Also figures of another network of that name.")
@click.option(
    "--markdown", "markdown_file", type=click.Path(path_type=Path),
    help="The tables alone; default: the result file's name with .md.",
)  # fmt: skip
@click.option(
    "--update-page", "page", is_flag=False, flag_value=str(PAGE), metavar="[FILE]",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Page in which the tables replace what stands between their markers (such as <!-- "
    "bench:begin --> and <!-- bench:end -->); without a name: docs/benchmarks.md and README.md.",
)  # fmt: skip
@click.option(
    "--scenario", "scenarios", type=click.Choice([SINGLE_STREAM, OFFLINE]), multiple=True,
    default=[SINGLE_STREAM], show_default=True, callback=once,
    help="One query after another; or all pictures at once, which needs LoadGen; repeatable.",
)  # fmt: skip
@click.option(
    "--repeats", type=click.IntRange(min=3), default=DEFAULT_REPEATS, show_default=True,
    help="How often every case takes its turn; fewer than 5 give no verdict.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=0.5, show_default=True,
    help="A row is timed at least so long per repeat (and LoadGen asks at least 64 queries).",
)  # fmt: skip
@click.option(
    "--tier", "tiers", type=click.Choice([END_TO_END, HOST]), multiple=True, default=[END_TO_END],
    show_default=True, callback=once, help="Repeatable; each takes five minutes on two slow cores.",
)  # fmt: skip
@click.option(
    "--batch", "batches", type=Counts(), default="1", show_default=True, callback=once,
    help="Images per query, several as 1,8.",
)  # fmt: skip
@click.option(
    "--size", "sizes", type=Size(), multiple=True, default=[(320, 480)], callback=once,
    help="Repeatable; default 320x480.",
)  # fmt: skip
@click.option(
    "--images", type=click.Path(path_type=Path),
    help="Pictures to measure with; default: built-in scenes.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default: all cores.")
@click.option(
    "--cold-start/--no-cold-start", default=True, show_default=True,
    help="Also start each of our backends in a process of its own, before the first scenario.",
)  # fmt: skip
def table(**typed: Any) -> None:
    """Measure RUN on our backends and on every peer that runs here."""
    options = TableOptions(**typed)
    source = run_from_argument(options.run, trust=False)
    source.require_checkpoint()  # the peers start from it
    missing = loadgen.unavailable_reason()
    # All that can be wrong is found before minutes are spent.
    scenarios = {name: _scenario(name, options.seconds, missing) for name in options.scenarios}
    targets = {name: _target(options, source, name) for name in scenarios}
    parts: dict[str, str] = {}
    all_right = True
    for name, target in targets.items():
        started = options.cold_start and name == options.scenarios[0]
        measured, left_out, right = _measured(
            replace(options, cold_start=started), source, scenarios[name], target
        )
        file = f"benchmarks/results/{target.name}" if target.parent == RESULTS else ""
        text = parts[PARTS[name]] = markdown(measured, left_out, file)
        if name == SINGLE_STREAM:
            parts[SHORT] = short_table(measured, file)
        click.echo(text)
        markdown_file = _markdown_file(options, target, name)
        write_bytes(markdown_file, text.encode(), flags="--markdown")
        console.print(f"wrote {target} and, for a page, {markdown_file}")
        all_right = all_right and right
    if options.page is not None:
        update_page(options.page, parts)
    if options.page == PAGE:
        if SHORT in parts:
            update_page(README, parts)
        write_gpu_pages()  # a new result may be of a GPU
    if not all_right:
        sys.exit(EXIT_FAILED)


def _target(options: TableOptions, source: Run, scenario_name: str) -> Path:
    """Return where a scenario's result goes, once it can be written there."""
    if options.out is not None:
        target = _of_scenario(options.out, options, scenario_name)
    else:
        target = RESULTS / result_name(scenario_name)
        if not options.replace:
            target = beside_others(target, file_digest(source.checkpoint))
    for path in (target, _markdown_file(options, target, scenario_name)):
        probe(path)
    return target


def _markdown_file(options: TableOptions, target: Path, scenario_name: str) -> Path:
    """Return where a scenario's tables go as Markdown."""
    if options.markdown_file is None:
        return target.with_suffix(".md")
    return _of_scenario(options.markdown_file, options, scenario_name)


def _of_scenario(path: Path, options: TableOptions, scenario_name: str) -> Path:
    """Return the name of a scenario's file: the first has the one that was typed."""
    if scenario_name == options.scenarios[0]:
        return path
    return path.with_suffix(f".{scenario_name}{path.suffix}")


def _measured(
    options: TableOptions, source: Run, scenario: Scenario, target: Path
) -> tuple[Bench, list[str], bool]:
    """Measure into a file; return it, who is missing, and whether all who opened have our masks."""
    threads = options.threads or usable_cores()
    watch = ConditionWatch(threads)
    pictures, origin = bench_pictures(options.images)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        inputs = [make_inputs(pictures, size, folder) for size in options.sizes]
        ours = open_ours(source, threads, stack)
        peers, left_out = open_peers(source, threads, stack)
        masks = check_masks([*ours], peers, inputs, options.batches)
        left_out += [f"{mask_label(r.describe())}: {why}" for r, why in masks.wrong.items()]
        for sentence in left_out:
            console.print(f"left out: {sentence}")
        reason = loadgen.unavailable_reason() if scenario.clock == LOOP else None
        plan = BenchPlan(
            [runner for runner in (*ours, *peers) if runner not in masks.wrong],
            inputs, scenario, folder, options.batches, options.tiers, options.repeats,
            options.seconds, threads, origin, reason,
            options=typed_options(but=("out", "replace", "markdown_file", "page")),
            order_seed=randbits(32),
        )  # fmt: skip
        console.print(f"{scenario.name}: {duration_sentence(plan, options.cold_start)}")
        if options.cold_start:
            started = cold_starts(source, ours, "auto", threads, options.batches, options.sizes)
            plan = replace(plan, cold_starts=started)
        dropped: list[str] = []
        with bar("peers") as show:
            measured = measure(
                plan, watch,
                energy_joules=sensors.energy_joules, on_dropped=dropped.append, on_step=show,
            )  # fmt: skip
        measured = replace(measured, masks=masks.shares)
        write_json(target, measured.to_json())  # whatever becomes of the reference
        if scenario.name == SINGLE_STREAM:  # its figure is a latency
            try:
                # Apart from the rows: among them they would be ranked.
                references = measure_reference(plan, source, threads)
                measured = replace(measured, references=references)
            except FcnDeployError as error:
                left_out.append(f"{SIZE_REFERENCE.name}: {error.message}")
    write_json(target, measured.to_json())
    return measured, [*left_out, *dropped], not masks.wrong


def _scenario(name: str, seconds: float, missing: str | None) -> Scenario:
    """Return who asks; ``missing`` says why LoadGen cannot."""
    if name == OFFLINE:
        if missing is not None:
            raise BackendError(missing, f"or use --scenario {SINGLE_STREAM}")
        return Offline(seconds)
    return SingleStream(seconds) if missing is None else TimedLoop(seconds)


def measure_reference(plan: BenchPlan, source: Run, threads: int) -> tuple[BenchRow, ...]:
    """Measure another network, which says how large ours is, under the same conditions."""
    opened = open_peer(SIZE_REFERENCE, source, threads)
    if not isinstance(opened, Runner):
        raise MeasurementError(opened)
    with opened:
        return measure_rows(
            replace(
                plan, runners=[opened], scenario=TimedLoop(REFERENCE_SECONDS),
                tiers=plan.tiers[:1], repeats=REFERENCE_REPEATS,
            )
        )  # fmt: skip


# -- the result's name --------------------------------------------------------------------------


def beside_others(target: Path, checkpoint_digest: str) -> Path:
    """Return where a result goes: to a name of its own where another network's figures lie."""
    if not target.exists():
        return target
    try:
        rows = read_bench(target).rows
    except FcnDeployError:
        rows = ()  # not ours to replace either
    if any(row.runner.checkpoint_digest == checkpoint_digest for row in rows):
        return target
    own = target.with_suffix(f".{checkpoint_digest.removeprefix('sha256:')[:8]}.json")
    console.print(
        f"{target} holds figures of another network and stays: this result goes to {own} "
        "(--replace replaces it)"
    )
    return own


def result_name(scenario_name: str) -> str:
    """Return this machine's file name for the figures of a scenario."""
    gpu_name = None if cuda.unavailable_reason() is not None else cuda.describe_gpu().name
    slug = machine_slug(describe_machine(), gpu_name)
    return f"{slug}.json" if scenario_name == SINGLE_STREAM else f"{slug}.{scenario_name}.json"


def machine_slug(machine: Mapping[str, Any], gpu_name: str | None) -> str:
    """Return a file name for a machine: its CPU's model, its cores, its GPU if it has one."""
    cores = machine["cores"]
    words = [str(machine["cpu"]), f"{cores} core{'' if cores == 1 else 's'}", gpu_name or ""]
    # Trade marks are no part of the name.
    text = re.sub(r"\((r|tm|c)\)|[®™©]", " ", " ".join(words).lower())
    return "-".join(re.findall(r"[a-z0-9]+", text))


def main() -> None:
    """Run the command; an error is one line, as in the package's own commands."""
    try:
        table()
    except FcnDeployError as error:
        click.echo(f"table: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
