"""``fcn-deploy predict``: pictures to masks on disk."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fcn_deploy.commands.shared.backends import (
    default_backend,
    open_backend,
    require_backends,
    say_unusual,
)
from fcn_deploy.commands.shared.code_options import trust_option
from fcn_deploy.commands.shared.console import EXIT_BAD_INPUT, EXIT_FAILED, console, counter
from fcn_deploy.commands.shared.options import (
    BackendName,
    PathText,
    PathType,
    device_option,
    precision_options,
    threads_option,
)
from fcn_deploy.commands.shared.pictures import say_passed_over
from fcn_deploy.commands.shared.runs import is_bundle, run_from_argument
from fcn_deploy.core.errors import FcnDeployError, InputError
from fcn_deploy.core.run import MODEL_SUFFIXES, Run
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

    from fcn_deploy.predict.folder import Prediction
    from fcn_deploy.runners.base import Runner


@dataclass(frozen=True)
class PredictOptions:
    """What was typed; the fields are the parameters of :func:`predict`."""

    arguments: tuple[str, ...]
    out: Path | None
    overlay: bool
    full_names: bool
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
    "--full-names", is_flag=True,
    help="Name each mask after its picture's suffix and folder as well, cam1/a.jpg.png, so that "
    "those of a.jpg and a.png, or of two folders, can be told apart.",
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
    folder = options.out or source.results_root / "predictions"
    done = 0
    with ExitStack() as stack:
        runner = stack.enter_context(
            open_backend(
                source,
                backend,
                precision=options.precision,
                device=options.device,
                threads=options.threads,
            )
        )
        predictions = predict_pictures(
            runner,
            pictures,
            folder,
            with_overlay=options.overlay,
            full_names=options.full_names,
            batch_size=options.batch_size,
            has_finite_logits=_logits_check(source, runner, options, stack),
        )
        with counter("predict", len(pictures)) as step:
            for prediction in predictions:
                step()
                if prediction.error is None:
                    done += 1
                else:
                    click.echo(f"fcn-deploy: {_named(prediction)}", err=True)
        described = runner.describe()
    say_unusual([described])
    say_passed_over([Path(word) for word in words])
    console.print(
        f"wrote {done} of {len(pictures)} masks to {folder} ({backend} on {described.device})"
    )
    if done < len(pictures):
        sys.exit(EXIT_FAILED if done else EXIT_BAD_INPUT)


def _named(prediction: Prediction) -> str:
    """Return an error with the name of its picture, which a backend does not know."""
    line, name = str(prediction.error), str(prediction.source)
    return line if name in line else f"{name}: {line}"


def _logits_check(
    source: Run, runner: Runner, options: PredictOptions, stack: ExitStack
) -> Callable[[NDArray[uint8]], bool]:
    """Return what says whether a picture's logits are finite.

    Masks do not show it, so the picture is run again, with logits.  What `export` has checked in
    float32 is not asked again, nor what has no logits: an engine that was built without them.
    """
    import numpy as np

    from fcn_deploy.runners.base import find_backend, open_runner

    description = runner.describe()
    backend = find_backend(description.backend)
    exported = not backend.name.startswith("torch")
    if (exported and description.precision != "fp16") or backend.build_missing is not None:
        return lambda image: True

    @cache
    def with_logits() -> Runner:
        return stack.enter_context(
            open_runner(
                source,
                backend.name if exported else "torch",  # eager: nothing is compiled for this
                precision=options.precision,
                outputs=("mask", "logits"),
                threads=options.threads,
                device=backend.device_of(options.device),
            )
        )

    def has_finite_logits(image: NDArray[uint8]) -> bool:
        try:
            logits = with_logits().run(image[None]).logits
        except FcnDeployError:  # they take more memory than the mask did: then nothing is known
            return True
        assert logits is not None  # asked for
        return bool(np.isfinite(logits).all())

    return has_finite_logits


def _split_run(arguments: tuple[str, ...]) -> tuple[Run, tuple[str, ...]]:
    """Take the first word as RUN if it is one: a run directory or a model file."""
    first = Path(arguments[0])
    run_directory = first.is_dir() and Run(first).has_model()
    mistyped = not first.exists() and first.suffix == "" and len(arguments) > 1
    if first.suffix in MODEL_SUFFIXES or is_bundle(first) or run_directory or mistyped:
        if len(arguments) == 1:
            raise InputError("no pictures named", "give files or folders after the run")
        return run_from_argument(first), arguments[1:]
    return Run.from_argument(None), arguments
