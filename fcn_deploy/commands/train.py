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

from fcn_deploy.commands.shared.code_options import python_options
from fcn_deploy.commands.shared.console import console, counter, silenced
from fcn_deploy.commands.shared.options import PathText, Size, few_threads, held_out_option
from fcn_deploy.commands.shared.pictures import say_recognised
from fcn_deploy.commands.train_options import Epochs, TrainOptions, settled, train_plan
from fcn_deploy.commands.train_resume import resume_point
from fcn_deploy.core.errors import (
    FcnDeployError,
    InputError,
    LostProcessError,
    TrainingStoppedError,
)
from fcn_deploy.core.files import probe
from fcn_deploy.core.run import Run
from fcn_deploy.training.recipes import RECIPES

if TYPE_CHECKING:
    from fcn_deploy.data.dataset import Dataset
    from fcn_deploy.data.sources import DataSource
    from fcn_deploy.results.training import Epoch
    from fcn_deploy.training.plan import Progress, TrainPlan


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
    type=PathText("synthetic", "voc2012", folder=True),
    metavar="DIR|voc2012|synthetic",
    help="Train on this folder of labelled images, in VOC or another layout, on VOC 2012 below "
    "data/, or on the built-in scenes (`synthetic`, the default).",
)
@held_out_option
@click.option(
    "--download", is_flag=True, help="Download VOC 2012 into data/ if it is not there yet."
)
@click.option(
    "--out",
    type=PathText(folder=True),
    default="runs/fcn",
    show_default=True,
    help="Write checkpoints, figures and previews into this run directory.",
)
@click.option(
    "--arch",
    help="Train this architecture: fcn32s, fcn16s or fcn8s, a dash, and a body such as resnet18 "
    "or timm:NAME; or python:MODULE:FACTORY, as `import` takes it; by default fcn32s-resnet18, or "
    "the recipe's.",
)
@python_options
@click.option(
    "--output-stride",
    type=click.Choice(["8", "16"]),
    callback=lambda _c, _p, v: v and int(v),
    help="Keep the body's output this many times smaller than the picture, by dilated "
    "convolutions, instead of 32 times.",
)
@click.option(
    "--weights",
    type=PathText("imagenet", "none"),
    default="none",
    show_default=True,
    metavar="imagenet|timm:NAME|none|FILE",
    help="Start from torchvision's or timm's published weights of the body, from nothing, from a "
    ".pth or .safetensors file of the body, or from a checkpoint of fcn-deploy.",
)
@click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    help="Take optimizer, schedule and augmentation from this preset; by default from `scratch` "
    "without pretrained weights, else from `tutorial`.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help="Pass over the training images so many times; by default as often as the recipe says.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Take so many images per step in each process; by default as many as the recipe says.",
)
@click.option(
    "--crop-size",
    type=Size(),
    help="Train on random crops of this height and width; by default the recipe's.",
)
@click.option(
    "--half-size",
    type=click.FloatRange(0, 1),
    help="Train this share of the epochs, the first ones, on pictures of half the height and "
    "width, for a quarter of the work; by default the recipe's share.",
)
@click.option(
    "--lr",
    type=click.FloatRange(min=0, min_open=True),
    help="Set the learning rate, the peak of the schedule; by default the recipe's.",
)
@click.option(
    "--loss",
    type=click.Choice(["pixel-mean", "image-sum"]),
    help="Average the loss over all labelled pixels of a batch, or over those of each image and "
    "sum over the batch; by default as the recipe says.",
)
@click.option(
    "--schedule",
    type=click.Choice(["constant", "one-cycle", "poly"]),
    help="Let the learning rate follow this schedule; by default the recipe's.",
)
@click.option(
    "--class-weights",
    type=click.Choice(["none", "sqrt-median-frequency", "median-frequency"]),
    help="Weigh rare classes up in the loss by this rule; by default the recipe's.",
)
@click.option(
    "--ema",
    type=click.FloatRange(0, 1, max_open=True),
    help="Keep an exponential moving average of the weights with this decay per step (0: none); "
    "by default the recipe's.",
)
@click.option(
    "--clip-norm",
    type=click.FloatRange(min=0),
    help="Scale gradients down to this norm where theirs is larger (0: never); by default to the "
    "recipe's.",
)
@click.option(
    "--freeze-backbone",
    is_flag=False,
    flag_value="all",
    type=Epochs(),
    help="Train the head alone: in all epochs, or in the first EPOCHS if a number is given.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    help="Stop when the best validation mIoU is so many epochs old; by default never.",
)
@click.option(
    "--validate-every",
    type=click.IntRange(min=1),
    help="Validate after every so many epochs, and after the last; by default as the recipe says.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Draw initial weights, order and augmentation from this seed.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Train on this device; auto: on the GPU if there is one.",
)
@click.option(
    "--amp",
    type=click.Choice(["auto", "off", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Train by automatic mixed precision in this type; auto: on a GPU alone, in bfloat16 if "
    "it has that.",
)
@click.option("--compile", "compiled", is_flag=True, help="Run the network through torch.compile.")
@click.option(
    "--sync-batch-norm",
    is_flag=True,
    help="Take batch norm's statistics over all processes of torchrun, not over each one's batch.",
)
@click.option(
    "--deterministic",
    is_flag=True,
    help="Refuse operations whose result depends on the order of threads.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    callback=few_threads,
    help="Load data in so many processes beside the one that trains; by default in none on a CPU, "
    "in up to 16 beside a GPU.",
)
@click.option(
    "--tensorboard", is_flag=True, help="Write TensorBoard event files to RUN/tensorboard as well."
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on exactly where the run in --out was stopped; begin if there is none.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace the model that the run directory already holds."
)
@click.pass_context
def train(context: click.Context, /, **typed: Any) -> None:
    """Train an FCN on labelled images; writes RUN/model.safetensors.

    On several GPUs or machines: torchrun --nproc-per-node N -m fcn_deploy train ...
    """
    with only_rank_zero_speaks(), settled(typed) as options:
        _train(context, options)


@contextmanager
def only_rank_zero_speaks() -> Iterator[None]:
    """Silence all processes that ``torchrun`` started but rank 0; errors of others name theirs."""
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    try:
        with silenced():
            yield
    except TrainingStoppedError as error:  # agreed on: rank 0 says the same
        sys.exit(error.exit_code)
    except LostProcessError:  # names its rank itself
        raise
    except FcnDeployError as error:  # it may be this machine's alone
        error.message = f"rank {os.environ['RANK']}: {error.message}"
        raise


def _train(context: click.Context, options: TrainOptions) -> None:
    from fcn_deploy.networks.device import choose_device, require_torch

    require_torch("training")
    from fcn_deploy.data.sources import DataSource
    from fcn_deploy.training.distributed import joined
    from fcn_deploy.training.loop import train as run_training
    from fcn_deploy.training.plan import Provenance

    if options.download and options.data != "voc2012":
        raise InputError("--download fetches VOC 2012 alone", "add --data voc2012, or drop it")
    if options.resume and options.overwrite:
        raise InputError(
            "--resume goes on with the run in --out, --overwrite replaces it", "give one of them"
        )
    run = Run(Path(options.out))
    device = choose_device(options.device)
    with joined(device) as world:
        begun = world.from_leader(lambda: resume_point(context, options, run, device))
        if begun is None:
            console.print(f"{run.checkpoint} is finished: nothing to resume")
            return
        options = begun.options
        plan, data = train_plan(options, device), options.data or "synthetic"
        train_set, val_set, dropped = _open_training_data(DataSource(data, options.held_out), plan)
        if begun.state is None:
            _say_start(plan, train_set)
        world.from_leader(lambda: probe(run.checkpoint))
        with _training_bar(plan.recipe.epochs) as (on_batch, on_epoch):
            epochs = run_training(
                plan,
                train_set,
                val_set,
                run,
                world=world,
                state=begun.state,
                provenance=Provenance(options.to_json(), begun.typed, data, dropped),
                tensorboard=options.tensorboard,
                on_batch=on_batch,
                on_epoch=on_epoch,
            )
    _say_end(run, plan, epochs)


def _say_start(plan: TrainPlan, train_set: Dataset) -> None:
    from fcn_deploy.networks.starting_weights import start_words

    if words := start_words(plan.architecture, train_set.class_names, plan.weights):
        console.print(words)


def _open_training_data(source: DataSource, plan: TrainPlan) -> tuple[Dataset, Dataset, int]:
    from fcn_deploy.data.dataset import require_disjoint

    say_recognised(source)
    read, val_set = source.open(source.training_list), source.open("val")
    require_disjoint(read, val_set)
    fitting = read.at_least(*plan.recipe.crop_size)
    dropped = len(read) - len(fitting)
    height, width = plan.recipe.crop_size
    console.print(f"training {plan.architecture} on {plan.device}, {_ARITHMETIC[plan.amp]}")
    as_in_the_book = ""
    if plan.recipe.crop_validation:  # as they stand there, to be compared at a glance
        val_crops = len(val_set.at_least(*plan.recipe.crop_size))
        as_in_the_book = f"; at least as large: `read {len(fitting)} examples` for training, "
        as_in_the_book += f"`read {val_crops} examples` for validation on crops"
    console.print(
        f"read {len(read)} training and {len(val_set)} validation examples of "
        f"{len(read.class_names)} classes from {source.place}; "
        f"dropped {dropped} training examples smaller than the crop {height}x{width}"
        + as_in_the_book
    )
    # One class alone is no task to learn; a few validation images may well hold no other.
    train_set = _checked(fitting, "checking train", least_classes=2)
    return train_set, _checked(val_set, "checking val", least_classes=1), dropped


def _checked(dataset: Dataset, title: str, *, least_classes: int) -> Dataset:
    from fcn_deploy.data.dataset import check_and_cache

    with counter(title, len(dataset)) as step:
        return check_and_cache(dataset, step, least_classes=least_classes)


def _say_end(run: Run, plan: TrainPlan, epochs: list[Epoch]) -> None:
    from fcn_deploy.results.training import best_of

    best = best_of(epochs)
    if len(epochs) < plan.recipe.epochs:
        console.print(f"no better validation mIoU in {plan.patience} epochs: stopped early")
    console.print(
        f"best: epoch {best.epoch}, "
        f"val {_scores(best.val_pixel_accuracy, best.val_mean_iou)} (pixel accuracy/mIoU)"
    )
    console.print(f"wrote {run.checkpoint}, {run.metrics}, {run.preview}")


def _scores(pixel_accuracy: float | None, mean_iou: float | None) -> str:
    if pixel_accuracy is None or mean_iou is None:
        return "-"
    return f"{pixel_accuracy:.3f}/{mean_iou:.3f}"


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
            share = epoch.data_seconds / (epoch.data_seconds + epoch.compute_seconds)
            on_crops = epoch.val_crops_pixel_accuracy
            crops = "" if on_crops is None else f"on crops, void as background: {on_crops:.3f}  "
            bar.console.print(
                f"epoch {epoch.epoch}/{epochs}  loss {epoch.loss:.3f}  "
                f"train {_scores(epoch.train_pixel_accuracy, epoch.train_mean_iou)}  "
                f"val {_scores(epoch.val_pixel_accuracy, epoch.val_mean_iou)} "
                f"(pixel accuracy/mIoU)  {crops}"
                f"{epoch.examples_per_s:.1f} examples/s, {share:.0%} of the time for data"
            )

        yield on_batch, on_epoch
