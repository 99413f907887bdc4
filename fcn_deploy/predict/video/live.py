"""The newest frame of a live source: what the network is too slow for is dropped, never queued."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from fcn_deploy.predict.video.decode import PATIENCE, Film, Frame

#: Seconds after which it is looked again whether the end has come or was asked for.
_LOOK = 0.1


@dataclass(frozen=True)
class LiveLimits:
    """When a live source ends: so long after its first frame, which it is waited for ``PATIENCE``
    longer, after so many masks, or when ``stopped`` says so; it is asked again and again."""

    seconds: float | None = None
    frames: int | None = None
    stopped: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic


class NewestFrames(AbstractContextManager["NewestFrames"]):
    """The frames of a live source, each the newest when it is asked for, up to the limits.

    A thread reads them: each takes the place of the one before, whether that was taken or not.

    Attributes:
        dropped: how many were replaced before they were taken.
    """

    def __init__(self, film: Film, limits: LiveLimits) -> None:
        self.dropped = 0
        self._film, self._limits, self._opened = film, limits, limits.clock()
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._pool = ThreadPoolExecutor(1, "live source")
        self._reading = self._pool.submit(self._read, film)

    def _read(self, film: Film) -> None:
        for frame in film.frames():
            with self._changed:
                self.dropped += self._newest is not None
                self._newest = frame
                self._changed.notify()

    def __iter__(self) -> Iterator[Frame]:
        given, begun = 0, None
        while given != self._limits.frames:
            frame = self._take(begun)
            if frame is None:
                return
            begun = self._limits.clock() if begun is None else begun
            given += frame.error is None
            yield frame

    def _take(self, begun: float | None) -> Frame | None:
        """Wait for a frame; None where none follows or the end has come."""
        with self._changed:
            while not self._is_over(begun):
                if self._newest is not None:
                    frame, self._newest = self._newest, None
                    return frame
                if self._reading.done():
                    self._reading.result()  # raises what reading raised
                    break
                self._changed.wait(_LOOK)
        return None

    def _is_over(self, begun: float | None) -> bool:
        limits = self._limits
        if limits.seconds is None:
            return limits.stopped()
        since = self._opened + PATIENCE if begun is None else begun
        return limits.clock() - since >= limits.seconds or limits.stopped()

    def __exit__(self, *error: object) -> None:
        self._film.left = True
        self._pool.shutdown()  # the next packet comes, or the source's time is up
