"""Dispatch: blocks of pictures → workers that may die, with a bound on everything.

When a worker dies, the pictures of its block that have a mask are finished; each other one is tried
alone, behind all blocks, and has failed once ATTEMPTS_ALONE workers died of it.  A worker that has
died is replaced, unless LOSSES_IN_A_ROW died in its place without one picture finished.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from queue import SimpleQueue

from fcn_deploy.core.errors import BackendError
from fcn_deploy.predict.engine import Found, Outcome

#: Once may be chance, such as another program that took the memory.
ATTEMPTS_ALONE = 2
LOSSES_IN_A_ROW = 10
#: Most pictures of a block, enough that the filling of the pipeline costs little; and blocks for
#: each worker, so that all end at about the same time.
_LARGEST_BLOCK, _BLOCKS_PER_WORKER = 64, 4
#: Does the pictures at some places, and returns what became of each.
Worker = Callable[[Sequence[int]], Sequence[Outcome]]


class WorkerLostError(Exception):
    """A worker has died, or did not come to life; the text says how."""

    #: Whether it had finished a picture of its block.
    had_finished = False


class Dispatch:
    """The pictures of a job on their way to workers.

    Args:
        total, workers: how many pictures, and how many workers at once.
        start: brings one to life; it, and the worker, may raise WorkerLostError.
        stop: ends all, also those that are being started.
        found: tells of a mask that a worker wrote before it died.
        killed: makes the outcome of a picture that workers died of, told how the last one did.
    """

    def __init__(
        self,
        total: int,
        workers: int,
        start: Callable[[], Worker],
        stop: Callable[[], None],
        found: Found,
        killed: Callable[[int, str], Outcome],
    ) -> None:
        self._total, self._workers = total, workers
        self._start, self._stop = start, stop
        self._found, self._killed = found, killed
        size = max(1, min(-(-total // (workers * _BLOCKS_PER_WORKER)), _LARGEST_BLOCK))
        #: Blocks, and how many workers died of each that is one picture.
        self._waiting: deque[tuple[Sequence[int], int]] = deque(
            (range(begin, min(total, begin + size)), 0) for begin in range(0, total, size)
        )
        self._in_work = 0
        self._changed = threading.Condition()
        self._events = SimpleQueue[Sequence[Outcome] | BaseException]()

    def outcomes(self) -> Generator[Outcome, None, None]:
        """Yield the outcome of each picture once, in no order; in the end all workers are ended.

        Raises:
            BackendError: none lives any more, and pictures are left.
        """
        threads = [threading.Thread(target=self._serve) for _ in range(self._workers)]
        left, living = self._total, self._workers
        try:
            for thread in threads:
                thread.start()
            while left:
                event = self._events.get()
                if isinstance(event, WorkerLostError):
                    living -= 1
                    if not living:
                        raise BackendError(
                            f"{LOSSES_IN_A_ROW} workers died in a row, the last: {event}",
                            "look into Ray's logs; --resume goes on with what is left",
                        ) from event
                elif isinstance(event, BaseException):
                    raise event
                else:
                    left -= len(event)
                    yield from event
        finally:
            with self._changed:
                self._waiting.clear()
                self._in_work = -len(threads)  # what is in work does not come back
                self._changed.notify_all()
            self._stop()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()

    def _is_left(self) -> bool:
        """Return once a block waits, or none will any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._in_work <= 0)
            return bool(self._waiting)

    def _take(self) -> tuple[Sequence[int], int] | None:
        with self._changed:  # the lock may be taken twice
            if not self._is_left():
                return None
            self._in_work += 1
            return self._waiting.popleft()

    def _serve(self) -> None:
        losses = 0
        try:
            # No block is taken before the worker lives: it may wait for its place in the cluster.
            while self._is_left():
                try:
                    worker = self._start()
                    while (block := self._take()) is not None:
                        self._do(worker, *block)
                        losses = 0
                except WorkerLostError as lost:
                    losses = 1 if lost.had_finished else losses + 1
                    if losses == LOSSES_IN_A_ROW:
                        raise
        except BaseException as error:
            self._events.put(error)

    def _do(self, worker: Worker, places: Sequence[int], deaths: int) -> None:
        left: list[tuple[Sequence[int], int]] = []
        try:
            self._events.put(worker(places))
        except WorkerLostError as lost:
            done = {place: self._found(place) for place in places}
            outcomes = [outcome for outcome in done.values() if outcome is not None]
            lost.had_finished = bool(outcomes)
            alone = deaths + 1 if len(places) == 1 else 0
            for place in (place for place, outcome in done.items() if outcome is None):
                if alone < ATTEMPTS_ALONE:
                    left.append(((place,), alone))
                else:
                    outcomes.append(self._killed(place, str(lost)))
            self._events.put(outcomes)
            raise
        finally:
            with self._changed:
                self._waiting.extend(left)
                self._in_work -= 1
                self._changed.notify_all()
