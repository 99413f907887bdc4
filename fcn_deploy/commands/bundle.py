"""``fcn-deploy bundle``: a run as one signed file, with the proof of its masks."""

from typing import Any

import click

from fcn_deploy.commands.shared.bundle_making import (
    PICTURES,
    BundleOptions,
    make_bundle,
    out_option,
    sign_option,
)
from fcn_deploy.commands.shared.code_options import trust_code_option
from fcn_deploy.commands.shared.console import console
from fcn_deploy.commands.shared.options import PathText, PathType, held_out_option, run_argument
from fcn_deploy.commands.shared.runs import run_from_argument


@click.command()
@run_argument
@out_option
@click.option(
    "--engine", "engines", type=PathType(), multiple=True, metavar="FILE.plan",
    help="Carry this TensorRT engine along, with its sidecar; may be repeated.",
)  # fmt: skip
@click.option(
    "--images", "count", type=click.IntRange(min=1), default=PICTURES, show_default=True,
    metavar="N",
    help="Let so many pictures ride along, with the masks that the reference gives for them.",
)  # fmt: skip
@click.option(
    "--data", metavar="DIR|synthetic", type=PathText("synthetic", folder=True),
    help="Take them from the validation images of this folder, or of the built-in scenes "
    "(`synthetic`); by default from the run's own.",
)  # fmt: skip
@held_out_option
@click.option(
    "--pictures", type=PathType(folder=True), metavar="DIR",
    help="Take them from this folder of pictures, which need no labels.",
)  # fmt: skip
@sign_option
@trust_code_option
def bundle(**typed: Any) -> None:
    """Pack a run into one file that proves its masks on the target (see `verify`).

    ONNX files, engines, results, a model card, and some pictures with the reference's masks.
    """
    options = BundleOptions(**typed)
    source = run_from_argument(options.run)
    contents, written = make_bundle(source, options)
    for line in contents.left_out:
        console.print(line)
    target = options.target(source)
    signed = "signed" if written.signed else "not signed (--sign KEY.pem)"
    console.print(
        f"wrote {target}: {written.size / 2**20:.1f} MiB in {len(written.manifest.files) + 1} "
        f"files, {written.certificate_size / 2**20:.1f} MiB of them pictures with their masks; "
        f"{signed}"
    )
