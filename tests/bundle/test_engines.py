"""Engines in a bundle: which fits this machine, which must be rebuilt and why, who loads one."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fcn_deploy.bundle.contents import gather
from fcn_deploy.bundle.extraction import extract
from fcn_deploy.bundle.manifest import BundledEngine, BundledFile, BundledOnnx, Manifest
from fcn_deploy.bundle.verification import BackendState, State, backend_states, engine_state
from fcn_deploy.bundle.writer import write_bundle
from fcn_deploy.core.errors import EngineError, InputError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.parity.inputs import unlabelled_pictures
from fcn_deploy.runners.base import open_runner
from fcn_deploy.tensorrt.engine_file import ENGINES_FOLDER, read_sidecar, sidecar_path
from fcn_deploy.tensorrt.engine_match import engine_folders
from tests.bundle.archives import contents_of
from tests.bundle.conftest import Bundled
from tests.fake_cuda import FakeCuda
from tests.tensorrt.engine_files import plan, write_sidecar
from tests.tensorrt_fixtures import SPEC, FakeMachine, install

__all__ = ["plan"]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    """A machine with a GPU and TensorRT 10.16."""
    return install(monkeypatch, "10.16.1", FakeCuda())


@pytest.fixture
def run(tmp_path: Path, plan: Path) -> Run:
    """A bundle as a run, with one engine in half precision for sm89."""
    root = tmp_path / "root"
    (root / "engines").mkdir(parents=True)
    for file in (plan, sidecar_path(plan)):
        shutil.move(file, root / "engines" / file.name)
    return Run(root, trusted=True, bundle=tmp_path / "model.fcnd.zip")


def manifest_of(run: Run) -> Manifest:
    onnx = tuple(
        BundledOnnx(f"model{word}.onnx", precision, "sha256:onnx", ("mask",), ("ort",))
        for word, precision in (("", Precision.FP32), (".fp16", Precision.FP16))
    )
    engines = tuple(
        BundledEngine(f"engines/{file.name}", file_digest(file), "sha256:onnx")
        for file in run.engines_folder.glob("*.plan")
    )
    return Manifest(
        "model", SPEC, None, "sha256:checkpoint", False, onnx, engines, {}, {},
        {"model.onnx": BundledFile(1, "sha256:onnx")},
    )  # fmt: skip


def state_of(run: Run, precision: Precision = Precision.FP16) -> BackendState:
    return engine_state("trt", precision, run, manifest_of(run))


def test_an_engine_that_fits_runs(here: FakeMachine, run: Run) -> None:
    state = state_of(run)
    assert (state.state, state.reason) == (State.RUNS, None)


def test_there_is_none_of_another_precision(here: FakeMachine, run: Run) -> None:
    state = state_of(run, Precision.FP32)
    assert state.state is State.REBUILD
    assert state.reason == "the bundle holds no engine for it"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"compute_capabilities": ("sm90",)}, "expected compute capability sm89, found sm90"),
        ({"system": "Linux riscv64"}, "expected Linux x86_64, found Linux riscv64"),
        ({"version": "10.3.0.26"}, "expected a plan of trt-10.3.0.26, found one of"),
    ],
)
def test_the_field_that_does_not_fit_is_named(
    change: dict[str, object],
    said: str,
    here: FakeMachine,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (file,) = run.engines_folder.glob("*.plan")
    system = {"system": "Linux x86_64"}
    write_sidecar(file, replace(read_sidecar(file), **(system | change)))  # type: ignore[arg-type]
    state = state_of(run)
    assert state.state is State.REBUILD
    assert state.reason is not None
    assert said in state.reason
    assert str(run.root) not in state.reason


def test_an_engine_of_another_release(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "11.4.0", FakeCuda())
    state = state_of(run)
    assert state.state is State.REBUILD
    assert "which is installed here, found trt-10.16.1.11" in str(state.reason)


def test_an_engine_whose_signature_was_not_checked_is_not_considered(
    here: FakeMachine, run: Run
) -> None:
    untrusted = replace(run, trusted=False)
    states = backend_states(untrusted, manifest_of(run), ["trt"])
    assert {state.state for state in states} == {State.REBUILD}
    assert all("give --key" in str(state.reason) for state in states)
    assert engine_folders(untrusted) == (ENGINES_FOLDER,)
    assert engine_folders(run) == (run.root / "engines", ENGINES_FOLDER)
    assert engine_folders(Run(run.root, trusted=True)) == (ENGINES_FOLDER,)


def build_from(bundled: Bundled, plan: Path) -> None:
    """Let the plan's sidecar say that it was built from the run's ONNX file."""
    found = gather(bundled.run)
    digests = {"checkpoint_digest": found.checkpoint_digest, "onnx_digest": found.onnx[0].digest}
    write_sidecar(plan, replace(read_sidecar(plan), **digests))  # type: ignore[arg-type]


def test_two_engines_of_one_name_both_ride_along(
    bundled: Bundled, plan: Path, tmp_path: Path
) -> None:
    build_from(bundled, plan)
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / plan.name.upper().replace(".PLAN", ".plan")
    shutil.copy(plan, twin)
    shutil.copy(sidecar_path(plan), sidecar_path(twin))
    pictures = unlabelled_pictures(bundled.pictures, 1)
    target = tmp_path / "m.fcnd.zip"
    with open_runner(bundled.run, "original", outputs=("mask", "logits")) as reference:
        written = write_bundle(gather(bundled.run, [plan, twin]), reference, pictures, target)
    names = [engine.file for engine in written.manifest.engines]
    assert len({name.lower() for name in names}) == 2
    assert contents_of(target)[names[0]] == contents_of(target)[names[1]] == plan.read_bytes()
    (tmp_path / "out").mkdir()
    assert extract(target, tmp_path / "out").faults == ()  # it is a good bundle


def test_only_engines_of_its_own_files_are_bundled(bundled: Bundled, plan: Path) -> None:
    with pytest.raises(InputError, match="none of the bundle's ONNX files"):
        gather(bundled.run, [plan])
    build_from(bundled, plan)
    found = gather(bundled.run, [plan])
    names = {name for name in found.files() if name.startswith("engines/")}
    assert names == {f"engines/{plan.name}", f"engines/{plan.name}.json"}
    plan.write_bytes(plan.read_bytes() + b"x")
    with pytest.raises(EngineError, match="is not the plan that was built"):
        gather(bundled.run, [plan])
