"""A new engine's layers: whatever goes wrong in counting them, engine and timings are kept."""

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from fcn_deploy.core.errors import ArtifactError, BuildError
from fcn_deploy.core.spec import Precision, Product
from fcn_deploy.tensorrt import build
from fcn_deploy.tensorrt.build_options import BuildOptions
from fcn_deploy.tensorrt.engine_file import read_engine, read_sidecar
from tests import tensorrt_fixtures
from tests.tensorrt_fixtures import ENGINES, MODEL, FakeMachine, Install, write_onnx

installed = tensorrt_fixtures.installed
machine = tensorrt_fixtures.machine
FP16, INT8 = Precision.FP16, Precision.INT8


def raises() -> NoReturn:
    raise RuntimeError("Error in get engine information.\n(of the binding)")


def layers(*types: str) -> Callable[[], str]:
    """An inspector's text with layers that give tensors of these types."""
    entries = [
        {"Name": f"conv {index}", "Outputs": [{"Format/Datatype": kind}]}
        for index, kind in enumerate(types)
    ]
    return lambda: json.dumps({"Layers": entries})


NOT_TOLD = "N/A due to dynamic shapes"
TROUBLES: dict[str, tuple[Callable[[], str], str]] = {
    "no JSON": (lambda: "Layer(s): conv\nconv2", "engine inspector: no JSON (Expecting value"),
    "nothing": (lambda: "", "engine inspector: no JSON (Expecting value"),
    "a list": (lambda: "[1, 2]", "no JSON (expected a JSON object, found list)"),
    "odd layers": (
        lambda: '{"Layers": [7, {"Outputs": {}}, {"Inputs": [null]}]}',
        "engine inspector: no types",
    ),
    "raises": (raises, "RuntimeError: Error in get engine information. (of the binding)"),
    "no types": (layers(NOT_TOLD, NOT_TOLD), "engine inspector: no types"),
}


#: What is asked for where the product has one.
CACHE = Path("timing.cache")


def built(machine: FakeMachine, cache: Path | None = CACHE) -> build.Engine:
    timings = cache if machine.product is Product.TRT else None
    return machine.build(options=BuildOptions(timing_cache=timings))


def kept_untold(machine: FakeMachine) -> str:
    """Build an engine whose layers nobody tells; return why, once all is seen in its place."""
    machine.trt._logs_layers = False
    write_onnx(MODEL, FP16)
    engine = built(machine)
    assert engine.sidecar.layers == {}
    assert_kept(machine, engine)
    return engine.sidecar.layers_from


def killed() -> NoReturn:
    """As a crash of TensorRT's would end the process."""
    raise KeyboardInterrupt


def timings_lost(path: Path, content: bytes, *, flags: str | None = None) -> NoReturn:
    raise ArtifactError(f"cannot write {path}: No space left on device", "free some space")


def assert_kept(machine: FakeMachine, engine: build.Engine) -> None:
    """Engine, sidecar and timings lie in their places, and nothing else does."""
    assert read_engine(engine.path) == engine.sidecar
    assert not list(ENGINES.glob("*.unverified*"))
    assert machine.product is Product.RTX or CACHE.read_bytes() == b" timed"


@pytest.mark.parametrize("trouble", TROUBLES)
def test_an_engine_whose_layers_are_not_told_is_kept_and_says_so(
    machine: FakeMachine, trouble: str
) -> None:
    machine.trt._inspector, reason = TROUBLES[trouble]
    told = kept_untold(machine)
    assert told.startswith("not told (")
    assert reason in told
    assert len(told.splitlines()) == 1


def test_an_engine_that_tensorrt_does_not_load_is_kept_with_its_word(machine: FakeMachine) -> None:
    machine.trt._loads_engines = False
    assert kept_untold(machine) == (
        "not told (engine inspector: TensorRT does not load its own engine: "
        "The engine cannot be deserialized.)"
    )


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (False, "its context refuses (1, 48, 64)"),
        (RuntimeError("of the binding"), "of the binding"),
    ],
)
def test_an_engine_whose_context_does_not_serve_is_kept(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch, answer: bool | Exception, reason: str
) -> None:
    def set_input_shape(context: object, name: str, shape: object) -> bool:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(machine.trt.IExecutionContext, "set_input_shape", set_input_shape)
    assert reason in kept_untold(machine)


def test_the_builders_log_tells_what_the_inspector_does_not(machine: FakeMachine) -> None:
    machine.trt._inspector = layers(NOT_TOLD)
    write_onnx(MODEL, FP16)
    engine = built(machine)
    assert engine.sidecar.layers == {"fp16": 1}
    assert engine.sidecar.layers_from == "builder log; engine inspector: no types"


def test_a_log_without_half_layers_refuses_as_the_inspector_does(machine: FakeMachine) -> None:
    machine.trt._inspector, machine.trt._half_layers = layers(NOT_TOLD), False
    write_onnx(MODEL, FP16)
    with pytest.raises(BuildError, match=r"no half-precision layer \(1 layers fp32, builder log"):
        built(machine)


@pytest.mark.parametrize(
    ("types", "count"),
    [
        # What is told is float32, but what is not told may be half.
        (("Row major linear FP32", NOT_TOLD), {"fp32": 1, "unknown": 1}),
        # Nothing told is a float.
        (("Row major linear INT32",), {"int32": 1}),
    ],
)
def test_an_engine_is_refused_only_where_all_its_floats_are_told(
    machine: FakeMachine, types: tuple[str, ...], count: dict[str, int]
) -> None:
    machine.trt._inspector, machine.trt._logs_layers = layers(*types), False
    write_onnx(MODEL, FP16)
    assert built(machine).sidecar.layers == count
    machine.trt._inspector = layers("Row major linear FP32", "Row major linear INT32")
    write_onnx(MODEL, FP16, checkpoint="sha256:other")
    with pytest.raises(BuildError, match="no half-precision layer"):
        built(machine)


def test_a_refused_engine_leaves_its_plan_beside_its_place_and_the_next_takes_it_away(
    machine: FakeMachine,
) -> None:
    machine.trt._half_layers = False
    write_onnx(MODEL, FP16)
    with pytest.raises(BuildError) as failed:
        built(machine)
    (left,) = ENGINES.iterdir()
    assert left.name.endswith(".plan.unverified")
    assert f"its plan is left at {left}" in str(failed.value)
    assert "no half-precision layer" in str(failed.value)
    assert failed.value.exit_code == 1
    assert machine.product is Product.RTX or CACHE.read_bytes() == b" timed"
    assert len(str(failed.value).splitlines()) == 1
    assert left.read_bytes()[:4] in (b"ftrt", b"vtrt")
    machine.trt._half_layers = True
    engine = built(machine)
    assert engine.sidecar.layers_from == "engine inspector"  # built anew, and counted
    assert engine.path == left.with_suffix("")
    assert not left.exists()


@pytest.mark.parametrize(
    ("logs", "count", "told"),
    [
        (False, {}, "not told (engine inspector: the process ended while it was asked)"),
        (True, {"fp16": 1}, "builder log; engine inspector: the process ended while it was asked"),
    ],
)
def test_a_count_that_ends_the_process_costs_neither_plan_nor_timings(
    machine: FakeMachine,
    monkeypatch: pytest.MonkeyPatch,
    logs: bool,
    count: dict[str, int],
    told: str,
) -> None:
    """As a crash of TensorRT's would: the next build takes what lies there, and asks no more."""

    machine.trt._inspector, machine.trt._logs_layers = killed, logs
    write_onnx(MODEL, FP16)
    with pytest.raises(KeyboardInterrupt):
        built(machine)
    left = sorted(file.name.partition(".plan")[2] for file in ENGINES.iterdir())
    assert left == [".unverified", ".unverified.json"]
    assert machine.product is Product.RTX or CACHE.read_bytes() == b" timed"

    def must_not_build(self: object, network: object, config: object) -> NoReturn:
        raise AssertionError("built anew")

    with monkeypatch.context() as patch:
        patch.setattr(machine.trt.Builder, "build_serialized_network", must_not_build)
        engine = built(machine)
        assert engine.sidecar.layers == count
        assert engine.sidecar.layers_from == told
        assert "that process ended before its layers were counted" in engine.warnings[0]
        assert_kept(machine, engine)
        assert built(machine).current


def test_what_was_left_behind_of_another_file_is_not_taken(machine: FakeMachine) -> None:
    machine.trt._inspector = killed
    write_onnx(MODEL, FP16)
    with pytest.raises(KeyboardInterrupt):
        built(machine)
    machine.trt._inspector = None
    write_onnx(MODEL, FP16, checkpoint="sha256:other")
    engine = built(machine)
    assert engine.sidecar.checkpoint_digest == "sha256:other"
    assert engine.sidecar.layers_from == "engine inspector"
    assert not list(ENGINES.glob("*.unverified*"))


def test_a_plan_left_behind_whose_log_names_no_half_layer_is_refused(machine: FakeMachine) -> None:
    machine.trt._inspector, machine.trt._half_layers = killed, False
    write_onnx(MODEL, FP16)
    with pytest.raises(KeyboardInterrupt):
        built(machine)
    with pytest.raises(BuildError, match=r"no half-precision layer \(1 layers fp32, builder log"):
        built(machine)
    assert [file.suffix for file in ENGINES.glob("*plan*")] == [".unverified"]


def test_a_timing_cache_that_cannot_be_written_costs_no_engine(
    installed: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = installed("10.16.1")

    machine.trt._inspector = layers("Row major linear FP16 format")
    monkeypatch.setattr(build, "write_bytes", timings_lost)
    write_onnx(MODEL, FP16)
    with pytest.raises(ArtifactError, match=r"cannot write .*timing\.cache"):
        built(machine)
    (plan,) = ENGINES.glob("*.plan")
    assert read_engine(plan).layers == {"fp16": 1}


@pytest.mark.parametrize("trouble", ["a folder", "unreadable", "unwritable"])
def test_the_default_timing_cache_costs_no_command(
    installed: Install, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """It was not asked for, and saves time alone: one of no use is named, and that is all."""
    machine = installed("10.16.1")
    write_onnx(MODEL, FP16)
    cache = ENGINES / "timing.trt-10.16.1.11.sm89.cache"
    real_open = Path.open

    def refused(path: Path, *arguments: object, **named: object) -> object:
        if path == cache:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real_open(path, *arguments, **named)  # type: ignore[call-overload]

    if trouble == "a folder":
        cache.mkdir(parents=True)
        reason = "cannot write .*: Is a directory"
    elif trouble == "unreadable":
        ENGINES.mkdir()
        cache.write_bytes(b"timings")
        monkeypatch.setattr(Path, "open", refused)
        reason = "cannot read .*: Permission denied"
    else:
        monkeypatch.setattr(build, "write_bytes", timings_lost)
        reason = "the timing cache is not kept: cannot write .*: No space left"
    engine = built(machine, None)
    (warning,) = engine.warnings
    assert re.search(reason, warning)
    assert engine.sidecar.layers == {"fp16": 1}
    assert read_sidecar(engine.path) == engine.sidecar


def test_timings_that_tensorrt_does_not_give_cost_no_engine(
    installed: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = installed("10.16.1")

    def fails(cache: object) -> NoReturn:
        raise RuntimeError("no memory to serialize in")

    monkeypatch.setattr(machine.trt.ITimingCache, "serialize", fails)
    write_onnx(MODEL, FP16)
    engine = built(machine)
    assert read_engine(engine.path).layers == {"fp16": 1}
    assert not CACHE.exists()


@pytest.mark.parametrize("release", ["8.6.0", "10.16.1"])
def test_a_float_rest_is_no_fault_of_an_int8_engine(installed: Install, release: str) -> None:
    machine = installed(release)
    machine.trt._inspector = layers("Row major Int8 format", "Row major linear FP32")
    write_onnx(MODEL, INT8)
    assert built(machine).sidecar.layers == {"fp32": 1, "int8": 1}


def test_the_command_says_that_the_layers_are_not_told(
    installed: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    from fcn_deploy.cli import fcn_deploy as command

    machine = installed("8.6.0")
    machine.trt._inspector, machine.trt._logs_layers = layers(NOT_TOLD), False
    write_onnx(Path("model.fp16.onnx"), FP16)
    words = ["build", ".", "--fp16"]
    command.main(words, standalone_mode=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "layers not told (engine inspector: no types)" in said
