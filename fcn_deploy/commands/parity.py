"""``fcn-deploy parity``: the gate, its table and its reasons; live, or of saved outputs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fcn_deploy.commands.parity_tables import print_layers, print_parity
from fcn_deploy.commands.shared.backends import open_backend, require_backends, usable_backends
from fcn_deploy.commands.shared.console import EXIT_FAILED, console, counter
from fcn_deploy.commands.shared.options import (
    device_option,
    precision_options,
    threads_option,
    trust_option,
    typed_words,
)
from fcn_deploy.commands.shared.pictures import parity_pictures
from fcn_deploy.commands.shared.runs import result_name, run_from_argument
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from fcn_deploy.parity.compare import ParityResult


_BOTH = ("mask", "logits")
#: Pictures to bisect on, unless told otherwise: every layer of both networks is computed for each.
BISECT_PICTURES = 16
#: Options that change where a result is written, and nothing in it.
_NOT_REPEATED = ("json_file",)


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

    require_backends([backend], device)
    probe(target, flags="--save-outputs")
    with open_backend(
        source, backend, precision=precision, outputs=_BOTH, device=device, threads=threads
    ) as runner:
        pictures = parity_pictures(source, runner.spec, data, images, limit)
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
        pictures = parity_pictures(source, reference.spec, data, images, limit)
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
    from fcn_deploy.graph.onnx_file import OnnxFile
    from fcn_deploy.machine.description import usable_cores
    from fcn_deploy.parity.bisect import bisect, save

    reference = OnnxFile(Run(source.root).require_onnx(Precision.FP32))
    # The reference is FP32; what is suspected, unless told otherwise, is the half file.
    suspect = Precision.FP16 if precision is Precision.FP32 else precision
    candidate = OnnxFile(source.require_onnx(suspect))
    if candidate.path.resolve() == reference.path.resolve():
        raise InputError(
            f"{candidate.path} is the reference itself", "name another file, or the run"
        )
    target = json_file or source.bisect_folder / result_name(candidate.path.stem)
    probe(target)
    pictures = parity_pictures(
        source, reference.metadata.spec, data, images, limit or BISECT_PICTURES
    )
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
    print_layers(result)
    console.print(f"wrote {target}")
    if result.first is not None:
        sys.exit(EXIT_FAILED)


def _conclude(results: Sequence[ParityResult], target: Path) -> None:
    for result in results:
        print_parity(result)
    console.print(f"wrote {target}")
    if not all(result.passed for result in results):
        sys.exit(EXIT_FAILED)
