"""What ``predict`` does where a film or a live source is named."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fcn_deploy.commands.predict_progress import progress, rate_words, say_resumed
from fcn_deploy.commands.shared.backends import say_unusual
from fcn_deploy.commands.shared.console import EXIT_BAD_INPUT, EXIT_FAILED, console, printable
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.extras import require_extra

if TYPE_CHECKING:
    from fcn_deploy.commands.predict import PredictOptions
    from fcn_deploy.predict.shard import Shard
    from fcn_deploy.predict.stream import FiniteCheck
    from fcn_deploy.predict.video.job import FilmJob, FilmPrediction
    from fcn_deploy.runners.base import Runner

_OPTIONS = (
    click.option(
        "--max-frames", type=click.IntRange(min=1), help="End a live source after so many masks."
    ),
    click.option(
        "--seconds", type=click.FloatRange(min=0, min_open=True),
        help="End a live source after so many seconds.",
    ),
    click.option(
        "--frames", "as_frames", is_flag=True,
        help="Write a PNG for each frame of a film, NAME/000000.png, and no film of masks.",
    ),
)  # fmt: skip
_Open = Callable[["FilmJob", ExitStack], "tuple[Runner, FiniteCheck]"]


def film_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--frames``, ``--seconds`` and ``--max-frames``."""
    for option in _OPTIONS:
        command = option(command)
    return command


def run_films(
    words: tuple[str, ...], out: Path, shard: Shard | None, options: PredictOptions, opened: _Open
) -> bool:
    """Do films, and exit unless all became masks; False where no film is named.

    Raises:
        MissingExtraError: PyAV is not there.
        InputError: an option does not go with these sources.
    """
    from fcn_deploy.predict.video.names import films_of, is_live

    films = films_of(words)
    live = bool(films) and is_live(words[0])
    _refuse(films[0].name if films else words[0], options, films=bool(films), live=live)
    if not films:
        return False
    require_extra("reading films", "video", "av")
    from fcn_deploy.predict.video.job import FilmJob
    from fcn_deploy.predict.video.live import LiveLimits

    with (
        _stopped_by_ctrl_c(live) as stopped,
        FilmJob(
            films,
            out,
            as_frames=options.as_frames,
            full_names=options.full_names,
            with_overlay=options.overlay,
            shard=shard,
            resume=options.resume,
            limits=LiveLimits(options.seconds, options.max_frames, stopped),
        ) as job,
    ):
        done = _run(job, options, opened)
    if any(film.error for film in done):
        some = job.selection.finished_before or any(film.masks for film in done)
        sys.exit(EXIT_FAILED if some else EXIT_BAD_INPUT)
    return True


def _refuse(word: str, options: PredictOptions, *, films: bool, live: bool) -> None:
    kind = "a live source" if live else "a film" if films else "no film"
    for given, fits, option in (
        (options.as_frames, films, "--frames"),
        (options.seconds, live, "--seconds"),
        (options.max_frames, live, "--max-frames"),
        (options.recursive, not films, "--recursive"),
        (options.engine != "local", not films, "--engine"),
        (options.uncertainty, not films, "--uncertainty"),
        (options.tiles.given, not films, "--tile, --overlap, --max-memory, --bands, --scale"),
        (options.shard, not live, "--shard"),
        (options.batch_size > 1, not live, "--batch"),
    ):
        if given and not fits:
            raise InputError(f"{option} does not go with {word}, {kind}", f"drop {option}")


def _run(job: FilmJob, options: PredictOptions, opened: _Open) -> list[FilmPrediction]:
    done = []
    with ExitStack() as stack:
        runner, check = opened(job, stack)
        job.begin(runner)
        say_resumed(job, resumed=options.resume)
        begun = time.perf_counter()
        with (
            progress(job.expected_frames(), "frames") as step,
            closing(job.predictions(runner, options.batch_size, check, step)) as predictions,
        ):
            for prediction in predictions:
                done.append(prediction)
                _say(prediction)
        seconds = time.perf_counter() - begun
        described = runner.describe()
    say_unusual([described])
    frames = sum(film.frames + film.broken for film in done)
    console.print(
        f"wrote the masks of {sum(film.masks is not None for film in done)} of {len(done)} films "
        f"to {job.journal.path.parent} ({described.backend} on {described.device})"
    )
    if frames:
        console.print(
            f"{rate_words(frames, seconds, 'frames')}; {job.journal.path} has a line each"
        )
    return done


def _say(film: FilmPrediction) -> None:
    if film.masks is not None:
        dropped = f", {film.dropped} frames dropped" if film.dropped else ""
        console.print(f"{film.masks}: {film.frames} masks{dropped}", markup=False)
    wrong = [] if film.error is None else [film.error]
    if film.broken and film.masks is not None:
        wrong.append(
            f"{film.source}: {film.broken} of {film.frames + film.broken} frames are broken and "
            "have no mask; the CSV beside the masks says which"
        )
    for line in wrong:
        click.echo(f"fcn-deploy: {printable(line)}", err=True)


@contextmanager
def _stopped_by_ctrl_c(live: bool) -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C or SIGTERM finish a live source; a second one aborts."""
    stopped = threading.Event()
    if not live or threading.current_thread() is not threading.main_thread():
        yield stopped.is_set
        return
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    def stop(*_: object) -> None:
        stopped.set()
        restore()

    for kind in before:
        signal.signal(kind, stop)
    try:
        yield stopped.is_set
    finally:
        restore()
