"""Dispatch: blocks of pictures → workers that may die, with a bound on everything.

    block ──▶ worker ──▶ outcomes
                │ dies
                ├─ a picture with a mask on the disk      its outcome
                └─ each other picture of the block        a block of its own, behind all others
                       │ dies ATTEMPTS_ALONE times with that picture alone
                       └─ the picture has failed

A worker that has died is replaced; one that dies LOSSES_IN_A_ROW times before it has finished a
single picture is not.  What a worker is, is not known here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

from fcn_deploy.core.errors import BackendError
from fcn_deploy.predict.engine import Found, Outcome

#: How often a worker may die with one picture alone in hand before the picture has failed: once may
#: be chance, such as another program that took the memory.
ATTEMPTS_ALONE = 2
LOSSES_IN_A_ROW = 10
#: Most pictures of a block: enough that the pipeline's filling and draining cost nothing.
LARGEST_BLOCK = 256
#: Blocks for each worker, so that all end at about the same time.
_BLOCKS_PER_WORKER = 4


class WorkerLostError(Exception):
    """A worker has died, or did not come to life; the text says how."""


class Worker(Protocol):
    """What does blocks of pictures, one after the other."""

    def outcomes(self, places: Sequence[int]) -> Iterable[Sequence[Outcome]]:
        """Do some pictures of the work; yield outcomes, each once, some at a time.

        Raises:
            WorkerLostError: it has died; it is not asked again.
        """


@dataclass(frozen=True)
class Crew:
    """The workers of a job.

    Attributes:
        size: how many there are at once.
        start: brings one to life; raises WorkerLostError.
        stop: ends all of them, also those that are just being started, from any thread.
    """

    size: int
    start: Callable[[], Worker]
    stop: Callable[[], None]


@dataclass(frozen=True)
class _Block:
    """Some pictures, and how many workers have died with them where they are one."""

    places: Sequence[int]
    deaths: int = 0


class _Blocks:
    """The blocks that are waiting, for threads: a block in work may come back in pieces."""

    def __init__(self, total: int, size: int) -> None:
        self._waiting = deque(
            _Block(range(begin, min(total, begin + size))) for begin in range(0, total, size)
        )
        self._in_work = 0
        self._closed = False
        self._changed = threading.Condition()

    def wait(self) -> bool:
        """Return once a block waits; False where none will any more."""
        with self._changed:
            while not self._waiting and self._in_work and not self._closed:
                self._changed.wait()
            return bool(self._waiting) and not self._closed

    def take(self) -> _Block | None:
        """Return a block once there is one; None where there is none any more."""
        with self._changed:
            if not self.wait():  # the lock may be taken twice
                return None
            self._in_work += 1
            return self._waiting.popleft()

    def give_back(self, pieces: Iterable[_Block]) -> None:
        """End a block that was taken; what is left of it waits behind all others."""
        with self._changed:
            self._in_work -= 1
            self._waiting.extend(pieces)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@dataclass(frozen=True)
class _GivenUp:
    """A worker that is replaced no more."""

    reason: str


_Event = Sequence[Outcome] | BaseException | _GivenUp


def block_size(total: int, workers: int, batch_size: int) -> int:
    """Return how many pictures a block has."""
    share = -(-total // (workers * _BLOCKS_PER_WORKER))
    return max(1, batch_size, min(share, LARGEST_BLOCK))


def dispatched(
    total: int, size: int, crew: Crew, found: Found, killed: Callable[[int, str], Outcome]
) -> Generator[Outcome, None, None]:
    """Let workers do pictures, and yield the outcome of each once, in no order.

    Args:
        total: how many pictures there are.
        size: of a block.
        crew: the workers; all are ended in the end.
        found: tells of a mask that a worker wrote before it died.
        killed: makes the outcome of a picture that killed its workers, told how the last one died.

    Raises:
        BackendError: no worker lives any more.
    """
    blocks, events = _Blocks(total, size), SimpleQueue[_Event]()
    threads = [
        threading.Thread(
            target=_Slot(crew, blocks, events.put, found, killed).run, name=f"worker {n}"
        )
        for n in range(crew.size)
    ]
    living, seen = crew.size, bytearray(total)
    try:
        for thread in threads:
            thread.start()
        while total:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, _GivenUp):
                living -= 1
                if not living:
                    raise BackendError(
                        f"each worker died {LOSSES_IN_A_ROW} times in a row before it had finished "
                        f"a picture, the last because {event.reason}",
                        "look into Ray's logs; --resume goes on with what is left",
                    )
                continue
            for outcome in event:
                if not seen[outcome.place]:
                    seen[outcome.place] = True
                    total -= 1
                    yield outcome
    finally:
        blocks.close()
        crew.stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


class _Slot:
    """A thread with one worker at a time."""

    def __init__(
        self,
        crew: Crew,
        blocks: _Blocks,
        tell: Callable[[_Event], None],
        found: Found,
        killed: Callable[[int, str], Outcome],
    ) -> None:
        self._crew = crew
        self._blocks = blocks
        self._tell = tell
        self._found = found
        self._killed = killed
        self._losses = 0

    def run(self) -> None:
        try:
            reason = ""
            while self._losses < LOSSES_IN_A_ROW:
                if not self._blocks.wait():
                    return
                try:
                    # No block is taken before: a worker may wait for its place in the cluster.
                    worker = self._crew.start()
                    while (block := self._blocks.take()) is not None:
                        self._do(block, worker)
                    return
                except WorkerLostError as lost:
                    self._losses += 1
                    reason = str(lost)
            self._tell(_GivenUp(reason))
        except BaseException as error:
            self._tell(error)

    def _do(self, block: _Block, worker: Worker) -> None:
        left = dict.fromkeys(block.places)
        pieces: list[_Block] = []
        try:
            for some in worker.outcomes(block.places):
                for outcome in some:
                    del left[outcome.place]
                self._finished(some)
        except WorkerLostError as lost:
            there = [outcome for outcome in map(self._found, left) if outcome is not None]
            self._finished(there)
            for outcome in there:
                del left[outcome.place]
            pieces = self._pieces(block, left, str(lost))
            raise
        finally:
            self._blocks.give_back(pieces)

    def _finished(self, outcomes: Sequence[Outcome]) -> None:
        if outcomes:
            self._losses = 0
            self._tell(outcomes)

    def _pieces(self, block: _Block, left: Iterable[int], reason: str) -> list[_Block]:
        """Return what is left of a block; the picture that has killed its workers fails."""
        if len(block.places) > 1:
            return [_Block((place,)) for place in left]
        deaths = block.deaths + 1
        if deaths < ATTEMPTS_ALONE:
            return [_Block((place,), deaths) for place in left]
        for place in left:
            self._tell([self._killed(place, reason)])
        return []
