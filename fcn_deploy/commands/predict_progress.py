"""What ``predict`` says of its progress: a bar, a line a minute, a summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from fcn_deploy.commands.shared.console import console

if TYPE_CHECKING:
    from fcn_deploy.predict.job import PredictJob
    from fcn_deploy.predict.video.job import FilmJob

#: Seconds from one line to the next where there is no terminal, as in a cluster's logs.
LINE_SECONDS = 60.0


@contextmanager
def progress(total: int | None, what: str = "pictures") -> Iterator[Callable[[], None]]:
    """Show how far the work is, its rate and the time left; call what is yielded once a picture."""
    if console.is_terminal:
        with _bar(total) as step:
            yield step
    else:
        yield _Lines(total, what).step


@contextmanager
def _bar(total: int | None) -> Iterator[Callable[[], None]]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.1f}/s")

    columns = (
        TextColumn("predict"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("predict", total=total)
        yield lambda: shown.advance(task)


class _Lines:
    def __init__(self, total: int | None, what: str) -> None:
        self._total = total
        self._what = what
        self._done = 0
        self._begun = self._said = time.perf_counter()

    def step(self) -> None:
        self._done += 1
        now = time.perf_counter()
        if now - self._said >= LINE_SECONDS:
            self._said = now
            rate = self._done / (now - self._begun)
            done, paced = f"{self._done:,}", f"{rate:.1f} {self._what}/s"
            if self._total is None or self._total < self._done:
                console.print(f"{done}, {paced}")
                return
            left = _duration((self._total - self._done) / rate)
            console.print(f"{done} of {self._total:,}, {paced}, {left} left")


def rate_words(pictures: int, seconds: float, what: str = "pictures") -> str:
    """Return ``12.3 pictures/s, 0:01:20``."""
    return f"{pictures / max(seconds, 1e-9):.1f} {what}/s, {_duration(seconds)}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def say_resumed(job: PredictJob | FilmJob, *, resumed: bool) -> None:
    """Print what a run finds done already, and what of it is done again."""
    journal, selection = job.journal, job.selection
    if not resumed:
        if journal.was_there:
            console.print(f"{journal.path} is begun anew; --resume goes on with it")
        return
    if journal.cut_off:
        console.print(f"{journal.path} ended in a torn line, which was cut off")
    if journal.damaged:
        console.print(f"{journal.path}: {journal.damaged} damaged lines were dropped")
    console.print(
        f"{selection.finished_before} of {selection.total} {job.what}s were finished before"
    )
    if not selection.checked:
        console.print("whether their masks are there was not looked at; --check-all does so")
    if job.taken_over:
        console.print(f"{job.taken_over} of them had their mask and no line yet")
    for count, why in (
        (selection.changed, f"the {job.what} has changed"),
        (selection.lost, "the mask is gone"),
        (selection.failed, "it got no mask before"),
    ):
        if count:
            console.print(f"{count} done again: {why}")
