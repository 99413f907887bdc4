# ruff: noqa: N802, N815 - the names are CUDA's own
"""A CUDA runtime in host memory, as late as CUDA may be.

Work given to a stream runs only when somebody waits for it, and then only what that needs: a
missing event, a buffer used again too early, or a result read too soon shows as a wrong number.
"""

import ctypes
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

SUCCESS, INVALID, OUT_OF_MEMORY, NO_DEVICE, CAPTURE_INVALID = (
    SimpleNamespace(value=value, name=name)
    for value, name in [
        (0, "cudaSuccess"),
        (1, "cudaErrorInvalidValue"),
        (2, "cudaErrorMemoryAllocation"),
        (100, "cudaErrorNoDevice"),
        (901, "cudaErrorStreamCaptureInvalidated"),
    ]
)


class FakeHandle(int):
    """What CUDA gives to hold: converts to int, as real handles do."""


class FakeStream:
    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.done = 0
        self.captured: list[Callable[[], None]] | None = None

    def run_until(self, position: int) -> None:
        while self.done < position:
            step = self.work[self.done]
            self.done += 1
            step()


class FakeCuda:
    """Stands in for ``cuda.bindings.runtime``.

    Args:
        device_memory: bytes that the device has.
        devices: number of GPUs.
        major: of the compute capability.
        minor: likewise.
    """

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(
        self, device_memory: int = 1 << 30, devices: int = 1, major: int = 8, minor: int = 9
    ) -> None:
        self.device_memory, self.devices, self.major, self.minor = (
            device_memory,
            devices,
            major,
            minor,
        )
        self.memory: dict[int, tuple[str, Any, int]] = {}
        self.streams: dict[int, FakeStream] = {}
        self.events: dict[int, Any] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.launches = 0
        self.refuse_capture = self.refuse_pinned = False
        self.clock = 0
        #: Newest CUDA version that the driver supports, as 1000 · major + 10 · minor.
        self.driver_version = 13000
        self._handles = itertools.count(1)

    # What tests ask

    def in_use(self, kind: str = "device") -> int:
        return sum(nbytes for held, _, nbytes in self.memory.values() if held == kind)

    def held(self) -> dict[str, int]:
        """Everything that a program has to give back."""
        return {
            "memory": len(self.memory),
            "streams": len(self.streams),
            "events": len(self.events),
            "graphs": len(self.graphs),
        }

    def is_capturing(self, handle: int) -> bool:
        return self.streams[int(handle)].captured is not None

    def is_idle(self, handle: int) -> bool:
        """Whether all work given to a stream is done."""
        stream = self.streams[int(handle)]
        return stream.done == len(stream.work)

    def enqueue(self, handle: int, step: Callable[[], None]) -> None:
        stream = self.streams[int(handle)]
        if stream.captured is not None:
            stream.captured.append(step)
        else:
            stream.work.append(step)

    def bytes_at(self, pointer: int, nbytes: int) -> ctypes.Array[Any]:
        """Memory that is allocated, or an assertion: nothing may touch freed memory."""
        start = max((base for base in self.memory if base <= pointer), default=0)
        assert start, f"{pointer:#x} is not allocated"
        assert pointer + nbytes <= start + self.memory[start][2], "out of bounds"
        return (ctypes.c_uint8 * nbytes).from_address(pointer)

    # The device

    def cudaGetDeviceCount(self) -> tuple[Any, int | None]:
        return (SUCCESS, self.devices) if self.devices else (NO_DEVICE, None)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, Any]:
        properties = SimpleNamespace(
            name=b"Fake GPU", major=self.major, minor=self.minor, totalGlobalMem=self.device_memory
        )
        return SUCCESS, properties

    def cudaDriverGetVersion(self) -> tuple[Any, int]:
        return SUCCESS, self.driver_version

    def cudaGetLastError(self) -> tuple[Any]:
        return (SUCCESS,)

    def cudaMemGetInfo(self) -> tuple[Any, int, int]:
        return SUCCESS, self.device_memory - self.in_use(), self.device_memory

    # Memory

    def _allocate(self, kind: str, nbytes: int) -> tuple[Any, int | None]:
        assert nbytes > 0
        if kind == "pinned" and self.refuse_pinned:
            return OUT_OF_MEMORY, None
        if kind == "device" and self.in_use() + nbytes > self.device_memory:
            return OUT_OF_MEMORY, None
        buffer = (ctypes.c_uint8 * nbytes)()
        ctypes.memset(buffer, 0xAB, nbytes)
        self.memory[ctypes.addressof(buffer)] = kind, buffer, nbytes
        return SUCCESS, ctypes.addressof(buffer)

    def cudaMalloc(self, nbytes: int) -> tuple[Any, int | None]:
        return self._allocate("device", nbytes)

    def cudaMallocHost(self, nbytes: int) -> tuple[Any, int | None]:
        return self._allocate("pinned", nbytes)

    def _free(self, kind: str, pointer: int) -> tuple[Any]:
        assert self.memory.pop(pointer)[0] == kind
        return (SUCCESS,)

    def cudaFree(self, pointer: int) -> tuple[Any]:
        for stream in self.streams.values():  # the real one waits for the device too
            stream.run_until(len(stream.work))
        return self._free("device", pointer)

    def cudaFreeHost(self, pointer: int) -> tuple[Any]:
        return self._free("pinned", pointer)

    def cudaMemcpyAsync(
        self, target: int, source: int, nbytes: int, kind: int, stream: int
    ) -> tuple[Any]:
        def copy() -> None:
            ctypes.memmove(self.bytes_at(target, nbytes), self.bytes_at(source, nbytes), nbytes)

        self.enqueue(stream, copy)
        return (SUCCESS,)

    # Streams

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, FakeHandle]:
        assert flags == self.cudaStreamNonBlocking
        handle = FakeHandle(next(self._handles))
        self.streams[handle] = FakeStream()
        return SUCCESS, handle

    def cudaStreamSynchronize(self, handle: int) -> tuple[Any]:
        stream = self.streams[handle]
        stream.run_until(len(stream.work))
        return (SUCCESS,)

    def cudaStreamDestroy(self, handle: int) -> tuple[Any]:
        self.cudaStreamSynchronize(handle)
        del self.streams[handle]
        return (SUCCESS,)

    def cudaStreamWaitEvent(self, handle: int, event: int, flags: int) -> tuple[Any]:
        mark = dict(self.events[event])
        self.enqueue(handle, lambda: mark["stream"].run_until(mark["position"]))
        return (SUCCESS,)

    # Events

    def cudaEventCreate(self) -> tuple[Any, FakeHandle]:
        handle = FakeHandle(next(self._handles))
        self.events[handle] = {}
        return SUCCESS, handle

    def cudaEventRecord(self, event: int, handle: int) -> tuple[Any]:
        stream, mark = self.streams[handle], self.events[event]

        def passed() -> None:
            self.clock += 1
            mark["time"] = self.clock

        stream.work.append(passed)
        mark.update(stream=stream, position=len(stream.work), time=None)
        return (SUCCESS,)

    def cudaEventSynchronize(self, event: int) -> tuple[Any]:
        mark = self.events[event]
        mark["stream"].run_until(mark["position"])
        return (SUCCESS,)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[Any, float]:
        return SUCCESS, float(self.events[end]["time"] - self.events[start]["time"])

    def cudaEventDestroy(self, event: int) -> tuple[Any]:
        del self.events[event]
        return (SUCCESS,)

    # Graphs

    def cudaStreamBeginCapture(self, handle: int, mode: int) -> tuple[Any]:
        assert self.streams[handle].captured is None
        self.streams[handle].captured = []
        return (SUCCESS,)

    def cudaStreamEndCapture(self, handle: int) -> tuple[Any, Any]:
        captured, self.streams[handle].captured = self.streams[handle].captured, None
        if self.refuse_capture or captured is None:
            return CAPTURE_INVALID, None
        self.graphs[graph := FakeHandle(next(self._handles))] = captured
        return SUCCESS, graph

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, FakeHandle]:
        self.graphs[launchable := FakeHandle(next(self._handles))] = self.graphs[graph]
        return SUCCESS, launchable

    def cudaGraphDestroy(self, graph: int) -> tuple[Any]:
        del self.graphs[graph]
        return (SUCCESS,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, graph: int, handle: int) -> tuple[Any]:
        self.launches += 1
        for step in self.graphs[graph]:
            self.enqueue(handle, step)
        return (SUCCESS,)
