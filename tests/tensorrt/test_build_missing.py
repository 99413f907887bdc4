"""Engines that are missing: built once, as the command that is printed would build them."""

from pathlib import Path

import pytest

from fcn_deploy.core.errors import BackendError, BuildError, MissingStageError, OnnxFileError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision, Product, ShapeProfile
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.tensorrt import build_missing
from fcn_deploy.tensorrt.build_missing import ensure_engine
from fcn_deploy.tensorrt.build_options import BuildOptions
from fcn_deploy.tensorrt.engine_file import read_sidecar
from fcn_deploy.tensorrt.portability import Portability
from tests import tensorrt_fixtures
from tests.fake_cuda import FakeCuda
from tests.tensorrt_fixtures import ENGINES, FakeMachine, Install, write_onnx

installed = tensorrt_fixtures.installed
machine = tensorrt_fixtures.machine
FP16 = Precision.FP16


def test_an_rtx_card_beyond_the_default_gets_an_engine_of_its_own(installed: Install) -> None:
    run = Run(Path("runs/city"))
    write_onnx(run.onnx(FP16), FP16)
    said: list[str] = []

    def ensure() -> None:
        ensure_engine(run, FP16, outputs=("logits",), say=said.append)

    installed("rtx-1.7.1", FakeCuda(major=7, minor=5))
    ensure()
    ensure()
    assert len(said) == 2  # the mask's and the logits' engine, once
    for plan in ENGINES.glob("*.plan"):
        assert read_sidecar(plan).compute_capabilities == ("sm75",)
        assert " --compute-capability sm75" in read_sidecar(plan).command
    installed("rtx-1.7.1", FakeCuda(major=9, minor=0))
    with pytest.raises(BackendError, match=r"RTX .* does not run on sm90, .* pip install"):
        ensure()
    assert len(said) == 2


def test_the_logits_engine_follows_the_masks_profiles(machine: FakeMachine) -> None:
    machine.cuda.major, machine.cuda.minor = 8, 9
    run = Run(Path("runs/city"))
    write_onnx(run.onnx(FP16), FP16)
    said: list[str] = []

    def ensure() -> list[str]:
        ensure_engine(run, FP16, outputs=("mask", "logits"), say=said.append)
        return said

    assert len(ensure()) == 2
    caches = {".cache"} if machine.product is Product.TRT else set()
    assert {path.suffix for path in ENGINES.iterdir()} == {".plan", ".json"} | caches
    wider = (ShapeProfile((1, 1, 1), (1, 48, 64), (8, 2000, 2000)),)
    machine.build(
        run.onnx(FP16),
        name=run.name,
        options=BuildOptions(wider),
        command="fcn-deploy build of mine",
    )
    assert len(ensure()) == 3
    assert "has other profiles" in said[-1]
    for plan in ENGINES.glob("*.plan"):
        assert read_sidecar(plan).profiles == wider
        assert read_sidecar(plan).command == "fcn-deploy build of mine"
    assert len(ensure()) == 3


def test_the_logits_engine_is_of_the_masks_file(machine: FakeMachine) -> None:
    """A file exported anew from the same checkpoint may be another graph."""
    machine.cuda.major, machine.cuda.minor = 8, 9
    run = Run(Path("runs/city"))
    said: list[str] = []
    for opset in (16, 17):
        write_onnx(run.onnx(FP16), FP16, opset=opset)
        for _ in range(2):
            ensure_engine(run, FP16, outputs=("logits",), say=said.append)
        digest = OnnxFile(run.onnx(FP16)).digest
        (shown,) = ENGINES.glob("*.logits.*.plan")
        assert read_sidecar(shown).source_digest == digest
        assert read_sidecar(shown).onnx_digest != digest
        (masks,) = set(ENGINES.glob("*.plan")) - {shown}
        assert read_sidecar(masks).onnx_digest == digest
    assert len(said) == 4
    assert "logits" in said[-1]
    assert "was built from another file" in said[-1]


def test_ensure_engine_builds_what_is_missing_once(machine: FakeMachine) -> None:
    machine.cuda.major, machine.cuda.minor = 8, 9
    run = Run(Path("runs/city"))
    write_onnx(run.onnx(FP16), FP16)
    said: list[str] = []

    def ensure(*outputs: str) -> None:
        ensure_engine(run, FP16, outputs=outputs, say=said.append)

    ensure("mask")
    ensure("mask")
    assert len(said) == 1
    assert f"there is none in {ENGINES}/" in said[0]
    assert "building one from" in said[0]
    ensure("mask", "margin")  # the shipped file hides its logits: a second engine shows them
    ensure("mask", "logits")
    assert len(said) == 2
    names = sorted(path.name.split(".trt")[0] for path in ENGINES.glob("*.plan"))
    assert names == ["city.fp16", "city.logits.fp16"]
    write_onnx(run.onnx(FP16), FP16, opset=16)  # exported anew: the old engine does not fit
    ensure("mask")
    assert "was built from another file" in said[-1]


def test_the_engines_of_a_folder_share_one_timing_cache(installed: Install) -> None:
    """Whichever command builds: the second engine begins with the timings of the first."""
    run = Run(Path("runs/city"))
    write_onnx(run.onnx(FP16), FP16)
    installed("10.16.1")
    ensure_engine(run, FP16, outputs=("mask", "logits"))
    cache = ENGINES / "timing.trt-10.16.1.11.sm89.cache"
    assert cache.read_bytes() == b" timed timed"
    installed("11.4.0")  # timings of another release are no use
    ensure_engine(run, FP16)
    assert cache.read_bytes() == b" timed timed"
    assert (ENGINES / "timing.trt-11.4.0.106.sm89.cache").read_bytes() == b" timed"


def test_the_logits_engine_is_built_as_the_masks_engine_was(installed: Install) -> None:
    machine = installed("8.6.0")
    run, cache = Run(Path("runs/city")), Path("mine.cache")
    write_onnx(run.onnx(FP16), FP16)
    options = BuildOptions(
        workspace_mib=7, optimization_level=1, timing_cache=cache, portable=Portability.AMPERE
    )
    machine.build(run.onnx(FP16), name=run.name, options=options)
    machine.trt._calls.clear()
    ensure_engine(run, FP16, outputs=("logits",))
    assert f"WORKSPACE {7 << 20}" in machine.trt._calls
    assert cache.read_bytes() == b" timed timed"
    (shown,) = ENGINES.glob("*.logits.*.plan")
    flags = read_sidecar(shown).flags
    assert (flags["optimization_level"], flags["portable"]) == (1, "ampere+")
    assert not list(ENGINES.glob("*.cache"))
    cache.unlink()  # away, and the ENGINES's own takes its place
    write_onnx(run.onnx(FP16), FP16, checkpoint="sha256:other")
    ensure_engine(run, FP16, outputs=("logits",))
    assert (ENGINES / "timing.trt-8.6.0.sm89.cache").read_bytes() == b" timed timed"


def test_ensure_engine_names_the_missing_stage(installed: Install) -> None:
    installed("10.16.1")
    with pytest.raises(MissingStageError, match="fcn-deploy export"):
        ensure_engine(Run(Path()), FP16)
    installed("10.16.1", FakeCuda(devices=0))
    with pytest.raises(BackendError, match="no NVIDIA GPU"):
        ensure_engine(Run(Path()), FP16)


def test_the_command_is_the_one_to_type() -> None:
    options = BuildOptions((ShapeProfile((1, 1, 1), (1, 2, 3), (4, 5, 6)),), workspace_mib=7)
    assert build_missing.build_command(Run(Path("runs/fcn")), FP16, Product.TRT) == (
        "fcn-deploy build --fp16 --product trt"
    )
    assert build_missing.build_command(
        Run(Path("runs/a"), Path("x.onnx")), FP16, Product.RTX, options
    ) == ("fcn-deploy build x.onnx --product trt-rtx --profile 1x1x1:1x2x3:4x5x6 --workspace 7")
    spaced = Run(Path("my runs/a"))
    options = BuildOptions(timing_cache=Path("my cache"))
    assert build_missing.build_command(spaced, FP16, Product.TRT, options, Path("my engines")) == (
        "fcn-deploy build 'my runs/a' --fp16 --product trt --timing-cache 'my cache' "
        "--out 'my engines'"
    )
    assert build_missing.export_command(spaced) == "fcn-deploy export 'my runs/a'"
    assert build_missing.export_command(Run(Path("my runs"), Path("my runs/x.onnx"))) == (
        "fcn-deploy export 'my runs' --out 'my runs/x.onnx'"
    )


def test_repairs_name_the_export_of_this_run(installed: Install) -> None:
    machine = installed("8.6.0")
    run = Run(Path("runs/city"))
    write_onnx(run.onnx(FP16), FP16, opset=20)
    with pytest.raises(
        OnnxFileError, match="run `fcn-deploy export runs/city --fp16 --opset 17` first"
    ):
        ensure_engine(run, FP16)
    write_onnx(run.onnx(FP16), FP16, ("mask", "logits"))
    machine.trt._half_layers = False
    with pytest.raises(
        BuildError, match="run `fcn-deploy export runs/city --fp16 --outputs mask,logits` again"
    ):
        ensure_engine(run, FP16)


def test_opening_trt_builds_what_is_missing_and_says_so(
    installed: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    from fcn_deploy.commands.shared.backends import open_backend

    cuda = FakeCuda()
    installed("10.16.1", cuda)
    run = Run(Path("runs/fcn"))
    write_onnx(run.onnx(FP16), FP16)
    for lines in (2, 0):  # the shipped engine and the one with logits, once
        with open_backend(run, "trt", precision=FP16, outputs=("mask", "logits")) as runner:
            assert runner.describe().precision == "fp16"
        said = capsys.readouterr().out.splitlines()
        assert len(said) == lines
        assert all("building one from" in line for line in said)
    cuda.devices = 0
    with pytest.raises(BackendError, match="backend trt does not work here: no NVIDIA GPU"):
        open_backend(run, "trt", precision=FP16)
