"""The CUDA runtime's calls, checked once: errors, memory, and a GPU that is not there."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fcn_deploy.core.errors import BackendError, CudaError, DeviceMemoryError
from fcn_deploy.machine import cuda as gpu
from tests.fake_cuda import INVALID, FakeCuda
from tests.tensorrt_fixtures import install


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda(device_memory=1 << 20)
    install(monkeypatch, "11.4.0", fake)
    return fake


def test_a_gpu_is_described(cuda: FakeCuda) -> None:
    assert gpu.unavailable_reason() is None
    assert vars(gpu.describe_gpu()) == {
        "name": "Fake GPU",
        "compute_capability": "sm89",
        "driver": "13.0",
        "memory_mib": 1,
    }


def test_no_gpu_says_what_to_install(cuda: FakeCuda) -> None:
    cuda.devices = 0
    assert gpu.unavailable_reason() == (
        "no NVIDIA GPU (cudaErrorNoDevice); install the NVIDIA driver (see `nvidia-smi`)"
    )
    with pytest.raises(BackendError, match="no NVIDIA GPU"):
        gpu.describe_gpu()


def test_no_bindings_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    reason = gpu.unavailable_reason()
    assert reason is not None
    assert "pip install 'cuda-bindings<13' for CUDA 12" in reason


def test_a_missing_driver_library_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library() -> tuple[Any, ...]:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    bindings = ModuleType("cuda.bindings")
    bindings.runtime = SimpleNamespace(cudaGetDeviceCount=no_library)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    reason = gpu.unavailable_reason()
    assert reason is not None
    assert "libcuda.so.1" in reason


def test_every_error_code_is_an_exception(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceMemoryError, match="cudaMalloc: out of memory"):
        gpu.DeviceBuffer((1 << 20) + 1)
    monkeypatch.setattr(cuda, "cudaMemGetInfo", lambda: (INVALID, 0, 0))
    with pytest.raises(CudaError, match="cudaMemGetInfo failed with cudaErrorInvalidValue"):
        gpu.memory_in_use()
    assert cuda.in_use() == 0


def test_a_round_trip_over_the_device(cuda: FakeCuda) -> None:
    stream, device = gpu.Stream(), gpu.DeviceBuffer(6)
    source, target = gpu.PinnedBuffer(6), gpu.PinnedBuffer(8)
    content = np.arange(6, dtype=np.uint8).reshape(2, 3)
    source.array((2, 3), content.dtype)[:] = content
    stream.copy_in(device, source, 6)
    stream.copy_out(target, device, 6)
    stream.synchronize()
    np.testing.assert_array_equal(target.array((2, 3), content.dtype), content)
    assert target.array((2,), np.dtype(np.float32)).shape == (2,)
    assert gpu.memory_in_use() == 6
    for held in (stream, device, source, target):
        held.close()
        held.close()
    assert set(cuda.held().values()) == {0}


def test_a_recording_runs_when_launched_and_as_often(cuda: FakeCuda) -> None:
    stream, device, host = gpu.Stream(), gpu.DeviceBuffer(1), gpu.PinnedBuffer(1)
    cell = host.array((1,), np.dtype(np.uint8))
    stream.begin_capture()
    stream.copy_in(device, host, 1)
    graph = stream.end_capture()
    back = gpu.PinnedBuffer(1)
    for value in (3, 7):
        cell[0] = value
        graph.launch(stream)
        stream.copy_out(back, device, 1)
        stream.synchronize()
        assert back.array((1,), np.dtype(np.uint8))[0] == value
    stream.begin_capture()
    stream.abandon_capture()
    cuda.refuse_capture = True
    stream.begin_capture()
    stream.abandon_capture()
    for held in (graph, stream, device, host, back):
        held.close()
        held.close()
    assert set(cuda.held().values()) == {0}


def test_events_tell_the_devices_time(cuda: FakeCuda) -> None:
    stream, start, end = gpu.Stream(), gpu.Event(), gpu.Event()
    start.record(stream)
    end.record(stream)
    end.synchronize()
    assert end.seconds_since(start) == pytest.approx(0.001)


@pytest.mark.gpu
@pytest.mark.skipif(gpu.unavailable_reason() is not None, reason=str(gpu.unavailable_reason()))
def test_the_real_runtime_takes_the_same_calls() -> None:
    before = gpu.memory_in_use()
    stream, device, event = gpu.Stream(), gpu.DeviceBuffer(1 << 20), gpu.Event()
    source, target = gpu.PinnedBuffer(1 << 20), gpu.PinnedBuffer(1 << 20)
    content = np.random.default_rng(0).integers(0, 256, 1 << 20, dtype=np.uint8)
    source.array(content.shape, content.dtype)[:] = content
    event.record(stream)
    for _ in range(2):
        stream.copy_in(device, source, content.nbytes)
    stream.copy_out(target, device, content.nbytes)
    done = gpu.Event()
    done.record(stream)
    done.synchronize()
    np.testing.assert_array_equal(target.array(content.shape, content.dtype), content)
    assert done.seconds_since(event) > 0
    assert gpu.describe_gpu().compute_capability.startswith("sm")
    for held in (stream, device, event, done, source, target):
        held.close()
    assert gpu.memory_in_use() <= before + (16 << 20)


def test_the_fake_has_the_names_of_the_real_runtime() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    names = [name for name in dir(FakeCuda) if name.startswith("cuda")]
    assert len(names) > 20
    assert [name for name in names if not hasattr(runtime, name)] == []
    for enumeration in ("cudaMemcpyKind", "cudaStreamCaptureMode"):
        for name in vars(getattr(FakeCuda, enumeration)):
            assert hasattr(getattr(runtime, enumeration), name)
    with pytest.raises(AttributeError):
        runtime.cudaNoSuchCall  # noqa: B018
