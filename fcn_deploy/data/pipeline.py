"""Decode ‖ compute ‖ write: pictures decoded ahead of the network, masks written behind it.

    files ──decoded_ahead──▶ pictures ──batches_of_one_size──▶ batches ──the caller's network──▶ …
             on threads                                                      in one thread
      … ──▶ answers ──written_behind──▶ done ──in_order──▶ as the files stand
                        on threads

Threads, because decoding pictures and packing masks let go of the interpreter's lock, and because
arrays need not be copied between processes.  The network is asked from the caller's thread alone:
a runner is never called from several threads at once.  Everything is pulled from the right, so
that whoever stops pulling stops the work, and what lies in memory is bounded at each arrow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ImageError
from fcn_deploy.data.images import read_image
from fcn_deploy.machine.description import usable_cores

_Answer = TypeVar("_Answer")
_Done = TypeVar("_Done")
#: How far apart, in batches, two pictures of one batch may stand among the files: pictures of four
#: sizes in turn still fill their batches, and no more than this many batches lie open.
WINDOW = 4
THREAD_NAME = "pictures"


@dataclass(frozen=True, eq=False)
class Picture:
    """A file that has been decoded.

    Attributes:
        place: of the file among the files, from 0.
        image: uint8 [H, W, 3], RGB.
    """

    place: int
    image: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Unreadable:
    """A file that could not be decoded, delivered where it stands.

    Attributes:
        place: of the file among the files, from 0.
        error: why.
    """

    place: int
    error: ImageError


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures of one size.

    Attributes:
        places: where each stands among the files.
        images: uint8 [N, H, W, 3], RGB.
    """

    places: tuple[int, ...]
    images: NDArray[np.uint8]


@contextmanager
def picture_threads(workers: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Keep threads for decoding, or for writing.

    At the end of the block, however it comes (an error, Ctrl-C, a generator's ``close``), what
    waits is dropped and the files in hand are finished, so that none is left half-written.

    Args:
        workers: how many; None: as many as there are cores.
    """
    pool = ThreadPoolExecutor(workers or usable_cores(), thread_name_prefix=THREAD_NAME)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def lookahead(batch_size: int, workers: int | None = None) -> int:
    """Return how many pictures to decode ahead: the next batch, and work for every thread."""
    return batch_size + 2 * (workers or usable_cores())


def decoded_ahead(
    files: Iterable[Path], pool: ThreadPoolExecutor, ahead: int
) -> Iterator[Picture | Unreadable]:
    """Decode pictures before they are asked for, and deliver them in order.

    Args:
        files: pictures of any sizes.
        pool: the threads.
        ahead: at most so many pictures are in work or wait to be taken.
    """
    waiting: deque[Future[Picture | Unreadable]] = deque()
    for place, path in enumerate(files):
        if len(waiting) == ahead:
            yield waiting.popleft().result()
        waiting.append(pool.submit(_decode, place, path))
    while waiting:
        yield waiting.popleft().result()


def _decode(place: int, path: Path) -> Picture | Unreadable:
    try:
        return Picture(place, read_image(path))
    except ImageError as error:
        return Unreadable(place, error)


def all_readable(decoded: Iterable[Picture | Unreadable]) -> Iterator[Picture]:
    """Pass pictures on, for those who can do without none.

    Raises:
        ImageError: at the first that is unreadable.
    """
    for picture in decoded:
        if isinstance(picture, Unreadable):
            raise picture.error
        yield picture


def batches_of_one_size(pictures: Iterable[Picture], batch_size: int) -> Iterator[Batch]:
    """Fill batches with pictures of one size; nothing is padded or resized.

    A batch that does not fill up leaves when its oldest picture falls ``WINDOW`` batches behind
    the newest: rare sizes neither pile up nor hold back the results of the others.

    Args:
        pictures: with rising places.
        batch_size: most pictures of a batch.

    Yields:
        Batches: every picture in exactly one, those of one size in their order.
    """
    # Of each size, in the order of their oldest pictures: a dict keeps the order of insertion.
    open_batches: dict[tuple[int, ...], list[Picture]] = {}
    for picture in pictures:
        while open_batches:
            oldest = next(iter(open_batches))
            if picture.place - open_batches[oldest][0].place < WINDOW * batch_size:
                break
            yield _closed(open_batches.pop(oldest))
        size = picture.image.shape
        open_batches.setdefault(size, []).append(picture)
        if len(open_batches[size]) == batch_size:
            yield _closed(open_batches.pop(size))
    while open_batches:
        yield _closed(open_batches.pop(next(iter(open_batches))))


def _closed(pictures: list[Picture]) -> Batch:
    images = [picture.image for picture in pictures]
    # One picture is not copied.
    stacked = np.stack(images) if len(images) > 1 else images[0][None]
    return Batch(tuple(picture.place for picture in pictures), stacked)


def written_behind(
    answers: Iterable[_Answer],
    write: Callable[[_Answer], _Done],
    pool: ThreadPoolExecutor,
    behind: int,
) -> Iterator[_Done]:
    """Write answers while the next ones are being computed.

    Args:
        answers: pulled in the caller's thread: pulling is what computes them.
        write: called on a thread for each answer.
        pool: the threads.
        behind: at most so many answers are written or wait for it.

    Yields:
        What ``write`` returned, in the order of the answers, as soon as it is there.

    Raises:
        Exception: whatever ``write`` raised, after the results of the answers before.
    """
    waiting: deque[Future[_Done]] = deque()
    for answer in answers:
        waiting.append(pool.submit(write, answer))
        while waiting and (len(waiting) >= behind or waiting[0].done()):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def in_order(numbered: Iterable[tuple[int, _Done]]) -> Iterator[_Done]:
    """Put what comes as (place, value) into the order of its places: 0, 1, 2, …"""
    early: dict[int, _Done] = {}
    due = 0
    for place, value in numbered:
        early[place] = value
        while due in early:
            yield early.pop(due)
            due += 1
