"""``fcn-deploy parity``: the gate, its table and its reasons; live, or of saved outputs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fcn_deploy.commands.shared.backends import (
    open_backend,
    require_backends,
    result_name,
    run_from_argument,
    trained_on,
    usable_backends,
)
from fcn_deploy.commands.shared.console import EXIT_FAILED, console, counter
from fcn_deploy.commands.shared.options import (
    device_option,
    precision_options,
    threads_option,
    trust_option,
    typed_words,
)
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from fcn_deploy.core.spec import ModelSpec
    from fcn_deploy.parity.bisect import BisectResult
    from fcn_deploy.parity.compare import ParityResult
    from fcn_deploy.parity.inputs import Pictures

_BOTH = ("mask", "logits")
#: Pictures to bisect on, unless told otherwise: every layer of both networks is computed for each.
BISECT_PICTURES = 16
#: Options that change where a result is written, and nothing in it.
_NOT_REPEATED = ("json_file",)
_NAME_PICTURES = "name the data with --data DIR, or pictures with --images DIR"
#: Rows of the printed table of flips by pair of classes.
_SHOWN_PAIRS = 5


@click.command()
@click.argument("arguments", nargs=-1, metavar="[RUN | REF.json CAND.json]")
@click.option(
    "--backend", "backends", multiple=True, help="Candidate, repeatable; default: all that run."
)
@precision_options
@click.option("--data", metavar="DIR|synthetic", help="Validation set; default: the run's own.")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Compare on these pictures (unlabelled) instead of the validation images.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Compare on so many pictures only.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Result file.")
@click.option(
    "--save-outputs",
    "outputs_file",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Compare nothing: save what the one --backend gives, to be compared elsewhere.",
)
@click.option(
    "--bisect", "bisecting", is_flag=True,
    help="Find the first layer whose output leaves its tolerance: the FP32 ONNX file against the "
    "half one (--int8: the INT8 one; or the one that is named), layer by layer, in ONNX Runtime.",
)  # fmt: skip
@device_option
@threads_option
@trust_option
@click.pass_context
def parity(
    context: click.Context,
    arguments: tuple[str, ...],
    backends: tuple[str, ...],
    precision: Precision,
    data: str | None,
    images: Path | None,
    limit: int | None,
    json_file: Path | None,
    outputs_file: Path | None,
    bisecting: bool,
    device: str,
    threads: int | None,
    trust: bool,
) -> None:
    """Prove that a backend's masks are PyTorch's; exit code 1 where the gate fails.

    Two files of --save-outputs, the float32 reference first, are compared without their networks.
    """
    saved = [word for word in arguments if word.endswith(".json") and not Path(word).is_dir()]
    if saved:
        _refuse_mixed(context, arguments, saved)
        reference_file, candidate_file = map(Path, saved)
        _compare_saved(reference_file, candidate_file, json_file)
        return
    if len(arguments) > 1:
        raise click.UsageError(
            "give one RUN, or two .json files of --save-outputs: the reference, then the candidate."
        )
    if images is not None and (data is not None):
        raise InputError("--data and --images exclude each other", "give one of them")
    source = run_from_argument(arguments[0] if arguments else None, trust)
    if bisecting:
        if backends or outputs_file is not None:
            raise click.UsageError(
                "--bisect compares two ONNX files: drop --backend and --save-outputs."
            )
        _bisect(source, precision, json_file, data, images, limit, threads)
        return
    if outputs_file is not None:
        if json_file is not None:
            raise click.UsageError("--save-outputs compares nothing: drop --json.")
        if len(backends) != 1 or outputs_file.suffix != ".json":
            raise click.UsageError("--save-outputs takes one --backend and a file ending in .json.")
        _save_outputs(
            source, backends[0], precision, outputs_file, data, images, limit, device, threads
        )
        return
    _compare_live(source, backends, precision, json_file, data, images, limit, device, threads)


def _refuse_mixed(context: click.Context, arguments: Sequence[str], saved: Sequence[str]) -> None:
    if len(saved) != 2 or len(arguments) != 2:
        raise click.UsageError(
            f"{saved[0]} holds saved outputs: give two such files, the reference, then the "
            "candidate, and no RUN."
        )
    given = click.core.ParameterSource.COMMANDLINE
    for option in context.command.params:
        known = option.name in ("arguments", "json_file")
        if not known and context.get_parameter_source(option.name or "") is given:
            raise click.UsageError(f"{option.opts[0]} is of no use with saved outputs: drop it.")


def _compare_saved(reference_file: Path, candidate_file: Path, json_file: Path | None) -> None:
    from fcn_deploy.core.files import probe
    from fcn_deploy.parity.compare import compare_recordings, save
    from fcn_deploy.parity.saved_outputs import read_recording

    name = result_name(f"{reference_file.stem}-{candidate_file.stem}", "parity")
    target = json_file or candidate_file.parent / name
    if target.resolve() in (reference_file.resolve(), candidate_file.resolve()):
        raise InputError(f"{target} holds saved outputs", "write elsewhere with --json")
    reference, candidate = read_recording(reference_file), read_recording(candidate_file)
    probe(target)
    result = compare_recordings(reference, candidate)
    recordings = reference, candidate
    save([result], target, recordings=recordings, typed=typed_words(but=_NOT_REPEATED))
    _conclude([result], target)


def _save_outputs(
    source: Run,
    backend: str,
    precision: Precision,
    target: Path,
    data: str | None,
    images: Path | None,
    limit: int | None,
    device: str,
    threads: int | None,
) -> None:
    from fcn_deploy.core.files import probe
    from fcn_deploy.parity.saved_outputs import record

    require_backends([backend])
    probe(target, flags="--save-outputs")
    with open_backend(
        source, backend, precision=precision, outputs=_BOTH, device=device, threads=threads
    ) as runner:
        pictures = _pictures(source, runner.spec, data, images, limit)
        with counter(f"outputs of {backend}", pictures.count) as step:
            size = record(runner, pictures, target, on_picture=step)
    console.print(f"wrote {target} and its folder, {size:,.1f} MiB")


def _compare_live(
    source: Run,
    backends: Sequence[str],
    precision: Precision,
    json_file: Path | None,
    data: str | None,
    images: Path | None,
    limit: int | None,
    device: str,
    threads: int | None,
) -> None:
    from fcn_deploy.core.files import probe
    from fcn_deploy.parity.compare import compare, save

    # The float32 reference compared with itself proves nothing.
    skipped = {"torch"} if precision is Precision.FP32 else set()
    candidates = backends or usable_backends(precision, skipped)
    require_backends(candidates)
    target = json_file or source.parity_folder / result_name(
        "-".join(candidates),
        precision.value,
        images or (Path(data) if data else None),
        f"limit{limit}" if limit else None,
    )
    probe(target)
    results = []
    with open_backend(source, "torch", outputs=_BOTH, device=device, threads=threads) as reference:
        pictures = _pictures(source, reference.spec, data, images, limit)
        for backend in candidates:
            with (
                open_backend(
                    source,
                    backend,
                    precision=precision,
                    outputs=_BOTH,
                    device=device,
                    threads=threads,
                ) as candidate,
                counter(f"parity {backend}", pictures.count) as step,
            ):
                results.append(compare(reference, candidate, pictures, on_picture=step))
    save(results, target, typed=typed_words(but=_NOT_REPEATED))
    _conclude(results, target)


def _bisect(
    source: Run,
    precision: Precision,
    json_file: Path | None,
    data: str | None,
    images: Path | None,
    limit: int | None,
    threads: int | None,
) -> None:
    from fcn_deploy.core.files import probe
    from fcn_deploy.graph.onnx_file import read_metadata
    from fcn_deploy.machine.description import usable_cores
    from fcn_deploy.parity.bisect import bisect, save

    reference = Run(source.root).require_onnx(Precision.FP32)
    # The reference is FP32; what is suspected, unless told otherwise, is the half file.
    suspect = Precision.FP16 if precision is Precision.FP32 else precision
    candidate = source.require_onnx(suspect)
    if candidate.resolve() == reference.resolve():
        raise InputError(f"{candidate} is the reference itself", "name another file, or the run")
    target = json_file or source.bisect_folder / result_name(candidate.stem)
    probe(target)
    spec = read_metadata(reference).spec
    pictures = _pictures(source, spec, data, images, limit or BISECT_PICTURES)
    with counter("bisect", pictures.count) as step:
        result = bisect(
            reference,
            candidate,
            (picture.image for picture in pictures),
            source=pictures.source,
            threads=threads or usable_cores(),
            on_picture=step,
        )
    save(result, target, typed=typed_words(but=_NOT_REPEATED))
    _print_layers(result)
    console.print(f"wrote {target}")
    if result.first is not None:
        sys.exit(EXIT_FAILED)


def _print_layers(result: BisectResult) -> None:
    from rich.table import Table

    from fcn_deploy.parity.bisect import layer_table

    table = Table(
        title=f"{result.candidate.file} against {result.reference.file}, {result.pictures} "
        f"pictures; allowed: {result.tolerance:g} of the RMS",
        title_justify="left",
    )
    for column in ("layer", "operator", "shape"):
        table.add_column(column, overflow="fold")
    for column in ("RMS", "relative error"):
        table.add_column(column, justify="right")
    table.add_column("")
    for row in layer_table(result):
        table.add_row(*row)
    console.print(table, soft_wrap=False)
    if result.first is None:
        console.print("every layer keeps its tolerance")
    else:
        error = f"relative error {result.first.relative_error:.2g}"
        how = error if result.first.finite else "NaN or infinite"
        console.print(f"first layer beyond its tolerance: {result.first.name} ({how})")


def _pictures(
    source: Run, spec: ModelSpec, data: str | None, images: Path | None, limit: int | None
) -> Pictures:
    from fcn_deploy.data.sources import open_dataset
    from fcn_deploy.parity.inputs import labelled_pictures, unlabelled_pictures

    if images is not None:
        return unlabelled_pictures(images, limit)
    dataset = open_dataset(data or trained_on(source, _NAME_PICTURES), "val")
    return labelled_pictures(dataset, spec, limit)


def _conclude(results: Sequence[ParityResult], target: Path) -> None:
    for result in results:
        _print_parity(result)
    console.print(f"wrote {target}")
    if not all(result.passed for result in results):
        sys.exit(EXIT_FAILED)


def _print_parity(result: ParityResult) -> None:
    from rich.table import Table
    from rich.text import Text

    from fcn_deploy.results.format import gate_words

    candidate = result.candidate
    table = Table(
        title=f"{candidate.backend} {candidate.precision} ({candidate.library}, "
        f"{candidate.device}) against {result.reference.library} fp32",
        title_justify="left",
    )
    for column in ("check", "", "figure"):
        table.add_column(column, overflow="fold")
    for check in result.checks:
        mark = Text("ok", "green") if check.passed else Text("FAILED", "bold red")
        table.add_row(check.name, mark, check.sentence)
    console.print(table, soft_wrap=False)
    if result.tally.flips:
        _print_flips(result)
    if result.passed:
        labelled = result.is_labelled
        console.print(gate_words(candidate, result.agreement, result.pictures, labelled=labelled))
    else:
        console.print("THE GATE FAILS")
    for sentence in result.diagnosis:
        console.print(f"  {sentence}")


def _print_flips(result: ParityResult) -> None:
    from rich.table import Table

    tally, names = result.tally, result.spec.class_names
    table = Table(title="where the flips are", title_justify="left")
    for column in ("", "flips", "of pixels"):
        table.add_column(column, overflow="fold", justify="right" if column else "left")
    given = tally.classes.sum(axis=1)
    for pair in tally.flips_by_class()[:_SHOWN_PAIRS]:
        table.add_row(
            f"{names[pair['reference']]} → {names[pair['candidate']]}",
            f"{pair['flips']:,}",
            f"{int(given[pair['reference']]):,}",
        )
    table.add_section()
    for margins in tally.flips_by_margin():
        if margins["flips"]:
            low, high = margins["from"], margins["to"]
            span = f"from {low:.3g}" if high is None else f"{low:.3g} to {high:.3g}"
            table.add_row(f"margin {span}", f"{margins['flips']:,}", f"{margins['pixels']:,}")
    table.add_section()
    for band in tally.flips_by_distance():
        if band["flips"]:
            low, high = band["from_px"], band["to_px"]
            span = f"{low}" if low == high else f"{low}–{high}" if high else f"{low} or more"
            table.add_row(
                f"{span} px from a class edge", f"{band['flips']:,}", f"{band['pixels']:,}"
            )
    console.print(table, soft_wrap=False)
