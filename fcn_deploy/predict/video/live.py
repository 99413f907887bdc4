"""The newest frame of a live source: what the network is too slow for is dropped, never queued."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from fcn_deploy.predict.video.decode import Film, Frame

_Item = TypeVar("_Item")
#: Seconds after which it is looked again whether the end was asked for.
_LOOK = 0.1


@dataclass(frozen=True)
class LiveLimits:
    """When a live source ends: so long after its first frame, after so many masks, or when
    ``stopped`` says so; it is asked again and again."""

    seconds: float | None = None
    frames: int | None = None
    stopped: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic


class Newest(Generic[_Item]):
    """A place for one item: each new one takes the place of one that nobody has taken.

    Attributes:
        dropped: how many were replaced before they were taken.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._changed = threading.Condition()
        self._item: _Item | None = None
        self._ended = False
        self._error: BaseException | None = None

    def put(self, item: _Item) -> None:
        """Give an item; never waits."""
        with self._changed:
            self.dropped += self._item is not None
            self._item = item
            self._changed.notify()

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing follows, and why, where that is an error."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify()

    def take(self, stopped: Callable[[], bool] = lambda: False) -> _Item | None:
        """Wait for an item and return it; None where none follows, or the end is asked for."""
        with self._changed:
            while self._item is None and not self._ended and not stopped():
                self._changed.wait(_LOOK)
            if stopped():
                return None
            item, self._item = self._item, None
            if item is None and self._error is not None:
                raise self._error
            return item


@contextmanager
def newest_frames(
    film: Film, limits: LiveLimits
) -> Iterator[tuple[Newest[Frame], Iterator[Frame]]]:
    """Read a film on a thread and give, whenever asked, its newest frame, up to the limits."""
    newest: Newest[Frame] = Newest()
    left = threading.Event()

    def read() -> None:
        try:
            for frame in film.frames():
                newest.put(frame)
                if left.is_set():
                    break
            newest.end()
        except BaseException as error:  # raised where frames are taken
            newest.end(error)

    thread = threading.Thread(target=read, name="live source", daemon=True)
    thread.start()
    try:
        yield newest, _taken(newest, limits)
    finally:
        left.set()
        thread.join()  # the next packet comes, or the source's time is up


def _taken(newest: Newest[Frame], limits: LiveLimits) -> Iterator[Frame]:
    begun: float | None = None

    def stopped() -> bool:
        late = (
            limits.seconds is not None
            and begun is not None
            and limits.clock() - begun >= limits.seconds
        )
        return late or limits.stopped()

    given = 0
    while limits.frames is None or given < limits.frames:
        frame = newest.take(stopped)
        if frame is None:
            return
        begun = limits.clock() if begun is None else begun
        given += frame.error is None
        yield frame
