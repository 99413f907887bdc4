"""The GPU through ``cuda-bindings``: memory, streams, events, graphs.  Knows no torch, no TensorRT.

Every call of the CUDA runtime returns a tuple whose first member is the error; :func:`cuda` checks
it once, for all.
"""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, CudaError, DeviceMemoryError

INSTALL_CUDA_BINDINGS = "pip install 'cuda-bindings<13' for CUDA 12, or cuda-bindings for CUDA 13"
_OUT_OF_MEMORY = "cudaErrorMemoryAllocation"


def unavailable_reason() -> str | None:
    """Return why no GPU can be used from here and what to install, or None."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        return f"the CUDA runtime's Python API is missing ({error}); {INSTALL_CUDA_BINDINGS}"
    try:
        code, count = runtime.cudaGetDeviceCount()
    except RuntimeError as error:  # raised where the driver's or the runtime's library is missing
        return f"no NVIDIA GPU: {error}; install the NVIDIA driver (see `nvidia-smi`)"
    if code.value != 0 or not count:
        return f"no NVIDIA GPU ({code.name}); install the NVIDIA driver (see `nvidia-smi`)"
    return None


def cuda(function: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime and return its result.

    Args:
        function: its name in C, e.g. ``cudaMalloc``.
        arguments: as ``cuda.bindings.runtime`` takes them.

    Raises:
        DeviceMemoryError: out of device memory.
        CudaError: any other error, named as CUDA names it.
    """
    from cuda.bindings import runtime

    code, *results = getattr(runtime, function)(*arguments)
    if code.value != 0:
        runtime.cudaGetLastError()  # an error that stays set would fail the next, innocent call
        if code.name == _OUT_OF_MEMORY:
            raise DeviceMemoryError(f"{function}: out of memory", "free memory on the GPU")
        raise CudaError(f"{function} failed with {code.name}")
    return results[0] if len(results) == 1 else tuple(results)


def _runtime() -> Any:
    from cuda.bindings import runtime

    return runtime


@dataclass(frozen=True)
class GpuDescription:
    """Which GPU this process uses.

    Attributes:
        name: as NVIDIA names it.
        compute_capability: written ``sm90``.
        driver: the CUDA version that the driver supports, e.g. ``13.0``.
        memory_mib: device memory in MiB.
    """

    name: str
    compute_capability: str
    driver: str
    memory_mib: int


def describe_gpu() -> GpuDescription:
    """Describe device 0.

    Raises:
        BackendError: there is no GPU, or no way to ask it.
    """
    reason = unavailable_reason()
    if reason is not None:
        raise BackendError(reason)
    properties = cuda("cudaGetDeviceProperties", 0)
    version = cuda("cudaDriverGetVersion")
    return GpuDescription(
        name=properties.name.decode().rstrip("\0"),
        compute_capability=f"sm{properties.major}{properties.minor}",
        driver=f"{version // 1000}.{version % 1000 // 10}",
        memory_mib=properties.totalGlobalMem >> 20,
    )


def memory_in_use() -> int:
    """Return the bytes of device memory in use, by this and all other processes."""
    free, total = cuda("cudaMemGetInfo")
    return int(total) - int(free)


class DeviceBuffer:
    """Bytes in device memory.

    Raises:
        DeviceMemoryError: there is no room.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.pointer: int = int(cuda("cudaMalloc", nbytes))

    def close(self) -> None:
        """Free the memory; calling it twice is harmless."""
        if self.pointer:
            cuda("cudaFree", self.pointer)
            self.pointer = 0


class PinnedBuffer:
    """Page-locked host memory: the only kind that copies beside the device's computing."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.pointer: int = int(cuda("cudaMallocHost", nbytes))
        memory = (ctypes.c_uint8 * nbytes).from_address(self.pointer)
        self._bytes: NDArray[np.uint8] = np.ctypeslib.as_array(memory)

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return a view of the buffer's first bytes; it must not outlive the buffer."""
        nbytes = int(np.prod(shape)) * dtype.itemsize
        return self._bytes[:nbytes].view(dtype).reshape(shape)

    def close(self) -> None:
        """Free the memory; calling it twice is harmless."""
        if self.pointer:
            self._bytes = np.empty(0, dtype=np.uint8)
            cuda("cudaFreeHost", self.pointer)
            self.pointer = 0


#: Address → bytes of the arrays that :func:`pinned_array` has given out and that still live.
_pinned_arrays: dict[int, int] = {}


def pinned_array(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a uint8 array in page-locked memory; the memory lives as long as it or a view does.

    Raises:
        DeviceMemoryError: no more memory can be locked.
    """
    nbytes = int(np.prod(shape))
    pointer = int(cuda("cudaMallocHost", nbytes))
    memory = (ctypes.c_uint8 * nbytes).from_address(pointer)
    _pinned_arrays[pointer] = nbytes
    # At the interpreter's end the driver frees it, and may be gone before we could.
    weakref.finalize(memory, _free_pinned, pointer, _runtime().cudaFreeHost).atexit = False
    array: NDArray[np.uint8] = np.ctypeslib.as_array(memory).reshape(shape)
    return array


def _free_pinned(pointer: int, free: Any) -> None:
    del _pinned_arrays[pointer]
    free(pointer)


def is_pinned(array: NDArray[Any]) -> bool:
    """Say whether an array is one of :func:`pinned_array`, or the first rows of one."""
    room = _pinned_arrays.get(array.ctypes.data, 0)
    return array.flags.c_contiguous and array.nbytes <= room


class Event:
    """A mark in a stream, with the time at which the device passed it."""

    def __init__(self) -> None:
        self.handle: Any = cuda("cudaEventCreate")

    def record(self, stream: Stream) -> None:
        """Mark the end of what ``stream`` has been given so far."""
        cuda("cudaEventRecord", self.handle, stream.handle)

    def synchronize(self) -> None:
        """Wait on the host until the device has passed the mark."""
        cuda("cudaEventSynchronize", self.handle)

    def seconds_since(self, earlier: Event) -> float:
        """Return the device's time between two marks, both passed."""
        return float(cuda("cudaEventElapsedTime", earlier.handle, self.handle)) / 1000

    def close(self) -> None:
        """Destroy the event; calling it twice is harmless."""
        if self.handle is not None:
            cuda("cudaEventDestroy", self.handle)
            self.handle = None


class Stream:
    """A queue of work on the device, independent of the default stream."""

    def __init__(self) -> None:
        self.handle: Any = cuda("cudaStreamCreateWithFlags", _runtime().cudaStreamNonBlocking)

    def wait(self, event: Event) -> None:
        """Let the work given from now on wait for ``event``."""
        cuda("cudaStreamWaitEvent", self.handle, event.handle, 0)

    def copy_in(
        self, target: DeviceBuffer, source: PinnedBuffer | NDArray[np.uint8], nbytes: int
    ) -> None:
        """Enqueue a copy from pinned memory of the host to the device."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        address = source.pointer if isinstance(source, PinnedBuffer) else source.ctypes.data
        cuda("cudaMemcpyAsync", target.pointer, address, nbytes, kind, self.handle)

    def copy_out(self, target: PinnedBuffer, source: DeviceBuffer, nbytes: int) -> None:
        """Enqueue a copy from the device to the host."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        cuda("cudaMemcpyAsync", target.pointer, source.pointer, nbytes, kind, self.handle)

    def synchronize(self) -> None:
        """Wait on the host until all work given so far is done."""
        cuda("cudaStreamSynchronize", self.handle)

    def begin_capture(self) -> None:
        """Record the work given from now on instead of running it."""
        # Thread-local: other threads of the user's program may go on allocating.
        mode = _runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        cuda("cudaStreamBeginCapture", self.handle, mode)

    def end_capture(self) -> Graph:
        """Return what was recorded, ready to launch."""
        recorded = cuda("cudaStreamEndCapture", self.handle)
        try:
            return Graph(cuda("cudaGraphInstantiate", recorded, 0))
        finally:
            cuda("cudaGraphDestroy", recorded)

    def abandon_capture(self) -> None:
        """End a capture that failed; the stream is usable afterwards."""
        try:
            recorded = cuda("cudaStreamEndCapture", self.handle)
        except CudaError:  # the capture was invalidated: that is why it is abandoned
            return
        if recorded is not None and int(recorded):
            cuda("cudaGraphDestroy", recorded)

    def close(self) -> None:
        """Destroy the stream; calling it twice is harmless."""
        if self.handle is not None:
            cuda("cudaStreamDestroy", self.handle)
            self.handle = None


class Graph:
    """Recorded work, launched with one call: a CUDA graph."""

    def __init__(self, handle: Any) -> None:
        self.handle: Any = handle

    def launch(self, stream: Stream) -> None:
        """Enqueue the recorded work."""
        cuda("cudaGraphLaunch", self.handle, stream.handle)

    def close(self) -> None:
        """Destroy the graph; calling it twice is harmless."""
        if self.handle is not None:
            cuda("cudaGraphExecDestroy", self.handle)
            self.handle = None
