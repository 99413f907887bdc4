"""Which engines the TensorRT runner opens for a run, and which it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fcn_deploy.core.errors import BatchShapeError, EngineError, MissingStageError
from fcn_deploy.core.files import file_digest, json_bytes
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Product
from fcn_deploy.tensorrt import api
from fcn_deploy.tensorrt.build_missing import ensure_engine
from fcn_deploy.tensorrt.build_options import BuildOptions
from fcn_deploy.tensorrt.engine_file import read_sidecar, sidecar_path
from fcn_deploy.tensorrt.portability import Portability
from tests.fake_tensorrt import fake_logits, fake_mask
from tests.file_reads import counted_reads
from tests.runners import trt_runner
from tests.runners.trt_runner import FP16, assert_masks, make_run, open_trt, pictures
from tests.tensorrt_fixtures import FakeMachine, write_onnx

latest, machine = trt_runner.latest, trt_runner.machine


def test_logits_come_from_a_second_engine_and_the_mask_from_the_shipped_one(
    machine: FakeMachine,
) -> None:
    run = make_run(machine)
    with pytest.raises(MissingStageError) as missing:
        open_trt(run, "mask", "logits")
    assert "run `fcn-deploy parity runs/city --backend trt --fp16` first" in str(missing.value)
    ensure_engine(run, FP16, outputs=("logits", "margin"), product=machine.product.value)
    images = pictures((2, 8, 9))
    with open_trt(run, "mask", "logits", "margin") as runner:
        assert "logits" not in runner.describe().file
        assert runner.describe().tail == "early-argmax"
        outputs = runner.run(images)
        (streamed,) = runner.stream([images])
    np.testing.assert_array_equal(outputs.mask, fake_mask(images))
    assert outputs.logits is not None
    assert outputs.logits.dtype == np.float32
    np.testing.assert_array_equal(outputs.logits, fake_logits(images))
    assert outputs.margin is not None
    np.testing.assert_array_equal(outputs.margin, np.ones((2, 8, 9), np.float32))
    np.testing.assert_array_equal(streamed.mask, outputs.mask)
    assert set(machine.cuda.held().values()) == {0}


def test_the_onnx_file_is_read_once_to_build_and_once_to_open(latest: FakeMachine) -> None:
    run = make_run(latest)
    path = run.onnx(FP16).resolve()
    with counted_reads() as building:
        ensure_engine(run, FP16, outputs=("mask", "logits"), product=latest.product.value)
    with counted_reads() as opening:
        open_trt(run, "mask", "logits").close()
    assert (building[path], opening[path]) == (1, 1)


def test_an_engine_that_gives_logits_needs_no_second(latest: FakeMachine) -> None:
    run = make_run(latest, outputs=("mask", "logits"))
    images = pictures((2, 8, 9))
    with open_trt(run, "mask", "logits") as runner:
        np.testing.assert_array_equal(runner.run(images).logits, fake_logits(images))


def test_a_named_engine_is_checked_before_tensorrt_is_loaded(
    latest: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(latest)
    (plan,) = Path("engines").glob("*.plan")
    named = Run.from_argument(plan)
    with open_trt(named) as runner:
        assert_masks(runner, pictures((1, 8, 8)))

    def must_not_load(product: Product) -> None:
        raise AssertionError("TensorRT was loaded")

    monkeypatch.setattr(api, "installed_version", lambda product: latest.trt.__version__)
    monkeypatch.setattr(api, "load", must_not_load)
    latest.cuda.minor = 0
    with pytest.raises(EngineError, match="expected compute capability sm80, found sm89"):
        open_trt(named)
    latest.cuda.minor = 9
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(EngineError, match="is truncated"):
        open_trt(named)


def test_a_plan_without_sidecar_runs_only_when_trusted(machine: FakeMachine) -> None:
    run = make_run(machine)
    (plan,) = Path("engines").glob("*.plan")
    sidecar_path(plan).unlink()
    with pytest.raises(MissingStageError, match="--trust"):
        open_trt(Run(run.root, plan))
    with open_trt(Run(run.root, plan, trusted=True)) as runner:
        assert_masks(runner, pictures((1, 8, 8)))
        with pytest.raises(BatchShapeError, match="nearest profile"):
            runner.run(pictures((9, 8, 8)))


def test_a_plan_whose_header_says_nothing_runs_on_the_word_of_its_sidecar(
    machine: FakeMachine,
) -> None:
    run = make_run(machine)
    (plan,) = Path("engines").glob("*.plan")
    sidecar = read_sidecar(plan)
    plan.write_bytes(b"????" + plan.read_bytes()[4:])
    renewed = replace(sidecar, plan_digest=file_digest(plan))
    sidecar_path(plan).write_bytes(json_bytes(renewed.to_json()))
    images = pictures((1, 8, 8))
    with open_trt(run) as runner:
        assert_masks(runner, images)
        assert "is no TensorRT plan" in str(runner.describe().to_json()["note"])
    sidecar_path(plan).unlink()
    with pytest.raises(EngineError, match="is no TensorRT plan"):
        open_trt(Run(run.root, plan, trusted=True))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"input": "data"}, "takes data and gives mask, not what our graph takes and gives"),
        ({"outputs": ["scores"]}, "takes image and gives scores, not what our graph"),
        ({"outputs": ["mask", "boxes"]}, "takes image and gives mask, boxes, not what our graph"),
    ],
)
def test_a_trusted_engine_of_another_network_is_refused(
    latest: FakeMachine, changed: dict[str, object], sentence: str
) -> None:
    run = make_run(latest)
    (plan,) = Path("engines").glob("*.plan")
    sidecar_path(plan).unlink()
    header, payload = plan.read_bytes()[:28], json.loads(plan.read_bytes()[28:])
    plan.write_bytes(header + json.dumps({**payload, **changed}).encode())
    with pytest.raises(EngineError, match=sentence):
        open_trt(Run(run.root, plan, trusted=True))
    assert set(latest.cuda.held().values()) == {0}


def test_an_engine_of_another_export_is_not_taken(latest: FakeMachine) -> None:
    run = make_run(latest)
    write_onnx(run.onnx(FP16), FP16, checkpoint="sha256:other")
    with pytest.raises(MissingStageError) as missing:
        open_trt(run)
    assert "was built from another file" in str(missing.value)
    assert "run `fcn-deploy build runs/city --fp16` first" in str(missing.value)


def test_logits_of_an_older_export_are_not_taken(latest: FakeMachine) -> None:
    """Not even of the same checkpoint: new masks would be judged by old logits."""
    run = make_run(latest)
    ensure_engine(run, FP16, outputs=("mask", "logits"))
    open_trt(run, "mask", "logits").close()
    write_onnx(run.onnx(FP16), FP16, opset=16)
    ensure_engine(run, FP16, outputs=("mask",))
    open_trt(run).close()
    with pytest.raises(MissingStageError, match="no engine of runs/city gives logits here"):
        open_trt(run, "mask", "logits")
    run.onnx(FP16).unlink()  # engines alone: the masks' engine tells its file
    with pytest.raises(MissingStageError, match="no engine of runs/city gives logits here"):
        open_trt(run, "mask", "logits")


@pytest.mark.parametrize("portable", list(Portability))
def test_the_engine_of_this_gpu_goes_before_a_portable_one_built_later(
    latest: FakeMachine, portable: Portability
) -> None:
    run = make_run(latest)
    with open_trt(run) as runner:
        exact = runner.describe()
    later = latest.build(run.onnx(FP16), name=run.name, options=BuildOptions(portable=portable))
    renewed = replace(later.sidecar, built_at="2100-01-01T00:00:00+00:00")
    sidecar_path(later.path).write_bytes(json_bytes(renewed.to_json()))
    with open_trt(run) as runner:
        assert runner.describe() == exact
        assert "portable" not in runner.describe().to_json()
    Path(exact.file).unlink()
    with open_trt(run) as runner:
        assert runner.describe().file == str(later.path)
        assert runner.describe().to_json()["portable"] == portable.value


def test_a_machine_with_engines_alone_takes_them_by_name(latest: FakeMachine) -> None:
    run = make_run(latest)
    run.onnx(FP16).unlink()
    with open_trt(run) as runner:
        runner.run(pictures((1, 8, 8)))
    with pytest.raises(MissingStageError):
        open_trt(Run(Path("runs/other")))
