"""Makes a bundle of a run, as its options say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fcn_deploy.commands.shared.console import counter
from fcn_deploy.commands.shared.options import PathType
from fcn_deploy.commands.shared.pictures import say_passed_over, say_recognised
from fcn_deploy.commands.shared.runs import labelled_data
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


out_option = click.option(
    "--out", type=PathType(), metavar=f"NAME{BUNDLE_SUFFIX}",
    help="Write the bundle to this file; by default to one in the current folder that is named "
    "after the run.",
)  # fmt: skip
sign_option = click.option(
    "--sign", "key", type=PathType(), metavar="KEY.pem",
    help="Sign the bundle with this private key: ECDSA, P-256.",
)  # fmt: skip


@dataclass(frozen=True)
class BundleOptions:
    """How to make a bundle.

    Attributes:
        run: the RUN argument.
        out: where to write; None: into the current folder, named after the run.
        engines: plans to carry along.
        count: pictures that ride along.
        data: labelled images to take them from; None: those of the training.
        held_out: the share of these that is the validation set.
        pictures: a folder to take them from instead.
        key: private key that signs the bundle, or None.
    """

    run: str | None = None
    out: Path | None = None
    engines: tuple[Path, ...] = ()
    count: int = PICTURES
    data: str | None = None
    held_out: float | None = None
    pictures: Path | None = None
    key: Path | None = None

    def target(self, source: Run) -> Path:
        """Return where to write."""
        return self.out or Path(f"{source.name}{BUNDLE_SUFFIX}")


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
    pictures = certified_on(source, contents.spec, options)
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


def certified_on(source: Run, spec: ModelSpec, options: BundleOptions) -> Pictures:
    """Return the pictures that ride along: those that were named, or the run's own."""
    from fcn_deploy.parity.inputs import labelled_pictures, unlabelled_pictures

    if options.pictures is not None:
        found = unlabelled_pictures(options.pictures, options.count)
        say_passed_over([options.pictures])
        return found
    repair = "name the data with --data DIR, or pictures with --pictures DIR"
    named = labelled_data(source, options.data, options.held_out, repair)
    say_recognised(named)
    return labelled_pictures(named.open("val"), spec, options.count)
