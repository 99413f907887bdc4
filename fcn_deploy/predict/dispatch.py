"""Dispatch: blocks of pictures → workers that may die, with a bound on everything.

When a worker dies, the pictures of its block that have a mask are finished; each other one is tried
alone, behind all blocks, and has failed once ATTEMPTS_ALONE workers died of it.  A worker that has
died is replaced, unless LOSSES_IN_A_ROW died in its place without one picture finished.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from fcn_deploy.core.errors import BackendError
from fcn_deploy.predict.engine import Found, Outcome

#: Once may be chance, such as another program that took the memory.
ATTEMPTS_ALONE = 2
LOSSES_IN_A_ROW = 10
#: Most pictures of a block, enough that the filling of the pipeline costs little; and blocks for
#: each worker, so that all end at about the same time.
_LARGEST_BLOCK, _BLOCKS_PER_WORKER = 64, 4


class WorkerLostError(Exception):
    """A worker has died, or did not come to life; the text says how."""


class Worker(Protocol):
    """What does one thing at a time, elsewhere: it comes to life, or does a block."""

    def begin(self, places: Sequence[int]) -> None:
        """Begin to do the pictures at some places."""

    def result(self) -> Sequence[Outcome]:
        """Return what became of each, or nothing once it has come to life.

        Raises:
            WorkerLostError: it has died.
        """


_Worker = TypeVar("_Worker", bound=Worker)


@dataclass(eq=False)
class _Slot(Generic[_Worker]):
    worker: _Worker | None = None
    places: Sequence[int] = ()
    deaths: int = 0  # of workers that had the one picture of the block
    losses: int = 0  # in a row


def dispatched(
    total: int,
    workers: int,
    start: Callable[[], _Worker],
    wait: Callable[[Sequence[_Worker]], _Worker],
    found: Found,
    killed: Callable[[int, str], Outcome],
) -> Generator[Outcome, None, None]:
    """Yield the outcome of each picture once, in no order.

    Args:
        total, workers: how many pictures, and how many workers at once.
        start: begins to bring one to life.
        wait: returns one of some that has ended what it began.
        found: tells of a mask that a worker wrote before it died.
        killed: makes the outcome of a picture that workers died of, told how the last one did.

    Raises:
        BackendError: no worker lives any more.
    """
    size = max(1, min(-(-total // (workers * _BLOCKS_PER_WORKER)), _LARGEST_BLOCK))
    waiting = deque((range(b, min(total, b + size)), 0) for b in range(0, total, size))
    idle: list[_Slot[_Worker]] = [_Slot() for _ in range(workers)]
    busy: dict[_Worker, _Slot[_Worker]] = {}
    how = ""
    while total:
        while idle and waiting:
            slot = idle.pop()
            if slot.worker is None:  # it gets no block yet: it may wait for its place
                slot.worker, slot.places = start(), ()
            else:
                slot.places, slot.deaths = waiting.popleft()
                slot.worker.begin(slot.places)
            busy[slot.worker] = slot
        if not busy:
            raise BackendError(
                f"{LOSSES_IN_A_ROW} workers died in a row, the last: {how}",
                "look into Ray's logs; --resume goes on with what is left",
            )
        slot = busy.pop(wait(list(busy)))
        assert slot.worker is not None
        try:
            outcomes = list(slot.worker.result())
        except WorkerLostError as lost:
            how, slot.worker = str(lost), None
            there = {place: found(place) for place in slot.places}
            outcomes = [outcome for outcome in there.values() if outcome is not None]
            slot.losses = slot.losses * (not outcomes) + 1
            deaths = slot.deaths + 1 if len(there) == 1 else 0
            for place in (place for place, outcome in there.items() if outcome is None):
                if deaths < ATTEMPTS_ALONE:
                    waiting.append((range(place, place + 1), deaths))
                else:
                    outcomes.append(killed(place, how))
        else:
            slot.losses *= not slot.places
        if slot.losses < LOSSES_IN_A_ROW:
            idle.append(slot)
        total -= len(outcomes)
        yield from outcomes
