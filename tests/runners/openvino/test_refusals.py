"""What OpenVINO is not offered for, and refuses: CPUs, releases, precisions and files."""

import shutil
import sys
from pathlib import Path

import onnx
import pytest

from fcn_deploy.core.errors import BackendError, MissingExtraError, MissingStageError, OnnxFileError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.runners.base import open_runner, takes, unavailable_reason
from tests.runners.openvino.arithmetic import require

openvino = pytest.importorskip("openvino")


def test_without_the_matrix_unit_three_products_are_not_offered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With fewer products at a time they are expected to take longer than float32."""
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2 avx512f avx512_vnni\n")
    monkeypatch.setattr("fcn_deploy.machine.description._CPU_INFO", tmp_path / "cpuinfo")
    reason = str(unavailable_reason("openvino-int8x3"))
    assert "no Intel AMX (amx_int8)" in reason
    assert "use --backend openvino" in reason
    assert unavailable_reason("openvino") is None


@pytest.mark.parametrize("backend", ["openvino-bf16", "openvino-int8x3"])
def test_a_backend_for_float32_files_refuses_others(tiny_run: Run, backend: str) -> None:
    require(backend)
    assert [p.value for p in Precision if takes(backend, p)] == ["fp32"]
    assert takes("ort", Precision.FP16)
    with pytest.raises(BackendError, match="takes fp32 files, not fp16 ones; drop --fp16"):
        open_runner(tiny_run, backend, precision=Precision.FP16)
    with pytest.raises(BackendError, match="takes fp32 files, not fp16 ones"):
        open_runner(tiny_run.onnx(Precision.FP16), backend)


@pytest.mark.parametrize("backend", ["openvino", "openvino-bf16", "openvino-int8x3"])
def test_without_the_package_its_installation_is_named(
    monkeypatch: pytest.MonkeyPatch, tiny_run: Run, backend: str
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "pip install 'fcn-deploy[openvino]'" in str(unavailable_reason(backend))
    with pytest.raises(MissingExtraError, match=f"backend {backend} needs openvino, .*; pip"):
        open_runner(tiny_run, backend)


def test_a_release_whose_argmax_breaks_ties_otherwise_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openvino, "__version__", "2025.3.0-19807")
    assert "older than 2025.4" in str(unavailable_reason("openvino"))


class FloatCpu:
    """OpenVINO's core on a CPU that computes in float32 only."""

    def get_property(self, device: str, name: str) -> list[str]:
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return ["FP32", "INT8"]


def test_a_cpu_without_the_arithmetic_is_refused(
    monkeypatch: pytest.MonkeyPatch, tiny_run: Run
) -> None:
    monkeypatch.setattr(openvino, "Core", FloatCpu)
    assert unavailable_reason("openvino") is None
    assert "this CPU has no bf16" in str(unavailable_reason("openvino-bf16"))
    assert takes("openvino", Precision.INT8)
    assert not takes("openvino", Precision.FP16)
    with pytest.raises(BackendError, match=r"this CPU has no fp16 arithmetic; drop --fp16"):
        open_runner(tiny_run, "openvino", precision=Precision.FP16)


def test_a_file_that_openvino_cannot_read_is_refused(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(tiny_run.onnx(Precision.FP32))
    next(node for node in model.graph.node if node.op_type == "Conv").op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(OnnxFileError, match="OpenVINO refuses the file"):
        open_runner(Run(tmp_path), "openvino")


def test_an_older_file_or_none_is_refused(tmp_path: Path, tiny_run: Run) -> None:
    content = bytearray(tiny_run.checkpoint.read_bytes())
    content[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(MissingStageError, match="fcn-deploy export"):
        open_runner(Run(tmp_path), "openvino")
    shutil.copy(tiny_run.onnx(Precision.FP32), tmp_path / "model.onnx")
    with pytest.raises(OnnxFileError, match=r"another checkpoint.*fcn-deploy export"):
        open_runner(Run(tmp_path), "openvino")


def test_cuda_is_refused(tiny_run: Run) -> None:
    with pytest.raises(BackendError, match="runs on the CPU"):
        open_runner(tiny_run, "openvino", device="cuda")
