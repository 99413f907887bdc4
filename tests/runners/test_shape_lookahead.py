"""Batches computed in another order than they came, and answered in theirs."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, BatchShapeError, ImageError, InputError
from fcn_deploy.core.input_shape import InputShape
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.runners import shape_lookahead
from fcn_deploy.runners.base import Outputs, Runner
from fcn_deploy.runners.cpu_streams import in_threads
from fcn_deploy.runners.shape_lookahead import Shape, by_shape
from tests.fakes import FAKE_SPEC, FakeRunner

KEPT = 3


class Preparing(FakeRunner):
    """A runner that prepares every shape and keeps ``KEPT`` of them; its mask is the first value.

    Attributes:
        prepared_shapes: each time that one was prepared.
    """

    def __init__(self, fails_at: int | None = None, spec: ModelSpec = FAKE_SPEC) -> None:
        super().__init__(spec)
        self.prepared_shapes: list[Shape] = []
        self._prepared: OrderedDict[Shape, None] = OrderedDict()
        self._fails_at = fails_at

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        if images[0, 0, 0, 0] == self._fails_at:
            raise BackendError("out of memory")
        if images.shape not in self._prepared:
            self.prepared_shapes.append(images.shape)
            if len(self._prepared) == KEPT:
                self._prepared.popitem(last=False)
        self._prepared[images.shape] = None
        self._prepared.move_to_end(images.shape)
        return Outputs(images[..., 0].copy())

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        return by_shape(self, batches, KEPT, super().stream)


class InThreads(Preparing):
    """The same with several batches in work."""

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        return by_shape(
            self, batches, KEPT, lambda given: in_threads(self, given, lambda: self.run)
        )


def test_a_size_that_the_network_does_not_take_comes_after_those_before_it() -> None:
    runner = Preparing(spec=replace(FAKE_SPEC, input_shape=InputShape(multiple=4)))
    batches = [np.full((1, 4, 4 * (1 + n % 5), 3), n, np.uint8) for n in range(9)]
    answers = runner.stream([*batches, np.zeros((1, 4, 6, 3), np.uint8), batches[0]])
    assert numbers(islice(answers, len(batches))) == list(range(9))
    with pytest.raises(BatchShapeError, match="multiples of 4, not of 4×6"):
        next(answers)


def in_turn(count: int, shapes: int) -> list[NDArray[np.uint8]]:
    """Return pictures numbered from 0, so many shapes in turn."""
    return [np.full((1, 4, 4 + n % shapes, 3), n, np.uint8) for n in range(count)]


def numbers(answers: Iterable[Outputs]) -> list[int]:
    return [int(outputs.mask[0, 0, 0]) for outputs in answers]


@pytest.mark.parametrize("kind", [Preparing, InThreads])
def test_more_shapes_than_are_kept_are_seldom_prepared_and_answered_in_order(
    kind: type[Preparing],
) -> None:
    batches = in_turn(200, 10)
    runner = kind()
    for images, outputs in zip(batches, runner.stream(batches), strict=True):
        assert np.array_equal(outputs.mask, images[..., 0])  # of its own size as well
    if kind is Preparing:  # by several threads at once the fake's count is not exact
        one_after_another = Preparing()
        for images in batches:
            one_after_another.run(images)
        assert len(one_after_another.prepared_shapes) == 200
        assert len(runner.prepared_shapes) < 30


def test_no_batch_waits_while_all_shapes_are_kept() -> None:
    taken: list[int] = []

    def source() -> Iterator[NDArray[np.uint8]]:
        for number, images in enumerate(in_turn(30, KEPT)):
            taken.append(number)
            yield images

    for number, _ in enumerate(Preparing().stream(source())):
        assert taken[-1] == number


def test_shapes_of_an_earlier_stream_make_room_at_once() -> None:
    runner = Preparing()
    list(runner.stream(in_turn(6, KEPT)))
    taken: list[int] = []

    def source() -> Iterator[NDArray[np.uint8]]:
        for number in range(5):
            taken.append(number)
            yield np.full((1, 9, 9, 3), number, np.uint8)

    for number, _ in enumerate(runner.stream(source())):
        assert taken[-1] == number


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape_lookahead, "MAX_WAITING", 4)
    monkeypatch.setattr(shape_lookahead, "MAX_BEHIND", 12)

    def furthest(batches: Iterable[NDArray[np.uint8]]) -> int:
        taken = [0]

        def source() -> Iterator[NDArray[np.uint8]]:
            for images in batches:
                taken[0] += 1
                yield images

        answers = enumerate(Preparing().stream(source()))
        return max(taken[0] - number for number, _ in answers)

    # Batch 3 is of a rare shape, all others are of prepared ones: none fills what may wait.
    rare = [*in_turn(3, 3), np.zeros((1, 9, 9, 3), np.uint8), *in_turn(60, 3)]
    assert 12 <= furthest(rare) <= 14
    assert furthest(in_turn(60, 20)) <= 14
    monkeypatch.setattr(shape_lookahead, "MAX_BEHIND_BYTES", 1)
    assert furthest(in_turn(60, 20)) <= 2


@pytest.mark.parametrize("kind", [Preparing, InThreads])
@pytest.mark.parametrize("failing", [0, 2, 5, 23, 39])
def test_a_failure_comes_in_its_place(kind: type[Preparing], failing: int) -> None:
    answers = kind(fails_at=failing).stream(in_turn(40, 8))
    assert numbers(islice(answers, failing)) == list(range(failing))
    with pytest.raises(BackendError, match="out of memory"):
        next(answers)
    assert list(answers) == []


@pytest.mark.parametrize("kind", [Preparing, InThreads])
def test_a_refused_batch_and_a_failing_source_come_behind_all_before(kind: type[Preparing]) -> None:
    refused = kind().stream([*in_turn(23, 8), np.zeros((1, 4, 4, 3), np.float32), *in_turn(5, 2)])
    assert numbers(islice(refused, 23)) == list(range(23))
    with pytest.raises(InputError, match="uint8"):
        next(refused)

    def source() -> Iterator[NDArray[np.uint8]]:
        yield from in_turn(23, 8)
        raise ImageError("damaged")

    failing = kind().stream(source())
    assert numbers(islice(failing, 23)) == list(range(23))
    with pytest.raises(ImageError, match="damaged"):
        next(failing)


def test_the_array_may_be_used_again() -> None:
    arrays: dict[int, NDArray[np.uint8]] = {}

    def one_array_each() -> Iterator[NDArray[np.uint8]]:
        for images in in_turn(50, 8):
            array = arrays.setdefault(images.shape[2], np.empty_like(images))
            array[:] = images
            yield array

    assert numbers(InThreads().stream(one_array_each())) == list(range(50))


def test_nothing_and_one_batch() -> None:
    runner: Runner = Preparing()
    assert list(runner.stream([])) == []
    assert numbers(runner.stream(in_turn(1, 1))) == [0]
