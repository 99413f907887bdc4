"""``fcn-deploy bundle``: a run as one signed file, with the proof of its masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fcn_deploy.commands.shared.code_options import trust_code_option
from fcn_deploy.commands.shared.console import console, counter
from fcn_deploy.commands.shared.options import PathText, PathType, held_out_option, run_argument
from fcn_deploy.commands.shared.pictures import say_passed_over, say_recognised
from fcn_deploy.commands.shared.runs import labelled_data, run_from_argument
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import BUNDLE_SUFFIX, Run
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from fcn_deploy.bundle.contents import Contents
    from fcn_deploy.bundle.writer import WrittenBundle
    from fcn_deploy.core.spec import ModelSpec
    from fcn_deploy.parity.inputs import Pictures

#: Pictures that ride along, unless told otherwise: batches are made of so many different ones.
PICTURES = 4


@dataclass(frozen=True)
class BundleOptions:
    """What was typed; the fields are the parameters of :func:`bundle`."""

    run: str | None
    out: Path | None
    engines: tuple[Path, ...]
    count: int
    data: str | None
    held_out: float | None
    pictures: Path | None
    key: Path | None

    def target(self, source: Run) -> Path:
        """Return where to write."""
        return self.out or Path(f"{source.name}{BUNDLE_SUFFIX}")


@click.command()
@run_argument
@click.option(
    "--out", type=PathType(), metavar=f"NAME{BUNDLE_SUFFIX}",
    help="Write the bundle to this file; by default to one in the current folder that is named "
    "after the run.",
)  # fmt: skip
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
@click.option(
    "--sign", "key", type=PathType(), metavar="KEY.pem",
    help="Sign the bundle with this private key: ECDSA, P-256.",
)  # fmt: skip
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


def make_bundle(source: Run, options: BundleOptions) -> tuple[Contents, WrittenBundle]:
    """Write the bundle of a run, and return what went into it.

    Raises:
        FcnDeployError: something is missing; the repair names the command.
    """
    from fcn_deploy.bundle.contents import gather
    from fcn_deploy.bundle.signature import require_signing
    from fcn_deploy.bundle.writer import require_bundle_name, write_bundle
    from fcn_deploy.core.files import probe
    from fcn_deploy.runners.base import open_runner

    target = options.target(source)
    require_bundle_name(target)
    if options.data is not None and options.pictures is not None:
        raise InputError("--data and --pictures exclude each other", "give one of them")
    if options.key is not None:
        require_signing(options.key)
    contents = gather(source, options.engines)
    probe(target, flags="--out")
    pictures = _pictures(source, contents.spec, options)
    held_against = "original" if source.is_foreign else "torch"
    outputs = ("mask", "logits")
    with (
        open_runner(source, held_against, precision=Precision.FP32, outputs=outputs) as reference,
        counter("certificate", pictures.count) as step,
    ):
        written = write_bundle(
            contents, reference, pictures, target, key=options.key, on_picture=step
        )
    return contents, written


def _pictures(source: Run, spec: ModelSpec, options: BundleOptions) -> Pictures:
    from fcn_deploy.parity.inputs import labelled_pictures, unlabelled_pictures

    if options.pictures is not None:
        found = unlabelled_pictures(options.pictures, options.count)
        say_passed_over([options.pictures])
        return found
    repair = "name the data with --data DIR, or pictures with --pictures DIR"
    named = labelled_data(source, options.data, options.held_out, repair)
    say_recognised(named)
    return labelled_pictures(named.open("val"), spec, options.count)
