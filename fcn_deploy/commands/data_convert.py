"""``fcn-deploy data convert``: annotations of another program as images/, masks/, classes.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fcn_deploy.commands.shared.console import console, counter
from fcn_deploy.commands.shared.options import PathType

if TYPE_CHECKING:
    from fcn_deploy.data.convert.convert import Unlabelled

FORMATS = ("coco", "labelme", "cvat", "label-studio", "yolo", "supervisely")


@click.command("convert")
@click.argument("format_name", metavar="FORMAT", type=click.Choice(FORMATS))
@click.argument("source", metavar="SRC", type=PathType())
@click.option(
    "--out", type=PathType(folder=True), required=True,
    help="Write images/, masks/ and classes.json into this new folder.",
)  # fmt: skip
@click.option(
    "--unlabelled", type=click.Choice(["background", "void"]), default="background",
    show_default=True,
    help="What pixels are that no region covers: a class of their own, or nothing that counts.",
)  # fmt: skip
def convert(format_name: str, source: Path, out: Path, unlabelled: Unlabelled) -> None:
    """Write annotations as images/ and masks/, which --data takes.

    FORMAT is coco, labelme, cvat, label-studio, yolo or supervisely. SRC is the folder that holds
    annotations and images, or of coco, labelme and label-studio a file.
    """
    from fcn_deploy.data.convert import convert as converter

    annotations = converter.read_annotations(format_name, source)
    with counter("converting", annotations.count) as step:
        done = converter.convert(annotations, out, unlabelled, step)
    counts = ", ".join(f"{count} {split}" for split, count in sorted(done.pictures.items()))
    names = ", ".join(done.class_names[:5]) + (", …" if len(done.class_names) > 5 else "")
    console.print(f"wrote {out}: {counts}; {len(done.class_names)} classes ({names})")
