"""The TensorRT runner on a fake GPU that does its work as late as CUDA may."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.errors import (
    BackendError,
    BatchShapeError,
    CudaError,
    DeviceMemoryError,
    EngineError,
    InputError,
    MissingStageError,
)
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import BatchShape, Precision, Product, ShapeProfile
from fcn_deploy.data.masks import read_mask
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.machine import cuda
from fcn_deploy.predict.folder import predict
from fcn_deploy.runners.base import open_runner, unavailable_reason
from fcn_deploy.runners.trt import TrtRunner
from fcn_deploy.tensorrt import api
from fcn_deploy.tensorrt.build import engine_from_onnx
from fcn_deploy.tensorrt.build_missing import ensure_engine
from fcn_deploy.tensorrt.build_options import BuildOptions
from fcn_deploy.tensorrt.engine_file import sidecar_path
from fcn_deploy.tensorrt.execution import MAX_GRAPHS
from tests import fake_tensorrt
from tests.fake_cuda import FakeCuda
from tests.fake_tensorrt import RELEASES, SCRATCH_BYTES, fake_logits, fake_mask
from tests.file_reads import counted_reads
from tests.tensorrt_fixtures import FakeMachine, install, write_onnx

FP16 = Precision.FP16


@pytest.fixture(params=RELEASES)
def machine(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> FakeMachine:
    monkeypatch.chdir(tmp_path)
    return install(monkeypatch, request.param, FakeCuda())


@pytest.fixture
def latest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeMachine:
    """A machine with one release, for what does not differ between them."""
    monkeypatch.chdir(tmp_path)
    return install(monkeypatch, "11.4.0", FakeCuda())


def make_run(
    machine: FakeMachine,
    *profiles: ShapeProfile,
    outputs: tuple[str, ...] = ("mask",),
) -> Run:
    run = Run(Path("runs/city"))
    write_onnx(run.onnx(FP16), FP16, outputs)
    engine_from_onnx(
        OnnxFile(run.onnx(FP16)),
        name=run.name,
        product=machine.product,
        options=BuildOptions(profiles),
        command="fcn-deploy build runs/city --fp16",
    )
    machine.trt._calls.clear()  # the builder's
    return run


def open_trt(run: Run, *outputs: str) -> TrtRunner:
    runner = open_runner(run, "trt", precision=FP16, outputs=outputs or ("mask",))
    assert isinstance(runner, TrtRunner)
    return runner


def pictures(shape: BatchShape, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def recurring_shapes(runs: int) -> Iterator[BatchShape]:
    """Shapes drawn from 20, each 3 times in a row: seen, recorded, launched, and pushed out."""
    generator = np.random.default_rng(1)
    shapes = generator.integers((1, 1, 1), (9, 65, 65), size=(20, 3))
    for index in range(runs):
        if index % 3 == 0:
            batch, height, width = generator.choice(shapes)
        yield int(batch), int(height), int(width)


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
        np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))
        np.testing.assert_array_equal(runner.run(mirrored).mask, fake_mask(mirrored))


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


def test_stream_gives_in_order_what_run_gives(machine: FakeMachine) -> None:
    batches = [pictures((1 + index % 3, 8, 9), index) for index in range(20)]
    with open_trt(make_run(machine)) as runner:
        results = list(runner.stream(iter(batches)))
    assert len(results) == len(batches)
    for images, result in zip(batches, results, strict=True):
        np.testing.assert_array_equal(result.mask, fake_mask(images))
    assert set(machine.cuda.held().values()) == {0}


def test_stream_hands_in_a_batch_before_it_waits_for_the_one_before(latest: FakeMachine) -> None:
    asked: list[int] = []

    def batches() -> Iterator[NDArray[np.uint8]]:
        for index in range(4):
            asked.append(index)
            yield pictures((1, 8, 8), index)

    with open_trt(make_run(latest)) as runner:
        results = runner.stream(batches())
        next(results)
        assert asked == [0, 1, 2]  # two in flight, the third read when the first was wanted
        # A run between two results of a stream keeps out of the stream's way.
        for index in range(1, 4):
            images = pictures((1, 8, 8), 10 + index)
            np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))
            expected = fake_mask(pictures((1, 8, 8), index))
            np.testing.assert_array_equal(next(results).mask, expected)


def test_a_stream_that_nobody_finishes_harms_nothing(latest: FakeMachine) -> None:
    with open_trt(make_run(latest)) as runner:
        next(runner.stream([pictures((1, 8, 8), seed) for seed in range(5)]))
        batches = [pictures((2, 9, 7), seed) for seed in range(5)]
        for images, result in zip(batches, runner.stream(batches), strict=True):
            np.testing.assert_array_equal(result.mask, fake_mask(images))
    assert set(latest.cuda.held().values()) == {0}


def test_a_second_stream_takes_over_and_the_first_says_so(machine: FakeMachine) -> None:
    first, second = ([pictures((1, 8, 8), seed + index) for index in range(6)] for seed in (0, 50))
    with open_trt(make_run(machine)) as runner:
        one, other = runner.stream(first), runner.stream(second)
        np.testing.assert_array_equal(next(one).mask, fake_mask(first[0]))
        np.testing.assert_array_equal(next(other).mask, fake_mask(second[0]))
        with pytest.raises(InputError, match=r"another stream\(\) of this runner .* to its end"):
            next(one)
        # The one that was refused is over; it and its batches in flight are in nobody's way.
        for images, result in zip(second[1:], other, strict=True):
            np.testing.assert_array_equal(result.mask, fake_mask(images))
    assert set(machine.cuda.held().values()) == {0}


def test_batches_that_come_from_a_stream_of_the_same_runner_are_refused(
    latest: FakeMachine,
) -> None:
    with open_trt(make_run(latest)) as runner:

        def batches() -> Iterator[NDArray[np.uint8]]:
            for result in runner.stream([pictures((1, 8, 8), seed) for seed in range(4)]):
                yield np.repeat(result.mask[..., None], 3, axis=3)

        with pytest.raises(InputError, match=r"another stream\(\)"):
            list(runner.stream(batches()))


def test_a_stream_whose_runner_was_closed_says_so(latest: FakeMachine) -> None:
    runner = open_trt(make_run(latest))
    results = runner.stream([pictures((1, 8, 8), seed) for seed in range(4)])
    next(results)
    runner.close()
    with pytest.raises(BackendError, match="closed"):
        next(results)


def test_a_stream_left_half_way_and_kept_blocks_nothing(latest: FakeMachine) -> None:
    with open_trt(make_run(latest)) as runner:
        kept = runner.stream([pictures((1, 8, 8), seed) for seed in range(5)])
        next(kept)
        batches = [pictures((2, 9, 7), seed) for seed in range(5)]
        for images, result in zip(batches, runner.stream(batches), strict=True):
            np.testing.assert_array_equal(result.mask, fake_mask(images))
        with pytest.raises(InputError, match="another stream"):
            next(kept)


def test_a_refused_batch_raises_after_the_results_before_it(latest: FakeMachine) -> None:
    batches = [pictures((1, 8, 8), 0), pictures((1, 8, 8), 1), pictures((9, 8, 8), 2)]
    seen = []

    def read(runner: TrtRunner) -> None:
        for result in runner.stream(batches):
            seen.append(result.mask)

    with (
        open_trt(make_run(latest)) as runner,
        pytest.raises(BatchShapeError, match="takes no batch of 9x8x8"),
    ):
        read(runner)
    for images, mask in zip(batches[:2], seen, strict=True):
        np.testing.assert_array_equal(mask, fake_mask(images))


@pytest.mark.parametrize("place", range(5))
def test_a_failure_while_computing_comes_in_its_place_and_ends_the_stream(
    latest: FakeMachine, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    batches = [pictures((1, 8, 8), seed) for seed in range(5)]
    batches[place] = pictures((1, 8, 7))
    with open_trt(make_run(latest)) as runner:
        loaded = runner._open_engine()
        collect = loaded.collect

        def failing(slot: Any, **how: bool) -> dict[str, NDArray[Any]]:
            arrays = collect(slot, **how)
            if slot.shape == (1, 8, 7):
                raise CudaError("an illegal memory access")
            return arrays

        with monkeypatch.context() as patched:
            patched.setattr(loaded, "collect", failing)
            results = runner.stream(iter(batches))
            for images in batches[:place]:
                np.testing.assert_array_equal(next(results).mask, fake_mask(images))
            with pytest.raises(CudaError, match="illegal memory"):
                next(results)
            assert list(results) == []
        for images, result in zip(batches, runner.stream(batches), strict=True):
            np.testing.assert_array_equal(result.mask, fake_mask(images))


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


def copied_by_the_host(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each batch that is copied into pinned memory from here on."""
    copied: list[int] = []
    copyto = np.copyto

    def count(target: NDArray[np.uint8], source: NDArray[np.uint8]) -> None:
        copied.append(source.nbytes)
        copyto(target, source)

    monkeypatch.setattr("fcn_deploy.runners.trt.np.copyto", count)
    return copied


def test_three_pinned_buffers_in_turn_stream_without_a_copy_of_the_host(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = copied_by_the_host(monkeypatch)
    with open_trt(make_run(machine)) as runner:
        buffers = [runner.batch_buffer((2, 8, 9)) for _ in range(3)]
        contents = [pictures((2 - index % 2, 8, 9), index) for index in range(11)]

        def batches() -> Iterator[NDArray[np.uint8]]:
            for index, images in enumerate(contents):
                buffer = buffers[index % 3][: len(images)]
                buffer[...] = images  # the batch in this buffer before has come back
                yield buffer

        places = set()
        for images, result in zip(contents, runner.stream_views(batches()), strict=True):
            np.testing.assert_array_equal(result.mask, fake_mask(images))
            places.add(result.mask.ctypes.data)
        assert len(places) == 2  # the slots' own memory
        assert copied == []
        # A run takes such a buffer too, and its results stay the caller's own.
        np.copyto(buffers[0], pictures((2, 8, 9), 50))
        copied.clear()
        first = runner.run(buffers[0]).mask
        runner.run(buffers[1])
        np.testing.assert_array_equal(first, fake_mask(pictures((2, 8, 9), 50)))
        assert copied == []
    buffers.clear()
    assert set(machine.cuda.held().values()) == {0}


def test_results_of_a_stream_stay_unless_views_were_asked_for(latest: FakeMachine) -> None:
    contents = [pictures((1, 8, 8), seed) for seed in range(6)]
    with open_trt(make_run(latest)) as runner:
        kept = [result.mask for result in runner.stream(contents)]
        views = [result.mask for result in runner.stream_views(contents)]
        for images, mask in zip(contents, kept, strict=True):
            np.testing.assert_array_equal(mask, fake_mask(images))
        for view, last in zip(views, 3 * contents[-2:], strict=True):
            np.testing.assert_array_equal(view, fake_mask(last))  # two slots, used in turn


def test_other_arrays_are_copied_as_ever(
    latest: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = copied_by_the_host(monkeypatch)
    with open_trt(make_run(latest)) as runner:
        buffer = runner.batch_buffer((4, 8, 8))
        buffer[...] = pictures((4, 8, 8))
        for images in (buffer[1:], buffer[:, ::-1], buffer.copy()):
            np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))
        assert len(copied) == 3


def test_a_pinned_buffer_outlives_whoever_drops_it_or_its_runner(latest: FakeMachine) -> None:
    expected = [fake_mask(pictures((1, 8, 8), seed)) for seed in range(3)]

    def batches(runner: TrtRunner) -> Iterator[NDArray[np.uint8]]:
        for seed in range(3):
            buffer = runner.batch_buffer((1, 8, 8))
            buffer[...] = pictures((1, 8, 8), seed)
            yield buffer
            del buffer  # nobody but the runner knows it while the bus reads it

    with open_trt(make_run(latest)) as runner:
        for result, mask in zip(runner.stream(batches(runner)), expected, strict=True):
            np.testing.assert_array_equal(result.mask, mask)
        kept = runner.batch_buffer((1, 8, 8))
    kept[...] = 7
    assert int(kept.sum()) == 7 * kept.size
    assert latest.cuda.in_use("pinned") == kept.nbytes
    del kept
    assert set(latest.cuda.held().values()) == {0}


def test_layers_are_timed_and_the_engine_runs_on_as_before(machine: FakeMachine) -> None:
    with open_trt(make_run(machine)) as runner:
        for _ in range(3):
            runner.run(pictures((1, 8, 8)))
        launches = machine.cuda.launches
        found = runner.layer_seconds(pictures((1, 8, 8), 1), runs=5)
        assert list(found) == list(fake_tensorrt.LAYER_MS)
        assert found == {
            name: pytest.approx(ms / 1000) for name, ms in fake_tensorrt.LAYER_MS.items()
        }
        # The graph is as it was, and a new shape finds a context without a profiler.
        for shape in ((1, 8, 8), (2, 8, 8)):
            images = pictures(shape, 2)
            np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))
        assert machine.cuda.launches == launches + 2
        with pytest.raises(EngineError, match="takes no batch"):
            runner.layer_seconds(pictures((99, 8, 8)))
        assert all(context.profiler is None for context in list(machine.trt._contexts))
    assert set(machine.cuda.held().values()) == {0}


def test_a_shape_outside_the_profiles_names_the_nearest_and_the_build(
    machine: FakeMachine,
) -> None:
    small = ShapeProfile((1, 8, 8), (1, 8, 8), (2, 16, 16))
    large = ShapeProfile((1, 64, 64), (1, 64, 64), (4, 128, 128))
    with open_trt(make_run(machine, small, large)) as runner:
        for shape in ((2, 16, 16), (4, 128, 128), (1, 8, 16)):
            images = pictures(shape)
            np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))
        with pytest.raises(BatchShapeError) as refused:
            runner.run(pictures((2, 20, 16)))
        assert "the nearest profile is 1x8x8:1x8x8:2x16x16" in str(refused.value)
        assert "`fcn-deploy build runs/city --fp16 --profile 1x8x8:1x8x8:2x20x16`" in str(
            refused.value
        )
        runner.run(pictures((1, 8, 8)))


def test_a_shape_that_comes_back_runs_as_a_graph(machine: FakeMachine) -> None:
    with open_trt(make_run(machine)) as runner:
        for seed in range(6):
            images = pictures((1, 8, 8), seed)
            np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))
        # Once plainly, once to record, then four launches.
        assert machine.cuda.launches == 4
        # Another shape in between leaves the graph as it was.
        runner.run(pictures((2, 4, 4)))
        images = pictures((1, 8, 8), 7)
        np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))
        assert machine.cuda.launches == 5


def test_graphs_are_few_and_the_least_used_goes(latest: FakeMachine) -> None:
    with open_trt(make_run(latest)) as runner:
        runner.run(pictures((8, 100, 100)))  # room for all that follows
        shapes = [(1, 8, 8 + index) for index in range(MAX_GRAPHS + 3)]
        for _ in range(3):
            for shape in shapes:
                images = pictures(shape)
                np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))
        assert latest.cuda.held()["graphs"] == MAX_GRAPHS


def test_as_many_graphs_are_kept_as_are_asked_for(latest: FakeMachine) -> None:
    with open_trt(make_run(latest)) as runner:
        runner.run(pictures((8, 100, 100)))  # room for all that follows
        runner.reserve_shapes(MAX_GRAPHS)
        for shape in [(1, 8, 8 + index) for index in range(MAX_GRAPHS + 3)]:
            for _ in range(2):
                runner.run(pictures(shape))
        assert latest.cuda.held()["graphs"] == MAX_GRAPHS + 3


def test_growing_buffers_drop_the_graphs_that_knew_the_old_ones(latest: FakeMachine) -> None:
    with open_trt(make_run(latest)) as runner:
        for _ in range(3):
            runner.run(pictures((1, 8, 8)))
        assert latest.cuda.held()["graphs"] == 1
        runner.run(pictures((8, 560, 700)))
        assert latest.cuda.held()["graphs"] == 0
        images = pictures((1, 8, 8), 5)
        np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))


@pytest.mark.parametrize("shared", [True, False])
def test_8_6_makes_graphs_where_the_engine_shares_its_profiles(
    shared: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    old = install(monkeypatch, "8.6.0", FakeCuda())
    if not shared:
        monkeypatch.setattr(api, "share_profiles", lambda trt, config: None)
    small = ShapeProfile((1, 8, 8), (1, 8, 8), (2, 16, 16))
    large = ShapeProfile((1, 64, 64), (1, 64, 64), (4, 128, 128))
    run = make_run(old, small, large)
    with open_trt(run) as runner:
        for shape in ((1, 8, 8), (1, 64, 64), (2, 8, 8)):
            for seed in range(4):
                images = pictures(shape, seed)
                np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))
        assert old.cuda.launches == (6 if shared else 0)
        # One for each profile, and one for each graph; a refusal is not asked for again.
        assert old.trt._calls.count("context") == (2 + 3 if shared else 2 + 1)
    assert set(old.cuda.held().values()) == {0}


def refuse_at_the_end(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.cuda, "refuse_capture", True)


def refuse_beforehand(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.trt, "_capturable", False)


def refuse_to_execute(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = fake_tensorrt._IExecutionContext.execute_async_v3
    monkeypatch.setattr(
        fake_tensorrt._IExecutionContext,
        "execute_async_v3",
        lambda self, stream: not machine.cuda.is_capturing(stream) and execute(self, stream),
    )


@pytest.mark.parametrize(
    ("release", "refuse"),
    [
        ("11.4.0", refuse_at_the_end),
        ("11.4.0", refuse_to_execute),
        ("rtx-1.7.1", refuse_beforehand),  # the release that can be asked
    ],
)
def test_a_capture_that_fails_falls_back_to_plain_enqueues(
    release: str,
    refuse: Callable[[FakeMachine, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Also: the context whose capture failed lives until its work is done, as the fake asserts."""
    monkeypatch.chdir(tmp_path)
    machine = install(monkeypatch, release, FakeCuda())
    with open_trt(make_run(machine)) as runner:
        with pytest.MonkeyPatch.context() as refusing:
            refuse(machine, refusing)
            for seed in range(5):
                images = pictures((1, 8, 8), seed)
                np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))
            assert machine.cuda.launches == 0
            # A plain one and the one that was refused: this shape is not tried again.
            assert machine.trt._calls.count("context") == 2
            assert len(machine.trt._contexts) == 1
        # Another shape is.
        for shape, launches in (((1, 8, 8), 0), ((2, 8, 8), 2)):
            for seed in range(4):
                images = pictures(shape, seed)
                np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))
            assert machine.cuda.launches == launches
    assert set(machine.cuda.held().values()) == {0}


def test_what_is_remembered_of_refused_captures_is_bounded(latest: FakeMachine) -> None:
    latest.cuda.refuse_capture = True
    runner = open_trt(make_run(latest))
    with runner:
        for width in range(1, 100):
            for _ in range(2):
                runner.run(pictures((1, 1, width)))
        assert runner._engine is not None
        assert 0 < len(runner._engine._refused) < 99


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("execute_async_v3", "could not run the engine: no message"),
        ("set_tensor_address", "takes no address for image: no message"),
        ("set_optimization_profile_async", "cannot switch to profile 0: no message"),
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
        monkeypatch.setattr(fake_tensorrt._IExecutionContext, call, lambda *arguments: False)
        if call == "execute_async_v3":
            monkeypatch.setattr(fake_tensorrt._IExecutionContext, "infer_shapes", infer_shapes)
        if call == "set_optimization_profile_async":
            runner.close()
            runner = open_trt(run)
            complain()
        with runner, pytest.raises(BackendError, match=message):
            runner.run(pictures((2, 8, 8)))


def test_an_older_error_does_not_explain_a_plan_that_cannot_be_loaded(
    latest: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(latest)
    api.load(latest.product).logger.log(latest.trt.ILogger.ERROR, "out of memory")
    monkeypatch.setattr(fake_tensorrt._Runtime, "deserialize_cuda_engine", lambda self, plan: None)
    with pytest.raises(EngineError, match=r"cannot load .*: no message"):
        open_trt(run)


def test_memory_after_1000_runs_of_changing_shapes_as_after_10(machine: FakeMachine) -> None:
    with open_trt(make_run(machine)) as runner:
        runner.run(pictures((8, 64, 64)))
        memory, made = [], []
        most_contexts = 0
        for index, shape in enumerate(recurring_shapes(1000)):
            runner.run(pictures(shape))
            most_contexts = max(most_contexts, len(machine.trt._contexts))
            if index + 1 in (10, 1000):
                memory.append((machine.cuda.in_use(), machine.cuda.in_use("pinned")))
            if index + 1 in (100, 1000):  # by then there are as many graphs as there may be
                made.append((len(machine.trt._contexts), machine.cuda.held()["graphs"]))
        assert memory[0] == memory[1]
        assert made == [(MAX_GRAPHS + 1, MAX_GRAPHS)] * 2
        # The figures above mean something only if graphs came and went.
        assert machine.cuda.launches > 100
        assert most_contexts > MAX_GRAPHS
        assert machine.trt._calls.count("context") > 100
    assert set(machine.cuda.held().values()) == {0}
    assert len(machine.trt._contexts) == 0


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
        images = pictures((1, 8, 8), 3)
        np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))
        assert latest.cuda.in_use() <= before


def test_no_room_for_the_engine_itself(latest: FakeMachine) -> None:
    run = make_run(latest)
    latest.cuda.device_memory = SCRATCH_BYTES - 1
    with pytest.raises(DeviceMemoryError, match="scratch memory"):
        open_trt(run)
    assert set(latest.cuda.held().values()) == {0}


def test_the_device_tells_its_own_time(latest: FakeMachine) -> None:
    with open_trt(make_run(latest)) as runner:
        # The fake's clock: 100 ms for the engine, 1 ms for the second mark.
        assert runner.device_seconds(pictures((1, 8, 8))) == pytest.approx(0.101)


def test_logits_come_from_a_second_engine_and_the_mask_from_the_shipped_one(
    machine: FakeMachine,
) -> None:
    run = make_run(machine)
    with pytest.raises(MissingStageError) as missing:
        open_trt(run, "mask", "logits")
    assert "fcn-deploy export runs/city --fp16 --outputs mask,logits --out runs/city/" in str(
        missing.value
    )
    ensure_engine(run, FP16, outputs=("logits", "margin"), product=machine.product.value)
    images = pictures((2, 8, 9))
    with open_trt(run, "mask", "logits", "margin") as runner:
        assert "logits" not in runner.describe().file
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
        images = pictures((1, 8, 8))
        np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))

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
        images = pictures((1, 8, 8))
        np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))
        with pytest.raises(BatchShapeError, match="nearest profile"):
            runner.run(pictures((9, 8, 8)))


def test_an_engine_of_another_export_is_not_taken(latest: FakeMachine) -> None:
    run = make_run(latest)
    write_onnx(run.onnx(FP16), FP16, checkpoint="sha256:other")
    with pytest.raises(MissingStageError) as missing:
        open_trt(run)
    assert "was built from another file" in str(missing.value)
    assert "run `fcn-deploy build runs/city --fp16` first" in str(missing.value)


def test_a_machine_with_engines_alone_takes_them_by_name(latest: FakeMachine) -> None:
    run = make_run(latest)
    run.onnx(FP16).unlink()
    with open_trt(run) as runner:
        runner.run(pictures((1, 8, 8)))
    with pytest.raises(MissingStageError):
        open_trt(Run(Path("runs/other")))


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
    install(monkeypatch, "10.16.1", FakeCuda())
    assert unavailable_reason("trt") is None
    install(monkeypatch, "10.16.1", FakeCuda(devices=0))
    reason = unavailable_reason("trt")
    assert reason is not None
    assert reason.startswith("no NVIDIA GPU")
    install(monkeypatch, "10.16.1", FakeCuda())
    monkeypatch.setattr(api, "is_installed", lambda product: False)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    reason = unavailable_reason("trt")
    assert reason is not None
    assert reason.startswith("TensorRT is not installed")


# On a GPU

on_a_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        unavailable_reason("trt") is not None, reason=f"trt: {unavailable_reason('trt')}"
    ),
]


@pytest.fixture(scope="module")
def built_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the engines of the run that GPU_RUN names, built once for all tests here."""
    source = os.environ.get("GPU_RUN")
    if source is None:
        pytest.skip("set GPU_RUN to a run directory with model.fp16.onnx")
    folder = tmp_path_factory.mktemp("gpu")
    run = Run(Path(source).resolve())
    timings = os.environ.get("GPU_TIMINGS")  # of an earlier build
    cache = None if timings is None else Path(timings).resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ensure_engine(run, FP16, outputs=("mask", "logits"), timing_cache=cache)
    return folder


@pytest.fixture
def real_run(built_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run that GPU_RUN names, with its engines in the current folder."""
    run = Run(Path(os.environ["GPU_RUN"]).resolve())
    monkeypatch.chdir(built_folder)
    return run


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 97, 131), (3, 64, 96), (1, 320, 480)])
class TestOnAGpu:
    pytestmark = on_a_gpu

    def test_masks_are_those_of_onnx_runtime(self, real_run: Run, shape: BatchShape) -> None:
        reason = unavailable_reason("ort")
        if reason is not None:
            pytest.skip(f"ort, the reference: {reason}")
        images = pictures(shape)
        with open_trt(real_run, "mask", "logits") as runner:
            found = runner.run(images)
            again = [result.mask for result in runner.stream([images] * 5)]
        with open_runner(
            real_run, "ort", precision=FP16, outputs=("mask", "logits", "margin")
        ) as reference:
            expected = reference.run(images)
        assert found.logits is not None
        assert expected.logits is not None
        assert expected.margin is not None
        epsilon = float(np.abs(found.logits - expected.logits).max())
        decided = expected.margin > 2 * epsilon
        np.testing.assert_array_equal(found.mask[decided], expected.mask[decided])
        for mask in again:
            np.testing.assert_array_equal(mask, found.mask)


@pytest.mark.gpu
@pytest.mark.skipif(
    unavailable_reason("trt") is not None, reason=f"trt: {unavailable_reason('trt')}"
)
def test_device_memory_is_flat_over_1000_runs(
    real_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches = 0
    launch = cuda.Graph.launch

    def count(graph: cuda.Graph, stream: cuda.Stream) -> None:
        nonlocal launches
        launches += 1
        launch(graph, stream)

    monkeypatch.setattr(cuda.Graph, "launch", count)
    with open_trt(real_run) as runner:
        runner.run(pictures((8, 64, 64)))
        used = []
        for index, shape in enumerate(recurring_shapes(1000)):
            runner.run(pictures(shape))
            if index + 1 in (100, 1000):  # by then there are as many graphs as there may be
                used.append(cuda.memory_in_use())
    assert launches > 100
    assert used[1] - used[0] < 64 << 20  # graphs and TensorRT's own pools come and go
