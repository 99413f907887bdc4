"""``fcn-deploy predict``: pictures to masks on disk."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from fcn_deploy.commands.shared.backends import (
    default_backend,
    open_backend,
    require_backends,
)
from fcn_deploy.commands.shared.console import EXIT_BAD_INPUT, EXIT_FAILED, console, counter
from fcn_deploy.commands.shared.options import (
    BackendName,
    PathText,
    PathType,
    device_option,
    precision_options,
    threads_option,
    trust_option,
)
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import MODEL_SUFFIXES, Run
from fcn_deploy.core.spec import Precision


@dataclass(frozen=True)
class PredictOptions:
    """What was typed; the fields are the parameters of :func:`predict`."""

    arguments: tuple[str, ...]
    out: Path | None
    overlay: bool
    batch_size: int
    backend: str | None
    precision: Precision
    device: str
    threads: int | None
    trust: bool


@click.command()
@click.argument("arguments", nargs=-1, required=True, type=PathText(), metavar="[RUN] SOURCE...")
@click.option(
    "--out", type=PathType(folder=True),
    help="Write the masks into this folder; by default into RUN/predictions.",
)  # fmt: skip
@click.option(
    "--overlay", is_flag=True,
    help="Write overlays/NAME.png as well: each picture blended with the colours of its mask.",
)  # fmt: skip
@click.option(
    "--batch", "batch_size", type=click.IntRange(min=1), default=1, show_default=True,
    help="Segment so many pictures of one size at once.",
)  # fmt: skip
@click.option(
    "--backend", type=BackendName(),
    help="Compute with this backend; by default with ort where the run has been exported, else "
    "with torch.",
)  # fmt: skip
@precision_options
@device_option
@threads_option
@trust_option
def predict(**typed: Any) -> None:
    """Segment pictures (files or folders) and write palette PNG masks of the same size."""
    options = PredictOptions(**typed)
    from fcn_deploy.data.images import find_images
    from fcn_deploy.predict.folder import predict as predict_pictures

    source, words = _split_run(options.arguments)
    source = replace(source, trusted=options.trust)
    pictures = find_images([Path(word) for word in words])
    backend = options.backend or default_backend(source, options.precision)
    require_backends([backend], options.device)
    folder = options.out or source.root / "predictions"
    done = 0
    with open_backend(
        source,
        backend,
        precision=options.precision,
        device=options.device,
        threads=options.threads,
    ) as runner:
        predictions = predict_pictures(
            runner, pictures, folder, with_overlay=options.overlay, batch_size=options.batch_size
        )
        with counter("predict", len(pictures)) as step:
            for prediction in predictions:
                step()
                if prediction.error is None:
                    done += 1
                else:
                    click.echo(f"fcn-deploy: {prediction.error}", err=True)
        device = runner.describe().device
    console.print(f"wrote {done} of {len(pictures)} masks to {folder} ({backend} on {device})")
    if done < len(pictures):
        sys.exit(EXIT_FAILED if done else EXIT_BAD_INPUT)


def _split_run(arguments: tuple[str, ...]) -> tuple[Run, tuple[str, ...]]:
    """Take the first word as RUN if it is one: a run directory or a model file."""
    first = Path(arguments[0])
    run_directory = first.is_dir() and Run(first).has_model()
    mistyped = not first.exists() and first.suffix == "" and len(arguments) > 1
    if first.suffix in MODEL_SUFFIXES or run_directory or mistyped:
        if len(arguments) == 1:
            raise InputError("no pictures named", "give files or folders after the run")
        return Run.from_argument(first), arguments[1:]
    return Run.from_argument(None), arguments
