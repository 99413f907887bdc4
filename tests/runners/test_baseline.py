from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fcn_deploy.commands.shared.backends import open_baselines
from fcn_deploy.core.errors import BackendError, MissingStageError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.export.baseline import plain_onnx_from_checkpoint
from fcn_deploy.graph import session
from fcn_deploy.runners import baseline
from fcn_deploy.runners.base import BACKENDS, Runner, open_runner, unavailable_reason
from fcn_deploy.runners.ort import sessions
from tests.fake_cuda import FakeCuda
from tests.fakes import FakeRunner
from tests.runners.contract import pictures
from tests.tensorrt_fixtures import install


@pytest.fixture(scope="module")
def plain_run(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("plain"))
    plain_onnx_from_checkpoint(tiny_run.checkpoint, run.baseline_onnx)
    return run


def test_the_baseline_gives_the_masks_of_the_deploy_graph(plain_run: Run, tiny_run: Run) -> None:
    images = pictures(2, 97, 131)
    with (
        open_runner(plain_run, "baseline", outputs=("logits",)) as baseline,
        open_runner(tiny_run, "torch", outputs=("logits", "margin"), device="cpu") as reference,
    ):
        given, expected = baseline.run(images), reference.run(images)
    assert expected.margin is not None
    assert expected.logits is not None
    np.testing.assert_allclose(given.logits, expected.logits, atol=1e-3)
    decided = expected.margin > 2e-3
    np.testing.assert_array_equal(given.mask[decided], expected.mask[decided])


def test_a_missing_plain_export_is_explained(tmp_path: Path) -> None:
    with pytest.raises(MissingStageError, match="fcn-deploy bench"):
        open_runner(Run(tmp_path), "baseline")


class SessionSaidToBeOnTheGpu:
    """A session on the CPU under another provider's name."""

    def __init__(self, model: bytes, threads: int) -> None:
        self._session = session.cpu_session(model, threads)

    def get_providers(self) -> list[str]:
        return [sessions.CUDA_PROVIDER, "CPUExecutionProvider"]

    def run(self, names: list[str], feed: dict[str, Any]) -> Any:
        return self._session.run(names, feed)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU whose plain export is computed by the CPU."""
    install(monkeypatch, "11.4.0")
    fake = baseline.baseline_backend("baseline-cuda", "cuda", lambda: None, SessionSaidToBeOnTheGpu)
    monkeypatch.setattr(baseline, "CUDA", fake)


@pytest.mark.usefixtures("fake_gpu")
def test_on_a_gpu_it_is_the_same_export_under_a_name_of_its_own(plain_run: Run) -> None:
    images = pictures(2, 33, 64)
    with (
        open_runner(plain_run, "baseline-cuda", threads=1) as on_gpu,
        open_runner(plain_run, "baseline", threads=1) as on_cpu,
    ):
        np.testing.assert_array_equal(on_gpu.run(images).mask, on_cpu.run(images).mask)
        there, here = on_gpu.describe(), on_cpu.describe()
    assert (there.backend, there.device) == ("baseline-cuda", "cuda:0 (Fake GPU)")
    assert there.providers == (sessions.CUDA_PROVIDER, "CPUExecutionProvider")
    assert there.digest == here.digest
    assert (there.is_baseline, there.on_gpu) == (True, True)
    assert (here.is_baseline, here.on_gpu) == (True, False)
    with pytest.raises(BackendError, match="closed"):
        on_gpu.run(images)


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize(
    ("devices", "baselines"),
    [
        (["cpu"], ["baseline"]),
        (["cuda:0 (Fake GPU)"], ["baseline-cuda"]),
        (["cuda:0 (Fake GPU)", "cpu"], ["baseline", "baseline-cuda"]),
    ],
)
def test_each_runner_has_a_baseline_on_its_own_kind_of_device(
    devices: list[str], baselines: list[str], plain_run: Run
) -> None:
    runners: list[Runner] = [FakeRunner(device=device) for device in devices]
    with ExitStack() as stack:
        opened = open_baselines(plain_run, 1, runners, stack)
        assert [runner.describe().backend for runner in opened] == baselines


def test_without_a_gpu_the_line_says_so(
    plain_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, "11.4.0", FakeCuda(devices=0))
    reason = unavailable_reason("baseline-cuda")
    assert reason is not None
    assert "no NVIDIA GPU" in reason
    with ExitStack() as stack:
        assert open_baselines(plain_run, 1, [FakeRunner(device="cuda:0 (x)")], stack) == []
    assert "baseline-cuda is left out" in capsys.readouterr().out
    assert not {"baseline", "baseline-cuda"} & set(BACKENDS)  # what bench adds, nobody asks for


@pytest.mark.usefixtures("fake_gpu")
def test_it_computes_where_and_in_what_its_name_says(plain_run: Run) -> None:
    for backend, device in (("baseline", "cuda"), ("baseline-cuda", "cpu")):
        with pytest.raises(BackendError, match="runs on"):
            open_runner(plain_run, backend, device=device)
        with pytest.raises(BackendError, match="computes in float32 alone"):
            open_runner(plain_run, backend, precision=Precision.FP16)


def test_a_margin_is_the_logits_lead(plain_run: Run) -> None:
    with open_runner(plain_run, "baseline", outputs=("logits", "margin")) as runner:
        given = runner.run(pictures(1, 33, 40))
    assert given.logits is not None
    np.testing.assert_array_equal(given.margin, margin_of(given.logits))


def test_it_is_left_to_onnx_runtime_what_runs_where(monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")

    class Session:
        def __init__(self, model: bytes, options: Any, providers: Any) -> None:
            assert [name for name, _ in providers] == [sessions.CUDA_PROVIDER]

        def get_providers(self) -> list[str]:
            return [sessions.CUDA_PROVIDER, "CPUExecutionProvider"]

        def get_provider_graph_assignment_info(self) -> list[SimpleNamespace]:
            fallen = [SimpleNamespace(name="conv1")]
            return [SimpleNamespace(ep_name="CPUExecutionProvider", get_nodes=lambda: fallen)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", lambda level: None)
    assert isinstance(baseline._plain_cuda_session(b"", 1), Session)
