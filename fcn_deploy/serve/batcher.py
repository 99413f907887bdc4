"""Batcher: whatever waits in equal sizes when the runner is free is computed together.

All state lives on the event loop; the runner computes in one thread of its own.  The request that
has waited longest always goes next, so that none waits for ever behind others of a common size.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.runners.base import Outputs
from fcn_deploy.serve.metrics import Metrics


@dataclass(frozen=True)
class Answer:
    """The masks of a request.

    Attributes:
        mask: uint8 [N, H, W], class indices.
        queue_seconds: how long the request waited for the runner.
        compute_seconds: how long the batch took that it was computed in.
        batch_size: pictures in that batch.
    """

    mask: NDArray[np.uint8]
    queue_seconds: float
    compute_seconds: float
    batch_size: int


@dataclass(eq=False)
class _Request:
    images: NDArray[np.uint8]
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.perf_counter)

    @property
    def size(self) -> tuple[int, int]:
        _, height, width, _ = self.images.shape
        return height, width


#: The masks of one request, or why it has none.
_Result = NDArray[np.uint8] | Exception


class Batcher:
    """A queue in front of a function that computes batches.

    Args:
        run: computes a batch, uint8 [N, H, W, 3]; called in ``thread``.
        thread: of one worker.
        metrics: told of batches and of how many requests wait.
        max_batch: pictures in a batch at most.
        max_delay: seconds that a request waits for others while ``run`` is free.

    Attributes:
        max_batch: pictures in a batch at most.
    """

    def __init__(
        self,
        run: Callable[[NDArray[np.uint8]], Outputs],
        thread: Executor,
        metrics: Metrics,
        *,
        max_batch: int,
        max_delay: float = 0.0,
    ) -> None:
        self._run = run
        self._thread = thread
        self._metrics = metrics
        self.max_batch = max_batch
        self._max_delay = max_delay
        self._queue: list[_Request] = []
        self._computing = False
        self._alarm: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def waiting(self) -> int:
        """Requests that wait for the runner."""
        return len(self._queue)

    def submit(self, images: NDArray[np.uint8]) -> asyncio.Future[Answer]:
        """Put pictures into the queue; a future that is cancelled leaves it again.

        Args:
            images: uint8 [N, H, W, 3], at most ``max_batch`` of them.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        request = _Request(images, answer)
        answer.add_done_callback(lambda _: self._leave(request))
        self._queue.append(request)
        self._idle.clear()
        self._metrics.queue_depth.set(len(self._queue))
        self._dispatch()
        return answer

    async def finish(self) -> None:
        """Wait until nothing waits or computes any more."""
        await self._idle.wait()

    def _leave(self, request: _Request) -> None:
        if request.answer.cancelled() and request in self._queue:
            self._queue.remove(request)
            self._metrics.queue_depth.set(len(self._queue))
            self._dispatch()

    def _dispatch(self) -> None:
        if self._computing:
            return
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if not self._queue:
            self._idle.set()
            return
        batch = self._next_batch()
        left = self._queue[0].since + self._max_delay - time.perf_counter()
        if left > 0 and sum(len(request.images) for request in batch) < self.max_batch:
            self._alarm = asyncio.get_running_loop().call_later(left, self._dispatch)
            return
        self._queue = [request for request in self._queue if request not in batch]
        self._metrics.queue_depth.set(len(self._queue))
        self._computing = True
        loop = asyncio.get_running_loop()
        began = time.perf_counter()

        def compute() -> None:
            results = self._compute([request.images for request in batch])
            loop.call_soon_threadsafe(self._deliver, batch, began, *results)

        self._thread.submit(compute)

    def _next_batch(self) -> list[_Request]:
        """Return the request that has waited longest, and those of its size that fit beside it."""
        batch: list[_Request] = []
        pictures = 0
        for request in self._queue:
            fits = pictures + len(request.images) <= self.max_batch
            if request.size == self._queue[0].size and (fits or not batch):
                batch.append(request)
                pictures += len(request.images)
        return batch

    def _compute(self, images: Sequence[NDArray[np.uint8]]) -> tuple[list[_Result], float]:
        """Return the masks of each request, or its error, and the seconds; in the thread."""
        began = time.perf_counter()
        results: list[_Result]
        try:
            batch = images[0] if len(images) == 1 else np.concatenate(images)
            mask = self._run(batch).mask
            ends = list(accumulate(map(len, images)))
            results = [mask[end - len(one) : end] for one, end in zip(images, ends, strict=True)]
        except Exception as error:
            # One that the backend does not take must not cost the others their answers.
            # Without a traceback, which would hold this frame, and so the pictures.
            failed = error.with_traceback(None)
            results = [failed] if len(images) == 1 else [self._alone(one) for one in images]
        return results, time.perf_counter() - began

    def _alone(self, images: NDArray[np.uint8]) -> _Result:
        try:
            return self._run(images).mask
        except Exception as error:
            return error.with_traceback(None)

    def _deliver(
        self, batch: list[_Request], began: float, results: list[_Result], seconds: float
    ) -> None:
        self._computing = False
        pictures = sum(len(request.images) for request in batch)
        height, width = batch[0].size
        self._metrics.batch_done(pictures, pictures * height * width, seconds)
        for request, result in zip(batch, results, strict=True):
            if request.answer.done():  # the client has gone while it was computed
                continue
            waited = began - request.since
            if isinstance(result, Exception):
                self._metrics.failed(waited + seconds)
                request.answer.set_exception(result)
            else:
                self._metrics.inferred(waited, seconds)
                request.answer.set_result(Answer(result, waited, seconds, pictures))
        self._dispatch()
