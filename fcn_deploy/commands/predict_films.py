"""What ``predict`` does where a film or a live source is named."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fcn_deploy.commands.predict_progress import printable, progress, rate_words
from fcn_deploy.commands.shared.console import EXIT_BAD_INPUT, EXIT_FAILED, console
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.extras import require_extra

if TYPE_CHECKING:
    from fcn_deploy.commands.predict import PredictOptions
    from fcn_deploy.predict.shard import Shard
    from fcn_deploy.predict.stream import FiniteCheck
    from fcn_deploy.predict.video.job import FilmJob, FilmPrediction
    from fcn_deploy.runners.base import Runner


Begun = Callable[["FilmJob"], AbstractContextManager[tuple["Runner", "FiniteCheck"]]]


def run_films(
    words: tuple[str, ...], out: Path, shard: Shard | None, options: PredictOptions, begun: Begun
) -> bool:
    """Do films, and exit unless all became masks; False where no film is named.

    Args:
        words: the sources.
        out: the folder of the masks.
        shard: the part of the films to do, or None.
        options: what was typed.
        begun: opens the backend and the journal of a job.

    Raises:
        MissingExtraError: PyAV is not there.
        InputError: an option does not go with these sources.
    """
    from fcn_deploy.predict.video.names import films_of, is_live

    films = films_of(words)
    live = bool(films) and is_live(words[0])
    _refuse(words[0], options, films=bool(films), live=live, shared=shard is not None)
    if not films:
        return False
    require_extra("reading films", "video", "av")
    from fcn_deploy.predict.video.job import FilmJob
    from fcn_deploy.predict.video.live import LiveLimits

    with _stopped_by_ctrl_c(live) as stopped:
        job = FilmJob(
            films,
            out,
            as_frames=options.as_frames,
            full_names=options.full_names,
            with_overlay=options.overlay,
            shard=shard,
            resume=options.resume,
            limits=LiveLimits(options.seconds, options.max_frames, stopped),
        )
        with job:
            whole, some = _run(job, options.batch_size, begun)
    if not whole:
        sys.exit(EXIT_FAILED if some or job.finished_before else EXIT_BAD_INPUT)
    return True


def _refuse(word: str, options: PredictOptions, *, films: bool, live: bool, shared: bool) -> None:
    for given, fits, option, why in (
        (options.as_frames, films, "--frames", "is for films"),
        (options.seconds, live, "--seconds", "ends live sources"),
        (options.max_frames, live, "--max-frames", "ends live sources"),
        (options.recursive, not films, "--recursive", "searches folders"),
        (shared, not live, "--shard", "shares films and pictures out"),
        (options.batch_size > 1, not live, "--batch", "would hold frames back"),
    ):
        if given and not fits:
            kind = "a live source" if live else "a film" if films else "no film"
            raise InputError(f"{option} {why}, and {word} is {kind}", f"drop {option}")


def _run(job: FilmJob, batch_size: int, begun: Begun) -> tuple[bool, bool]:
    """Do what is left; say whether every film became masks, and whether any did."""
    done: list[FilmPrediction] = []
    with begun(job) as (runner, has_finite_logits):
        start = time.perf_counter()
        with (
            progress(job.expected_frames(), "frames") as step,
            closing(
                job.predictions(
                    runner, batch_size=batch_size, has_finite_logits=has_finite_logits, step=step
                )
            ) as predictions,
        ):
            for prediction in predictions:
                done.append(prediction)
                _say(prediction)
        seconds = time.perf_counter() - start
        described = runner.describe()
    masks = [prediction for prediction in done if prediction.masks is not None]
    console.print(
        f"wrote the masks of {len(masks)} of {len(job.selection.items)} films to "
        f"{job.journal.path.parent} ({described.backend} on {described.device})"
    )
    if masks:
        frames = sum(prediction.frames + prediction.broken for prediction in done)
        words = rate_words(frames, seconds, "frames")
        console.print(f"{words}; {job.journal.path} has a line for each film")
    return all(each.error is None for each in done), bool(masks)


def _say(film: FilmPrediction) -> None:
    if film.masks is not None:
        dropped = f", {film.dropped} frames dropped" if film.dropped else ""
        console.print(f"{film.masks}: {film.frames} masks{dropped}", markup=False)
    wrong = [] if film.error is None else [film.error]
    if film.broken:
        count = film.frames + film.broken
        wrong.append(
            f"{film.source}: {film.broken} of {count} frames are broken and have no mask; the CSV "
            "beside the masks says which"
        )
    for line in wrong:
        click.echo(f"fcn-deploy: {printable(line)}", err=True)


@contextmanager
def _stopped_by_ctrl_c(live: bool) -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C, and a request to end, finish a live source; the second one aborts."""
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
