"""Decode ‖ compute ‖ write: pictures decoded ahead of the network, masks written behind it.

    files ──decoded_ahead──▶ pictures ──batches_of_one_size──▶ batches ──the caller's network──▶ …
             on threads                                                      in one thread
      … ──▶ answers ──written_behind──▶ done ──in_order──▶ as the files stand
                        on threads

Threads, because decoding pictures and packing masks let go of the interpreter's lock, and because
arrays need not be copied between processes.  The network is asked from the caller's thread alone:
a runner is never called from several threads at once.  Everything is pulled from the right, so
that whoever stops pulling stops the work, and what lies in memory is bounded at each arrow, by a
number of pictures and by ``HELD_BYTES``: many cores times large pictures would fill any memory.
What is no file alone, such as an image with its mask, takes the same way by ``loaded_ahead``.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ImageError
from fcn_deploy.data.images import read_image
from fcn_deploy.machine.description import usable_cores

_Answer = TypeVar("_Answer")
_Done = TypeVar("_Done")
_Item = TypeVar("_Item")
_Loaded = TypeVar("_Loaded")
#: Takes the bytes that a load will need.
Reserve = Callable[[int], None]
#: How far apart, in batches, two pictures of one batch may stand among the files: pictures of four
#: sizes in turn still fill their batches, and no more than this many batches lie open.
WINDOW = 4
THREAD_NAME = "pictures"
#: Bytes that may be held at each arrow, or one picture where that takes more.
HELD_BYTES = 1 << 30
#: Bytes of a pixel that is being decoded: 3 of the array and 4 of Pillow's own picture.
_DECODING_BYTES = 7


class Readable(Protocol):
    """A picture that is no file by itself, such as a member of an archive."""

    def read(self, before: Callable[[tuple[int, int]], None]) -> NDArray[np.uint8]:
        """Return uint8 [H, W, 3], RGB; see :func:`fcn_deploy.data.images.read_image`."""


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
    files: Iterable[Path | Readable], pool: ThreadPoolExecutor, ahead: int
) -> Iterator[Picture | Unreadable]:
    """Decode pictures before they are asked for, and deliver them in order.

    Args:
        files: pictures of any sizes.
        pool: the threads.
        ahead: see :func:`loaded_ahead`.
    """
    return loaded_ahead(enumerate(files), _decode, pool, ahead)


def loaded_ahead(
    items: Iterable[_Item],
    load: Callable[[_Item, Reserve], _Loaded],
    pool: ThreadPoolExecutor,
    ahead: int,
) -> Iterator[_Loaded]:
    """Load items before they are asked for, and deliver them in order.

    Args:
        items: that are to be loaded.
        load: called on a thread with an item and a function, to which it gives the bytes that it
            will take before it takes them, and whose exceptions it passes on.  It is called a
            second time for an item that takes many.
        pool: the threads.
        ahead: at most so many items are in work or wait to be taken; fewer where these would take
            more than ``HELD_BYTES``.

    Raises:
        Exception: whatever ``load`` raised, after the items before.
    """
    window = _Window(load, pool, ahead)
    for item in items:
        if len(window) == ahead:
            yield window.take()
        window.add(item)
    while len(window):
        yield window.take()


class _Postponed(Exception):  # noqa: N818 (nothing is wrong with the item)
    """An item that is large is not loaded before there is room for it."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


@dataclass(eq=False)
class _Loading(Generic[_Item, _Loaded]):
    """An item in the window: what it became, or will become, and the bytes set aside for it."""

    item: _Item
    future: Future[_Loaded | _Postponed]
    held: int = 0


class _Window(Generic[_Item, _Loaded]):
    """Items that are loaded ahead, in order.

    A small one is loaded at once: all that the window takes of these fit into half of
    ``HELD_BYTES``.  Of a large one the size is asked for, and it is loaded, in its turn, when it
    fits into the other half.  No thread ever waits for room: threads that do would outlast their
    pool.
    """

    def __init__(
        self, load: Callable[[_Item, Reserve], _Loaded], pool: ThreadPoolExecutor, ahead: int
    ) -> None:
        self._load = load
        self._pool = pool
        self._room = HELD_BYTES // 2
        self._small = self._room // ahead
        self._waiting: deque[_Loading[_Item, _Loaded]] = deque()
        self._held = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, item: _Item) -> None:
        """Begin with an item."""
        future = self._pool.submit(self._load_or_postpone, item, self._small)
        self._waiting.append(_Loading(item, future))

    def take(self) -> _Loaded:
        """Wait for the first item, and return what it became."""
        first = self._waiting[0]
        if isinstance(first.future.result(), _Postponed):
            self._begin_large(wait=True)  # its kin as well, so that all threads have work
        taken = first.future.result()
        assert not isinstance(taken, _Postponed)  # with nothing held before it, it was begun
        self._waiting.popleft()
        self._held -= first.held
        self._begin_large(wait=False)
        return taken

    def _begin_large(self, *, wait: bool) -> None:
        """Load the large items that have room, up to the first that has none.

        Args:
            wait: for sizes that are still to be told; else up to the first of these.
        """
        for each in self._waiting:
            if not (wait or each.future.done()):
                return
            found = each.future.result()
            if not isinstance(found, _Postponed):
                continue
            if self._held and self._held + found.needed > self._room:
                return
            each.held = found.needed
            self._held += found.needed
            each.future = self._pool.submit(self._load_or_postpone, each.item)

    def _load_or_postpone(self, item: _Item, most_bytes: int | None = None) -> _Loaded | _Postponed:
        """Load an item, unless that would take more than so many bytes."""

        def reserve(nbytes: int) -> None:
            if most_bytes is not None and nbytes > most_bytes:
                raise _Postponed(nbytes)

        try:
            return self._load(item, reserve)
        except _Postponed as postponed:
            return postponed


def _decode(file: tuple[int, Path | Readable], reserve: Reserve) -> Picture | Unreadable:
    place, source = file

    def before(size: tuple[int, int]) -> None:
        reserve(size[0] * size[1] * _DECODING_BYTES)

    try:
        image = read_image(source, before) if isinstance(source, Path) else source.read(before)
    except ImageError as error:
        return Unreadable(place, error)
    return Picture(place, image)


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
    the newest, or when all that are open hold more than ``HELD_BYTES``: rare sizes neither pile up
    nor hold back the results of the others.

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
            far = picture.place - open_batches[oldest][0].place >= WINDOW * batch_size
            if not far and picture.image.nbytes + _nbytes(open_batches) <= HELD_BYTES:
                break
            yield _closed(open_batches.pop(oldest))
        size = picture.image.shape
        open_batches.setdefault(size, []).append(picture)
        if len(open_batches[size]) == batch_size:
            yield _closed(open_batches.pop(size))
    while open_batches:
        yield _closed(open_batches.pop(next(iter(open_batches))))


def _nbytes(open_batches: Mapping[tuple[int, ...], Sequence[Picture]]) -> int:
    # Those of one batch are of one size.
    return sum(len(pictures) * pictures[0].image.nbytes for pictures in open_batches.values())


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
    nbytes: Callable[[_Answer], int] = lambda answer: 0,
) -> Iterator[_Done]:
    """Write answers while the next ones are being computed.

    Args:
        answers: pulled in the caller's thread: pulling is what computes them.
        write: called on a thread for each answer.
        pool: the threads.
        behind: at most so many answers are written or wait for it; fewer where these take more than
            ``HELD_BYTES``.
        nbytes: what an answer takes until it is written.

    Yields:
        What ``write`` returned, in the order of the answers, as soon as it is there.

    Raises:
        Exception: whatever ``write`` raised, after the results of the answers before.
    """
    waiting: deque[tuple[int, Future[_Done]]] = deque()
    held = 0
    for answer in answers:
        # The answer is let go of at once: until the next one comes is when the network computes.
        waiting.append((nbytes(answer), pool.submit(write, answer)))
        del answer
        held += waiting[-1][0]
        while waiting and (len(waiting) >= behind or waiting[0][1].done() or held > HELD_BYTES):
            written, future = waiting.popleft()
            held -= written
            yield future.result()
    for _, future in waiting:
        yield future.result()


def in_order(numbered: Iterable[tuple[int, _Done]]) -> Iterator[_Done]:
    """Put what comes as (place, value) into the order of its places: 0, 1, 2, …"""
    early: dict[int, _Done] = {}
    due = 0
    for place, value in numbered:
        early[place] = value
        while due in early:
            yield early.pop(due)
            due += 1
