"""Streams of the TensorRT runner: their order, their ends, and buffers that nobody copies."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, BatchShapeError, CudaError, InputError
from fcn_deploy.core.input_shape import InputShape
from fcn_deploy.runners.trt import TrtRunner
from tests.fake_tensorrt import fake_mask
from tests.runners import trt_runner
from tests.runners.trt_runner import assert_masks, assert_streamed, make_run, open_trt, pictures
from tests.tensorrt_fixtures import FakeMachine

latest, machine = trt_runner.latest, trt_runner.machine


def test_stream_gives_in_order_what_run_gives(machine: FakeMachine) -> None:
    batches = [pictures((1 + index % 3, 8, 9), index) for index in range(20)]
    with open_trt(make_run(machine)) as runner:
        results = list(runner.stream(iter(batches)))
    assert len(results) == len(batches)
    for images, result in zip(batches, results, strict=True):
        np.testing.assert_array_equal(result.mask, fake_mask(images))
    assert set(machine.cuda.held().values()) == {0}


def test_a_size_that_the_network_does_not_take_is_refused(
    latest: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_trt(make_run(latest)) as runner:
        limited = replace(runner.spec, input_shape=InputShape(multiple=8))
        monkeypatch.setattr(TrtRunner, "spec", property(lambda _: limited))
        other = pictures((1, 8, 9))
        for ask in (runner.run, runner.device_seconds):
            with pytest.raises(BatchShapeError, match="multiples of 8, not of 8×9"):
                ask(other)
        answers = runner.stream([pictures((1, 8, 8)), other])
        with pytest.raises(BatchShapeError, match="multiples of 8, not of 8×9"):
            list(answers)
        assert_masks(runner, pictures((1, 8, 8)))


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
            assert_masks(runner, pictures((1, 8, 8), 10 + index))
            expected = fake_mask(pictures((1, 8, 8), index))
            np.testing.assert_array_equal(next(results).mask, expected)


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


@pytest.mark.parametrize("kept", [True, False])
def test_a_stream_left_half_way_blocks_nothing(latest: FakeMachine, kept: bool) -> None:
    with open_trt(make_run(latest)) as runner:
        left = runner.stream([pictures((1, 8, 8), seed) for seed in range(5)])
        next(left)
        if not kept:
            del left
        batches = [pictures((2, 9, 7), seed) for seed in range(5)]
        assert_streamed(runner.stream(batches), batches)
        if kept:
            with pytest.raises(InputError, match="another stream"):
                next(left)
    assert set(latest.cuda.held().values()) == {0}


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
        assert_streamed(runner.stream(batches), batches)


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
            assert_masks(runner, images)
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
