"""``fcn-deploy train``: labelled images to a checkpoint, with a bar while it runs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fcn_deploy.commands.shared.console import console, counter
from fcn_deploy.commands.shared.options import Size
from fcn_deploy.commands.train_options import Epochs, TrainOptions, train_plan
from fcn_deploy.commands.train_resume import WORDS, begun_training
from fcn_deploy.core.errors import (
    FcnDeployError,
    InputError,
    LostProcessError,
    TrainingStoppedError,
)
from fcn_deploy.core.run import Run
from fcn_deploy.training.recipes import RECIPES

if TYPE_CHECKING:
    from fcn_deploy.data.dataset import Dataset
    from fcn_deploy.training.plan import Progress, TrainPlan
    from fcn_deploy.training.recipes import Recipe
    from fcn_deploy.training.run_files import Epoch


_ARITHMETIC = {
    "off": "in float32",
    "bf16": "in bfloat16 by automatic mixed precision (--amp off: float32)",
    "fp16": "in float16 by automatic mixed precision (--amp off: float32)",
}
#: A GPU is not kept waiting for its counts more often than the bar is looked at.
_SECONDS_SHOWN = 0.1


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
    type=Epochs(),
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
        _train(context, TrainOptions(**typed))


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


def _train(context: click.Context, options: TrainOptions) -> None:
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
        begun = world.from_leader(lambda: begun_training(context, options, run, device))
        if begun is None:
            console.print(f"{run.checkpoint} is finished: nothing to resume")
            return
        options, state, words = begun.options, begun.state, begun.words
        plan, data = train_plan(options, device), options.data or "synthetic"
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
                arguments={**options.to_json(), WORDS: words},
                options=words,
                data_argument=data,
                dropped=dropped,
                tensorboard=options.tensorboard,
                on_batch=on_batch,
                on_epoch=on_epoch,
            )
    _say_end(run, plan, epochs)


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
