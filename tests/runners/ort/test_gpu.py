"""ONNX Runtime on the GPU: refusals without one, and the binding to pinned memory with fakes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fcn_deploy.core.errors import BackendError, DeviceMemoryError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.runners.base import BACKENDS, OpenRequest, open_runner, unavailable_reason
from fcn_deploy.runners.ort import runner as ort
from fcn_deploy.runners.ort import sessions
from tests.fake_cuda import FakeCuda
from tests.fake_tensorrt import fake_logits, fake_mask
from tests.tensorrt_fixtures import install, write_onnx

GPU_BACKENDS = ("ort-cuda", "ort-rtx")


class BoundSession:
    """A session that reads and writes the addresses it was bound to."""

    def __init__(self, model: bytes, threads: int) -> None:
        self.bound: dict[str, tuple[Any, tuple[int, ...], int]] = {}

    def get_providers(self) -> list[str]:
        return [sessions.CUDA_PROVIDER]

    def io_binding(self) -> BoundSession:
        self.bound = {}
        return self

    def bind_input(
        self, name: str, device: str, index: int, kind: Any, shape: Any, pointer: int
    ) -> None:
        assert (device, index, np.dtype(kind)) == ("cpu", 0, np.dtype(np.uint8))
        self.bound[name] = kind, tuple(shape), pointer

    def bind_output(
        self, name: str, device: str, index: int, kind: Any, shape: Any, pointer: int
    ) -> None:
        self.bound[name] = kind, tuple(shape), pointer

    def at(self, name: str) -> Any:
        kind, shape, pointer = self.bound[name]
        nbytes = int(np.prod(shape)) * np.dtype(kind).itemsize
        memory = (ctypes.c_uint8 * nbytes).from_address(pointer)
        return np.frombuffer(memory, kind).reshape(shape)

    def run_with_iobinding(self, binding: BoundSession) -> None:
        images = self.at("image")
        for name, result in (("mask", fake_mask), ("logits", fake_logits)):
            if name in self.bound:
                self.at(name)[:] = result(images)

    def synchronize_outputs(self) -> None:
        pass


@pytest.mark.parametrize("outputs", [("mask",), ("mask", "logits"), ("mask", "margin")])
def test_results_pass_through_pinned_memory(
    outputs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")  # for its version; the session is a fake
    cuda = FakeCuda()
    install(monkeypatch, "11.4.0", cuda)
    run = Run(tmp_path)
    write_onnx(run.onnx(Precision.FP32))
    backend = ort.gpu_backend("ort-cuda", lambda: None, BoundSession)
    assert backend.unavailable_reason() is None
    with backend.open(OpenRequest(run, outputs=outputs, threads=1)) as runner:
        for seed, shape in enumerate([(2, 8, 9), (1, 4, 4), (3, 16, 16)]):
            images = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
            found = runner.run(images)
            np.testing.assert_array_equal(found.mask, fake_mask(images))
            if "logits" in outputs:
                np.testing.assert_array_equal(found.logits, fake_logits(images))
            if "margin" in outputs:
                np.testing.assert_array_equal(found.margin, np.ones(shape, np.float32))
        description = runner.describe()
        assert (description.backend, description.device) == ("ort-cuda", "cuda:0 (Fake GPU)")
        assert description.providers == (sessions.CUDA_PROVIDER,)
    assert cuda.held()["memory"] == 0


def test_a_half_file_is_computed_as_such(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    install(monkeypatch, "11.4.0")
    run = Run(tmp_path)
    write_onnx(run.onnx(Precision.FP16), precision=Precision.FP16)
    backend = ort.gpu_backend("ort-cuda", lambda: None, BoundSession)
    with backend.open(OpenRequest(run, Precision.FP16, threads=1)) as runner:
        assert runner.describe().arithmetic == "fp16"
        assert not runner.describe().widens_halves
        assert "float32" not in runner.describe().library


def test_pinned_memory_that_cannot_be_had_leaves_the_runner_usable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuda = FakeCuda()
    install(monkeypatch, "11.4.0", cuda)
    run = Run(tmp_path)
    write_onnx(run.onnx(Precision.FP32))
    backend = ort.gpu_backend("ort-cuda", lambda: None, BoundSession)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3), dtype=np.uint8)
    with backend.open(OpenRequest(run, threads=1)) as runner:
        runner.run(images)
        cuda.refuse_pinned = True
        with pytest.raises(DeviceMemoryError):
            runner.run(np.repeat(images, 2, axis=0))
        cuda.refuse_pinned = False
        np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))
    assert cuda.held()["memory"] == 0


GiveSessions = Callable[[type], None]


@pytest.fixture
def give_sessions(monkeypatch: pytest.MonkeyPatch) -> GiveSessions:
    """Put a class in the place of ONNX Runtime's sessions."""
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", lambda level: None)
    return lambda kind: monkeypatch.setattr(onnxruntime, "InferenceSession", kind)


def test_a_session_that_lost_its_provider_is_refused(give_sessions: GiveSessions) -> None:
    class CpuSession:
        def __init__(self, model: bytes, options: Any, providers: Any) -> None:
            ((name, settings),) = providers
            assert name == "CUDAExecutionProvider"
            assert settings["use_tf32"] == "0"
            assert settings["cudnn_conv_algo_search"] == "HEURISTIC"

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    give_sessions(CpuSession)
    with pytest.raises(BackendError, match=r"asked for CUDAExecutionProvider, got ..CPUExec"):
        sessions.cuda_session(b"", 1)


@pytest.mark.parametrize("fallen", [(), ("size", "end"), ("end", "crop")])
def test_a_node_that_reads_pixels_may_not_fall_to_the_cpu(
    give_sessions: GiveSessions, fallen: tuple[str, ...]
) -> None:
    import onnx

    file = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        cropped (float[N, H, W] image, float[N, h, w] other) => (float[N, a, b] mask)
        <int64[3] one = {1, 1, 1}>
        {
            size = Shape(other)
            end = Add(size, one)
            mask = Slice(image, one, end)
        }
    """)
    for node, name in zip(file.graph.node, ("size", "end", "crop"), strict=True):
        node.name = name

    class Session:
        def __init__(self, model: bytes, options: Any, providers: Any) -> None:
            key = "session.record_ep_graph_assignment_info"
            assert options.get_session_config_entry(key) == "1"

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def get_provider_graph_assignment_info(self) -> list[SimpleNamespace]:
            nodes = [SimpleNamespace(name=name) for name in fallen]
            return [
                SimpleNamespace(ep_name="CPUExecutionProvider", get_nodes=lambda: nodes),
                SimpleNamespace(
                    ep_name="CUDAExecutionProvider",
                    get_nodes=lambda: [SimpleNamespace(name="crop")],
                ),
            ]

    give_sessions(Session)
    if "crop" in fallen:
        with pytest.raises(BackendError, match=r"leaves 1 nodes to the CPU \(crop\)"):
            sessions.cuda_session(file.SerializeToString(), 1)
    else:
        sessions.cuda_session(file.SerializeToString(), 1)


def test_an_onnx_runtime_that_does_not_tell_is_refused(give_sessions: GiveSessions) -> None:
    class OldSession:
        def __init__(self, model: bytes, options: Any, providers: Any) -> None:
            pass

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    give_sessions(OldSession)
    with pytest.raises(BackendError, match="does not tell whether a node fell"):
        sessions.cuda_session(b"", 1)


@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_without_a_gpu_one_line_says_so(
    backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert backend in BACKENDS
    pytest.importorskip("onnxruntime")
    install(monkeypatch, "11.4.0", FakeCuda(devices=0))
    reason = unavailable_reason(backend)
    assert reason is not None
    assert "no NVIDIA GPU" in reason
    with pytest.raises(BackendError, match="does not work here") as refused:
        open_runner(Run(tmp_path), backend)
    assert refused.value.exit_code == 2
    assert len(str(refused.value).splitlines()) == 1


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "11.4.0")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install onnxruntime-gpu" in str(unavailable_reason("ort-cuda"))
    assert "needs onnxruntime, which cannot be imported" in str(unavailable_reason("ort-rtx"))


@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_cpu_is_refused(backend: str, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"runs on a GPU.*use --backend ort"):
        open_runner(Run(tmp_path), backend, device="cpu")
