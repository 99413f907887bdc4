"""``fcn-deploy evaluate``: how good the masks are by labels, of several backends side by side."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fcn_deploy.commands.shared.backends import require_backends
from fcn_deploy.commands.shared.code_options import trust_option
from fcn_deploy.commands.shared.console import console, counter
from fcn_deploy.commands.shared.options import (
    BackendName,
    PathText,
    PathType,
    TextType,
    device_option,
    run_argument,
    share_of,
    threads_option,
    typed_words,
)
from fcn_deploy.commands.shared.pictures import say_recognised
from fcn_deploy.commands.shared.proven_backend import (
    AUTO,
    ChosenBackend,
    choose_backend,
    open_chosen,
)
from fcn_deploy.commands.shared.runs import labelled_data, result_name, run_from_argument
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: Options that change where a result is written, and nothing in it.
_NOT_REPEATED = ("json_file",)


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """What was typed; the fields are the argument and the options of :func:`evaluate`."""

    run: str | None
    data: str | None
    split: str
    backends: tuple[str, ...]
    fp32: bool
    fp16: bool
    int8: bool
    batch_size: int
    json_file: Path | None
    device: str
    threads: int | None
    trust: bool

    @property
    def held_out(self) -> float | None:
        """The share that was typed in place of a list's name."""
        return share_of(self.split)

    @property
    def list_name(self) -> str:
        """The list: ``val`` where a share was typed."""
        return self.split if self.held_out is None else "val"

    @property
    def typed_precisions(self) -> tuple[Precision, ...]:
        """Those that were typed, float32 first."""
        asked = {Precision.FP32: self.fp32, Precision.FP16: self.fp16, Precision.INT8: self.int8}
        return tuple(one for one, typed in asked.items() if typed)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Those that were typed; float32 alone without any."""
        return self.typed_precisions or (Precision.FP32,)

    def candidates(self, source: Run) -> tuple[ChosenBackend, ...]:
        """Return what each row is computed with, each once.

        Raises:
            MissingStageError: naming the export that is missing.
        """
        found = [
            choose_backend(source, backend, precision=precision, device=self.device)
            for precision in self.precisions
            for backend in self.backends or (AUTO,)
        ]
        return tuple({(one.backend, one.precision): one for one in found}.values())


class ListName(TextType):
    """The name of a list of images, with or without its suffix."""

    name = "list"

    def read(self, word: str) -> str:
        """Return the name without the suffix."""
        return word.removesuffix(".txt")

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer the names that are usual."""
        from click.shell_completion import CompletionItem

        usual = ("val", "test", "train")
        return [CompletionItem(name) for name in usual if name.startswith(incomplete)]


@click.command()
@run_argument
@click.option(
    "--data", metavar="DIR|synthetic", type=PathText("synthetic", folder=True),
    help="Evaluate on the labelled images of this folder, or on the built-in scenes "
    "(`synthetic`); by default on the data that the run was trained with.",
)  # fmt: skip
@click.option(
    "--split", default="val", show_default=True, metavar="LIST|SHARE", type=ListName(),
    help="Take the images of this list: `test`, `val`, `train`, or any other in "
    "ImageSets/Segmentation. A share such as 0.2: the images that a training with that share "
    "kept for validation.",
)  # fmt: skip
@click.option(
    "--backend", "backends", multiple=True, type=BackendName(AUTO),
    help="Evaluate the masks of this backend; may be repeated. The default is `auto`: the fastest "
    "whose masks were proven on this machine, else ort where the run has been exported, else "
    "torch.",
)  # fmt: skip
@click.option(
    "--fp32", is_flag=True,
    help="Evaluate the float32 network, as without any such flag; flags add up, so that `--fp32 "
    "--int8` says what INT8 costs.",
)  # fmt: skip
@click.option(
    "--fp16", is_flag=True, help="Evaluate the half precision network of model.fp16.onnx."
)
@click.option("--int8", is_flag=True, help="Evaluate the 8-bit network of model.int8.onnx.")
@click.option(
    "--batch", "batch_size", type=click.IntRange(min=1), default=1, show_default=True,
    help="Segment so many images of one size at once.",
)  # fmt: skip
@click.option(
    "--json", "json_file", type=PathType(),
    help="Write the result to this file; by default to one in RUN/evaluate that is named after "
    "what was evaluated.",
)  # fmt: skip
@device_option
@threads_option
@trust_option
def evaluate(**typed: Any) -> None:
    """Score masks against labels: mIoU, IoU per class and confusion, with intervals.

    The first row is what the others are held against: with --fp32 --int8 that says what INT8
    costs on these images.
    """
    options = EvaluateOptions(**typed)
    from fcn_deploy.core.files import probe, write_json
    from fcn_deploy.evaluate.evaluate import evaluate as evaluate_runners
    from fcn_deploy.evaluate.pictures import open_split, require_same_classes, role_of

    source = run_from_argument(options.run, options.trust)
    _require_precision_of_file(source, options)
    candidates = options.candidates(source)
    require_backends([chosen.backend for chosen in candidates], options.device)
    data = labelled_data(
        source, options.data, options.held_out, "name the labelled images with --data DIR"
    )
    say_recognised(data)
    dataset = open_split(data.place, options.list_name, data.held_out)
    target = options.json_file or source.evaluate_folder / _file_name(options, candidates)
    probe(target)
    with ExitStack() as stack:
        # All are opened before the first one works: a file that is missing is found at once.
        runners = [
            stack.enter_context(
                open_chosen(source, chosen, device=options.device, threads=options.threads)
            )
            for chosen in candidates
        ]
        for runner in runners:
            require_same_classes(dataset, runner.spec)
            if source.named_engine is not None and runner.describe().backend == "trt":
                _require_typed(source.named_engine, runner.describe().precision, options)
        step = stack.enter_context(counter("evaluate", len(runners) * len(dataset)))
        result = evaluate_runners(
            runners,
            dataset,
            split=options.list_name,
            role=role_of(dataset, source, runners[0].describe().checkpoint_digest),
            batch_size=options.batch_size,
            on_picture=step,
        )
    words = typed_words(but=_NOT_REPEATED)
    result = dataclasses.replace(
        result, arguments=tuple(words["arguments"]), options=tuple(words["options"])
    )
    write_json(target, result.to_json())
    from fcn_deploy.commands.evaluate_tables import print_evaluation

    print_evaluation(result)
    console.print(f"wrote {target}")


def _require_precision_of_file(source: Run, options: EvaluateOptions) -> None:
    """Refuse precisions that a model file given by name does not have.

    Raises:
        InputError: more than one was typed, or another one than the ONNX file's.
        OnnxFileError: the ONNX file is not ours.
    """
    file, typed = source.named_file, options.typed_precisions
    if file is None or file.suffix == ".safetensors" or not typed:
        return
    if len(typed) > 1:
        flags = " ".join(f"--{precision.value}" for precision in typed)
        raise InputError(
            f"{file} has one precision, and {flags} ask for {len(typed)}",
            f"evaluate the run {file.parent}, which has a file of each",
        )
    if file.suffix == ".onnx":
        from fcn_deploy.graph.onnx_file import OnnxFile

        _require_typed(file, OnnxFile(file).metadata.precision.value, options)


def _require_typed(file: Path, held: str, options: EvaluateOptions) -> None:
    for precision in options.typed_precisions:
        if precision.value != held:
            raise InputError(
                f"{file} holds a {held} network, not {precision.value}", f"drop --{precision.value}"
            )


def _file_name(options: EvaluateOptions, candidates: tuple[ChosenBackend, ...]) -> str:
    return result_name(
        "-".join(dict.fromkeys(one.backend for one in candidates)),
        "-".join(dict.fromkeys(one.precision.value for one in candidates)),
        Path(options.data) if options.data else None,
        options.split,
    )
