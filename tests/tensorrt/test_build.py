"""ONNX → engine on four fake releases: what is written, what is current, what a failure leaves."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fcn_deploy.core.errors import ArtifactError, BuildError, InputError, OnnxFileError
from fcn_deploy.core.files import file_digest, json_bytes
from fcn_deploy.core.spec import Precision, Product, ShapeProfile
from fcn_deploy.tensorrt import api, build
from fcn_deploy.tensorrt.build_options import BuildOptions
from fcn_deploy.tensorrt.engine_file import read_engine, read_plan_header, sidecar_path
from tests import tensorrt_fixtures
from tests.fake_tensorrt import RELEASES, version_of
from tests.tensorrt_fixtures import ENGINES, MODEL, SPEC, FakeMachine, Install, write_onnx

installed = tensorrt_fixtures.installed
machine = tensorrt_fixtures.machine
FP16 = Precision.FP16


@pytest.mark.parametrize("precision", [Precision.FP32, FP16])
def test_a_plan_and_its_sidecar(machine: FakeMachine, precision: Precision) -> None:
    write_onnx(MODEL, precision, ("mask", "logits"))
    engine = machine.build(command="fcn-deploy build x")
    sidecar = engine.sidecar
    assert not engine.current
    capabilities = sidecar.compute_capabilities
    assert engine.path == ENGINES / (
        f"fcn.{precision.value}.{machine.product.value}-{machine.trt.__version__}."
        f"{'-'.join(capabilities)}.plan"
    )
    assert capabilities == (
        api.RTX_DEFAULT_CAPABILITIES if machine.product is Product.RTX else ("sm89",)
    )
    assert read_engine(engine.path) == sidecar
    assert sidecar.plan_digest == file_digest(engine.path)
    assert sidecar.onnx_digest == file_digest(MODEL)
    assert sidecar.outputs == ("mask", "logits")
    assert [tensor.dtype for tensor in sidecar.tensors] == ["uint8", "uint8", "float32"]
    assert sidecar.layers == {precision.value: 1}
    assert sidecar.layers_from == "engine inspector"
    assert sidecar.profiles == (ShapeProfile.default_for(SPEC.image_sizes),)
    assert sidecar.command == "fcn-deploy build x"
    assert (sidecar.gpu_name == "Fake GPU") == (machine.product is Product.TRT)


def test_built_again_it_is_current_and_a_change_says_which_field(machine: FakeMachine) -> None:
    write_onnx()

    def built(options: BuildOptions | None = None) -> build.Engine:
        return machine.build(options=options)

    first = built()
    before = first.path.stat().st_mtime_ns
    again = built()
    assert again.current
    assert again.sidecar == first.sidecar
    assert first.path.stat().st_mtime_ns == before
    profile = ShapeProfile((1, 1, 1), (2, 48, 64), (4, 96, 128))
    for options, field in (
        (BuildOptions((profile,)), "profiles: 1x1x1:1x48x64:8x576x768 → 1x1x1:2x48x64:4x96x128"),
        (BuildOptions((profile,), workspace_mib=64), "workspace_mib None"),
        (BuildOptions((profile,), workspace_mib=64, optimization_level=1), "optimization_level 1"),
    ):
        changed = built(options)
        assert not changed.current
        assert len(changed.differences) == 1
        assert field in changed.differences[0]
        assert built(options).current
    write_onnx(MODEL, checkpoint="sha256:other")
    (onnx_field, checkpoint_field, *rest) = built(options).differences
    assert onnx_field.startswith("onnx_digest: sha256:")
    assert checkpoint_field == "checkpoint_digest: sha256:checkpoint → sha256:other"
    assert rest == []


def test_an_engine_whose_sidecar_is_older_than_a_field_is_current(machine: FakeMachine) -> None:
    """What follows from the ONNX file is told from it; the engine is the same."""
    write_onnx()

    def built() -> build.Engine:
        return machine.build(source_digest="sha256:shipped")

    first = built()
    old = replace(first.sidecar, tail=None, source_digest=None)
    sidecar_path(first.path).write_bytes(json_bytes(old.to_json()))
    again = built()
    assert again.current
    assert again.sidecar == first.sidecar
    assert read_engine(first.path) == first.sidecar


def test_a_damaged_engine_is_not_current(machine: FakeMachine) -> None:
    write_onnx()
    engine = machine.build()
    engine.path.write_bytes(engine.path.read_bytes() + b"!")
    again = machine.build()
    assert not again.current
    assert "is not the plan that was built" in again.differences[0]
    assert read_engine(engine.path) == again.sidecar


def test_a_failed_build_leaves_the_old_engine(machine: FakeMachine) -> None:
    write_onnx(MODEL, FP16)
    engine = machine.build()
    machine.trt._half_layers = False
    write_onnx(MODEL, FP16, checkpoint="sha256:other")
    with pytest.raises(BuildError):
        machine.build()
    assert read_engine(engine.path) == engine.sidecar


@pytest.mark.parametrize("call", ["fsync", "write_bytes"])
def test_a_full_disk_leaves_the_old_engine(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def disk_full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_onnx(MODEL, FP16)
    engine = machine.build()
    write_onnx(MODEL, FP16, checkpoint="sha256:other")
    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else Path, call, disk_full)
        with pytest.raises(ArtifactError, match="disk is full") as failed:
            machine.build()
    assert "elsewhere with --out" in str(failed.value)
    assert "--json" not in str(failed.value)
    assert read_engine(engine.path) == engine.sidecar
    left = [path for path in sorted(ENGINES.iterdir()) if path.suffix != ".cache"]
    assert left == [engine.path, sidecar_path(engine.path)]


def test_a_place_that_cannot_be_written_is_found_before_the_build(machine: FakeMachine) -> None:
    content = write_onnx().read_bytes()
    Path("caches").mkdir()

    def refused(cache: Path | None = None, **how: Any) -> str:
        steps: list[str] = []
        with pytest.raises((ArtifactError, InputError)) as failed:
            machine.build(
                options=BuildOptions(timing_cache=cache), **how,
                on_progress=lambda *step: steps.append(step[0]),
            )  # fmt: skip
        assert steps == []
        return str(failed.value)

    complaint = refused(folder=MODEL / "sub")
    assert "Not a directory" in complaint
    assert "with --out" in complaint
    assert "is no timing cache by its name" in refused(MODEL)
    assert MODEL.read_bytes() == content
    for cache, words in (
        (Path("caches"), "Is a directory"), (MODEL / "cache", "Not a directory"),
    ):  # fmt: skip
        said = f"cannot write {cache}: {words}; choose another place with --timing-cache"
        assert said in refused(cache)
    assert list(ENGINES.glob("*")) == []


def test_opset_20_is_too_new_for_8_6_alone(machine: FakeMachine) -> None:
    write_onnx(MODEL, opset=20)
    if machine.release == "8.6.0":
        with pytest.raises(OnnxFileError, match="run `fcn-deploy export x --opset 17` first"):
            machine.build(export="fcn-deploy export x")
    else:
        machine.build()


def test_another_release_builds_another_file_and_says_so(installed: Install) -> None:
    write_onnx()
    old = installed("10.16.1").build()
    new = installed("11.4.0").build()
    assert new.differences == ("version: 10.16.1.11 → 11.4.0.106",)
    assert old.path.is_file()
    assert read_plan_header(new.path).version == (11, 4, 0, 106)


def test_build_and_runner_know_no_torch_and_no_tensorrt() -> None:
    script = (
        "import sys\n"
        "for name in ('torch', 'tensorrt', 'tensorrt_rtx_bindings', 'cuda', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "import fcn_deploy.tensorrt.build, fcn_deploy.runners.trt, fcn_deploy.runners.ort.runner\n"
        "print(fcn_deploy.runners.trt.TRT.unavailable_reason())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pip install 'cuda-bindings" in done.stdout
    assert "TensorRT needs tensorrt, which cannot be imported" in done.stdout


def test_the_fake_releases_are_the_four_of_the_design() -> None:
    assert [version_of(release).split(".")[0] for release in RELEASES] == ["8", "10", "11", "1"]
