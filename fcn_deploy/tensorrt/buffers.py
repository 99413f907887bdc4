"""Buffers of a batch: pinned memory of the host and memory of the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.core.spec import BatchShape
from fcn_deploy.machine import cuda
from fcn_deploy.machine.cuda import DeviceBuffer, Event, PinnedBuffer, Stream

INPUT_NAME = "image"
#: Buffers grow in steps of this, so that shapes of about one size share one allocation.
_BUFFER_STEP = 1 << 20


@dataclass(frozen=True)
class Lanes:
    """The streams that a batch passes through; one stream may serve for all three."""

    copy_in: Stream
    compute: Stream
    copy_out: Stream


class BatchBuffers:
    """What one batch in flight owns: buffers on both sides, and marks of its passage."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.shape: BatchShape = (0, 0, 0)
        self.host: dict[str, PinnedBuffer] = {}
        self.device: dict[str, DeviceBuffer] = {}
        self.arrived, self.started, self.computed, self.returned = (Event() for _ in range(4))
        self.in_flight = False
        #: The caller's pinned batch that is being read; held so that its memory stays.
        self.source: NDArray[np.uint8] | None = None

    def fits(self, sizes: dict[str, int]) -> bool:
        """Say whether tensors of these sizes in bytes find room."""
        return all(
            name in self.device and size <= self.device[name].nbytes for name, size in sizes.items()
        )

    def grow(self, sizes: dict[str, int]) -> None:
        """Make room for tensors of these sizes in bytes; addresses change.

        Raises:
            DeviceMemoryError: the GPU has not that much; the slot is empty then.
        """
        sizes = {
            name: max(size, self.device[name].nbytes if name in self.device else 0)
            for name, size in sizes.items()
        }
        self.release()
        try:
            for name, size in sizes.items():
                rounded = -(-size // _BUFFER_STEP) * _BUFFER_STEP
                self.host[name] = PinnedBuffer(rounded)
                self.device[name] = DeviceBuffer(rounded)
        except FcnDeployError:
            self.release()
            raise

    def release(self) -> None:
        """Free the buffers."""
        for name in self.host:
            self.host[name].close()
        for name in self.device:
            self.device[name].close()
        self.host, self.device = {}, {}

    def close(self) -> None:
        """Free buffers and events."""
        self.release()
        for event in (self.arrived, self.started, self.computed, self.returned):
            event.close()


def free_memory() -> str:
    """Return in words how much of the GPU's memory is free."""
    free, total = cuda.cuda("cudaMemGetInfo")
    return f"{mib(free)} of {mib(total)} MiB are free"


def mib(nbytes: int) -> int:
    """Return bytes as whole MiB, rounded up."""
    return -(-nbytes // (1 << 20))
