"""``fcn-deploy parity``: the gate, its table and its reasons; live, or of saved outputs."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fcn_deploy.commands.parity_tables import print_layers, print_parity
from fcn_deploy.commands.shared.backends import (
    open_backend,
    opened_unasked,
    require_backends,
    usable_backends,
)
from fcn_deploy.commands.shared.code_options import trust_option
from fcn_deploy.commands.shared.console import EXIT_FAILED, console, counter
from fcn_deploy.commands.shared.options import (
    BackendName,
    PathText,
    PathType,
    device_option,
    held_out_option,
    precision_options,
    threads_option,
    typed_words,
)
from fcn_deploy.commands.shared.pictures import parity_pictures
from fcn_deploy.commands.shared.runs import result_name, run_from_argument
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from fcn_deploy.core.spec import ModelSpec
    from fcn_deploy.parity.candidate import Candidate
    from fcn_deploy.parity.inputs import Pictures
    from fcn_deploy.results.parity import Comparison
    from fcn_deploy.runners.base import Runner


_BOTH = ("mask", "logits")
#: Pictures to bisect on, unless told otherwise: every layer of both networks is computed for each.
BISECT_PICTURES = 16
#: What is possible without PyTorch.
_SAVE_INSTEAD = (
    ", or --save-outputs here, and compare the file with PyTorch's: "
    "`fcn-deploy parity TORCH.json HERE.json`"
)
#: Options that change where a result is written, and nothing in it.
_NOT_REPEATED = ("json_file",)


@dataclasses.dataclass(frozen=True)
class ParityOptions:
    """What was typed; the fields are the arguments and options of :func:`parity`."""

    arguments: tuple[str, ...]
    backends: tuple[str, ...]
    precision: Precision
    data: str | None
    held_out: float | None
    images: Path | None
    limit: int | None
    json_file: Path | None
    outputs_file: Path | None
    bisecting: bool
    device: str
    threads: int | None
    trust: bool

    @property
    def saved(self) -> tuple[str, ...]:
        """Those of the arguments that are files of saved outputs."""
        words = self.arguments
        return tuple(word for word in words if word.endswith(".json") and not Path(word).is_dir())

    def run(self) -> Run:
        """Return the run that was named, or the default one."""
        return run_from_argument(self.arguments[0] if self.arguments else None, self.trust)

    def pictures(self, source: Run, spec: ModelSpec, limit: int | None = None) -> Pictures:
        """Return what to compare on; ``limit`` pictures at most unless another number was typed."""
        return parity_pictures(
            source,
            spec,
            self.data,
            self.images,
            held_out=self.held_out,
            limit=self.limit or limit,
        )

    def open(
        self, source: Run, backend: str, precision: Precision, outputs: tuple[str, ...] = _BOTH
    ) -> Runner:
        """Open a runner; unless told otherwise it gives masks and logits."""
        return open_backend(
            source,
            backend,
            precision=precision,
            outputs=outputs,
            device=self.device,
            threads=self.threads,
        )

    def certified(self, source: Run) -> bool:
        """Say whether the masks are held against those that a bundle brought along."""
        return source.bundle is not None and self.data is None and self.images is None

    def reference(self, source: Run, opened: ExitStack) -> tuple[Runner, Pictures]:
        """Return what is held against, and the pictures; of a bundle those that it brought."""
        if self.certified(source):
            from fcn_deploy.bundle.certificate import read_certificate

            certificate = read_certificate(source.certificate)
            pictures = certificate.pictures()
            count = min(pictures.count, self.limit or pictures.count)
            reference = opened.enter_context(certificate.runner())
            return reference, dataclasses.replace(pictures, count=count)
        held_against = "original" if source.is_foreign else "torch"
        if source.bundle is not None and not source.is_foreign:
            raise InputError(
                f"{source.bundle} brought no masks for other pictures than its own",
                "drop --data and --images",
            )
        reference = opened.enter_context(self.open(source, held_against, Precision.FP32))
        return reference, self.pictures(source, reference.spec)

    def candidate(self, source: Run, backend: str, opened: ExitStack) -> Candidate:
        """Open a candidate, with what opens it as `predict` does."""
        from fcn_deploy.parity.candidate import Candidate

        runner = opened.enter_context(self.open(source, backend, self.precision))
        return Candidate(
            runner, lambda: self.open(source, backend, self.precision, outputs=("mask",))
        )


@click.command()
@click.argument(
    "arguments", nargs=-1, type=PathText(), metavar="[RUN | BUNDLE | REF.json CAND.json]"
)
@click.option(
    "--backend", "backends", multiple=True, type=BackendName(),
    help="Compare this backend with PyTorch, or with the original of `import onnx:FILE`; may be "
    "repeated; by default all backends that run here are compared.",
)  # fmt: skip
@precision_options
@click.option(
    "--data", metavar="DIR|synthetic", type=PathText("synthetic", folder=True),
    help="Compare on the validation images of this folder, or of the built-in scenes "
    "(`synthetic`); by default on the run's own.",
)  # fmt: skip
@held_out_option
@click.option(
    "--images", type=PathType(),
    help="Compare on the pictures of this folder, which need no labels, instead of the "
    "validation images.",
)  # fmt: skip
@click.option(
    "--limit", type=click.IntRange(min=1),
    help="Compare on so many pictures at most, the first ones.",
)  # fmt: skip
@click.option(
    "--json", "json_file", type=PathType(),
    help="Write the result to this file; by default to one in RUN/parity that is named after "
    "what was compared.",
)  # fmt: skip
@click.option(
    "--save-outputs", "outputs_file", type=PathType(), metavar="FILE.json",
    help="Save the outputs of the one --backend to this file and its folder, to be compared "
    "elsewhere, and compare nothing here.",
)  # fmt: skip
@click.option(
    "--bisect", "bisecting", is_flag=True,
    help="Find the first layer whose output leaves its tolerance: compute the FP32 and the "
    "FP16 ONNX file (--int8: the INT8 file; or the file that is named) layer by layer in "
    "ONNX Runtime.",
)  # fmt: skip
@device_option
@threads_option
@trust_option
@click.pass_context
def parity(context: click.Context, /, **typed: Any) -> None:
    """Prove that a backend's masks are PyTorch's; exit code 1 where the gate fails.

    Of a network that was imported from ONNX they must be the original's, in ONNX Runtime.

    Two files of --save-outputs, the float32 reference first, are compared without their networks.
    """
    options = ParityOptions(**typed)
    if options.saved:
        _refuse_mixed(context, options)
        _compare_saved(options)
        return
    _refuse_contradictions(options)
    if options.bisecting:
        _bisect(options)
    elif options.outputs_file is not None:
        _save_outputs(options, options.outputs_file)
    else:
        _compare_live(options)


def _refuse_mixed(context: click.Context, options: ParityOptions) -> None:
    saved = options.saved
    if len(saved) != 2 or len(options.arguments) != 2:
        raise click.UsageError(
            f"{saved[0]} holds saved outputs: give two such files, the reference, then the "
            "candidate, and no RUN."
        )
    given = click.core.ParameterSource.COMMANDLINE
    for option in context.command.params:
        known = option.name in ("arguments", "json_file")
        if not known and context.get_parameter_source(option.name or "") is given:
            raise click.UsageError(f"{option.opts[0]} is of no use with saved outputs: drop it.")


def _refuse_contradictions(options: ParityOptions) -> None:
    if len(options.arguments) > 1:
        raise click.UsageError(
            "give one RUN, or two .json files of --save-outputs: the reference, then the candidate."
        )
    if options.images is not None and options.data is not None:
        raise InputError("--data and --images exclude each other", "give one of them")
    outputs_file = options.outputs_file
    if options.bisecting:
        if options.backends or outputs_file is not None:
            raise click.UsageError(
                "--bisect compares two ONNX files: drop --backend and --save-outputs."
            )
    elif outputs_file is not None:
        if options.json_file is not None:
            raise click.UsageError("--save-outputs compares nothing: drop --json.")
        if len(options.backends) != 1 or outputs_file.suffix != ".json":
            raise click.UsageError("--save-outputs takes one --backend and a file ending in .json.")


def _compare_saved(options: ParityOptions) -> None:
    from fcn_deploy.core.files import probe
    from fcn_deploy.parity.compare import compare_recordings, save
    from fcn_deploy.parity.recording import read_recording

    reference_file, candidate_file = map(Path, options.saved)
    name = result_name(f"{reference_file.stem}-{candidate_file.stem}", "parity")
    target = options.json_file or candidate_file.parent / name
    if target.resolve() in (reference_file.resolve(), candidate_file.resolve()):
        raise InputError(f"{target} holds saved outputs", "write elsewhere with --json")
    reference, candidate = read_recording(reference_file), read_recording(candidate_file)
    probe(target)
    comparison = compare_recordings(reference, candidate)
    recordings = reference, candidate
    save([comparison], target, recordings=recordings, typed=typed_words(but=_NOT_REPEATED))
    _conclude([comparison], target)


def _save_outputs(options: ParityOptions, target: Path) -> None:
    from fcn_deploy.core.files import probe
    from fcn_deploy.parity.saved_outputs import record

    source, (backend,) = options.run(), options.backends
    require_backends([backend], options.device)
    probe(target, flags="--save-outputs")
    with ExitStack() as opened:
        candidate = options.candidate(source, backend, opened)
        pictures = options.pictures(source, candidate.runner.spec)
        with counter(f"outputs of {backend}", pictures.count) as step:
            size = record(candidate, pictures, target, on_picture=step)
    console.print(f"wrote {target} and its folder, {size:,.1f} MiB")


def _compare_live(options: ParityOptions) -> None:
    from fcn_deploy.core.files import probe
    from fcn_deploy.networks.device import require_torch
    from fcn_deploy.parity.channel_order import channel_order_note
    from fcn_deploy.parity.compare import compare, save

    source, precision = options.run(), options.precision
    if not source.is_foreign:
        require_torch("comparing with PyTorch", _SAVE_INSTEAD)
    # The float32 reference compared with itself proves nothing.
    skipped = {"torch"} if precision is Precision.FP32 else set()
    backends = options.backends or usable_backends(precision, skipped, source)
    require_backends(backends)
    target = options.json_file or source.parity_folder / result_name(
        "-".join(backends),
        precision.value,
        options.images or (Path(options.data) if options.data else None),
        f"limit{options.limit}" if options.limit else None,
    )
    probe(target)
    with ExitStack() as stack:
        reference, pictures = options.reference(source, stack)
        candidates = opened_unasked(
            source.is_foreign and not options.backends,
            backends,
            lambda backend: options.candidate(source, backend, stack),
            unasked=not options.backends,
        )
        step = stack.enter_context(counter("parity", pictures.count))
        live = not options.certified(source)
        comparisons = compare(
            reference, list(candidates.values()), pictures, can_rerun=live, on_picture=step
        )
        note = channel_order_note(reference, pictures) if source.is_foreign and live else None
    notes = () if note is None else (note,)
    save(comparisons, target, typed=typed_words(but=_NOT_REPEATED), notes=notes)
    _conclude(comparisons, target, notes)


def _bisect(options: ParityOptions) -> None:
    from fcn_deploy.core.files import probe
    from fcn_deploy.graph.onnx_file import OnnxFile
    from fcn_deploy.machine.description import usable_cores
    from fcn_deploy.parity.bisect import bisect, save

    source, precision = options.run(), options.precision
    reference = OnnxFile(Run(source.root).require_onnx(Precision.FP32))
    # The reference is FP32; what is suspected, unless told otherwise, is the half file.
    suspect = Precision.FP16 if precision is Precision.FP32 else precision
    candidate = OnnxFile(source.require_onnx(suspect))
    if candidate.path.resolve() == reference.path.resolve():
        raise InputError(
            f"{candidate.path} is the reference itself", "name another file, or the run"
        )
    target = options.json_file or source.bisect_folder / result_name(candidate.path.stem)
    probe(target)
    pictures = options.pictures(source, reference.metadata.spec, BISECT_PICTURES)
    threads = options.threads or usable_cores()
    with counter("bisect", pictures.count) as step:
        bisection = bisect(reference, candidate, pictures, threads=threads, on_picture=step)
    save(bisection, target, typed=typed_words(but=_NOT_REPEATED))
    print_layers(bisection)
    console.print(f"wrote {target}")
    if bisection.first is not None:
        sys.exit(EXIT_FAILED)


def _conclude(comparisons: Sequence[Comparison], target: Path, notes: Sequence[str] = ()) -> None:
    for comparison in comparisons:
        print_parity(comparison)
    for note in notes:
        console.print(note)
    console.print(f"wrote {target}")
    if not all(comparison.passed for comparison in comparisons):
        sys.exit(EXIT_FAILED)
