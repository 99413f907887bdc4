"""``fcn-deploy import``: a published network as a run of ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fcn_deploy.commands.shared.console import console
from fcn_deploy.commands.shared.options import PathText, PathType
from fcn_deploy.core.errors import FcnDeployError, InputError
from fcn_deploy.core.files import probe
from fcn_deploy.core.run import Run


@dataclass(frozen=True)
class ImportOptions:
    """What was typed; the fields are the parameters of :func:`import_network`."""

    network: str
    weights: str
    classes: Path | None
    out: str
    overwrite: bool


@click.command("import")
@click.argument("network", metavar="torchvision:NAME")
@click.option(
    "--weights", type=PathText("default"), default="default", show_default=True,
    metavar="default|FILE",
    help="Fetch torchvision's published weights (`default`), or take them from a file, or a "
    "network of that kind that was trained with torchvision's scripts.",
)  # fmt: skip
@click.option(
    "--classes", type=PathType(),
    help="Read the names of its classes from this file, one a line; by default they are VOC's.",
)  # fmt: skip
@click.option(
    "--out", type=PathText(folder=True), default="runs/fcn", show_default=True,
    help="Write the network into this run directory.",
)  # fmt: skip
@click.option(
    "--overwrite", is_flag=True, help="Replace the model that the run directory already holds."
)
def import_network(**typed: Any) -> None:
    """Take torchvision's fcn_resnet50 or fcn_resnet101 as a run, to export, check and measure."""
    from fcn_deploy.networks.device import unavailable_reason

    options = ImportOptions(**typed)
    if (reason := unavailable_reason()) is not None:
        raise FcnDeployError(f"importing needs PyTorch: {reason}")
    from fcn_deploy.data.class_list import class_list_of
    from fcn_deploy.data.masks import VOC_CLASS_NAMES
    from fcn_deploy.networks.torchvision_weights import PUBLISHED, import_published
    from fcn_deploy.training.run_files import refuse_existing

    network, weights = options.network, options.weights
    if network not in PUBLISHED:
        raise InputError(f"unknown network {network!r}", f"choose {' or '.join(PUBLISHED)}")
    file = None if weights == "default" else Path(weights)
    if file is not None and not file.is_file():
        raise InputError(f"no weights file {weights}", "give default, or an existing file")
    run = Run(Path(options.out))
    refuse_existing(run, overwrite=options.overwrite)
    probe(run.checkpoint)
    names = VOC_CLASS_NAMES if options.classes is None else class_list_of(options.classes).names
    spec = import_published(PUBLISHED[network], file, run.checkpoint, names)
    console.print(f"wrote {run.checkpoint}: {spec.architecture}, {spec.num_classes} classes")
