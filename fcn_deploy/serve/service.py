"""Service: an open runner, its thread and its queue, for whoever takes requests."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.predict.stream import FiniteCheck, not_finite
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import Outputs, Runner
from fcn_deploy.serve.batcher import Answer, Batcher
from fcn_deploy.serve.errors import (
    ClientGoneError,
    ClosingError,
    MemoryFullError,
    NotFoundError,
    NotReadyError,
    QueueFullError,
    TooLargeError,
)
from fcn_deploy.serve.metrics import Metrics
from fcn_deploy.serve.settings import Settings

__all__ = ["Answer", "Service", "State"]


class State(Enum):
    """Where a service stands between its start and its end."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    CLOSED = "closed"


class Service:
    """A network that answers requests; created, started and closed on one event loop.

    Args:
        runner: open; it is closed with the service.
        settings: the limits.
        name: of the model, as clients name it.
        has_finite_logits: asked, in the runner's thread, of an image whose mask is of class 0
            alone: that is what the argmax of numbers that are none gives.  Where it says no, the
            request gets an error.

    Attributes:
        settings: the limits.
        name: the name by which clients ask for the model.
        metrics: what is counted.
        state: where the service stands.
        max_batch: pictures that are computed at once, and at most in one request.
        unsent: connections whose clients are slow to read, with answers that wait for them.
    """

    #: The one version that there is, as clients name it.
    VERSION = "1"

    def __init__(
        self,
        runner: Runner,
        settings: Settings,
        name: str = "fcn",
        *,
        has_finite_logits: FiniteCheck = lambda image: True,
    ) -> None:
        self.settings = settings
        self.name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "fcn"
        self.metrics = Metrics()
        self.state = State.STARTING
        self._memory = 0
        self.unsent: set[asyncio.Transport] = set()
        self._runner = runner
        self._has_finite_logits = has_finite_logits
        self._description = runner.describe()
        self.metrics.describe(self._description)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="runner")
        fixed = self.spec.input_shape.batch
        self.max_batch = settings.max_batch if fixed is None else fixed
        self._batcher = Batcher(
            self._run,
            self._thread,
            self.metrics,
            max_batch=self.max_batch,
            max_delay=settings.max_delay_ms / 1000,
        )

    @property
    def spec(self) -> ModelSpec:
        """Classes, palette and sizes of the network."""
        return self._runner.spec

    @property
    def description(self) -> RunnerDescription:
        """The runner as it described itself when it was opened, or closed."""
        return self._description

    @property
    def ready(self) -> bool:
        """Whether a balancer should send requests here."""
        return self.state is State.READY

    def require_model(self, name: str, version: str | None) -> None:
        """Refuse a request for another model than this one.

        Args:
            name: that the client asks for.
            version: that it asks for, or None.

        Raises:
            NotFoundError: there is no such model or version.
        """
        if name != self.name:
            raise NotFoundError(f"there is no model {name[:80]!r}", f"this one is {self.name!r}")
        if version not in (None, self.VERSION):
            raise NotFoundError(
                f"model {self.name!r} has no version {version[:80]!r}",
                f"the only one is {self.VERSION}",
            )

    def take_memory(self, size: int) -> None:
        """Count bytes that a request keeps in memory, or gives back where ``size`` is negative.

        Raises:
            MemoryFullError: there are too many with them; they are counted all the same.
        """
        self._memory += size
        if size <= 0:
            return
        unsent = sum(transport.get_write_buffer_size() for transport in self.unsent)
        if self._memory + unsent > self.settings.max_memory_bytes:
            raise MemoryFullError("the requests in work fill the memory", "try again later")

    def require_room(self) -> None:
        """Refuse a request before its body is read, where it could not be taken.

        Raises:
            NotReadyError, ClosingError, QueueFullError: see :meth:`infer`.
        """
        if self.state is State.STARTING:
            raise NotReadyError("the model is warming up", "try again in a moment")
        if self.state is State.CLOSED:
            raise ClosingError("the server is shutting down", "try another one")
        if self._batcher.waiting >= self.settings.max_queue:
            raise QueueFullError(
                f"{self.settings.max_queue} requests are waiting already", "try again later"
            )

    def require_size(self, images: int, height: int, width: int) -> None:
        """Refuse pictures that the server or the network does not take, by their shape alone.

        Raises:
            InputError: a size of 0, or more pictures than are computed at once.
            TooLargeError: more pixels than the server takes.
            BatchShapeError: the network does not take this shape.
        """
        if min(images, height, width) < 1:
            raise InputError(f"pictures need N, H, W ≥ 1, not {images}×{height}×{width}")
        if images * height * width > self.settings.max_pixels:
            raise TooLargeError(
                f"{images}×{height}×{width} are more than {self.settings.max_pixels} pixels",
                "send smaller or fewer pictures, or start the server with a larger --max-pixels",
            )
        self.spec.input_shape.require((images, height, width))
        if images > self.max_batch:
            raise InputError(
                f"{images} pictures in a request are more than {self.max_batch}",
                "send them in several requests",
            )

    async def infer(
        self, images: NDArray[np.uint8], *, gone: asyncio.Future[Any] | None = None
    ) -> Answer:
        """Segment the pictures of a request, together with others that wait.

        Args:
            images: uint8 [N, H, W, 3], RGB, all of one size; not to be changed until this returns.
            gone: done as soon as nobody waits for the answer any more; what has not been begun
                then is not computed.

        Returns:
            The masks, and how long they took.

        Raises:
            InputError, BatchShapeError, TooLargeError: the pictures are refused (400, 413).
            NotReadyError, QueueFullError, ClosingError: they cannot be taken now (503).
            ClientGoneError: ``gone`` was done before.
            FcnDeployError: the backend failed (500).
        """
        self.require_room()
        self.require_size(*images.shape[:3])
        pending = self._batcher.submit(images)
        if gone is not None:
            gone.add_done_callback(lambda _: pending.cancel())
        try:
            return await pending
        except asyncio.CancelledError:
            if gone is not None and gone.done():
                raise ClientGoneError("the client closed its connection") from None
            raise
        finally:
            pending.cancel()  # leaves the queue; nothing, where it has its answer

    def _run(self, images: NDArray[np.uint8]) -> Outputs:
        """Compute a batch; in the runner's thread."""
        began = time.thread_time()
        try:
            outputs = self._runner.run(images)
        finally:
            self.metrics.runner_cpu.inc(time.thread_time() - began)
        for image, mask in zip(images, outputs.mask, strict=True):
            if not mask.any() and not self._has_finite_logits(image):
                raise not_finite()
        return outputs

    async def start(self, say: Callable[[str], None] = lambda line: None) -> None:
        """Warm the runner up with the sizes of its training, then be ready.

        Args:
            say: called with a line on each size.

        Raises:
            FcnDeployError: the runner does not compute.
        """
        from fcn_deploy.serve.warmup import warm_up

        loop = asyncio.get_running_loop()
        most = await loop.run_in_executor(
            self._thread,
            lambda: warm_up(
                self._runner,
                self._run,
                self.max_batch,
                self.settings.max_pixels,
                say,
                is_wanted=lambda: self.state is State.STARTING,
            ),
        )
        self.max_batch = self._batcher.max_batch = most
        if self.state is State.STARTING:
            self.state = State.READY

    def drain(self) -> None:
        """Say by ``ready`` that no more requests should come; those that come are served."""
        if self.state is not State.CLOSED:
            self.state = State.DRAINING

    async def close(self) -> None:
        """Answer what waits, then free the runner."""
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        await self._batcher.finish()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._end)
        self._thread.shutdown()

    def _end(self) -> None:
        """Describe the runner for the last time, and free it; in its thread."""
        self._description = self._runner.describe()
        self._runner.close()
