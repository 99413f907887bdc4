"""``fcn-deploy predict``: pictures to masks on disk."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click

from fcn_deploy.commands.shared.backends import open_backend, require_backends
from fcn_deploy.commands.shared.console import EXIT_BAD_INPUT, EXIT_FAILED, console, counter
from fcn_deploy.commands.shared.options import (
    device_option,
    precision_options,
    threads_option,
    trust_option,
)
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import MODEL_SUFFIXES, Run
from fcn_deploy.core.spec import Precision


@click.command()
@click.argument("arguments", nargs=-1, required=True, metavar="[RUN] SOURCE...")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; default RUN/predictions.")
@click.option("--overlay", is_flag=True, help="Also write overlays/NAME.png, blended pictures.")
@click.option(
    "--batch", "batch_size", type=click.IntRange(min=1), default=1, show_default=True,
    help="Segment so many pictures of one size at once.",
)  # fmt: skip
@click.option("--backend", help="Default: ort where the run has been exported, else torch.")
@precision_options
@device_option
@threads_option
@trust_option
def predict(
    arguments: tuple[str, ...],
    out: Path | None,
    overlay: bool,
    batch_size: int,
    backend: str | None,
    precision: Precision,
    device: str,
    threads: int | None,
    trust: bool,
) -> None:
    """Segment pictures (files or folders) and write palette PNG masks of the same size."""
    from fcn_deploy.data.images import find_images
    from fcn_deploy.predict.folder import predict as predict_pictures

    source, words = _split_run(arguments)
    source = dataclasses.replace(source, trusted=trust)
    pictures = find_images([Path(word) for word in words])
    if backend is None:
        backend = _default_backend(source, precision)
    require_backends([backend], device)
    folder = out or source.root / "predictions"
    done = 0
    with open_backend(
        source, backend, precision=precision, device=device, threads=threads
    ) as runner:
        with counter("predict", len(pictures)) as step:
            for prediction in predict_pictures(
                runner, pictures, folder, with_overlay=overlay, batch_size=batch_size
            ):
                step()
                if prediction.error is None:
                    done += 1
                else:
                    click.echo(f"fcn-deploy: {prediction.error}", err=True)
        device = runner.describe().device
    console.print(f"wrote {done} of {len(pictures)} masks to {folder} ({backend} on {device})")
    if done < len(pictures):
        sys.exit(EXIT_FAILED if done else EXIT_BAD_INPUT)


def _default_backend(source: Run, precision: Precision) -> str:
    """Return ``ort`` where the run has been exported, else ``torch`` where that can do the work.

    Raises:
        MissingStageError: naming the export that is missing.
    """
    from fcn_deploy.runners.base import takes, unavailable_reason

    if source.onnx(precision).is_file():
        return "ort"
    if unavailable_reason("torch") is not None or not takes("torch", precision):
        source.require_onnx(precision)
    return "torch"


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
