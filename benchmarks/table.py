"""The table of peers: our backends beside what people deploy with otherwise, in one run.

    python benchmarks/table.py RUN [--update-readme docs/benchmarks.md]

    open ours and every peer ─▶ are the masks the same? ─▶ measure, interleaved ─▶ JSON, Markdown

With ``--scenario offline`` all pictures are there at once: ours compute two batches at a time where
that is faster, peers one after another, as they were written; decoding goes on meanwhile for all.

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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from peers import PEERS, SIZE_REFERENCE, Peer

from fcn_deploy.bench import loadgen
from fcn_deploy.bench.conditions import ConditionWatch
from fcn_deploy.bench.inputs import Inputs, make_inputs, one_picture_warnings
from fcn_deploy.bench.measure import measure
from fcn_deploy.bench.regression import read_bench
from fcn_deploy.bench.rows import Row, bench_document, speedup
from fcn_deploy.bench.scenarios import Offline, Scenario, SingleStream, TimedLoop
from fcn_deploy.commands.shared.backends import open_backend, open_baselines, usable_backends
from fcn_deploy.commands.shared.cold_starts import cold_starts
from fcn_deploy.commands.shared.console import EXIT_FAILED, bar, console, counter
from fcn_deploy.commands.shared.options import Counts, Size, typed_options
from fcn_deploy.commands.shared.pictures import bench_pictures
from fcn_deploy.commands.shared.runs import run_from_argument
from fcn_deploy.core.errors import (
    ArtifactError,
    BackendError,
    FcnDeployError,
    InputError,
    MeasurementError,
)
from fcn_deploy.core.files import file_digest, probe, write_bytes, write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.machine import cuda, sensors
from fcn_deploy.machine.description import describe_machine, usable_cores, utc_now
from fcn_deploy.parity.gate import GATES
from fcn_deploy.results.bench import END_TO_END, HOST, OFFLINE, SINGLE_STREAM
from fcn_deploy.results.format import number, percent, settings_words
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.workload import Workload, baseline_of, tie
from fcn_deploy.runners.base import Runner, takes

RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
#: Share of pixels that must be as the reference has them: the parity gate's.
MIN_AGREEMENT = {precision.value: gate.min_agreement for precision, gate in GATES.items()}
#: Our backends for which half precision is worth measuring: on CPUs it is slower.
FP16_BACKENDS = ("ort-cuda", "ort-rtx", "trt")
#: The size reference takes ten times as long as the others: few queries of it, at one tier only.
REFERENCE_REPEATS, REFERENCE_SECONDS = 3, 1.5


@dataclass(frozen=True)
class Measured:
    """What the table says.

    Attributes:
        rows: interleaved; they are ranked.
        references: of other networks, measured apart; they are not.
        masks: :func:`label` of a runner → share of pixels that agree with our PyTorch runner.
        left_out: sentences: who is missing, and why.
        heading: machine, date and conditions, in one line.
        warnings: sentences: why to doubt the figures.
    """

    rows: tuple[Row, ...]
    references: tuple[Row, ...]
    masks: Mapping[str, float]
    left_out: tuple[str, ...]
    heading: str
    warnings: tuple[str, ...] = ()


@click.command()
@click.argument("run")
@click.option(
    "--out", type=click.Path(path_type=Path),
    help="Result file; default: benchmarks/results/<machine>.json, offline <machine>.offline.json.",
)  # fmt: skip
@click.option("--replace", is_flag=True, help="Also figures of another network of that name.")
@click.option(
    "--markdown", "markdown_file", type=click.Path(path_type=Path),
    help="The table alone; default: the result file's name with .md.",
)  # fmt: skip
@click.option(
    "--update-readme", "readme", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=f"File whose text between {BEGIN} and {END} the table replaces.",
)  # fmt: skip
@click.option(
    "--scenario", "scenario_name", type=click.Choice([SINGLE_STREAM, OFFLINE]),
    default=SINGLE_STREAM, show_default=True,
    help="One query after another; or all pictures at once, which needs LoadGen.",
)  # fmt: skip
@click.option("--repeats", type=click.IntRange(min=3), default=3, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=0.5, show_default=True,
    help="A row is timed at least so long per repeat (and LoadGen asks at least 64 queries).",
)  # fmt: skip
@click.option(
    "--tier", "tiers", type=click.Choice([END_TO_END, HOST]), multiple=True, default=[END_TO_END],
    show_default=True, help="Repeatable; each takes five minutes on two slow cores.",
)  # fmt: skip
@click.option("--batch", "batches", type=Counts(), default="1", show_default=True)
@click.option(
    "--size", "sizes", type=Size(), multiple=True, default=[(320, 480)],
    help="Repeatable; default 320x480.",
)  # fmt: skip
@click.option(
    "--images", type=click.Path(path_type=Path),
    help="Pictures to measure with; default: built-in scenes.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default: all cores.")
@click.option("--cold-start/--no-cold-start", default=True, show_default=True)
def table(
    run: str,
    out: Path | None,
    replace: bool,
    markdown_file: Path | None,
    readme: Path | None,
    scenario_name: str,
    repeats: int,
    seconds: float,
    tiers: tuple[str, ...],
    batches: tuple[int, ...],
    sizes: tuple[tuple[int, int], ...],
    images: Path | None,
    threads: int | None,
    cold_start: bool,
) -> None:
    """Measure RUN on our backends and on every peer that runs here."""
    # Said twice is meant once.
    batches, sizes = tuple(dict.fromkeys(batches)), tuple(dict.fromkeys(sizes))
    tiers = tuple(dict.fromkeys(tiers))
    source = run_from_argument(run, trust=False)
    source.require_checkpoint()  # the peers start from it
    threads = threads or usable_cores()
    if readme is not None and scenario_name != SINGLE_STREAM:
        raise InputError(
            f"--update-readme is for {SINGLE_STREAM}: a page has one table", "take --markdown FILE"
        )
    target = out or RESULTS / result_name(scenario_name)
    if out is None and not replace:
        target = _beside_others(target, file_digest(source.checkpoint))
    markdown_file = markdown_file or target.with_suffix(".md")
    for path in (target, markdown_file):
        probe(path)
    missing = loadgen.unavailable_reason()
    scenario = _scenario(scenario_name, seconds, missing)
    watch = ConditionWatch(threads)
    pictures, origin = bench_pictures(images)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        inputs = [make_inputs(pictures, size, folder) for size in sizes]
        ours = _open_ours(source, threads, stack)
        peers, left_out = _open_peers(source, threads, stack)
        started = cold_starts(source, ours, "auto", threads, batches, sizes) if cold_start else []
        masks, wrong = _check_masks([*ours], peers, inputs, batches)
        for runner, why in wrong.items():
            left_out.append(f"{label(runner.describe())}: {why}")
        runners = [runner for runner in (*ours, *peers) if runner not in wrong]
        for sentence in left_out:
            console.print(f"left out: {sentence}")
        dropped: list[str] = []
        distinct = min(entry.distinct for entry in inputs)
        with bar("peers") as show:
            rows = measure(
                runners, inputs, batches, scenario, folder,
                tiers=tiers, repeats=repeats, threads=threads,
                energy_joules=sensors.energy_joules, on_dropped=dropped.append, on_step=show,
            )  # fmt: skip
        said = [*dropped, *one_picture_warnings(distinct)]
        conditions = watch.ended(rows, said)  # before the GPU's clocks fall
        options = typed_options(but=("out", "replace", "markdown_file", "readme"))
        document = bench_document(
            rows, origin, conditions, started, missing, seconds, options,
            distinct,
        )  # fmt: skip
        document["masks"] = masks
        document["references"] = []
        write_json(target, document)  # whatever becomes of the reference
        references: list[Row] = []
        try:
            if scenario_name == SINGLE_STREAM:
                references = _measure_reference(source, inputs, batches, tiers[0], threads, folder)
            else:
                left_out.append(f"{SIZE_REFERENCE.name}: it is measured one query at a time only")
        except FcnDeployError as error:
            left_out.append(f"{SIZE_REFERENCE.name}: {error.message}")
    # Under a key of their own: among the rows they would be ranked.
    document["references"] = bench_document(references, origin, conditions)["rows"]
    write_json(target, document)
    left_out += dropped
    meaning = settings_words(row.settings for row in rows)
    heading = _heading(document, repeats, scenario_name, meaning)
    text = markdown(
        Measured(
            tuple(rows), tuple(references), masks, tuple(left_out), heading,
            tuple(warning for warning in conditions.warnings if warning not in dropped),
        )
    )  # fmt: skip
    click.echo(text)
    write_bytes(markdown_file, text.encode(), flags="--markdown")
    console.print(f"wrote {target} and, for a page, {markdown_file}")
    if readme is not None:
        _update(readme, text)
    else:
        console.print(
            "into docs/benchmarks.md, between its markers: --update-readme docs/benchmarks.md"
        )
    if wrong:
        sys.exit(EXIT_FAILED)


def _scenario(name: str, seconds: float, missing: str | None) -> Scenario:
    """Return who asks; ``missing`` says why LoadGen cannot."""
    if name == OFFLINE:
        if missing is not None:
            raise BackendError(missing, f"or use --scenario {SINGLE_STREAM}")
        return Offline(seconds)
    return SingleStream(seconds) if missing is None else TimedLoop(seconds)


# -- who takes part -----------------------------------------------------------------------------


def _open_ours(source: Run, threads: int, stack: ExitStack) -> dict[Runner, Precision]:
    """Open the baseline, PyTorch and whatever else of ours runs here; the baselines first.

    Returns:
        The runners, each with the precision of the file that it was opened on.
    """
    backends = usable_backends(Precision.FP32)
    runners = {
        stack.enter_context(
            open_backend(source, backend, precision=precision, threads=threads)
        ): precision
        for backend in backends
        for precision in (Precision.FP32, Precision.FP16, Precision.INT8)
        if _takes_part(source, backend, precision)
    }
    baselines = open_baselines(source, threads, list(runners), stack)
    return {**dict.fromkeys(baselines, Precision.FP32), **runners}


def _takes_part(source: Run, backend: str, precision: Precision) -> bool:
    """Say whether a backend is measured in a precision: in INT8 wherever there is such a file."""
    if precision is Precision.FP32:
        return True
    if precision is Precision.INT8:
        return takes(backend, precision) and source.onnx(precision).is_file()
    if backend not in FP16_BACKENDS:
        return False
    there = source.onnx(precision).is_file()
    if not there:
        console.print(
            f"{backend} fp16 is left out: run `fcn-deploy export{source.command_suffix} --fp16`"
        )
    return there


def _open_peers(source: Run, threads: int, stack: ExitStack) -> tuple[list[Runner], list[str]]:
    """Return every peer of the same network that opens, and why the others do not."""
    runners, left_out = [], []
    for peer in PEERS:
        opened = _open_peer(peer, source, threads)
        if isinstance(opened, Runner):
            runners.append(stack.enter_context(opened))
        else:
            left_out.append(f"{peer.name}: {opened}")
    return runners, left_out


def _open_peer(peer: Peer, source: Run, threads: int) -> Runner | str:
    reason = peer.unavailable_reason()
    if reason is not None:
        return reason
    try:
        return peer.open(source, threads)
    except FcnDeployError as error:
        return str(error)


def label(runner: RunnerDescription) -> str:
    """Return what tells a runner from the others of a table."""
    return f"{runner.backend} {runner.precision}"


# -- are the masks the same? --------------------------------------------------------------------


def _check_masks(
    ours: Sequence[Runner],
    peers: Sequence[Runner],
    inputs: Sequence[Inputs],
    batches: Sequence[int],
) -> tuple[dict[str, float], dict[Runner, str]]:
    """Compare everyone's masks with our PyTorch runner's, on what will be measured.

    It also compiles, off the clock, what a peer compiles for each size.

    Returns:
        The share of each runner's pixels that agree; and the runners that may not be measured,
        with the reason.
    """
    reference = next(runner for runner in ours if runner.describe().backend == "torch")
    queries = [
        picked for pictures in inputs for batch in batches for picked in _all(pictures, batch)
    ]
    expected = [reference.run(images).mask for images in queries]
    shares: dict[str, float] = {}
    wrong: dict[Runner, str] = {}
    with counter("masks", len(ours) + len(peers)) as step:
        for runner in (*ours, *peers):
            description = runner.describe()
            try:
                masks = [runner.run(images).mask for images in queries]
            except FcnDeployError as error:
                if runner in ours:
                    raise
                wrong[runner] = str(error)
                continue
            share = agreement(masks, expected)
            shares[label(description)] = share
            console.print(f"masks of {label(description)}: {percent(share)} of the pixels agree")
            if share < MIN_AGREEMENT[description.precision]:
                wrong[runner] = (
                    f"only {percent(share)} of its masks' pixels are as PyTorch has them, "
                    f"below {percent(MIN_AGREEMENT[description.precision])}"
                )
            step()
    return shares, wrong


def _all(pictures: Inputs, batch_size: int) -> list[NDArray[np.uint8]]:
    """Return batches that hold every picture at least once."""
    return [
        pictures.batch(pictures.query(number, batch_size))
        for number in range(-(-len(pictures.files) // batch_size))
    ]


def agreement(masks: Sequence[NDArray[np.uint8]], expected: Sequence[NDArray[np.uint8]]) -> float:
    """Return the share of pixels that are the same, over all pictures."""
    same = sum(int((a == b).sum()) for a, b in zip(masks, expected, strict=True))
    return same / sum(mask.size for mask in expected)


# -- measuring ----------------------------------------------------------------------------------


def _measure_reference(
    source: Run,
    inputs: Sequence[Inputs],
    batches: Sequence[int],
    tier: str,
    threads: int,
    folder: Path,
) -> list[Row]:
    opened = _open_peer(SIZE_REFERENCE, source, threads)
    if not isinstance(opened, Runner):
        raise MeasurementError(f"{SIZE_REFERENCE.name}: {opened}")
    with opened:
        return measure(
            [opened], inputs, batches, TimedLoop(REFERENCE_SECONDS), folder,
            tiers=(tier,), repeats=REFERENCE_REPEATS,
        )  # fmt: skip


def _beside_others(target: Path, checkpoint_digest: str) -> Path:
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


def _gpu_name() -> str | None:
    return None if cuda.unavailable_reason() is not None else cuda.describe_gpu().name


def result_name(scenario_name: str) -> str:
    """Return this machine's file name for the figures of a scenario."""
    slug = machine_slug(describe_machine(), _gpu_name())
    return f"{slug}.json" if scenario_name == SINGLE_STREAM else f"{slug}.{scenario_name}.json"


def machine_slug(machine: Mapping[str, Any], gpu_name: str | None) -> str:
    """Return a file name for a machine: its CPU's model, its cores, its GPU if it has one."""
    cores = machine["cores"]
    words = [str(machine["cpu"]), f"{cores} core{'' if cores == 1 else 's'}", gpu_name or ""]
    # Trade marks are no part of the name.
    text = re.sub(r"\((r|tm|c)\)|[®™©]", " ", " ".join(words).lower())
    return "-".join(re.findall(r"[a-z0-9]+", text))


# -- the table ----------------------------------------------------------------------------------


def _heading(document: Mapping[str, Any], repeats: int, scenario_name: str, meaning: str) -> str:
    machine, clock = document["machine"], document["clock"]
    cores = machine["cores"]
    threads = document["conditions"]["threads"]
    place = f"{machine['cpu']}, {cores} core{'' if cores == 1 else 's'}"
    place += f", {threads} thread{'' if threads == 1 else 's'}"
    if (name := _gpu_name()) is not None:
        place += f", {name}"
    by = f"MLPerf LoadGen {clock['version']}" if clock["name"] == "loadgen" else "a timed loop"
    by += f" ({meaning})" if meaning else ""
    how = {
        SINGLE_STREAM: "single stream",
        OFFLINE: "offline (time per batch at the throughput of all pictures at once)",
    }
    asked = f"{repeats} interleaved repeats, {how[scenario_name]} by {by}"
    return f"{place}; {utc_now()[:10]}; {asked}."


def markdown(measured: Measured) -> str:
    """Return the tables, one for each tier, batch and size, fastest first, with what to know."""
    questions = sorted({row.question for row in measured.rows}, key=_place)
    parts = [measured.heading]
    parts += [part for question in questions for part in _question_table(measured, question)]
    if measured.references:
        parts.append(
            "Not ranked: another network, random weights, measured apart by a plain loop; it says "
            "how large ours is."
        )
    if measured.left_out:
        parts.append("Left out: " + "; ".join(measured.left_out) + ".")
    parts += [f"Warning: {warning}." for warning in measured.warnings]
    return "\n\n".join(parts) + "\n"


def _place(asked: Workload | Row) -> tuple[str, int, tuple[int, int]]:
    return asked.tier, asked.batch_size, asked.size


def _question_table(measured: Measured, question: Workload) -> Iterator[str]:
    """Yield the table of the rows that may be ranked, and which of them are too close to call."""
    height, width = question.size
    about = {
        HOST: "pictures in memory → masks in memory",
        END_TO_END: "JPEG files → masks in memory",
    }
    lines = [
        f"**{question.tier}** ({about[question.tier]}), batch {question.batch_size}, "
        f"{height}×{width}:",
        "",
        "| backend | library | precision | ms, median [spread] | images/s | × baseline "
        "| masks agree |",
        "|---|---|---|---|---|---|---|",
    ]
    ranked = sorted((row for row in measured.rows if row.question == question), key=_median)
    references = [row for row in measured.references if _place(row) == _place(question)]
    for row in (*ranked, *references):
        fastest, slowest = row.spread_ms
        cells = (
            f"`{row.runner.backend}`",
            row.runner.library,
            row.runner.precision,
            f"{number(row.median_ms)} [{number(fastest)}–{number(slowest)}]{_mark(row)}",
            number(row.images_per_s),
            "not ranked" if row in references else ratio_words(row, measured.rows),
            "another network" if row in references else _agreement_words(row, measured.masks),
        )
        lines.append("| " + " | ".join(cells) + " |")
    yield "\n".join(lines)
    if ties := _ties(ranked):
        yield f"Too close to call: {'; '.join(ties)}."


def _mark(row: Row) -> str:
    return " INVALID by LoadGen" if row.verdict == "INVALID" else ""


def _ties(ranked: Sequence[Row]) -> list[str]:
    """Return the pairs of rows of which neither is faster; the baseline's stand in its column."""
    others = [row for row in ranked if not row.runner.is_baseline]
    return [
        f"{_name(row)} and {_name(other)}"
        for place, row in enumerate(others)
        for other in others[place + 1 :]
        if tie(row.spread_ms, other.spread_ms)
    ]


def _name(row: Row) -> str:
    return f"`{row.runner.backend}` {row.runner.precision}"


def _median(row: Row) -> float:
    return row.median_ms


def ratio_words(row: Row, rows: Sequence[Row]) -> str:
    """Return how many times as fast as the baseline a row is; a tie is called a tie."""
    baseline = baseline_of(row, rows)
    if baseline is None:
        return "not measured"
    if baseline is row:
        return "1"
    ratio = speedup(row, baseline)
    words = f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"
    return f"tie: {words}" if ratio.tie else words


def _agreement_words(row: Row, masks: Mapping[str, float]) -> str:
    if row.runner.backend == "torch" and row.runner.precision == "fp32":
        return "the reference"
    return percent(masks.get(label(row.runner)))


def with_table(text: str, tables: str) -> str | None:
    """Return a text with what stands between its markers replaced, or None where it has none."""
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin:
        return None
    return f"{text[: begin + len(BEGIN)]}\n\n{tables.strip()}\n\n{text[end:]}"


def _update(readme: Path, tables: str) -> None:
    try:
        text = readme.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot read {readme}: {error}") from error
    updated = with_table(text, tables)
    if updated is None:
        console.print(f"{readme} is as it was: it has no {BEGIN} and {END}")
        return
    write_bytes(readme, updated.encode(), flags="--update-readme")
    console.print(f"wrote the table into {readme}")


def main() -> None:
    """Run the command; an error is one line, as in the package's own commands."""
    try:
        table()
    except FcnDeployError as error:
        click.echo(f"table: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
