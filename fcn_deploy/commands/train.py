"""``fcn-deploy train``: labelled images to a checkpoint, with a bar while it runs."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from fcn_deploy.commands.shared.console import console, counter
from fcn_deploy.commands.shared.options import ParamType, Size
from fcn_deploy.core.errors import (
    FcnDeployError,
    InputError,
    LostProcessError,
    TrainingStoppedError,
)
from fcn_deploy.core.files import read_json
from fcn_deploy.core.run import Run
from fcn_deploy.training.recipes import RECIPES

if TYPE_CHECKING:
    import torch

    from fcn_deploy.data.dataset import Dataset
    from fcn_deploy.training.plan import Amp, Progress, TrainPlan
    from fcn_deploy.training.recipes import Recipe
    from fcn_deploy.training.run_files import Epoch
    from fcn_deploy.training.train_state import ResumeState

_ARITHMETIC = {
    "off": "in float32",
    "bf16": "in bfloat16 by automatic mixed precision (--amp off: float32)",
    "fp16": "in float16 by automatic mixed precision (--amp off: float32)",
}
#: A GPU is not kept waiting for its counts more often than the bar is looked at.
_SECONDS_SHOWN = 0.1
#: Under this name the state has the words of the command line that began the run.
_WORDS = "words"
#: Options that may differ when a run is resumed: they change no figure but the seconds.
_FREE = {"out", "resume", "overwrite", "download", "workers", "tensorboard"}


class _Epochs(ParamType):
    """``all``, or a number of epochs from 1."""

    name = "all|EPOCHS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word ``all`` or the number."""
        if value == "all" or isinstance(value, int):
            return value
        if not (str(value).isdecimal() and int(value) >= 1):
            self.fail(f"{value!r} is neither `all` nor a number of epochs", param, ctx)
        return int(value)


@dataclasses.dataclass(frozen=True)
class _Options:
    """What was typed; the fields are the options of :func:`train`."""

    data: str | None
    download: bool
    out: str
    arch: str
    output_stride: int | None
    weights: str
    recipe: str | None
    epochs: int | None
    batch_size: int | None
    crop_size: tuple[int, int] | None
    half_size: float | None
    lr: float | None
    schedule: str | None
    class_weights: str | None
    ema: float | None
    clip_norm: float | None
    freeze_backbone: int | Literal["all"] | None
    patience: int | None
    validate_every: int | None
    seed: int
    device: str
    amp: str
    compiled: bool
    sync_batch_norm: bool
    deterministic: bool
    workers: int | None
    tensorboard: bool
    resume: bool
    overwrite: bool

    def to_json(self) -> dict[str, Any]:
        """Return those that a resumed run must share, as JSON values."""
        values = {k: v for k, v in dataclasses.asdict(self).items() if k not in _FREE}
        return dict(json.loads(json.dumps(values)))

    def taken_from(self, saved: Mapping[str, Any]) -> _Options:
        """Return the options with saved ones in their place."""
        known = {name: saved[name] for name in self.to_json() if name in saved}
        if (size := known.get("crop_size")) is not None:
            known["crop_size"] = tuple(size)
        return dataclasses.replace(self, **known)


@click.command()
@click.option(
    "--data",
    metavar="DIR|voc2012|synthetic",
    help="Folder in VOC layout, or VOC 2012 below data/; default: the built-in scenes.",
)
@click.option("--download", is_flag=True, help="Fetch VOC 2012 into data/ if it is not there.")
@click.option("--out", default="runs/fcn", show_default=True, help="Run directory to write.")
@click.option("--arch", default="fcn32s-resnet18", show_default=True, help="Architecture.")
@click.option(
    "--output-stride",
    type=click.Choice(["8", "16"]),
    callback=lambda _c, _p, v: v and int(v),
    help="Dilate the body's last stages instead of shrinking 32 times.",
)
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
    type=click.Choice(list(RECIPES)),
    help="Preset; default: scratch without pretrained weights, else tutorial.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Overrides the recipe's.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Of each process; overrides.")
@click.option("--crop-size", type=Size(), help="Training crop; overrides the recipe's.")
@click.option(
    "--half-size",
    type=click.FloatRange(0, 1),
    help="Share of the epochs, the first ones, learned at half size; overrides the recipe's.",
)
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Overrides the recipe's.")
@click.option("--schedule", type=click.Choice(["constant", "one-cycle", "poly"]), help="Overrides.")
@click.option(
    "--class-weights",
    type=click.Choice(["none", "sqrt-median-frequency", "median-frequency"]),
    help="Weigh rare classes up in the loss; overrides the recipe's.",
)
@click.option(
    "--ema",
    type=click.FloatRange(0, 1, max_open=True),
    help="Decay of the moving average of the weights, 0 for none; overrides the recipe's.",
)
@click.option(
    "--clip-norm",
    type=click.FloatRange(min=0),
    help="Largest norm of the gradient, 0 for no limit; overrides the recipe's.",
)
@click.option(
    "--freeze-backbone",
    is_flag=False,
    flag_value="all",
    type=_Epochs(),
    help="Train the head only, in all epochs or in the first EPOCHS.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    help="Stop at a validated epoch if the best validation mIoU is so many epochs back, or more.",
)
@click.option(
    "--validate-every",
    type=click.IntRange(min=1),
    help="Epochs from one validation to the next; overrides the recipe's.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option(
    "--amp",
    type=click.Choice(["auto", "off", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Automatic mixed precision; auto: on a GPU, in bfloat16 if it has that.",
)
@click.option("--compile", "compiled", is_flag=True, help="Run the network by torch.compile.")
@click.option(
    "--sync-batch-norm", is_flag=True, help="Batch statistics over all processes of torchrun."
)
@click.option(
    "--deterministic", is_flag=True, help="Refuse operations whose result depends on chance."
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that load data; default: none on a CPU, up to 16 beside a GPU.",
)
@click.option("--tensorboard", is_flag=True, help="Write event files to RUN/tensorboard.")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on exactly where the run in --out was stopped; begin if there is none.",
)
@click.option("--overwrite", is_flag=True, help="Replace a model that --out already holds.")
@click.pass_context
def train(context: click.Context, /, **typed: Any) -> None:
    """Train an FCN on labelled images; writes RUN/model.safetensors.

    On several GPUs or machines: torchrun --nproc-per-node N -m fcn_deploy train ...
    """
    with _one_voice():
        _train(context, _Options(**typed))


@contextmanager
def _one_voice() -> Iterator[None]:
    """Let rank 0 speak for all processes that ``torchrun`` started."""
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    console.quiet = True
    try:
        yield
    except TrainingStoppedError as error:  # agreed on: rank 0 says the same
        sys.exit(error.exit_code)
    except LostProcessError:  # names its rank itself
        raise
    except FcnDeployError as error:  # it may be this machine's alone
        error.message = f"rank {os.environ['RANK']}: {error.message}"
        raise
    finally:
        console.quiet = False


def _train(context: click.Context, options: _Options) -> None:
    from fcn_deploy.networks.device import choose_device, unavailable_reason

    if (reason := unavailable_reason()) is not None:
        raise FcnDeployError(f"training needs PyTorch: {reason}")
    from fcn_deploy.training.distributed import joined
    from fcn_deploy.training.loop import train as run_training

    if options.download and options.data != "voc2012":
        raise InputError("--download fetches VOC 2012 alone", "add --data voc2012, or drop it")
    run = Run(Path(options.out))
    device = choose_device(options.device)
    with joined(device) as world:
        begun = world.from_leader(lambda: _begun(context, options, run, device))
        if begun is None:
            console.print(f"{run.checkpoint} is finished: nothing to resume")
            return
        options, state, words = begun.options, begun.state, begun.words
        plan, data = _plan(options, device), options.data or "synthetic"
        console.print(f"training {plan.architecture} on {device}, {_ARITHMETIC[plan.amp]}")
        train_set, val_set, dropped = _open_training_data(data, plan.recipe)
        world.from_leader(run.prepare)
        with _training_bar(plan.recipe.epochs) as (on_batch, on_epoch):
            epochs = run_training(
                plan,
                train_set,
                val_set,
                run,
                world=world,
                state=state,
                arguments={**options.to_json(), _WORDS: words},
                options=words,
                data_argument=data,
                dropped=dropped,
                tensorboard=options.tensorboard,
                on_batch=on_batch,
                on_epoch=on_epoch,
            )
    _say_end(run, plan, epochs)


@dataclasses.dataclass(frozen=True)
class _Begun:
    """A run to begin or to go on with, as rank 0 found it.

    Attributes:
        options: with the data's folder, the device and the arithmetic that they led to.
        state: where an earlier start stands, or None.
        words: of the command line that began it.
    """

    options: _Options
    state: ResumeState | None
    words: list[str]


def _begun(
    context: click.Context, typed: _Options, run: Run, device: torch.device
) -> _Begun | None:
    """Look at the run directory and the data; None if the run is finished.

    Raises:
        FcnDeployError: it holds another run than is asked for, or the data is not there.
    """
    state = None
    if not typed.resume:
        run.refuse_existing(overwrite=typed.overwrite)
    else:
        state = _unfinished(run)
        if state is None and run.checkpoint.exists():
            _require_finished(run, typed)
            return None
        if state is None:
            console.print(f"nothing to resume in {run.root}: beginning")
    asked = state is None or typed.data is not None
    options = dataclasses.replace(
        typed,
        data=_data_source(typed) if asked else None,
        device=device.type,
        amp=_amp(typed.amp, device),
    )
    if state is None:
        return _Begun(options, None, _typed_again(context, typed, str(options.data)))
    begun = _as_begun(context, options, state.arguments)
    console.print(f"resuming {run.root} at epoch {state.epoch}, batch {state.sums.batches + 1}")
    return _Begun(begun, state, list(state.arguments[_WORDS]))


def _unfinished(run: Run) -> ResumeState | None:
    from fcn_deploy.training.train_state import load_state

    return load_state(run.state) if run.state.is_file() else None


def _require_finished(run: Run, typed: _Options) -> None:
    """Check that a run without a state was finished, by us, as it is asked for.

    The state is written before the first checkpoint, and deleted last.

    Raises:
        InputError: there is more to do than resuming can.
    """
    weights = f"--weights {run.checkpoint} --out NEW"
    if not run.metrics.is_file():
        raise InputError(
            f"{run.checkpoint} was not trained here: nothing to resume", f"start from it: {weights}"
        )
    recipe = read_json(run.metrics, "train anew with --overwrite").get("recipe", {})
    if typed.epochs is not None and typed.epochs != recipe.get("epochs"):
        raise InputError(
            f"{run.root} is finished, with {recipe.get('epochs')} epochs, not {typed.epochs}",
            f"its schedule has ended: start from it with {weights}, or train anew with --overwrite",
        )


def _as_begun(context: click.Context, typed: _Options, saved: Mapping[str, Any]) -> _Options:
    """Return the options that the run was begun with; what was typed now must be the same.

    Raises:
        InputError: it is not.
    """
    for name, value in typed.to_json().items():
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        # The device is not for the state to choose: all processes had to know it before.
        if (given or name == "device") and name in saved and saved[name] != value:
            option = next(p.opts[0] for p in context.command.params if p.name == name)
            raise InputError(
                f"the run was begun with {option} {saved[name]}, not {value}",
                f"add {option} {saved[name]}"
                if name == "device"
                else f"drop {option}: a resumed run goes on as it was begun; to go on otherwise, "
                "start from its weights: --weights RUN/last.safetensors --out NEW",
            )
    return typed.taken_from(saved)


def _typed_again(context: click.Context, options: _Options, data: str) -> list[str]:
    """Return the options that differ from their defaults, as words of a command line.

    The data's folder is resolved, so that later commands find it from anywhere.
    """
    words: list[str] = []
    for param in context.command.params:
        value = getattr(options, str(param.name), None)
        if param.name in _FREE or value is None or value is False:
            continue
        if value == param.get_default(context):
            continue
        if param.name == "data":
            value = data
        if isinstance(value, tuple):
            value = "x".join(map(str, value))
        words += [param.opts[0]] if value is True else [param.opts[0], str(value)]
    return words


def _plan(options: _Options, device: torch.device) -> TrainPlan:
    from fcn_deploy.machine.description import usable_cores
    from fcn_deploy.networks.architectures import build_model, find_architecture, with_output_stride
    from fcn_deploy.training.plan import TrainPlan

    architecture = options.arch
    if options.output_stride is not None:
        architecture = with_output_stride(architecture, options.output_stride)
    find_architecture(architecture)
    start = _starting_weights(options.weights)
    if start is not None and not str(start).endswith(".safetensors"):
        # Fetched or refused now, not after the data was read.
        build_model(architecture, 2, weights=start)
    recipe = _recipe(options, pretrained=start is not None)
    freeze = options.freeze_backbone
    workers = options.workers
    if workers is None:
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's, on this machine
        free = usable_cores() // beside - 1
        workers = max(0, min(16, free)) if device.type == "cuda" else 0
    return TrainPlan(
        recipe,
        device,
        architecture,
        start,
        freeze_epochs=recipe.epochs if freeze == "all" else freeze,
        seed=options.seed,
        workers=workers,
        amp=_amp(options.amp, device),
        compiled=options.compiled,
        sync_batch_norm=options.sync_batch_norm,
        deterministic=options.deterministic,
        patience=options.patience,
    )


def _recipe(options: _Options, *, pretrained: bool) -> Recipe:
    preset = RECIPES[options.recipe or ("tutorial" if pretrained else "scratch")]
    names = (
        "epochs", "batch_size", "crop_size", "half_size", "lr", "schedule", "class_weights",
        "validate_every",
    )  # fmt: skip
    typed = {name: getattr(options, name) for name in names}
    changed = {name: value for name, value in typed.items() if value is not None}
    if options.ema is not None:
        changed["ema"] = options.ema or None
    if options.clip_norm is not None:
        changed["clip_norm"] = options.clip_norm or None
    return dataclasses.replace(preset, **changed)


def _amp(word: str, device: torch.device) -> Amp:
    import torch

    if word == "fp16" and device.type == "cpu":
        raise InputError("--amp fp16 is for GPUs", "use --amp bf16, or --amp off")
    if word != "auto":
        return word  # type: ignore[return-value]
    if device.type == "cpu":
        return "off"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def _starting_weights(word: str) -> Literal["imagenet"] | Path | None:
    if word == "none":
        return None
    if word == "imagenet":
        return "imagenet"
    path = Path(word)
    if not path.is_file():
        raise InputError(f"no weights file {word}", "give imagenet, none, or an existing file")
    return path


def _data_source(options: _Options) -> str:
    """Return a folder, from the root, or ``synthetic``."""
    if options.data == "voc2012":
        from fcn_deploy.data.voc2012 import find_voc2012

        return str(find_voc2012(download=options.download).resolve())
    if options.data is None:
        console.print("no --data given: training on the built-in synthetic scenes")
    if options.data in (None, "synthetic"):
        return "synthetic"
    return str(Path(options.data).resolve())


def _open_training_data(data: str, recipe: Recipe) -> tuple[Dataset, Dataset, int]:
    from fcn_deploy.data.dataset import require_disjoint
    from fcn_deploy.data.sources import open_dataset, training_split

    read = open_dataset(data, training_split(data))
    val_set = open_dataset(data, "val")
    require_disjoint(read, val_set)
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
    from fcn_deploy.data.dataset import check_and_cache

    with counter(title, len(dataset)) as step:
        return check_and_cache(dataset, step)


def _say_end(run: Run, plan: TrainPlan, epochs: list[Epoch]) -> None:
    from fcn_deploy.training.run_files import best_of

    best = best_of(epochs)
    if len(epochs) < plan.recipe.epochs:
        console.print(f"no better validation mIoU in {plan.patience} epochs: stopped early")
    console.print(
        f"best: epoch {best.epoch}, val {best.val_pixel_accuracy:.3f}/{best.val_mean_iou:.3f} "
        "(pixel accuracy/mIoU)"
    )
    console.print(f"wrote {run.checkpoint}, {run.metrics}, {run.preview}")


@contextmanager
def _training_bar(
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

        shown = 0.0

        def on_batch(progress: Progress) -> None:
            nonlocal shown
            if bar.disable or time.perf_counter() - shown < _SECONDS_SHOWN:
                return
            shown = time.perf_counter()
            scores = progress.scores()
            done = (progress.epoch - 1) * progress.batches + progress.batch
            bar.update(
                task,
                total=epochs * progress.batches,
                completed=done,
                epoch=progress.epoch,
                figures=f"loss {progress.loss:.3f}  accuracy {scores.pixel_accuracy():.3f}  "
                f"mIoU {scores.mean_iou():.3f}  {progress.examples_per_s:.1f} examples/s",
            )

        def on_epoch(epoch: Epoch) -> None:
            val = f"{epoch.val_pixel_accuracy:.3f}/{epoch.val_mean_iou:.3f}"
            share = epoch.data_seconds / (epoch.data_seconds + epoch.compute_seconds)
            bar.console.print(
                f"epoch {epoch.epoch}/{epochs}  loss {epoch.loss:.3f}  "
                f"train {epoch.train_pixel_accuracy:.3f}/{epoch.train_mean_iou:.3f}  "
                f"val {val if epoch.validated else '-'} (pixel accuracy/mIoU)  "
                f"{epoch.examples_per_s:.1f} examples/s, {share:.0%} of the time for data"
            )

        yield on_batch, on_epoch
