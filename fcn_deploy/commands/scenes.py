"""``fcn-deploy scenes``: the built-in scenes as a folder in VOC layout."""

from __future__ import annotations

from pathlib import Path

import click

from fcn_deploy.commands.shared.console import console
from fcn_deploy.commands.shared.options import Size


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--train", "train_count", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--val", "val_count", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--size", type=Size(), default=(320, 480), help="Default 320x480.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
def scenes(
    folder: Path, train_count: int, val_count: int, size: tuple[int, int], seed: int
) -> None:
    """Write built-in scenes as a folder in VOC layout: the shape your own data should have."""
    from fcn_deploy.data.scenes.dataset import SceneDataset
    from fcn_deploy.data.voc import write_voc_layout

    splits = {
        "train": SceneDataset(2 * seed, train_count, size),
        "val": SceneDataset(2 * seed + 1, val_count, size),
    }
    write_voc_layout(folder, splits)
    console.print(f"wrote {train_count} training and {val_count} validation scenes to {folder}")
