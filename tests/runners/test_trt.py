"""The TensorRT runner on a fake GPU that does its work as late as CUDA may."""

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.errors import (
    BackendError,
    BatchShapeError,
    DeviceMemoryError,
    EngineError,
    InputError,
)
from fcn_deploy.core.spec import ShapeProfile
from fcn_deploy.data.masks import read_mask
from fcn_deploy.predict.folder import predict
from fcn_deploy.runners.base import open_runner, unavailable_reason
from fcn_deploy.tensorrt import api
from tests import fake_tensorrt
from tests.fake_cuda import FakeCuda
from tests.fake_tensorrt import SCRATCH_BYTES, fake_mask
from tests.runners import trt_runner
from tests.runners.trt_runner import FP16, assert_masks, make_run, open_trt, pictures
from tests.tensorrt_fixtures import FakeMachine, install

latest, machine = trt_runner.latest, trt_runner.machine


def test_masks_of_every_release(machine: FakeMachine) -> None:
    with open_trt(make_run(machine)) as runner:
        for seed, shape in enumerate([(1, 8, 9), (3, 8, 9), (1, 8, 9), (1, 1, 1), (1, 97, 131)]):
            images = pictures(shape, seed)
            mask = runner.run(images).mask
            assert mask.dtype == np.uint8
            np.testing.assert_array_equal(mask, fake_mask(images))
        description = runner.describe()
    assert description.backend == "trt"
    assert description.device == "cuda:0 (Fake GPU)"
    assert description.precision == "fp16"
    assert machine.trt.__version__ in description.library
    assert description.checkpoint_digest == "sha256:checkpoint"
    assert set(machine.cuda.held().values()) == {0}


def test_results_are_the_callers_own(latest: FakeMachine) -> None:
    with open_trt(make_run(latest)) as runner:
        first = runner.run(pictures((2, 8, 8), 1)).mask
        kept = first.copy()
        runner.run(pictures((2, 8, 8), 2))
        np.testing.assert_array_equal(first, kept)
        assert first.flags.writeable
    np.testing.assert_array_equal(first, kept)


def test_read_only_and_strided_images(latest: FakeMachine) -> None:
    images = pictures((2, 8, 9))
    mirrored = images[:, :, ::-1]
    images.flags.writeable = False
    with open_trt(make_run(latest)) as runner:
        assert_masks(runner, images)
        assert_masks(runner, mirrored)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 1), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
    ],
)
def test_wrong_input_is_refused_before_any_device_call(
    latest: FakeMachine, images: NDArray[np.uint8]
) -> None:
    with open_trt(make_run(latest)) as runner:
        pinned = latest.cuda.in_use("pinned")
        with pytest.raises(InputError):
            runner.run(images)
        with pytest.raises(InputError):
            list(runner.stream([images]))
        assert latest.cuda.in_use("pinned") == pinned


@pytest.mark.parametrize("batch_size", [1, 3])
def test_predict_reports_a_picture_that_the_engine_does_not_take_and_goes_on(
    latest: FakeMachine, tmp_path: Path, batch_size: int
) -> None:
    sizes = [(8, 8), (8, 8), (20, 8), (8, 8), (8, 8), (8, 8), (16, 16)]
    files = [tmp_path / f"{number}.png" for number in range(len(sizes))]
    for number, (file, size) in enumerate(zip(files, sizes, strict=True)):
        Image.fromarray(pictures((1, *size), number)[0]).save(file)
    # Of three at once it takes none: those are done one by one.
    profile = ShapeProfile((1, 8, 8), (1, 8, 8), (2, 16, 16))
    with open_trt(make_run(latest, profile)) as runner:
        palette = runner.spec.palette
        done = list(predict(runner, files, tmp_path / "out", batch_size=batch_size))
    assert [prediction.source for prediction in done] == files
    for number, prediction in enumerate(done):
        if sizes[number] == (20, 8):
            assert prediction.mask is None
            assert "takes no batch of 1x20x8" in str(prediction.error)
        else:
            assert prediction.mask is not None
            expected = fake_mask(pictures((1, *sizes[number]), number))[0]
            np.testing.assert_array_equal(read_mask(prediction.mask, palette), expected)


def test_a_shape_outside_the_profiles_names_the_nearest_and_the_build(machine: FakeMachine) -> None:
    small = ShapeProfile((1, 8, 8), (1, 8, 8), (2, 16, 16))
    large = ShapeProfile((1, 64, 64), (1, 64, 64), (4, 128, 128))
    with open_trt(make_run(machine, small, large)) as runner:
        for shape in ((2, 16, 16), (4, 128, 128), (1, 8, 16)):
            assert_masks(runner, pictures(shape))
        with pytest.raises(BatchShapeError) as refused:
            runner.run(pictures((2, 20, 16)))
        assert "the nearest profile is 1x8x8:1x8x8:2x16x16" in str(refused.value)
        assert "`fcn-deploy build runs/city --fp16 --profile 1x8x8:1x8x8:2x20x16`" in str(
            refused.value
        )
        runner.run(pictures((1, 8, 8)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("execute_async_v3", "could not run the engine: no message"),
        ("set_tensor_address", "takes no address for image: no message"),
        ("set_optimization_profile_async", "cannot switch to profile 0: Error in set optimization"),
    ],
)
def test_an_older_error_of_tensorrt_is_not_quoted(
    call: str, message: str, latest: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = api.load(latest.product).logger

    def complain() -> None:
        logger.log(latest.trt.ILogger.ERROR, "out of memory, a while ago")

    def infer_shapes(context: object) -> list[str]:
        complain()
        return []

    run = make_run(latest)
    with open_trt(run) as runner:
        runner.run(pictures((1, 8, 8)))
        complain()

        def fail(*arguments: object) -> bool:
            if call == "set_optimization_profile_async":
                raise RuntimeError("Error in set optimization profile async.")
            return False

        monkeypatch.setattr(fake_tensorrt._IExecutionContext, call, fail)
        if call == "execute_async_v3":
            monkeypatch.setattr(fake_tensorrt._IExecutionContext, "infer_shapes", infer_shapes)
        if call == "set_optimization_profile_async":
            runner.close()
            runner = open_trt(run)
            complain()
        with runner, pytest.raises(BackendError, match=message):
            runner.run(pictures((2, 8, 8)))


@pytest.mark.parametrize(
    "raised",
    [
        RuntimeError("Error code: -1"),
        TypeError("incompatible function arguments"),
        ValueError("__len__() should return >= 0"),
    ],
    ids=["runtime", "type", "value"],
)
@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("set_optimization_profile_async", "cannot switch to profile 0"),
        ("set_input_shape", "takes no shape for image"),
        ("infer_shapes", "cannot infer the shapes"),
        ("get_tensor_shape", "knows no shape of mask"),
        ("set_tensor_address", "takes no address for image"),
        ("execute_async_v3", "could not run the engine"),
    ],
)
def test_what_a_call_of_the_binding_raises_is_an_error_of_ours(
    call: str,
    sentence: str,
    raised: Exception,
    latest: FakeMachine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logger = api.load(latest.product).logger

    def fail(*arguments: object) -> None:
        raise raised

    def complain_and_fail(*arguments: object) -> None:
        logger.log(latest.trt.ILogger.ERROR, "Error Code 4: no\nsuch profile")
        raise raised

    with open_trt(make_run(latest)) as runner:
        for failing, reason in (
            (fail, str(raised)),
            (complain_and_fail, "Code 4: no such profile"),
        ):
            with monkeypatch.context() as patched:
                patched.setattr(fake_tensorrt._IExecutionContext, call, failing)
                with pytest.raises(BackendError, match=sentence) as refused:
                    runner.run(pictures((1, 8, 8)))
            assert str(refused.value).endswith(reason)
        assert_masks(runner, pictures((1, 8, 8), 1))


def test_an_older_error_does_not_explain_a_plan_that_cannot_be_loaded(
    latest: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(latest)
    api.load(latest.product).logger.log(latest.trt.ILogger.ERROR, "out of memory")
    monkeypatch.setattr(fake_tensorrt._Runtime, "deserialize_cuda_engine", lambda self, plan: None)
    with pytest.raises(EngineError, match=r"cannot load .*: no message"):
        open_trt(run)


def test_out_of_memory_says_the_sizes_and_the_runner_goes_on(latest: FakeMachine) -> None:
    profile = ShapeProfile((1, 1, 1), (1, 8, 8), (64, 2048, 2048))
    run = make_run(latest, profile)
    with open_trt(run) as runner:
        runner.run(pictures((1, 8, 8)))
        before = latest.cuda.in_use()
        latest.cuda.device_memory = before + (5 << 20)
        with pytest.raises(DeviceMemoryError) as refused:
            runner.run(pictures((8, 600, 600)))
        assert "a batch of 8x600x600 (N×H×W) needs 11 MiB" in str(refused.value)
        assert "are free" in str(refused.value)
        assert_masks(runner, pictures((1, 8, 8), 3))
        assert latest.cuda.in_use() <= before


def test_no_room_for_the_engine_itself(latest: FakeMachine) -> None:
    run = make_run(latest)
    latest.cuda.device_memory = SCRATCH_BYTES - 1
    with pytest.raises(DeviceMemoryError, match="scratch memory"):
        open_trt(run)
    assert set(latest.cuda.held().values()) == {0}


def test_closed_means_closed(latest: FakeMachine) -> None:
    runner = open_trt(make_run(latest))
    runner.close()
    runner.close()
    with pytest.raises(BackendError, match="closed"):
        runner.run(pictures((1, 8, 8)))


def test_cpu_is_refused(latest: FakeMachine) -> None:
    with pytest.raises(BackendError, match="drop --device cpu"):
        open_runner(make_run(latest), "trt", precision=FP16, device="cpu")


def test_which_of_the_two_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "10.16.1")
    assert unavailable_reason("trt") is None
    install(monkeypatch, "10.16.1", FakeCuda(devices=0))
    reason = unavailable_reason("trt")
    assert reason is not None
    assert reason.startswith("no NVIDIA GPU")
    install(monkeypatch, "10.16.1")
    monkeypatch.setattr(api, "is_installed", lambda product: False)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    reason = unavailable_reason("trt")
    assert reason is not None
    assert reason.startswith("TensorRT needs tensorrt, which cannot be imported")
