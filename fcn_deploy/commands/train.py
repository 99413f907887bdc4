"""``fcn-deploy train``: labelled images to a checkpoint, with a bar while it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fcn_deploy.artifacts import Run
from fcn_deploy.commands.console import console, counter
from fcn_deploy.commands.params import Size
from fcn_deploy.errors import FcnDeployError, InputError

if TYPE_CHECKING:
    from fcn_deploy.dataset import Dataset
    from fcn_deploy.train import Epoch, Progress, Recipe


@click.command()
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
@click.option("--crop-size", type=Size(), help="Training crop; overrides the recipe's.")
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
    from fcn_deploy.networks import build_model, find_architecture
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
    with _training_bar(chosen.epochs) as (on_batch, on_epoch):
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

    with counter(title, len(dataset)) as step:
        return check_and_cache(dataset, step)


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
