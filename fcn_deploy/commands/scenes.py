"""``fcn-deploy scenes``: the built-in scenes as a folder in VOC layout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fcn_deploy.commands.shared.console import console
from fcn_deploy.commands.shared.options import PathType, Size


@dataclass(frozen=True)
class ScenesOptions:
    """What was typed; the fields are the parameters of :func:`scenes`."""

    folder: Path
    train_count: int
    val_count: int
    size: tuple[int, int]
    seed: int


@click.command()
@click.argument("folder", type=PathType(folder=True))
@click.option(
    "--train", "train_count", type=click.IntRange(min=1), default=16, show_default=True,
    help="Draw so many scenes for training.",
)  # fmt: skip
@click.option(
    "--val", "val_count", type=click.IntRange(min=1), default=4, show_default=True,
    help="Draw so many scenes for validation.",
)  # fmt: skip
@click.option(
    "--size", type=Size(), default="320x480", show_default=True,
    help="Draw scenes of this height and width, in pixels.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(0, 2**31), default=0, show_default=True,
    help="Draw other scenes for each seed, and the same ones for the same seed.",
)  # fmt: skip
def scenes(**typed: Any) -> None:
    """Write built-in scenes as a folder in VOC layout: the shape your own data should have."""
    options = ScenesOptions(**typed)
    from fcn_deploy.data.scenes.dataset import SceneDataset
    from fcn_deploy.data.voc import write_voc_layout

    splits = {
        "train": SceneDataset(2 * options.seed, options.train_count, options.size),
        "val": SceneDataset(2 * options.seed + 1, options.val_count, options.size),
    }
    write_voc_layout(options.folder, splits)
    console.print(
        f"wrote {options.train_count} training and {options.val_count} validation scenes to "
        f"{options.folder}"
    )
