"""A stream's batches in another order, so that few shapes have to be prepared more than once.

    batches ─┬─ of a prepared shape, or while there is room ──▶ computed ─┬─▶ in the caller's order
             └─ others wait, and go with all that wait of their shape ────┘

A runner that prepares each shape, and keeps a few, would prepare every batch anew where more shapes
than these take turns.  Nothing is padded or resized: each batch is computed as it would be alone.
While all shapes are kept, no batch waits.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.runners.base import Outputs, Runner

#: Most batches that wait.
MAX_WAITING = 128
#: So many batches, and bytes of them, may come behind one that waits: their outputs wait for its,
#: and whoever reads the stream may keep them until then.  Masks take a third of these bytes; logits
#: of 21 classes would take 28 times as many.
MAX_BEHIND, MAX_BEHIND_BYTES = 2 * MAX_WAITING, 128 * 2**20

Shape = tuple[int, ...]
Stream = Callable[[Iterable[NDArray[np.uint8]]], Iterator[Outputs]]


def by_shape(
    runner: Runner,
    batches: Iterable[NDArray[np.uint8]],
    kept_shapes: int,
    stream: Stream,
) -> Iterator[Outputs]:
    """Yield the outputs of each batch, in order, computed in an order that prepares few shapes.

    It keeps the promise of :meth:`Runner.stream`.

    Args:
        runner: whose stream this is; it gives masks alone, which are smaller than their batches.
        batches: each may lie in the array of the one before.
        kept_shapes: how many stay prepared; the least recently used one makes room.
        stream: computes batches in the order in which it is given them, with the same promise.
    """
    queue = _Queue(batches, kept_shapes, runner.check)
    early: dict[int, Outputs] = {}
    due = 0
    try:
        for outputs in stream(queue.batches()):
            early[queue.answered()] = outputs
            while due in early:
                yield early.pop(due)
                due += 1
    except FcnDeployError:
        failed = queue.failed()
        # Those before it that were to come later are computed now: its place is behind theirs.
        while due < failed:
            yield early.pop(due) if due in early else runner.run(queue.waiting_batch(due))
            due += 1
        raise


class _Queue:
    """Batches on their way into a stream, and which of the caller's each one is."""

    def __init__(
        self,
        source: Iterable[NDArray[np.uint8]],
        kept_shapes: int,
        check: Callable[[NDArray[np.uint8]], None],
    ) -> None:
        self._source = source
        self._check = check
        self._kept_shapes = kept_shapes
        # Those of this stream that the runner keeps: what it had before them makes room first.
        self._prepared: OrderedDict[Shape, None] = OrderedDict()
        # Of each shape the places of those that wait: shapes in the order of their first.
        self._waiting: dict[Shape, list[int]] = {}
        self._kept: dict[int, NDArray[np.uint8]] = {}  # waiting, or given and not answered
        self._bytes_before: dict[int, int] = {}  # of those kept
        self._taken_bytes = 0
        self._given: deque[int] = deque()  # and not answered
        self._taken = 0

    def batches(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the batches in the order in which they are to be computed."""
        refusal: FcnDeployError | None = None
        try:
            for images in self._source:
                self._check(images)
                place, shape = self._taken, images.shape
                self._taken += 1
                self._taken_bytes += images.nbytes
                there = shape in self._prepared or len(self._prepared) < self._kept_shapes
                if there and shape not in self._waiting:
                    yield self._give(place, images)
                else:
                    self._kept[place] = images.copy()  # its owner may use the array again
                    self._bytes_before[place] = self._taken_bytes - images.nbytes
                    self._waiting.setdefault(shape, []).append(place)
                while (due := self._due()) is not None:
                    yield from self._give_all(due)
        except FcnDeployError as error:
            refusal = error
        while self._waiting:
            yield from self._give_all(next(iter(self._waiting)))
        if refusal is not None:
            raise refusal

    def _due(self) -> Shape | None:
        """Return the shape that is to be computed now; None while all may wait."""
        if not self._waiting:
            return None
        oldest = next(iter(self._waiting))
        place = self._waiting[oldest][0]
        nbytes = self._taken_bytes - self._bytes_before[place]
        if self._taken - place > MAX_BEHIND or nbytes > MAX_BEHIND_BYTES:
            return oldest
        if sum(map(len, self._waiting.values())) <= MAX_WAITING:
            return None
        return max(self._waiting, key=lambda shape: len(self._waiting[shape]))

    def _give_all(self, shape: Shape) -> Iterator[NDArray[np.uint8]]:
        for place in self._waiting.pop(shape):
            yield self._give(place, self._kept[place])

    def _give(self, place: int, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self._given.append(place)
        self._prepared[images.shape] = None
        self._prepared.move_to_end(images.shape)
        if len(self._prepared) > self._kept_shapes:
            self._prepared.popitem(last=False)
        return images

    def answered(self) -> int:
        """Return the place of the next batch that the stream has answered."""
        place = self._given.popleft()
        self._kept.pop(place, None)
        self._bytes_before.pop(place, None)
        return place

    def failed(self) -> int:
        """Return the place of the batch that the stream raised for: without one, the next."""
        return self._given[0] if self._given else self._taken

    def waiting_batch(self, place: int) -> NDArray[np.uint8]:
        """Return a batch that waits, or was given up by a stream that failed."""
        return self._kept.pop(place)
