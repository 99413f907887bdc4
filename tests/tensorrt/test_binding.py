"""TensorRT's builder and runtime under a driver that serves them, and under one that does not."""

import re
from pathlib import Path

import pytest

import fcn_deploy
from fcn_deploy.core.errors import BackendError, CudaError
from fcn_deploy.core.run import Run
from fcn_deploy.tensorrt import api
from fcn_deploy.tensorrt.engine_file import sidecar_path
from tests import fake_tensorrt
from tests.fake_cuda import INVALID
from tests.runners import trt_runner
from tests.runners.trt_runner import assert_masks, make_run, open_trt, pictures
from tests.tensorrt_fixtures import FakeMachine, install, write_onnx

machine = trt_runner.machine
TOO_OLD = (
    r"cannot use this GPU's driver: CUDA initialization failure with error: 35.*update the NVIDIA"
)


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeMachine:
    """A machine with 8.6, whose runtime ends the process where CUDA cannot be started."""
    monkeypatch.chdir(tmp_path)
    return install(monkeypatch, "8.6.0")


def built_elsewhere(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with an engine that another process has built, under the driver that is here."""
    run = make_run(machine)
    begin_process(monkeypatch)
    machine.trt._made.update(builder=0, runtime=0)
    return run


def begin_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what this process has learnt of TensorRT."""
    monkeypatch.setattr(api, "_loaded", {})


def without_sidecar(run: Run) -> Run:
    (plan,) = Path("engines").glob("*.plan")
    sidecar_path(plan).unlink()
    return Run(run.root, plan, trusted=True)


def test_a_driver_too_old_to_build_is_said_so(machine: FakeMachine) -> None:
    machine.trt._starts_cuda = False
    write_onnx()
    with pytest.raises(BackendError, match=TOO_OLD) as refused:
        machine.build()
    assert refused.value.exit_code == 2
    assert machine.trt.__version__ in str(refused.value)
    assert machine.trt._made == {"builder": 1, "runtime": 0}
    assert not list(Path("engines").glob("*.plan"))


@pytest.mark.parametrize("trusted", [False, True])
def test_a_driver_too_old_to_run_is_said_so_and_ends_no_process(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    run = built_elsewhere(machine, monkeypatch)
    run = without_sidecar(run) if trusted else run
    machine.trt._starts_cuda = False
    machine.cuda.driver_version = 12020
    with pytest.raises(BackendError, match=TOO_OLD):
        open_trt(run)
    made = "builder" if machine.release == "8.6.0" else "runtime"
    assert machine.trt._made == {"builder": 0, "runtime": 0, made: 1}


def test_8_6_makes_a_builder_first_where_nothing_else_tells_that_cuda_starts(
    old: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = built_elsewhere(old, monkeypatch)
    images = pictures((1, 8, 8))

    def made_by_opening(run: Run) -> int:
        before = old.trt._made["builder"]
        with open_trt(run) as runner:
            assert_masks(runner, images)
        return old.trt._made["builder"] - before

    # The engine was built under driver 13.0.
    for driver, builders in ((13000, 0), (13020, 0), (12080, 1)):
        begin_process(monkeypatch)
        old.cuda.driver_version = driver
        assert made_by_opening(run) == builders
        assert made_by_opening(run) == 0  # once per process
    begin_process(monkeypatch)
    old.cuda.driver_version = 13000
    assert made_by_opening(without_sidecar(run)) == 1


def test_8_6_runs_where_the_library_of_the_builder_is_missing(
    old: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = without_sidecar(built_elsewhere(old, monkeypatch))
    old.trt._has_kernels = False
    images = pictures((1, 8, 8))
    with open_trt(run) as runner:
        assert_masks(runner, images)
    with pytest.raises(BackendError, match=r"made no builder: .*libnvinfer_builder_resource"):
        old.build(run.onnx(trt_runner.FP16), name="other")


def test_cuda_is_started_before_a_runtime_that_would_crash(
    old: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = built_elsewhere(old, monkeypatch)
    monkeypatch.setattr(old.cuda, "cudaMemGetInfo", lambda: (INVALID, 0, 0))
    with pytest.raises(CudaError, match="cudaMemGetInfo failed"):
        open_trt(run)
    assert old.trt._made == {"builder": 0, "runtime": 0}


@pytest.mark.parametrize(
    ("kind", "call", "raised", "sentence"),
    [
        ("_IOptimizationProfile", "set_shape", RuntimeError("Shape provided for min is wrong."),
         r"refuses the profile \S+: Shape provided for min"),
        ("_OnnxParser", "__init__", TypeError("factory function returned nullptr"),
         "made no ONNX parser: factory function"),
    ],
)  # fmt: skip
def test_what_a_build_raises_in_the_binding_is_an_error_of_ours(
    machine: FakeMachine,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    call: str,
    raised: Exception,
    sentence: str,
) -> None:
    def fail(*arguments: object) -> None:
        raise raised

    monkeypatch.setattr(getattr(fake_tensorrt, kind), call, fail)
    write_onnx()
    with pytest.raises(BackendError, match=sentence):
        machine.build()


def test_builders_and_runtimes_are_made_in_one_place() -> None:
    made = {
        (path.name, name)
        for path in Path(fcn_deploy.__file__).parent.rglob("*.py")
        for name in re.findall(r"\.(Builder|Runtime)\(", path.read_text(encoding="utf-8"))
    }
    assert made == {("binding.py", "Builder"), ("binding.py", "Runtime")}
