"""The builder on four fake releases: its options, its refusals, its progress and its end."""

from pathlib import Path
from typing import Any

import pytest

from fcn_deploy.core.errors import BackendError, BuildError, InputError
from fcn_deploy.core.spec import Precision, Product
from fcn_deploy.tensorrt.build_options import BuildOptions
from tests import tensorrt_fixtures
from tests.fake_cuda import FakeCuda
from tests.tensorrt_fixtures import ENGINES, MODEL, FakeMachine, Install, write_onnx

installed = tensorrt_fixtures.installed
machine = tensorrt_fixtures.machine
FP16 = Precision.FP16


def test_an_int8_engine_without_8_bit_layers_is_a_failed_build(machine: FakeMachine) -> None:
    write_onnx(MODEL, Precision.INT8)
    with pytest.raises(BuildError, match=r"no 8-bit layer .* no INT8 engine") as failed:
        machine.build()
    assert failed.value.repair is not None
    assert "--int8` again" in failed.value.repair
    assert not list(ENGINES.glob("*.plan"))


def test_timings_are_kept_though_no_engine_was_built(
    installed: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = installed("10.16.1")

    def out_of_memory(builder: Any, network: Any, config: Any) -> None:
        builder._logger.log(machine.trt.ILogger.ERROR, "Could not allocate workspace memory.")

    monkeypatch.setattr(machine.trt.Builder, "build_serialized_network", out_of_memory)
    cache = Path("timing.cache")
    with pytest.raises(BuildError, match=r"built no engine .*: Could not allocate workspace"):
        machine.build(write_onnx(MODEL, FP16), options=BuildOptions(timing_cache=cache))
    assert cache.read_bytes() == b" timed"
    assert list(ENGINES.glob("*")) == []


def test_what_the_parser_refuses_is_told_by_node(machine: FakeMachine) -> None:
    write_onnx(MODEL, node="Unheard")
    with pytest.raises(BuildError) as failed:
        machine.build()
    assert "node 'the_node' (Unheard): no importer for this operator" in str(failed.value)
    assert list(ENGINES.glob("*")) == []


def test_options_reach_the_builder(machine: FakeMachine) -> None:
    MODEL, cache = write_onnx(), Path("timing.cache")
    if machine.product is Product.RTX:
        with pytest.raises(InputError, match="no timing cache; drop --timing-cache"):
            machine.build(options=BuildOptions(timing_cache=cache))
        options = BuildOptions(compute_capabilities=("sm89", "sm120"), workspace_mib=3)
    else:
        options = BuildOptions(timing_cache=cache, workspace_mib=3)
        with pytest.raises(InputError, match="drop --compute-capability"):
            machine.build(options=BuildOptions(compute_capabilities=("sm89",)))
    engine = machine.build(options=options)
    assert f"WORKSPACE {3 << 20}" in machine.trt._calls
    if machine.product is Product.RTX:
        assert {"capability SM89", "capability SM120"} <= set(machine.trt._calls)
        assert engine.path.name.endswith(".sm89-sm120.plan")
        return
    if machine.release == "8.6.0":  # the release that must be told so
        assert "PROFILE_SHARING_0806" in engine.sidecar.flags["builder"]
    assert cache.read_bytes() == b" timed"
    assert engine.warnings == ()
    cache.write_bytes(b"foreign")  # of another GPU: refused, then begun afresh
    engine = machine.build(write_onnx(MODEL, checkpoint="sha256:other"), options=options)
    assert cache.read_bytes() == b" timed"
    assert engine.warnings == (
        f"{cache} holds no timings of this TensorRT and GPU: it is begun afresh",
    )


def test_progress_is_told_where_the_release_tells_it(machine: FakeMachine) -> None:
    write_onnx()
    seen: list[tuple[str, int, int]] = []
    machine.build(on_progress=lambda *step: seen.append(step))
    expected = [] if machine.release == "8.6.0" else [("Building", 1, 2), ("Building", 2, 2)]
    assert seen == expected


def test_ctrl_c_stops_the_build_and_leaves_nothing(machine: FakeMachine) -> None:
    if machine.release == "8.6.0":
        pytest.skip("TensorRT 8.6 has no progress monitor to stop by")

    def interrupt(phase: str, done: int, steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        machine.build(write_onnx(), on_progress=interrupt)
    assert list(ENGINES.glob("*")) == []


def test_tensorrt_needs_a_gpu_to_build_and_rtx_does_not(installed: Install) -> None:
    write_onnx(MODEL, FP16)
    no_gpu = FakeCuda(devices=0)
    machine = installed("10.16.1", no_gpu)
    with pytest.raises(BackendError, match="no NVIDIA GPU"):
        machine.build()
    machine = installed("rtx-1.7.1", no_gpu)
    engine = machine.build()
    assert engine.sidecar.layers == {"fp16": 1}
    assert engine.sidecar.layers_from == "builder log"
