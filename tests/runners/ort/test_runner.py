import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, MissingStageError, OnnxFileError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.runners.base import Runner, open_runner
from fcn_deploy.runners.cpu_streams import LANES
from fcn_deploy.runners.ort.runner import OrtRunner
from tests.runners.contract import LanesContract, RunnerContract, assert_masks_agree, pictures


class TestOrtRunner(RunnerContract):
    def open(self, outputs: tuple[str, ...]) -> Runner:
        return open_runner(self.run_directory, "ort", outputs=outputs, threads=1)


class TestOrtRunnerFp16(TestOrtRunner):
    def open(self, outputs: tuple[str, ...]) -> Runner:
        return open_runner(
            self.run_directory, "ort", precision=Precision.FP16, outputs=outputs, threads=1
        )


class TestOrtRunnerInLanes(LanesContract):
    def open(self, outputs: tuple[str, ...]) -> Runner:
        return open_runner(self.run_directory, "ort", outputs=outputs, threads=LANES)

    def fail_at(self, width: int, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        super().fail_at(width, runner, monkeypatch)
        assert isinstance(runner, OrtRunner)
        session = runner._session_of_lanes()

        class Failing:
            def run(self, names: list[str], given: dict[str, NDArray[np.uint8]]) -> list[Any]:
                if given["image"].shape[2] == width:
                    raise RuntimeError("out of luck")
                computed: list[Any] = session.run(names, given)
                return computed

        monkeypatch.setattr(runner, "_session_of_lanes", Failing)


def test_two_batches_are_computed_at_the_same_time(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for the other inside the session: one after the other would never end."""
    both_inside = threading.Barrier(LANES)

    class Session:
        def run(self, names: list[str], given: dict[str, NDArray[np.uint8]]) -> list[Any]:
            both_inside.wait(30)
            return [np.zeros(given["image"].shape[:3], np.uint8)]

    with open_runner(tiny_run, "ort", threads=LANES) as runner:
        monkeypatch.setattr(runner, "_session_of_lanes", Session)
        assert len(list(runner.stream([pictures(1, 8, 8)] * 4))) == 4


def test_all_lanes_together_have_the_threads_that_were_asked_for(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    session_of = onnxruntime.InferenceSession

    def counted(model: bytes, options: Any, **others: Any) -> Any:
        threads.append(options.intra_op_num_threads)
        return session_of(model, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", counted)
    for asked in (1, 2, 5):
        with open_runner(tiny_run, "ort", threads=asked) as runner:
            list(runner.stream([pictures(1, 8, 8)] * 3))
    # A session's pool counts the thread that calls it: each of two lanes brings one.
    assert threads == [1, 2, 1, 5, 4]


def test_no_thread_spins_between_two_runs(tiny_run: Run) -> None:
    with open_runner(tiny_run, "ort", threads=2) as runner:
        assert isinstance(runner, OrtRunner)
        options = runner._session.get_session_options()
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_a_file_that_changed_since_it_was_opened_is_not_mixed_in(
    tiny_run: Run, tmp_path: Path
) -> None:
    for path in (tiny_run.checkpoint, tiny_run.onnx(Precision.FP32)):
        shutil.copy(path, tmp_path)
    with open_runner(Run(tmp_path), "ort", threads=LANES) as runner:
        with (tmp_path / "model.onnx").open("ab") as stream:
            stream.write(b"more")
        with pytest.raises(OnnxFileError, match="has changed since it was opened"):
            list(runner.stream([pictures(1, 8, 8)] * 3))
        assert len(list(runner.stream([pictures(1, 8, 8)]))) == 1


def test_masks_equal_pytorch_where_the_reference_is_decided(tiny_run: Run) -> None:
    with (
        open_runner(tiny_run, "torch", outputs=("logits",), device="cpu") as reference,
        open_runner(tiny_run, "ort", outputs=("logits",)) as candidate,
    ):
        assert_masks_agree(reference, candidate, pictures(2, 97, 131), least=0, most=2e-5)


def test_the_mask_comes_from_the_file_as_shipped(tiny_run: Run) -> None:
    with open_runner(tiny_run, "ort", outputs=("logits",)) as runner:
        assert runner.describe().digest == file_digest(tiny_run.onnx(Precision.FP32))
        assert runner.describe().providers == ("CPUExecutionProvider",)


def test_a_half_file_says_that_it_is_computed_in_float32(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with open_runner(tiny_run, "ort", precision=Precision.FP16) as runner:
        description = runner.describe()
        assert (description.precision, description.arithmetic) == ("fp16", "fp32")
        assert description.widens_halves
        assert description.library.endswith(", half precision computed in float32")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")  # it has kernels for halves
    with open_runner(tiny_run, "ort", precision=Precision.FP16) as runner:
        assert runner.describe().arithmetic == "fp16"
        assert not runner.describe().widens_halves
    with open_runner(tiny_run, "ort") as runner:
        assert not runner.describe().widens_halves
        assert "," not in runner.describe().library


def test_without_an_onnx_file_the_export_command_is_named(tmp_path: Path, tiny_run: Run) -> None:
    shutil.copy(tiny_run.checkpoint, tmp_path / "model.safetensors")
    with pytest.raises(MissingStageError, match=f"fcn-deploy export {tmp_path} --fp16"):
        open_runner(Run(tmp_path), "ort", precision=Precision.FP16)


def test_a_file_of_another_checkpoint_is_refused(tmp_path: Path, tiny_run: Run) -> None:
    content = bytearray(tiny_run.checkpoint.read_bytes())
    content[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    shutil.copy(tiny_run.onnx(Precision.FP32), tmp_path / "model.onnx")
    with pytest.raises(OnnxFileError, match=r"another checkpoint.*fcn-deploy export"):
        open_runner(Run(tmp_path), "ort")


def test_a_foreign_onnx_file_is_refused(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "foreign", [value], [result])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(OnnxFileError, match="no fcn-deploy spec"):
        open_runner(Run(tmp_path), "ort")


@pytest.mark.parametrize("length", [0, 100, 10_000])
def test_a_truncated_onnx_file_is_refused(tmp_path: Path, tiny_run: Run, length: int) -> None:
    whole = tiny_run.onnx(Precision.FP32).read_bytes()
    (tmp_path / "model.onnx").write_bytes(whole[:length])
    with pytest.raises(OnnxFileError, match="truncated"):
        open_runner(Run(tmp_path), "ort")


def test_cuda_is_refused(tiny_run: Run) -> None:
    with pytest.raises(
        BackendError, match=r"runs on the CPU.*drop --device cuda, or use --backend ort-cuda"
    ):
        open_runner(tiny_run, "ort", device="cuda")
