"""``fcn-deploy verify``: does a bundle hold what it says, and its masks on this machine."""

from __future__ import annotations

import sys
from typing import Any

import click

from fcn_deploy.commands.shared.backends import require_backends
from fcn_deploy.commands.shared.bundle_checks import VerifyOptions, verified
from fcn_deploy.commands.shared.console import EXIT_FAILED, console
from fcn_deploy.commands.shared.options import BackendName, PathType, threads_option
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import BUNDLE_SUFFIX


@click.command()
@click.argument("bundle", type=PathType(), metavar="BUNDLE")
@click.option(
    "--run", "running", is_flag=True,
    help="Compute the pictures inside with each backend that runs here, and hold the masks against "
    "those that ride along; an engine that does not fit is built anew.",
)  # fmt: skip
@click.option(
    "--key", type=PathType(), metavar="PUB.pem",
    help="Check the signature with this public key; without it the signature is not checked.",
)  # fmt: skip
@click.option(
    "--backend", "backends", multiple=True, type=BackendName(),
    help="Ask this backend alone; may be repeated; by default all that run ONNX files.",
)  # fmt: skip
@threads_option
@click.option("--json", "json_file", type=PathType(), help="Write the result to this file.")
def verify(**typed: Any) -> None:
    """Check a bundle: digests, signature, backends, and with --run its masks on this machine.

    Exit code 0 where all that was asked for holds, 1 where it does not. Needs no PyTorch.
    """
    options = VerifyOptions(**typed)
    from fcn_deploy.core.files import probe, write_json

    if options.bundle.is_dir():
        raise InputError(
            f"{options.bundle} is a folder",
            f"give the bundle itself, NAME{BUNDLE_SUFFIX}; `model_signing verify key` checks an "
            "unpacked one",
        )
    require_backends(options.backends)
    if options.json_file is not None:
        probe(options.json_file)
    found = verified(options)
    if options.json_file is not None:
        write_json(options.json_file, found.to_json())
        console.print(f"wrote {options.json_file}")
    if not found.holds:
        sys.exit(EXIT_FAILED)
