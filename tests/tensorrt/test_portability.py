"""`build --portable`: what the builder is told, what is refused, and where the engine runs."""

from pathlib import Path

import numpy as np
import pytest

from fcn_deploy.core.errors import EngineError, InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision, Product
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.runners.base import open_runner
from fcn_deploy.tensorrt import build
from fcn_deploy.tensorrt.build import engine_from_onnx
from fcn_deploy.tensorrt.build_options import BuildOptions
from fcn_deploy.tensorrt.engine_file import read_sidecar
from fcn_deploy.tensorrt.engine_match import check_belongs
from fcn_deploy.tensorrt.portability import Portability, fits_gpu, fits_release, portability_of
from tests import tensorrt_fixtures
from tests.fake_cuda import FakeCuda
from tests.fake_tensorrt import fake_mask
from tests.tensorrt import engine_files
from tests.tensorrt_fixtures import ENGINES, FakeMachine, Install, write_onnx

installed = tensorrt_fixtures.installed
machine = tensorrt_fixtures.machine
plan = engine_files.plan
VERSION, AMPERE = Portability.VERSION, Portability.AMPERE


def built(machine: FakeMachine, portable: Portability | None = None) -> build.Engine:
    return machine.build(options=BuildOptions(portable=portable))


@pytest.mark.parametrize(
    ("portable", "flag", "name"),
    [
        (VERSION, "VERSION_COMPATIBLE", "{version}+.sm89"),
        (AMPERE, "AMPERE_PLUS", "{version}.ampere+"),
    ],
)
def test_the_builder_is_told_and_name_and_sidecar_tell_it(
    machine: FakeMachine, portable: Portability, flag: str, name: str
) -> None:
    write_onnx()
    if machine.product is Product.RTX:
        with pytest.raises(InputError, match="choose them with --compute-capability"):
            built(machine, portable)
        assert not ENGINES.exists()
        return
    plain = built(machine)
    engine = built(machine, portable)
    assert engine.differences == ()  # another engine, which replaces none
    version = machine.trt.__version__
    assert engine.path.name == f"fcn.fp32.trt-{name.format(version=version)}.plan"
    assert portability_of(engine.sidecar.flags) is portable
    assert flag in engine.sidecar.flags["builder"]
    assert flag not in plain.sidecar.flags["builder"]
    assert built(machine, portable).current
    assert built(machine).current
    assert plain.path.is_file()


def test_what_a_release_or_a_gpu_lacks_is_refused_before_the_build(
    installed: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_onnx()
    machine = installed("8.6.0", FakeCuda(major=7, minor=5))
    with pytest.raises(InputError, match=r"on one of them, not on sm75; drop --portable ampere\+"):
        built(machine, AMPERE)
    machine = installed("10.16.1", FakeCuda(major=8, minor=7))
    with pytest.raises(InputError, match=r"sm87 is the GPU of a Jetson.*; drop --portable ampere"):
        built(machine, AMPERE)
    machine = installed("8.6.0")
    monkeypatch.delattr(machine.trt.BuilderFlag, "VERSION_COMPATIBLE")
    monkeypatch.delattr(machine.trt, "HardwareCompatibilityLevel")
    for portable in Portability:
        with pytest.raises(InputError, match=r"builds no engine that is portable by .*; drop"):
            built(machine, portable)
    assert not ENGINES.exists()


@pytest.mark.parametrize(
    ("version", "installed", "fits"),
    [
        ("8.6.0", "8.6.0", True),
        ("8.6.0", "8.6.1", True),
        ("8.6.1", "8.6.0", False),
        ("8.6.0", "10.16.1.11", True),
        ("8.6.0", "11.4.0.106", False),  # of 8 NVIDIA names 9 and 10 alone
        ("10.3.0", "10.16.1.11", True),
        ("10.16.1.11", "10.3.0", False),
        ("10.16.1.11", "11.4.0.106", True),
        ("11.4.0.106", "10.16.1.11", False),
        ("11.0.0", "11.4.0.106", True),
        ("11.4.0.106", "12.0.0", False),
    ],
)
def test_a_version_compatible_engine_runs_on_later_releases(
    version: str, installed: str, fits: bool
) -> None:
    assert fits_release(VERSION, version, installed) is fits
    for portable in (None, AMPERE):
        assert fits_release(portable, version, installed) is (version == installed)


@pytest.mark.parametrize(
    ("capability", "fits"),
    [("sm75", False), ("sm80", True), ("sm90", True), ("sm120", True), ("sm87", False)],
)
def test_an_engine_for_ampere_runs_on_ampere_and_later(capability: str, fits: bool) -> None:
    assert fits_gpu(AMPERE, ("sm89",), capability) is fits
    for portable in (None, VERSION):
        assert not fits_gpu(portable, ("sm89",), capability)
        assert fits_gpu(portable, ("sm89", capability), capability)


def test_a_word_of_a_later_version_promises_nothing() -> None:
    assert portability_of({"portable": "same-capability"}) is None
    assert portability_of({}) is None


@pytest.mark.parametrize("portable", [None, VERSION, AMPERE])
def test_portable_engines_run_elsewhere_and_others_do_not(
    installed: Install, portable: Portability | None
) -> None:
    run = Run(Path("runs/city"))
    write_onnx(run.onnx(Precision.FP32))
    home = installed("10.16.1")
    engine = engine_from_onnx(
        OnnxFile(run.onnx(Precision.FP32)),
        name=run.name,
        product=home.product,
        options=BuildOptions(portable=portable),
    )
    images = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(1, 48, 64, 3)
    for release, cuda, fitting in (
        ("10.16.1", FakeCuda(), True),
        ("11.4.0", FakeCuda(), portable is VERSION),
        ("10.16.1", FakeCuda(major=12, minor=0), portable is AMPERE),
        ("10.16.1", FakeCuda(major=7, minor=5), False),
        ("8.6.0", FakeCuda(), False),
    ):
        installed(release, cuda)
        elsewhere = Run(run.root, engine.path)
        if fitting:
            with open_runner(elsewhere, "trt") as runner:
                np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))
        else:
            with pytest.raises(EngineError, match=r"is (of another TensorRT|for another GPU)"):
                open_runner(elsewhere, "trt")


def test_an_engine_of_before_is_read_as_it_was(plan: Path) -> None:
    sidecar = read_sidecar(plan)
    assert "portable" not in sidecar.flags
    check_belongs(
        plan, sidecar, product=Product.TRT, version="10.16.1.11", compute_capability="sm89"
    )


def test_the_command_builds_it_and_remembers_the_word(
    installed: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    from fcn_deploy.cli import fcn_deploy as command

    installed("10.16.1")
    write_onnx()
    words = ["build", ".", "--out", "mine", "--portable", "ampere+"]
    command.main(words, standalone_mode=False)
    (plan,) = Path("mine").glob("*.plan")
    assert plan.name.endswith(".ampere+.plan")
    assert read_sidecar(plan).command.endswith(" --portable ampere+ --out mine")
    command.main(words, standalone_mode=False)
    assert "is current" in " ".join(capsys.readouterr().out.split())
