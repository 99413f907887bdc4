"""ONNX → engine: the builder's logic on four fake releases, and TensorRT for RTX for real."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import onnx
import pytest
from click.testing import CliRunner

from fcn_deploy.core.errors import (
    ArtifactError,
    BackendError,
    BuildError,
    InputError,
    MissingStageError,
    OnnxFileError,
)
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import OUTPUT_NAMES, Precision, Product, ShapeProfile, Tail
from fcn_deploy.graph.fp16_rounding import tensor_types
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.tensorrt import api, build, build_missing, build_options
from fcn_deploy.tensorrt import layers as layers_tensorrt
from fcn_deploy.tensorrt.build import engine_from_onnx
from fcn_deploy.tensorrt.build_missing import ensure_engine
from fcn_deploy.tensorrt.build_options import BuildOptions
from fcn_deploy.tensorrt.engine_file import (
    read_engine,
    read_plan_header,
    read_sidecar,
    sidecar_path,
)
from fcn_deploy.tensorrt.layers import layers_by_precision
from tests.fake_cuda import FakeCuda
from tests.fake_tensorrt import RELEASES, version_of
from tests.tensorrt_fixtures import SPEC, FakeMachine, install, write_onnx

FP16 = Precision.FP16


@pytest.fixture(params=RELEASES)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    return install(monkeypatch, request.param, FakeCuda())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "engines"


@pytest.mark.parametrize("precision", [Precision.FP32, FP16])
def test_a_plan_and_its_sidecar(
    machine: FakeMachine, precision: Precision, tmp_path: Path, folder: Path
) -> None:
    onnx_path = write_onnx(tmp_path / "model.onnx", precision, ("mask", "logits"))
    engine = engine_from_onnx(
        OnnxFile(onnx_path),
        name="fcn",
        product=machine.product,
        folder=folder,
        command="fcn-deploy build x",
    )
    sidecar = engine.sidecar
    assert not engine.current
    capabilities = sidecar.compute_capabilities
    assert engine.path == folder / (
        f"fcn.{precision.value}.{machine.product.value}-{machine.trt.__version__}."
        f"{'-'.join(capabilities)}.plan"
    )
    assert capabilities == (
        api.RTX_DEFAULT_CAPABILITIES if machine.product is Product.RTX else ("sm89",)
    )
    assert read_engine(engine.path) == sidecar
    assert sidecar.plan_digest == file_digest(engine.path)
    assert sidecar.onnx_digest == file_digest(onnx_path)
    assert sidecar.outputs == ("mask", "logits")
    assert [tensor.dtype for tensor in sidecar.tensors] == ["uint8", "uint8", "float32"]
    assert sidecar.layers == {precision.value: 1}
    assert sidecar.layers_from == "engine inspector"
    assert sidecar.profiles == (ShapeProfile.covering(SPEC.image_sizes),)
    assert sidecar.command == "fcn-deploy build x"
    assert (sidecar.gpu_name == "Fake GPU") == (machine.product is Product.TRT)


def test_built_again_it_is_current_and_a_change_says_which_field(
    machine: FakeMachine, tmp_path: Path, folder: Path
) -> None:
    onnx_path = write_onnx(tmp_path / "model.onnx")

    def built(options: BuildOptions | None = None) -> build.Engine:
        return engine_from_onnx(
            OnnxFile(onnx_path), name="fcn", product=machine.product, options=options, folder=folder
        )

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
    write_onnx(onnx_path, checkpoint="sha256:other")
    (onnx_field, checkpoint_field, *rest) = built(options).differences
    assert onnx_field.startswith("onnx_digest: sha256:")
    assert checkpoint_field == "checkpoint_digest: sha256:checkpoint → sha256:other"
    assert rest == []


def test_a_damaged_engine_is_not_current(
    machine: FakeMachine, tmp_path: Path, folder: Path
) -> None:
    onnx_path = write_onnx(tmp_path / "model.onnx")
    engine = engine_from_onnx(
        OnnxFile(onnx_path), name="fcn", product=machine.product, folder=folder
    )
    engine.path.write_bytes(engine.path.read_bytes() + b"!")
    again = engine_from_onnx(
        OnnxFile(onnx_path), name="fcn", product=machine.product, folder=folder
    )
    assert not again.current
    assert "is not the plan that was built" in again.differences[0]
    assert read_engine(engine.path) == again.sidecar


def test_an_fp16_engine_without_half_layers_is_a_failed_build(
    machine: FakeMachine, tmp_path: Path, folder: Path
) -> None:
    machine.trt._half_layers = False
    onnx_path = write_onnx(tmp_path / "model.onnx", FP16)
    with pytest.raises(BuildError, match="no half-precision layer") as failed:
        engine_from_onnx(OnnxFile(onnx_path), name="fcn", product=machine.product, folder=folder)
    assert failed.value.exit_code == 1
    assert list(folder.glob("*")) == []


def test_an_int8_engine_without_8_bit_layers_is_a_failed_build(
    machine: FakeMachine, tmp_path: Path, folder: Path
) -> None:
    onnx_path = write_onnx(tmp_path / "model.onnx", Precision.INT8)
    with pytest.raises(BuildError, match=r"no 8-bit layer .* no INT8 engine") as failed:
        engine_from_onnx(OnnxFile(onnx_path), name="fcn", product=machine.product, folder=folder)
    assert failed.value.repair is not None
    assert "--int8` again" in failed.value.repair
    assert list(folder.glob("*")) == []


def test_a_failed_build_leaves_the_old_engine(
    machine: FakeMachine, tmp_path: Path, folder: Path
) -> None:
    onnx_path = write_onnx(tmp_path / "model.onnx", FP16)
    engine = engine_from_onnx(
        OnnxFile(onnx_path), name="fcn", product=machine.product, folder=folder
    )
    machine.trt._half_layers = False
    write_onnx(onnx_path, FP16, checkpoint="sha256:other")
    with pytest.raises(BuildError):
        engine_from_onnx(OnnxFile(onnx_path), name="fcn", product=machine.product, folder=folder)
    assert read_engine(engine.path) == engine.sidecar


@pytest.mark.parametrize("call", ["fsync", "write_bytes"])
def test_a_full_disk_leaves_the_old_engine(
    machine: FakeMachine, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def disk_full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    onnx_path = write_onnx(tmp_path / "model.onnx", FP16)
    engine = engine_from_onnx(
        OnnxFile(onnx_path), name="fcn", product=machine.product, folder=folder
    )
    write_onnx(onnx_path, FP16, checkpoint="sha256:other")
    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else Path, call, disk_full)
        with pytest.raises(ArtifactError, match="disk is full") as failed:
            engine_from_onnx(
                OnnxFile(onnx_path), name="fcn", product=machine.product, folder=folder
            )
    assert "elsewhere with --out" in str(failed.value)
    assert "--json" not in str(failed.value)
    assert read_engine(engine.path) == engine.sidecar
    assert sorted(folder.iterdir()) == [engine.path, sidecar_path(engine.path)]


def test_a_place_that_cannot_be_written_is_found_before_the_build(
    machine: FakeMachine, tmp_path: Path, folder: Path
) -> None:
    onnx_path = write_onnx(tmp_path / "model.onnx")
    (tmp_path / "caches").mkdir()

    def refused(folder: Path, options: BuildOptions | None = None) -> str:
        steps: list[str] = []
        with pytest.raises(ArtifactError) as failed:
            engine_from_onnx(
                OnnxFile(onnx_path),
                name="fcn",
                product=machine.product,
                options=options,
                folder=folder,
                on_progress=lambda *step: steps.append(step[0]),
            )
        assert steps == []
        return str(failed.value)

    complaint = refused(onnx_path / "sub")
    assert "Not a directory" in complaint
    assert "with --out" in complaint
    for cache, words in (
        (tmp_path / "caches", "Is a directory"),
        (onnx_path / "cache", "Not a directory"),
    ):
        complaint = refused(folder, BuildOptions(timing_cache=cache))
        assert f"cannot write {cache}: {words}; choose another place with --timing-cache" in (
            complaint
        )
    assert list(folder.glob("*")) == []


def test_timings_are_kept_though_the_engine_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    machine = install(monkeypatch, "10.16.1", FakeCuda())
    machine.trt._half_layers = False
    cache = tmp_path / "timing.cache"
    with pytest.raises(BuildError):
        engine_from_onnx(
            OnnxFile(write_onnx(tmp_path / "model.onnx", FP16)),
            name="fcn",
            product=machine.product,
            options=BuildOptions(timing_cache=cache),
            folder=folder,
        )
    assert cache.read_bytes() == b" timed"
    assert not list(folder.glob("*.plan"))


def test_what_the_parser_refuses_is_told_by_node(
    machine: FakeMachine, tmp_path: Path, folder: Path
) -> None:
    onnx_path = write_onnx(tmp_path / "model.onnx", node="Unheard")
    with pytest.raises(BuildError) as failed:
        engine_from_onnx(OnnxFile(onnx_path), name="fcn", product=machine.product, folder=folder)
    assert "node 'the_node' (Unheard): no importer for this operator" in str(failed.value)
    assert list(folder.glob("*")) == []


def test_opset_20_is_too_new_for_8_6_alone(
    machine: FakeMachine, tmp_path: Path, folder: Path
) -> None:
    onnx_path = write_onnx(tmp_path / "model.onnx", opset=20)
    if machine.release == "8.6.0":
        with pytest.raises(OnnxFileError, match="run `fcn-deploy export x --opset 17` first"):
            engine_from_onnx(
                OnnxFile(onnx_path),
                name="fcn",
                product=machine.product,
                folder=folder,
                export="fcn-deploy export x",
            )
    else:
        engine_from_onnx(OnnxFile(onnx_path), name="fcn", product=machine.product, folder=folder)


def test_options_reach_the_builder(machine: FakeMachine, tmp_path: Path, folder: Path) -> None:
    onnx_path, cache = write_onnx(tmp_path / "model.onnx"), tmp_path / "timing.cache"
    if machine.product is Product.RTX:
        with pytest.raises(InputError, match="no timing cache; drop --timing-cache"):
            engine_from_onnx(
                OnnxFile(onnx_path),
                name="fcn",
                product=machine.product,
                options=BuildOptions(timing_cache=cache),
                folder=folder,
            )
        options = BuildOptions(compute_capabilities=("sm89", "sm120"), workspace_mib=3)
    else:
        options = BuildOptions(timing_cache=cache, workspace_mib=3)
        with pytest.raises(InputError, match="drop --compute-capability"):
            engine_from_onnx(
                OnnxFile(onnx_path),
                name="fcn",
                product=machine.product,
                options=BuildOptions(compute_capabilities=("sm89",)),
                folder=folder,
            )
    engine = engine_from_onnx(
        OnnxFile(onnx_path), name="fcn", product=machine.product, options=options, folder=folder
    )
    assert f"WORKSPACE {3 << 20}" in machine.trt._calls
    if machine.product is Product.RTX:
        assert {"capability SM89", "capability SM120"} <= set(machine.trt._calls)
        assert engine.path.name.endswith(".sm89-sm120.plan")
        return
    if machine.release == "8.6.0":  # the release that must be told so
        assert "PROFILE_SHARING_0806" in engine.sidecar.flags["builder"]
    assert cache.read_bytes() == b" timed"
    cache.write_bytes(b"foreign")  # of another GPU: refused, then begun afresh
    engine_from_onnx(
        OnnxFile(write_onnx(onnx_path, checkpoint="sha256:other")),
        name="fcn",
        product=machine.product,
        options=options,
        folder=folder,
    )
    assert cache.read_bytes() == b" timed"


def test_progress_is_told_where_the_release_tells_it(
    machine: FakeMachine, tmp_path: Path, folder: Path
) -> None:
    onnx_path = write_onnx(tmp_path / "model.onnx")
    seen: list[tuple[str, int, int]] = []
    engine_from_onnx(
        OnnxFile(onnx_path),
        name="fcn",
        product=machine.product,
        folder=folder,
        on_progress=lambda *step: seen.append(step),
    )
    expected = [] if machine.release == "8.6.0" else [("Building", 1, 2), ("Building", 2, 2)]
    assert seen == expected


def test_ctrl_c_stops_the_build_and_leaves_nothing(
    machine: FakeMachine, tmp_path: Path, folder: Path
) -> None:
    if machine.release == "8.6.0":
        pytest.skip("TensorRT 8.6 has no progress monitor to stop by")

    def interrupt(phase: str, done: int, steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine_from_onnx(
            OnnxFile(write_onnx(tmp_path / "model.onnx")),
            name="fcn",
            product=machine.product,
            folder=folder,
            on_progress=interrupt,
        )
    assert list(folder.glob("*")) == []


def test_tensorrt_needs_a_gpu_to_build_and_rtx_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    onnx_path = write_onnx(tmp_path / "model.onnx", FP16)
    no_gpu = FakeCuda(devices=0)
    install(monkeypatch, "10.16.1", no_gpu)
    with pytest.raises(BackendError, match="no NVIDIA GPU"):
        engine_from_onnx(OnnxFile(onnx_path), name="fcn", product=Product.TRT, folder=folder)
    install(monkeypatch, "rtx-1.7.1", no_gpu)
    engine = engine_from_onnx(OnnxFile(onnx_path), name="fcn", product=Product.RTX, folder=folder)
    assert engine.sidecar.layers == {"fp16": 1}
    assert engine.sidecar.layers_from == "builder log"


def test_another_release_builds_another_file_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    onnx_path = write_onnx(tmp_path / "model.onnx")
    install(monkeypatch, "10.16.1", FakeCuda())
    old = engine_from_onnx(OnnxFile(onnx_path), name="fcn", product=Product.TRT, folder=folder)
    install(monkeypatch, "11.4.0", FakeCuda())
    new = engine_from_onnx(OnnxFile(onnx_path), name="fcn", product=Product.TRT, folder=folder)
    assert new.differences == ("version: 10.16.1.11 → 11.4.0.106",)
    assert old.path.is_file()
    assert read_plan_header(new.path).version == (11, 4, 0, 106)


def test_an_engine_for_other_gpus_is_no_older_one_of_this(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    install(monkeypatch, "rtx-1.7.1", FakeCuda())
    onnx_path = write_onnx(tmp_path / "model.onnx")

    def built(*capabilities: str) -> build.Engine:
        options = BuildOptions(compute_capabilities=capabilities)
        return engine_from_onnx(
            OnnxFile(onnx_path), name="fcn", product=Product.RTX, options=options, folder=folder
        )

    assert built("sm89").differences == ()
    assert built("sm75").differences == ()  # another file: nothing was replaced
    assert built("sm89").current


def test_capabilities_are_sorted_and_told_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    machine = install(monkeypatch, "rtx-1.7.1", FakeCuda())
    onnx_path = write_onnx(tmp_path / "model.onnx")

    def built(*capabilities: str) -> tuple[list[str], build.Engine]:
        machine.trt._calls.clear()
        options = BuildOptions(compute_capabilities=capabilities)
        engine = engine_from_onnx(
            OnnxFile(onnx_path), name="fcn", product=Product.RTX, options=options, folder=folder
        )
        told = [call[11:].lower() for call in machine.trt._calls if call.startswith("capability ")]
        return told, engine

    told, engine = built()  # what the sidecar says is what the builder was told
    assert tuple(told) == engine.sidecar.compute_capabilities == api.RTX_DEFAULT_CAPABILITIES
    told, engine = built("sm120", "sm89", "sm89")
    assert tuple(told) == engine.sidecar.compute_capabilities == ("sm89", "sm120")
    assert engine.path.name.endswith(".sm89-sm120.plan")
    assert built("sm89", "sm120")[1].current


@pytest.mark.parametrize("text", ["nonsense", "", ",", "sm89,", "8.9", "none", "sm"])
def test_capabilities_that_are_none(text: str) -> None:
    with pytest.raises(
        InputError, match=r"is no compute capability; write e\.g\. --compute"
    ) as bad:
        build_options.parse_capabilities(text)
    assert len(str(bad.value).splitlines()) == 1
    assert build_options.parse_capabilities(" SM120,sm89 ,sm89") == ("sm89", "sm120")


def test_an_rtx_card_beyond_the_default_gets_an_engine_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    run = Run(tmp_path / "runs" / "city")
    write_onnx(run.onnx(FP16), FP16)
    said: list[str] = []

    def ensure() -> None:
        ensure_engine(run, FP16, outputs=("logits",), folder=folder, say=said.append)

    install(monkeypatch, "rtx-1.7.1", FakeCuda(major=7, minor=5))
    ensure()
    ensure()
    assert len(said) == 2  # the mask's and the logits' engine, once
    for plan in folder.glob("*.plan"):
        assert read_sidecar(plan).compute_capabilities == ("sm75",)
        assert " --compute-capability sm75" in read_sidecar(plan).command
    install(monkeypatch, "rtx-1.7.1", FakeCuda(major=9, minor=0))
    with pytest.raises(BackendError, match=r"RTX .* does not run on sm90, .* pip install"):
        ensure()
    assert len(said) == 2


def test_the_logits_engine_follows_the_masks_profiles(
    machine: FakeMachine, tmp_path: Path, folder: Path
) -> None:
    machine.cuda.major, machine.cuda.minor = 8, 9
    run = Run(tmp_path / "runs" / "city")
    write_onnx(run.onnx(FP16), FP16)
    said: list[str] = []

    def ensure() -> list[str]:
        ensure_engine(run, FP16, outputs=("mask", "logits"), folder=folder, say=said.append)
        return said

    assert len(ensure()) == 2
    assert {path.suffix for path in folder.iterdir()} == {".plan", ".json"}
    wider = (ShapeProfile((1, 1, 1), (1, 48, 64), (8, 2000, 2000)),)
    engine_from_onnx(
        OnnxFile(run.onnx(FP16)),
        name=run.name,
        product=machine.product,
        options=BuildOptions(wider),
        folder=folder,
        command="fcn-deploy build of mine",
    )
    assert len(ensure()) == 3
    assert "has other profiles" in said[-1]
    for plan in folder.glob("*.plan"):
        assert read_sidecar(plan).profiles == wider
        assert read_sidecar(plan).command == "fcn-deploy build of mine"
    assert len(ensure()) == 3


def test_ensure_engine_builds_what_is_missing_once(
    machine: FakeMachine, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.cuda.major, machine.cuda.minor = 8, 9
    run = Run(tmp_path / "runs" / "city")
    write_onnx(run.onnx(FP16), FP16)
    said: list[str] = []

    def ensure(*outputs: str) -> None:
        ensure_engine(run, FP16, outputs=outputs, folder=folder, say=said.append)

    ensure("mask")
    ensure("mask")
    assert len(said) == 1
    assert f"there is none in {folder}/" in said[0]
    assert "building one from" in said[0]
    ensure("mask", "margin")  # the shipped file hides its logits: a second engine shows them
    ensure("mask", "logits")
    assert len(said) == 2
    names = sorted(path.name.split(".trt")[0] for path in folder.glob("*.plan"))
    assert names == ["city.fp16", "city.logits.fp16"]
    write_onnx(run.onnx(FP16), FP16, opset=16)  # exported anew: the old engine does not fit
    ensure("mask")
    assert "was built from another file" in said[-1]


def test_ensure_engine_names_the_missing_stage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, "10.16.1", FakeCuda())
    with pytest.raises(MissingStageError, match="fcn-deploy export"):
        ensure_engine(Run(tmp_path), FP16)
    install(monkeypatch, "10.16.1", FakeCuda(devices=0))
    with pytest.raises(BackendError, match="no NVIDIA GPU"):
        ensure_engine(Run(tmp_path), FP16)


def test_the_command_is_the_one_to_type(tmp_path: Path) -> None:
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


def test_repairs_name_the_export_of_this_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = install(monkeypatch, "8.6.0", FakeCuda())
    monkeypatch.chdir(tmp_path)
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


@pytest.mark.parametrize(
    ("layers", "counts"),
    [
        ([(["Half"], ["UInt8"])], {"fp16": 1}),
        ([(["UInt8"], ["Half"])], {"fp16": 1}),
        ([(["Row major linear FP32"], ["Channel major FP16 format"])], {"fp32": 1}),
        ([(["Float"], [])], {"fp32": 1}),
        ([(["BFloat16"], [])], {"bf16": 1}),
        ([(["UInt8"], ["Int32"])], {"uint8": 1}),
        # What multiplies int8 may give its sums as floats; what rounds floats to int8 does not.
        ([(["Float"], ["Int8"]), (["Int8"], ["Int8"])], {"int8": 2}),
        ([(["Int8"], ["Float"]), (["Float"], ["Int8", "Float"])], {"fp32": 2}),
        ([([], [])], {"none": 1}),
        ([(["Half"], []), (["Half"], []), (["Int64"], [])], {"fp16": 2, "int64": 1}),
    ],
)
def test_layers_are_counted_by_the_precision_they_work_in(
    layers: list[layers_tensorrt.LayerTypes], counts: dict[str, int]
) -> None:
    assert layers_by_precision(layers) == counts


def test_constants_do_not_count_as_a_layers_precision() -> None:
    listing = (
        "Layers:\nName: a, LayerType: x, Inputs: [ { Name: i, Datatype: Half, Format: L }], "
        "Constants: [ { Name: c, Datatype: Float, Format: L }], Outputs: [], TacticName: Float"
    )
    assert layers_by_precision(layers_tensorrt.layers_of_listing(listing)) == {"fp16": 1}


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
    assert "TensorRT is not installed" in done.stdout


# The command


def run_command(*words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "fcn_deploy", *words], capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command_without_tensorrt_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(api, "is_installed", lambda product: False)
    write_onnx(tmp_path / "model.onnx")
    from fcn_deploy.cli import fcn_deploy as command

    result = CliRunner().invoke(command, ["build", str(tmp_path)])
    assert isinstance(result.exception, BackendError)
    assert "pip install 'fcn-deploy[trt]'" in str(result.exception)
    assert result.exception.exit_code == 2


def test_opening_trt_builds_what_is_missing_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fcn_deploy.commands.shared.backends import open_backend

    monkeypatch.chdir(tmp_path)
    cuda = FakeCuda()
    install(monkeypatch, "10.16.1", cuda)
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


def test_a_profile_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model.onnx")
    code, _, complaint = run_command("build", str(tmp_path), "--profile", "1x2:3")
    assert code == 2
    assert "is no profile" in complaint
    assert len(complaint.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--workspace", "99999999999999999999"), "1<=x<=1048576"),
        (("--profile", "1x1x1:1x1x1:1x1x2147483648"), "1x1x1:1x1x1:1x1x2147483648 is too large"),
        (("--compute-capability", "nonsense"), "'nonsense' is no compute capability"),
        (("--compute-capability", ","), "'' is no compute capability"),
    ],
)
def test_typed_nonsense_is_no_bug_of_ours(
    words: tuple[str, ...], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fcn_deploy.cli import main

    write_onnx(tmp_path / "model.onnx")
    with pytest.raises(SystemExit) as left:
        main(["build", str(tmp_path), *words])
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert complaint in said
    assert len(said.splitlines()) == 1


def test_an_engine_is_nothing_to_build_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fcn_deploy.cli import main

    write_onnx(tmp_path / "model.onnx")
    plan = tmp_path / "x.plan"
    plan.write_bytes(b"ftrt")
    with pytest.raises(SystemExit) as left:
        main(["build", str(plan)])
    assert left.value.code == 2
    assert f"{plan} is an engine already; give a run or an ONNX file" in capsys.readouterr().err


# TensorRT for RTX, real: it needs no GPU to build

rtx = pytest.mark.skipif(
    api.unavailable_reason(Product.RTX) is not None,
    reason=f"TensorRT for RTX: {api.unavailable_reason(Product.RTX)}",
)
#: (architecture, precision, outputs, opset): what `export` can write, each value with each other
#: on the small network, and one of each for the larger ones.
VARIANTS = [
    ("fcn32s-resnet18", precision, outputs, opset)
    for precision in (Precision.FP32, FP16)
    for outputs in (("mask",), ("mask", "logits"), ("mask", "margin"), OUTPUT_NAMES)
    for opset in (17, 20)
] + [
    ("fcn32s-resnet34", FP16, ("mask",), 20),
    ("fcn32s-resnet50", FP16, ("mask",), 20),
    ("fcn32s-resnet101", FP16, ("mask",), 17),
]
#: By the outputs or the architecture: no variant more for the other tails.
TAILS: dict[str | tuple[str, ...], Tail] = {
    ("mask", "logits"): Tail.DECONV,
    "fcn32s-resnet34": Tail.RESIZE,
}


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Random weights of an architecture, made once."""
    torch = pytest.importorskip("torch", reason="export needs PyTorch")
    from fcn_deploy.networks.architectures import build_model
    from fcn_deploy.networks.checkpoint import save_checkpoint

    made: dict[str, Path] = {}

    def checkpoint(architecture: str) -> Path:
        if architecture not in made:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = build_model(architecture, SPEC.num_classes)
            path = tmp_path_factory.mktemp(architecture) / "model.safetensors"
            save_checkpoint(path, model, replace(SPEC, architecture=architecture))
            made[architecture] = path
        return made[architecture]

    return checkpoint


@rtx
@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize(
    ("architecture", "precision", "outputs", "opset"),
    VARIANTS,
    ids=lambda value: (
        "+".join(value) if isinstance(value, tuple) else str(getattr(value, "value", value))
    ),
)
def test_the_real_parser_and_builder_take_every_export(
    architecture: str,
    precision: Precision,
    outputs: tuple[str, ...],
    opset: int,
    checkpoint_of: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    from fcn_deploy.export.exporter import onnx_from_checkpoint

    onnx_path = tmp_path / "model.onnx"
    onnx_from_checkpoint(
        checkpoint_of(architecture),
        onnx_path,
        precision=precision,
        outputs=outputs,
        opset=opset,
        # Early argmax where another tail is not to be seen as well.
        tail=TAILS.get(outputs, TAILS.get(architecture, Tail.EARLY_ARGMAX)),
        # A hundred untrained layers lose too many digits in half to pass; here they are parsed.
        checked=precision is Precision.FP32,
    )
    model = onnx.load(onnx_path)
    assert model.opset_import[0].version == opset
    if opset == 17:
        assert model.ir_version == 8
        (last,) = (node for node in model.graph.node if "mask" in node.output)
        assert (last.op_type, last.attribute[0].i) == ("Cast", onnx.TensorProto.UINT8)
        assert tensor_types(model)[last.input[0]] == onnx.TensorProto.FLOAT
    engine = engine_from_onnx(
        OnnxFile(onnx_path), name="fcn", product=Product.RTX, folder=tmp_path / "engines"
    )
    sidecar = read_engine(engine.path)
    assert sidecar.plan_digest == file_digest(engine.path)
    assert sidecar.outputs == outputs
    assert sidecar.version == api.installed_version(Product.RTX)
    convolutions = sum(node.op_type in ("Conv", "ConvTranspose") for node in model.graph.node)
    assert sidecar.layers[precision.value] >= convolutions
    if precision is Precision.FP32:
        assert "fp16" not in sidecar.layers


@rtx
def test_the_real_parser_names_the_node_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as failed:
        engine_from_onnx(
            OnnxFile(write_onnx(tmp_path / "model.onnx", node="Unheard", opset=20)),
            name="fcn",
            product=Product.RTX,
            folder=tmp_path / "engines",
        )
    assert "the_node" in str(failed.value)
    assert "Unheard" in str(failed.value)
    assert len(str(failed.value).splitlines()) == 1


@rtx
def test_the_real_command_builds_and_finds_it_current(
    checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    from fcn_deploy.export.exporter import onnx_from_checkpoint

    run, engines = Run(tmp_path / "runs" / "city"), tmp_path / "engines"
    onnx_from_checkpoint(checkpoint_of("fcn32s-resnet18"), run.onnx(FP16), precision=FP16)
    words = ("build", str(run.root), "--fp16", "--product", "trt-rtx", "--out", str(engines))
    code, said, complaint = run_command(*words)
    assert (code, complaint) == (0, "")
    assert "layers fp16" in said
    (plan,) = engines.glob("*.plan")
    content = json.loads(sidecar_path(plan).read_text())
    assert content["plan_digest"] == file_digest(plan)
    assert content["version"] == api.installed_version(Product.RTX)
    assert content["command"] == (
        f"fcn-deploy build {run.root} --fp16 --product trt-rtx --out {engines}"
    )
    code, said, complaint = run_command(*words)
    assert (code, complaint) == (0, "")
    assert "is current: same ONNX file" in said
    code, said, complaint = run_command(*words, "--compute-capability", "sm90")
    assert code == 2
    assert "does not build for sm90" in complaint
    assert len(complaint.splitlines()) == 1


def test_the_fake_releases_are_the_four_of_the_design() -> None:
    assert [version_of(release).split(".")[0] for release in RELEASES] == ["8", "10", "11", "1"]
