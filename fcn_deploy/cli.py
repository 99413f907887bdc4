"""The command line: thin commands that turn words into values and call one function each.

Heavy imports happen inside the command bodies, so that every ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.console import Console

from fcn_deploy import __version__
from fcn_deploy.artifacts import MODEL_SUFFIXES, Run
from fcn_deploy.errors import FcnDeployError, InputError
from fcn_deploy.spec import OUTPUT_NAMES, Precision, Product, ShapeProfile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fcn_deploy.bench import Row
    from fcn_deploy.dataset import Dataset
    from fcn_deploy.parity import ParityResult, Pictures
    from fcn_deploy.runners.base import Runner
    from fcn_deploy.spec import ModelSpec
    from fcn_deploy.train import Epoch, Progress, Recipe

#: Exit codes: a gate that failed or work that was done in part, bad input, Ctrl-C.
EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130

# A file or pipe has no width of its own, and a table cut off at 80 columns is of no use there.
# No markup: a path or a `pip install 'fcn-deploy[trt]'` may hold brackets.
console = Console(
    markup=False, highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Taken out by hand so that it may stand anywhere: people append it to a failed command.
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal of another encoding must not cost a result for the sake of an ε.
            stream.reconfigure(errors="replace")
    try:
        code = fcn_deploy.main(words or ["--help"], prog_name="fcn-deploy", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
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
    elif isinstance(error, (KeyboardInterrupt, click.Abort)):
        line, code = "stopped; files that were finished are whole", EXIT_INTERRUPTED
    elif isinstance(error, MemoryError):
        line, code = "out of memory; use smaller pictures, crops or batches", EXIT_BAD_INPUT
    else:
        line = f"{type(error).__name__}: {error}; this is a bug of ours: see it with --debug"
        code = EXIT_FAILED
    click.echo(f"fcn-deploy: {' '.join(line.split())}", err=True)
    return code


class _Size(click.ParamType[Any]):
    """HEIGHTxWIDTH in pixels."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        height, _, width = str(value).lower().replace("×", "x").partition("x")
        if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
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
        if not all(word.isdecimal() and int(word) for word in words):
            self.fail(f"{value!r} is no list of whole numbers from 1, e.g. 1,8", param, ctx)
        return tuple(int(word) for word in words)


run_argument = click.argument("run", required=False, metavar="[RUN]")
fp16_option = click.option("--fp16", is_flag=True, help="Use half precision (model.fp16.onnx).")
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads; default: all usable cores."
)


device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto",
    help="Where PyTorch runs; default: the GPU if there is one.",
)  # fmt: skip
trust_option = click.option(
    "--trust", is_flag=True, help="Load a TensorRT engine that has no sidecar; engines are code."
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
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
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
    from fcn_deploy.model import build_model, find_architecture
    from fcn_deploy.train import RECIPES, TrainPlan
    from fcn_deploy.train import train as run_training

    find_architecture(arch)
    start = _starting_weights(weights)
    if start is not None and not str(start).endswith(".safetensors"):
        build_model(arch, 2, weights=start)  # fetched or refused now, not after the data was read
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
    run.refuse_existing(overwrite=overwrite)
    train_set, val_set, dropped = _open_training_data(data, chosen)
    run.prepare()
    with _training_progress(chosen.epochs) as (on_batch, on_epoch):
        run_training(
            plan,
            train_set,
            val_set,
            run,
            # Resolved, so that later commands find the data from any folder.
            data_argument="synthetic" if data in (None, "synthetic") else str(Path(data).resolve()),
            dropped=dropped,
            on_batch=on_batch,
            on_epoch=on_epoch,
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
    from fcn_deploy.dataset import check_and_cache

    with _counter(title, len(dataset)) as step:
        return check_and_cache(dataset, step)


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
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--train", "train_count", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--val", "val_count", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--size", type=_Size(), default=(320, 480), help="Default 320x480.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
def scenes(
    folder: Path, train_count: int, val_count: int, size: tuple[int, int], seed: int
) -> None:
    """Write built-in scenes as a folder in VOC layout: the shape your own data should have."""
    from fcn_deploy.dataset import SceneDataset, write_voc_layout

    splits = {
        "train": SceneDataset(2 * seed, train_count, size),
        "val": SceneDataset(2 * seed + 1, val_count, size),
    }
    write_voc_layout(folder, splits)
    console.print(f"wrote {train_count} training and {val_count} validation scenes to {folder}")


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
    if out is not None and out.suffix != ".onnx":
        raise InputError(f"{out} is no name for an ONNX file", "let --out end in .onnx")
    written = onnx_from_checkpoint(
        checkpoint,
        out or source.onnx_target(precision),
        precision=precision,
        outputs=outputs,
        opset=opset,
    )
    shapes = ", ".join("×".join(map(str, shape)) for shape in written.checked_shapes)
    console.print(
        f"wrote {written.path}: {precision.value}, opset {opset}, {written.num_nodes} nodes, "
        f"outputs {', '.join(written.outputs)}; masks checked against PyTorch at N×H×W {shapes}"
    )


@fcn_deploy.command()
@run_argument
@click.option(
    "--backend", "backends", multiple=True, help="Candidate, repeatable; default: all that run."
)
@fp16_option
@click.option("--data", metavar="DIR|synthetic", help="Validation set; default: the run's own.")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Compare on these pictures (unlabelled) instead of the validation images.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Compare on so many pictures only.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Result file.")
@device_option
@threads_option
@trust_option
def parity(
    run: str | None,
    backends: tuple[str, ...],
    fp16: bool,
    data: str | None,
    images: Path | None,
    limit: int | None,
    json_file: Path | None,
    device: str,
    threads: int | None,
    trust: bool,
) -> None:
    """Prove that a backend's masks are PyTorch's; exit code 1 where the gate fails."""
    from fcn_deploy.artifacts import probe
    from fcn_deploy.parity import compare, save

    if images is not None and (data is not None):
        raise InputError("--data and --images exclude each other", "give one of them")
    source = _source(run, trust)
    precision = Precision.FP16 if fp16 else Precision.FP32
    # The float32 reference compared with itself proves nothing.
    skipped = {"torch"} if precision is Precision.FP32 else set()
    candidates = backends or _usable_backends(skipped)
    _require_backends(candidates)
    target = json_file or source.parity_folder / _result_name(
        "-".join(candidates),
        precision.value,
        images or (Path(data) if data else None),
        f"limit{limit}" if limit else None,
    )
    probe(target)
    outputs = ("mask", "logits")
    results = []
    with _open_backend(
        source, "torch", outputs=outputs, device=device, threads=threads
    ) as reference:
        pictures = _parity_pictures(source, reference.spec, data, images, limit)
        for backend in candidates:
            with (
                _open_backend(
                    source,
                    backend,
                    precision=precision,
                    outputs=outputs,
                    device=device,
                    threads=threads,
                ) as candidate,
                _counter(f"parity {backend}", pictures.count) as step,
            ):
                results.append(compare(reference, candidate, pictures, on_picture=step))
    save(results, target)
    for result in results:
        _print_parity(result)
    console.print(f"wrote {target}")
    if not all(result.passed for result in results):
        sys.exit(EXIT_FAILED)


def _source(run: str | None, trust: bool) -> Run:
    return dataclasses.replace(Run.from_argument(run), trusted=trust)


def _result_name(*parts: object) -> str:
    """Return a file name for a result, so that one of other inputs never replaces it."""
    words = [str(part.name if isinstance(part, Path) else part) for part in parts if part]
    return ".".join(words) + ".json"


def _usable_backends(skipped: Collection[str] = ()) -> tuple[str, ...]:
    """Return all backends that run here; those that do not are named with their reason."""
    from fcn_deploy.runners.base import BACKENDS, unavailable_reason

    reasons = {b: unavailable_reason(b) for b in BACKENDS if b not in skipped}
    usable = tuple(backend for backend, reason in reasons.items() if reason is None)
    if not usable:
        raise InputError("no backend runs on this machine", "see `fcn-deploy doctor`")
    left_out = [backend for backend in reasons if backend not in usable]
    if left_out:
        console.print(f"left out: {', '.join(left_out)} (`fcn-deploy doctor` says why)")
    return usable


def _require_backends(backends: Sequence[str]) -> None:
    from fcn_deploy.runners.base import require_backend

    for backend in backends:  # all, before the first of them is measured
        require_backend(backend)


def _parity_pictures(
    source: Run, spec: ModelSpec, data: str | None, images: Path | None, limit: int | None
) -> Pictures:
    from fcn_deploy.dataset import open_dataset
    from fcn_deploy.parity import labelled_pictures, unlabelled_pictures

    if images is not None:
        return unlabelled_pictures(images, limit)
    return labelled_pictures(open_dataset(data or _trained_on(source), "val"), spec, limit)


def _trained_on(source: Run) -> str:
    from fcn_deploy.artifacts import read_json

    repair = "name the data with --data DIR, or pictures with --images DIR"
    recorded = read_json(source.metrics, repair).get("data_argument")
    if not isinstance(recorded, str):
        raise InputError(f"{source.metrics} does not say what it was trained on", repair)
    if recorded != "synthetic" and not Path(recorded).is_dir():
        raise InputError(f"the data of {source.metrics}, {recorded}, is not there", repair)
    return recorded


def _print_parity(result: ParityResult) -> None:
    from rich.table import Table
    from rich.text import Text

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
    console.print(f"{'same masks: the gate passes' if result.passed else 'THE GATE FAILS'}")


@contextmanager
def _counter(title: str, total: int) -> Iterator[Callable[[], None]]:
    with _bar(title) as show:
        done = itertools.count(1)
        yield lambda: show(next(done), total)


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    from rich.progress import Progress as Bar

    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@fcn_deploy.command()
@run_argument
@click.option(
    "--backend", "backends", multiple=True, help="Backend, repeatable; default: all that run."
)
@fp16_option
@click.option("--batch", "batches", type=_Counts(), default="1", show_default=True)
@click.option(
    "--size", "sizes", type=_Size(), multiple=True, default=[(320, 480)], help="Default 320x480."
)
@click.option("--repeats", type=click.IntRange(min=3), default=5, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=0.5, show_default=True,
    help="About how long a row is timed per repeat.",
)  # fmt: skip
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Pictures to measure with; default: built-in scenes.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Result file.")
@device_option
@threads_option
@trust_option
def bench(
    run: str | None,
    backends: tuple[str, ...],
    fp16: bool,
    batches: tuple[int, ...],
    sizes: tuple[tuple[int, int], ...],
    repeats: int,
    seconds: float,
    images: Path | None,
    json_file: Path | None,
    device: str,
    threads: int | None,
    trust: bool,
) -> None:
    """Measure backends and the plain-export baseline, interleaved, with their spread."""
    import tempfile
    from contextlib import ExitStack

    from fcn_deploy.artifacts import probe, write_json
    from fcn_deploy.bench import bench_document, make_inputs, measure, system_load
    from fcn_deploy.machine import usable_cores

    source = _source(run, trust)
    precision = Precision.FP16 if fp16 else Precision.FP32
    threads = threads or usable_cores()
    load = system_load()
    chosen = backends or _usable_backends()
    _require_backends(chosen)
    target = json_file or source.bench_folder / _result_name(
        "-".join(backends) or "all",
        precision.value,
        "-".join(f"{h}x{w}" for h, w in sizes),
        "b" + "-".join(map(str, batches)),
        images,
    )
    probe(target)
    pictures, origin = _bench_pictures(images)
    with ExitStack() as stack:
        runners = [
            stack.enter_context(
                _open_backend(source, backend, precision=precision, device=device, threads=threads)
            )
            for backend in chosen
        ]
        baseline = _open_baseline(source, threads)
        if baseline is not None:
            runners.insert(0, stack.enter_context(baseline))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        inputs = [make_inputs(pictures, size, folder) for size in sizes]
        console.print(f"{threads} CPU threads pinned, {repeats} interleaved repeats")
        with _bar("bench") as show:
            rows = measure(
                runners,
                inputs,
                batches,
                repeats=repeats,
                seconds_per_repeat=seconds,
                on_step=show,
            )
    write_json(target, bench_document(rows, origin, load))
    _print_rows(rows)
    console.print(f"wrote {target}")


def _open_baseline(source: Run, threads: int) -> Runner | None:
    """Open the plain export, made on the spot where PyTorch is there; else say it is left out."""
    from fcn_deploy.runners.base import open_runner, unavailable_reason

    if (reason := unavailable_reason("baseline")) is not None:
        console.print(f"the baseline is left out: {reason}")
        return None
    if unavailable_reason("torch") is None and source.checkpoint.is_file():
        from fcn_deploy.export import ensure_baseline

        ensure_baseline(source)
    if not source.baseline_onnx.is_file():
        console.print(
            "the baseline is left out: its plain export is made where PyTorch and the checkpoint "
            f"are; copy {source.baseline_onnx} from there"
        )
        return None
    return open_runner(source, "baseline", threads=threads)


def _bench_pictures(images: Path | None) -> tuple[list[NDArray[np.uint8]], str]:
    from fcn_deploy.bench import NUM_INPUTS
    from fcn_deploy.dataset import SceneDataset
    from fcn_deploy.images import find_images, read_image

    if images is not None:
        files = find_images([images])[:NUM_INPUTS]
        return [read_image(path) for path in files], str(images)
    scenes = SceneDataset.open("val")
    return [scenes[index].image for index in range(NUM_INPUTS)], scenes.source


def _print_rows(rows: list[Row]) -> None:
    from rich.table import Table

    from fcn_deploy.bench import baseline_of, speedup

    table = Table(title="latency of one query at a time", title_justify="left")
    for column in ("tier", "N×H×W", "backend", "precision", "device"):
        table.add_column(column)
    for column in ("ms (median)", "spread", "images/s", "× baseline"):
        table.add_column(column, justify="right")
    for row in sorted(rows, key=lambda row: row.group):
        baseline = baseline_of(row, rows)
        if baseline is None:
            ratio = "not measured"
        elif baseline is row:
            ratio = "1"
        else:
            times = speedup(row, baseline)
            ratio = f"{times.median:.2f} ({times.low:.2f}-{times.high:.2f})"
            ratio += " tie" if times.tie else ""
        fastest, slowest = row.spread_ms
        table.add_row(
            row.tier,
            f"{row.batch_size}×{row.size[0]}×{row.size[1]}",
            row.runner.backend,
            row.runner.precision,
            row.runner.device,
            f"{row.median_ms:.1f}",
            f"{fastest:.1f}-{slowest:.1f}",
            f"{row.images_per_s:.1f}",
            ratio,
        )
    console.print(table, soft_wrap=False)


@fcn_deploy.command()
@click.argument("arguments", nargs=-1, required=True, metavar="[RUN] SOURCE...")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; default RUN/predictions.")
@click.option("--overlay", is_flag=True, help="Also write overlays/NAME.png, blended pictures.")
@click.option("--backend", help="Default: ort where the run has been exported, else torch.")
@fp16_option
@device_option
@threads_option
@trust_option
def predict(
    arguments: tuple[str, ...],
    out: Path | None,
    overlay: bool,
    backend: str | None,
    fp16: bool,
    device: str,
    threads: int | None,
    trust: bool,
) -> None:
    """Segment pictures (files or folders) and write palette PNG masks of the same size."""
    from fcn_deploy.images import find_images
    from fcn_deploy.predict import predict as predict_pictures

    source, words = _split_run(arguments)
    source = dataclasses.replace(source, trusted=trust)
    pictures = find_images([Path(word) for word in words])
    precision = Precision.FP16 if fp16 else Precision.FP32
    if backend is None:
        backend = "ort" if source.onnx(precision).is_file() else "torch"
    folder = out or source.root / "predictions"
    done = 0
    with _open_backend(
        source, backend, precision=precision, device=device, threads=threads
    ) as runner:
        with _counter("predict", len(pictures)) as step:
            for prediction in predict_pictures(runner, pictures, folder, with_overlay=overlay):
                step()
                if prediction.error is None:
                    done += 1
                else:
                    click.echo(f"fcn-deploy: {prediction.error}", err=True)
        device = runner.describe().device
    console.print(f"wrote {done} of {len(pictures)} masks to {folder} ({backend} on {device})")
    if done < len(pictures):
        sys.exit(EXIT_FAILED if done else EXIT_BAD_INPUT)


def _split_run(arguments: tuple[str, ...]) -> tuple[Run, tuple[str, ...]]:
    """Take the first word as RUN if it is one: a run directory or a model file."""
    first = Path(arguments[0])
    run_directory = first.is_dir() and Run(first).has_model()
    mistyped = not first.exists() and first.suffix == "" and len(arguments) > 1
    if first.suffix in MODEL_SUFFIXES or run_directory or mistyped:
        if len(arguments) == 1:
            raise InputError("no pictures named", "give files or folders after the run")
        return Run.from_argument(first), arguments[1:]
    return Run.from_argument(None), arguments


@fcn_deploy.command()
@run_argument
@click.option("--out", type=click.Path(path_type=Path), help="Default: RUN/report.html.")
def report(run: str | None, out: Path | None) -> None:
    """Gather a run's results into one self-contained HTML file."""
    from fcn_deploy.report import write_report

    console.print(f"wrote {write_report(Run.from_argument(run), out)}")


@fcn_deploy.command()
def doctor() -> None:
    """Say what this machine can run, and why not the rest."""
    from fcn_deploy.doctor import diagnose

    found = diagnose()
    console.print("machine")
    for key, value in found.machine.items():
        console.print(f"  {key:<14}{value}")
    console.print("versions")
    for name, version in found.versions.items():
        console.print(f"  {name:<18}{version}")
    console.print(f"devices\n  {found.devices}")
    console.print("backends")
    for backend, reason in found.backends.items():
        console.print(f"  {backend:<10}{'works' if reason is None else f'no: {reason}'}")


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
@click.option(
    "--workspace", type=click.IntRange(1, 2**20), metavar="MiB", help="Scratch per layer."
)
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
    from fcn_deploy.build import (
        BuildOptions,
        build_command,
        census,
        engine_from_onnx,
        export_command,
        parse_capabilities,
    )
    from fcn_deploy.trt_api import choose_product

    source = Run.from_argument(run)
    if source.named_engine is not None:
        raise InputError(
            f"{source.named_engine} is an engine already",
            "give a run or an ONNX file to build from",
        )
    precision = Precision.FP16 if fp16 else Precision.FP32
    capabilities = () if compute_capability is None else parse_capabilities(compute_capability)
    onnx_path = source.require_onnx(precision)
    chosen = choose_product(product)
    options = BuildOptions(profiles, workspace, opt_level, timing_cache, capabilities)
    with _build_progress() as on_progress:
        engine = engine_from_onnx(
            onnx_path,
            name=source.name,
            product=chosen,
            options=options,
            folder=out,
            command=build_command(source, precision, chosen, options, out),
            export=export_command(source),
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
    precision: Precision = Precision.FP32,
    outputs: Sequence[str] = ("mask",),
    device: str = "auto",
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
    return open_runner(
        source,
        backend,
        precision=precision,
        outputs=outputs,
        threads=threads,
        # The others say by their name where they run.
        device=device if backend == "torch" else "auto",
    )


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
