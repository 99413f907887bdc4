"""The command line: thin commands that turn words into values and call one function each.

Heavy imports happen inside the command bodies, so that every ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.console import Console

from fcn_deploy import __version__
from fcn_deploy.artifacts import Run
from fcn_deploy.errors import FcnDeployError, InputError
from fcn_deploy.spec import OUTPUT_NAMES, Precision, Product, ShapeProfile

if TYPE_CHECKING:
    from fcn_deploy.dataset import Dataset
    from fcn_deploy.runners.base import Runner
    from fcn_deploy.train import Epoch, Progress, Recipe

#: Exit codes: a gate that failed or work that was done in part, bad input, Ctrl-C.
EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130

console = Console(highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Taken out by hand so that it may stand anywhere: people append it to a failed command.
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        code = fcn_deploy.main(words, prog_name="fcn-deploy", standalone_mode=False)
    except (FcnDeployError, click.ClickException, click.Abort, OSError, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        code = _explain(error)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: BaseException) -> int:
    if isinstance(error, FcnDeployError):
        line, code = str(error), error.exit_code
    elif isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "fcn-deploy"
        line, code = f"{error.format_message()} See `{command} --help`.", EXIT_BAD_INPUT
    elif isinstance(error, click.ClickException):
        line, code = error.format_message(), EXIT_BAD_INPUT
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        line, code = f"{where}{error.strerror or error}", EXIT_BAD_INPUT
    else:
        line, code = "stopped; files that were finished are whole", EXIT_INTERRUPTED
    click.echo(f"fcn-deploy: {' '.join(line.split())}", err=True)
    return code


class _Size(click.ParamType[Any]):
    """HEIGHTxWIDTH in pixels."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        height, _, width = str(value).lower().replace("×", "x").partition("x")
        if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
            self.fail(f"{value!r} is no size; write HEIGHTxWIDTH, e.g. 320x480", param, ctx)
        return int(height), int(width)


class _Names(click.ParamType[Any]):
    """A comma-separated list of known names."""

    def __init__(self, known: Sequence[str]) -> None:
        self.known = tuple(known)
        self.name = ",".join(known)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in str(value).split(",") if name.strip())
        for name in names:
            if name not in self.known:
                self.fail(f"unknown {name!r}; choose of {', '.join(self.known)}", param, ctx)
        return names


class _Profile(click.ParamType[Any]):
    """MIN:OPT:MAX, each NxHxW: the batch shapes that an engine takes."""

    name = "MIN:OPT:MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, ShapeProfile) else ShapeProfile.from_text(str(value))


class _Counts(click.ParamType[Any]):
    """A comma-separated list of whole numbers from 1."""

    name = "N,N…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in str(value).split(",")]
        if not all(word.isdigit() and int(word) for word in words):
            self.fail(f"{value!r} is no list of whole numbers from 1, e.g. 1,8", param, ctx)
        return tuple(int(word) for word in words)


run_argument = click.argument("run", required=False, metavar="[RUN]")
fp16_option = click.option("--fp16", is_flag=True, help="Use half precision (model.fp16.onnx).")
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads; default: all usable cores."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fcn-deploy")
def fcn_deploy() -> None:
    """From labelled images to segmentation masks that are the same on every backend.

    RUN is a run directory (default runs/fcn) or one of its files. Add --debug to any command
    for the full traceback of an error.
    """


@fcn_deploy.command()
@click.option("--data", default=None, metavar="DIR|synthetic", help="Folder in VOC layout.")
@click.option("--out", default="runs/fcn", show_default=True, help="Run directory to write.")
@click.option("--arch", default="fcn32s-resnet18", show_default=True, help="Architecture.")
@click.option(
    "--weights",
    default="none",
    show_default=True,
    metavar="imagenet|none|FILE",
    help="What to start from: torchvision's ImageNet weights, nothing, a torchvision .pth of the "
    "body, or a .safetensors checkpoint of ours.",
)
@click.option(
    "--recipe",
    type=click.Choice(["tutorial", "scratch"]),
    help="Preset; default: scratch without pretrained weights, else tutorial.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Overrides the recipe's.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Overrides the recipe's.")
@click.option("--crop-size", type=_Size(), help="Training crop; overrides the recipe's.")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Overrides the recipe's.")
@click.option("--freeze-backbone", is_flag=True, help="Train the head only.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Data loading processes.")
@click.option("--overwrite", is_flag=True, help="Replace a model that --out already holds.")
def train(
    data: str | None,
    out: str,
    arch: str,
    weights: str,
    recipe: str | None,
    epochs: int | None,
    batch_size: int | None,
    crop_size: tuple[int, int] | None,
    lr: float | None,
    freeze_backbone: bool,
    seed: int,
    device: str,
    workers: int,
    overwrite: bool,
) -> None:
    """Train an FCN on labelled images; writes RUN/model.safetensors."""
    from fcn_deploy.runners.pytorch import choose_device, unavailable_reason

    if (reason := unavailable_reason()) is not None:
        raise FcnDeployError(f"training needs PyTorch: {reason}")
    from fcn_deploy.model import find_architecture
    from fcn_deploy.train import RECIPES, TrainPlan
    from fcn_deploy.train import train as run_training

    find_architecture(arch)
    start = _starting_weights(weights)
    chosen = RECIPES[recipe or ("scratch" if start is None else "tutorial")]
    chosen = dataclasses.replace(
        chosen,
        epochs=epochs or chosen.epochs,
        batch_size=batch_size or chosen.batch_size,
        crop_size=crop_size or chosen.crop_size,
        lr=lr or chosen.lr,
    )
    plan = TrainPlan(chosen, choose_device(device), arch, start, freeze_backbone, seed, workers)
    run = Run(Path(out))
    run.prepare(overwrite=overwrite)
    train_set, val_set, dropped = _open_training_data(data, chosen)
    with _training_progress(chosen.epochs) as (on_batch, on_epoch):
        run_training(
            plan, train_set, val_set, run, dropped=dropped, on_batch=on_batch, on_epoch=on_epoch
        )
    console.print(f"wrote {run.checkpoint}, {run.metrics}, {run.preview}")


def _starting_weights(word: str) -> Literal["imagenet"] | Path | None:
    if word == "none":
        return None
    if word == "imagenet":
        return "imagenet"
    path = Path(word)
    if not path.is_file():
        raise InputError(f"no weights file {word}", "give imagenet, none, or an existing file")
    return path


def _open_training_data(data: str | None, recipe: Recipe) -> tuple[Dataset, Dataset, int]:
    from fcn_deploy.dataset import open_dataset

    if data is None:
        console.print("no --data given: training on the built-in synthetic scenes")
        data = "synthetic"
    read = open_dataset(data, "train")
    val_set = open_dataset(data, "val")
    fitting = read.at_least(*recipe.crop_size)
    dropped = len(read) - len(fitting)
    height, width = recipe.crop_size
    console.print(
        f"read {len(read)} training and {len(val_set)} validation examples of "
        f"{len(read.class_names)} classes from {data}; "
        f"dropped {dropped} training examples smaller than the crop {height}x{width}"
    )
    return _checked(fitting, "checking train"), _checked(val_set, "checking val"), dropped


def _checked(dataset: Dataset, title: str) -> Dataset:
    from rich.progress import Progress as Bar

    from fcn_deploy.dataset import check_and_cache

    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=len(dataset))
        return check_and_cache(dataset, lambda: bar.advance(task))


@contextmanager
def _training_progress(
    epochs: int,
) -> Iterator[tuple[Callable[[Progress], None], Callable[[Epoch], None]]]:
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    figures = TextColumn("{task.fields[figures]}")
    with Bar(
        TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
        BarColumn(),
        figures,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,  # a log gets the line per epoch alone
    ) as bar:
        task = bar.add_task("train", total=None, epoch=1, figures="")

        def on_batch(progress: Progress) -> None:
            done = (progress.epoch - 1) * progress.batches + progress.batch
            bar.update(
                task,
                total=epochs * progress.batches,
                completed=done,
                epoch=progress.epoch,
                figures=f"loss {progress.loss:.3f}  accuracy {progress.pixel_accuracy:.3f}  "
                f"mIoU {progress.mean_iou:.3f}  {progress.examples_per_s:.1f} examples/s",
            )

        def on_epoch(epoch: Epoch) -> None:
            bar.console.print(
                f"epoch {epoch.epoch}/{epochs}  loss {epoch.loss:.3f}  "
                f"train {epoch.train_pixel_accuracy:.3f}/{epoch.train_mean_iou:.3f}  "
                f"val {epoch.val_pixel_accuracy:.3f}/{epoch.val_mean_iou:.3f} "
                f"(pixel accuracy/mIoU)  {epoch.examples_per_s:.1f} examples/s"
            )

        yield on_batch, on_epoch


@fcn_deploy.command()
@run_argument
@fp16_option
@click.option(
    "--outputs", type=_Names(OUTPUT_NAMES), default="mask", show_default=True,
    help="What the graph gives.",
)  # fmt: skip
@click.option("--opset", type=int, default=20, show_default=True, help="ONNX opset, 17 to 20.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write; default: in the run.")
def export(
    run: str | None, fp16: bool, outputs: tuple[str, ...], opset: int, out: Path | None
) -> None:
    """Write a checkpoint as ONNX: uint8 pictures in, uint8 masks out, any size."""
    from fcn_deploy.runners.pytorch import unavailable_reason

    source = Run.from_argument(run)
    checkpoint = source.require_checkpoint()
    if (reason := unavailable_reason()) is not None:
        raise FcnDeployError(f"export needs PyTorch: {reason}")
    from fcn_deploy.export import onnx_from_checkpoint

    precision = Precision.FP16 if fp16 else Precision.FP32
    written = onnx_from_checkpoint(
        checkpoint, out or source.onnx(precision), precision=precision, outputs=outputs, opset=opset
    )
    shapes = ", ".join("×".join(map(str, shape)) for shape in written.checked_shapes)
    console.print(
        f"wrote {written.path}: {precision.value}, opset {opset}, {written.num_nodes} nodes, "
        f"outputs {', '.join(written.outputs)}; masks checked against PyTorch at N×H×W {shapes}"
    )


@fcn_deploy.command()
@click.argument("run", required=False, metavar="[RUN|FILE.onnx]")
@click.option(
    "--product", type=click.Choice(["auto", *(product.value for product in Product)]),
    default="auto", show_default=True, help="TensorRT, or TensorRT for RTX cards.",
)  # fmt: skip
@click.option(
    "--profile", "profiles", type=_Profile(), multiple=True,
    help="Batch shapes to take, NxHxW each, e.g. 1x32x32:1x320x480:8x1024x2048; may be repeated.",
)  # fmt: skip
@fp16_option
@click.option("--workspace", type=click.IntRange(min=1), metavar="MiB", help="Scratch per layer.")
@click.option("--opt-level", type=click.IntRange(0, 5), help="0 builds fast, 5 runs fast.")
@click.option("--timing-cache", type=click.Path(path_type=Path), help="Carries timings over.")
@click.option(
    "--compute-capability", metavar="sm89,…", help="GPUs to build for (TensorRT for RTX only)."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default="engines",
    show_default=True, help="Folder of engines.",
)  # fmt: skip
def build(
    run: str | None,
    product: str,
    profiles: tuple[ShapeProfile, ...],
    fp16: bool,
    workspace: int | None,
    opt_level: int | None,
    timing_cache: Path | None,
    compute_capability: str | None,
    out: Path,
) -> None:
    """Compile an exported ONNX file into a TensorRT engine, with its sidecar."""
    from fcn_deploy.build import BuildOptions, build_command, census, engine_from_onnx
    from fcn_deploy.trt_api import choose_product

    source = Run.from_argument(run)
    precision = Precision.FP16 if fp16 else Precision.FP32
    onnx_path = source.require_onnx(precision)
    chosen = choose_product(product)
    capabilities = tuple(
        word.strip().lower() for word in (compute_capability or "").split(",") if word.strip()
    )
    options = BuildOptions(profiles, workspace, opt_level, timing_cache, capabilities)
    with _build_progress() as on_progress:
        engine = engine_from_onnx(
            onnx_path,
            name=source.name,
            product=chosen,
            options=options,
            folder=out,
            command=build_command(source, precision, chosen, options),
            on_progress=on_progress,
        )
    built = engine.sidecar
    if engine.current:
        console.print(
            f"{engine.path} is current: same ONNX file ({built.onnx_digest[:19]}…), "
            f"{built.release}, {', '.join(built.compute_capabilities)}, profiles and settings"
        )
        return
    if engine.differences:
        console.print(f"built anew, because of {'; '.join(engine.differences)}")
    console.print(
        f"wrote {engine.path}: {built.plan_bytes / 2**20:.1f} MiB in {built.build_seconds:.1f} s; "
        f"{census(built.layers)} ({built.layers_from}); "
        f"profiles {', '.join(map(str, built.profiles))}"
    )


def _open_backend(
    source: Run,
    backend: str,
    *,
    precision: Precision,
    outputs: Sequence[str] = ("mask",),
    threads: int | None = None,
) -> Runner:
    """Open a runner; for TensorRT, build the engine first if none fits, and say so."""
    from fcn_deploy.runners.base import open_runner, unavailable_reason

    if backend == "trt" and unavailable_reason(backend) is None:
        from fcn_deploy.build import ensure_engine

        with _build_progress() as on_progress:
            ensure_engine(
                source, precision, outputs=outputs, say=console.print, on_progress=on_progress
            )
    return open_runner(source, backend, precision=precision, outputs=outputs, threads=threads)


@contextmanager
def _build_progress() -> Iterator[Callable[[str, int, int], None]]:
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    with Bar(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        console=console, transient=True, disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("building", total=None)

        def on_progress(phase: str, done: int, steps: int) -> None:
            bar.update(task, description=phase, completed=done, total=steps or None)

        yield on_progress
