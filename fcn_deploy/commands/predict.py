"""``fcn-deploy predict``: pictures to masks on disk."""

from __future__ import annotations

import re
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fcn_deploy.commands.predict_engine import (
    engine_options,
    open_engine,
    open_runner,
    require_engine,
)
from fcn_deploy.commands.predict_films import film_options, run_films
from fcn_deploy.commands.predict_progress import progress, rate_words, say_resumed
from fcn_deploy.commands.predict_tiles import TileOptions, tile_options
from fcn_deploy.commands.shared.backends import say_unusual
from fcn_deploy.commands.shared.code_options import trust_option
from fcn_deploy.commands.shared.console import EXIT_BAD_INPUT, EXIT_FAILED, console, printable
from fcn_deploy.commands.shared.options import (
    PathText,
    PathType,
    device_option,
    precision_options,
    threads_option,
)
from fcn_deploy.commands.shared.proven_backend import (
    AUTO,
    ChosenBackend,
    auto_backend_option,
    choose_backend,
)
from fcn_deploy.commands.shared.runs import is_bundle, run_from_argument
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import MODEL_SUFFIXES, Run
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from fcn_deploy.predict.folder import Prediction
    from fcn_deploy.predict.job import PredictJob
    from fcn_deploy.predict.stream import FiniteCheck
    from fcn_deploy.predict.video.job import FilmJob
    from fcn_deploy.runners.base import Runner


@dataclass(frozen=True)
class PredictOptions:
    """What was typed; the fields are the parameters of :func:`predict`."""

    arguments: tuple[str, ...]
    out: Path | None
    overlay: bool
    as_frames: bool
    seconds: float | None
    max_frames: int | None
    full_names: bool
    recursive: bool
    resume: bool
    check_all: bool
    shard: str | None
    uncertainty: bool
    batch_size: int
    engine: str
    address: str | None
    workers: int | None
    tiles: TileOptions
    backend: str
    allow: frozenset[str]
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
@film_options
@click.option(
    "--full-names", is_flag=True,
    help="Name each mask after its picture's suffix and folder as well, cam1/a.jpg.png, so that "
    "those of a.jpg and a.png, or of two folders, can be told apart.",
)  # fmt: skip
@click.option("--recursive", is_flag=True, help="Search the sub-folders of folders as well.")
@click.option(
    "--resume", is_flag=True,
    help="Go on where the run before ended: what its journal lists as finished is not done again.",
)  # fmt: skip
@click.option(
    "--check-all", is_flag=True,
    help="With --resume: look for the masks of all finished pictures, and for changes of the "
    "pictures since, also where there are more than a million.",
)  # fmt: skip
@click.option(
    "--shard", metavar="I/N",
    help="Do the I-th of N parts of the pictures alone, 0/N to N-1/N, chosen by a hash of their "
    "names: so N workers share the pictures without talking.",
)  # fmt: skip
@click.option(
    "--uncertainty", is_flag=True,
    help="Note in the journal how undecided the network was about each picture, for `report`. It "
    "is run twice unless the model was exported with `--outputs mask,margin`.",
)  # fmt: skip
@click.option(
    "--batch", "batch_size", type=click.IntRange(min=1), default=1, show_default=True,
    help="Segment so many pictures of one size at once.",
)  # fmt: skip
@engine_options
@tile_options
@auto_backend_option
@precision_options
@device_option
@threads_option
@trust_option
def predict(**typed: Any) -> None:
    """Segment pictures and maps and write palette masks of the same size.

    A SOURCE is a file, a folder, a pattern in quotes, a .tar or .zip archive, @LIST with a file's
    name on each line, or - for such a list on standard input.  What became of each picture stands
    in predictions.jsonl beside the masks.

    The masks of a film, such as film.mp4, are a film, NAME.mkv, and the shares of its classes over
    time NAME.csv.  camera:0, rtsp://... and http://... are live sources: the newest frame is
    segmented, Ctrl-C ends.
    """
    options = PredictOptions(**typed)
    require_engine(options)
    from fcn_deploy.predict.job import PredictJob
    from fcn_deploy.predict.shard import Shard
    from fcn_deploy.predict.sources import Sources

    source, words = _split_run(options.arguments)
    source = replace(source, trusted=options.trust)
    shard = None if options.shard is None else Shard.from_text(options.shard)
    folder = options.out or source.predictions
    if run_films(words, folder, shard, options, partial(_open_runner, source, options)):
        return
    with ExitStack() as stack:
        pictures = stack.enter_context(
            Sources(
                words,
                recursive=options.recursive,
                stdin=sys.stdin.buffer if "-" in words else None,
            )
        )
        job = stack.enter_context(
            PredictJob(
                pictures,
                folder,
                full_names=options.full_names,
                with_overlay=options.overlay,
                shard=shard,
                resume=options.resume,
                check_all=options.check_all,
                reading=options.tiles.reading,
            )
        )
        done = _run(source, job, options)
        left = len(job.selection.items)
        for note in pictures.notes():
            console.print(note)
    if done < left:
        sys.exit(EXIT_FAILED if done or job.selection.finished_before else EXIT_BAD_INPUT)


def _run(source: Run, job: PredictJob, options: PredictOptions) -> int:
    """Do what is left, and return how many masks were written."""
    chosen = _choose_backend(source, job, options)
    done = 0
    with ExitStack() as stack:
        engine = open_engine(source, chosen, options, job, stack)
        job.begin(engine)
        say_resumed(job, resumed=options.resume)
        left = len(job.selection.items)
        # Ctrl-C finishes the masks in hand, and their lines.
        predictions = stack.enter_context(closing(job.predictions_by(engine)))
        begun = time.perf_counter()
        with progress(left) as step:
            for prediction in predictions:
                step()
                if prediction.error is None:
                    done += 1
                else:
                    click.echo(f"fcn-deploy: {_named(prediction)}", err=True)
        seconds = time.perf_counter() - begun
        described = engine.describe()
        if engine.lost:
            console.print(f"workers lost: {len(engine.lost)}, the last: {engine.lost[-1]}")
    say_unusual([described])
    out = job.journal.path.parent
    console.print(
        f"wrote {done} of {left} masks to {out} ({described.backend} on {described.device})"
    )
    if left:
        console.print(f"{rate_words(left, seconds)}; {job.journal.path} has a line for each")
    return done


def _open_runner(
    source: Run, options: PredictOptions, job: FilmJob, stack: ExitStack
) -> tuple[Runner, FiniteCheck]:
    chosen = _choose_backend(source, job, options)
    return open_runner(source, chosen, options, stack)


def _choose_backend(
    source: Run, job: PredictJob | FilmJob, options: PredictOptions
) -> ChosenBackend:
    """Return the backend that was named; else that of the journal, which is of one backend."""
    head = job.journal.model()
    if options.backend == AUTO and head is not None and source.named_engine is None:
        precision = head.file_precision
        if options.precision in (Precision.FP32, precision):
            console.print(f"backend: {head.backend}{precision.flag}, as in {job.journal.path}")
            return ChosenBackend(head.backend, precision)
    return choose_backend(
        source,
        options.backend,
        precision=options.precision,
        allowed=options.allow,
        device=options.device,
    )


def _named(prediction: Prediction) -> str:
    """Return an error with the name of its picture, which a backend does not know.

    A name may hold what a terminal obeys; such characters are spelt out.
    """
    line, name = str(prediction.error), str(prediction.source)
    words = line if " ".join(name.split()) in line else f"{name}: {line}"
    return printable(words)


def _split_run(arguments: tuple[str, ...]) -> tuple[Run, tuple[str, ...]]:
    """Take the first word as RUN if it is one: a run directory or a model file."""
    first = Path(arguments[0])
    run_directory = first.is_dir() and Run(first).has_model()
    mistyped = (
        not first.exists()
        and first.suffix == ""
        and len(arguments) > 1
        and re.match(r"-$|@|.*[*?[]|camera:|.*://", arguments[0]) is None  # a list, a pattern, live
    )
    if first.suffix in MODEL_SUFFIXES or is_bundle(first) or run_directory or mistyped:
        if len(arguments) == 1:
            raise InputError("no pictures named", "give files, folders or lists after the run")
        return run_from_argument(first), arguments[1:]
    return Run.from_argument(None), arguments
