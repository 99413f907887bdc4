"""``fcn-deploy import``: a published network as a run of ours."""

from __future__ import annotations

from pathlib import Path

import click

from fcn_deploy.commands.shared.console import console
from fcn_deploy.core.errors import FcnDeployError, InputError
from fcn_deploy.core.run import Run


@click.command("import")
@click.argument("network", metavar="torchvision:NAME")
@click.option(
    "--weights", default="default", show_default=True, metavar="default|FILE",
    help="Fetch torchvision's published weights, or take a file of them.",
)  # fmt: skip
@click.option("--out", default="runs/fcn", show_default=True, help="Run directory to write.")
@click.option("--overwrite", is_flag=True, help="Replace a model that --out already holds.")
def import_network(network: str, weights: str, out: str, overwrite: bool) -> None:
    """Take torchvision's fcn_resnet50 or fcn_resnet101 as a run, to export, check and measure."""
    from fcn_deploy.networks.device import unavailable_reason

    if (reason := unavailable_reason()) is not None:
        raise FcnDeployError(f"importing needs PyTorch: {reason}")
    from fcn_deploy.networks.torchvision_weights import PUBLISHED, import_published

    if network not in PUBLISHED:
        raise InputError(f"unknown network {network!r}", f"choose {' or '.join(PUBLISHED)}")
    file = None if weights == "default" else Path(weights)
    if file is not None and not file.is_file():
        raise InputError(f"no weights file {weights}", "give default, or an existing file")
    run = Run(Path(out))
    run.refuse_existing(overwrite=overwrite)
    run.prepare()
    spec = import_published(PUBLISHED[network], file, run.checkpoint)
    console.print(f"wrote {run.checkpoint}: {spec.architecture}, {spec.num_classes} classes")
