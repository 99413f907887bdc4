"""One contract for all runners: a backend's test file is a ten-line subclass of this class."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, ImageError, InputError
from fcn_deploy.core.run import Run
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.results.runner import ARITHMETICS, COMPUTE, COPY_IN
from fcn_deploy.runners.base import Outputs, Runner
from fcn_deploy.runners.cpu_streams import IN_FLIGHT


def pictures(count: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return random pictures, uint8 [N, H, W, 3]."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def assert_masks_agree(
    reference: Runner, candidate: Runner, images: NDArray[np.uint8], *, least: float, most: float
) -> None:
    """Masks are equal where an error of logits cannot have flipped them.

    Args:
        reference: gives logits.
        candidate: gives logits.
        images: what both compute.
        least, most: between which the largest error lies, of the largest logit.
    """
    expected, given = reference.run(images), candidate.run(images)
    assert expected.logits is not None
    assert given.logits is not None
    error = np.abs(expected.logits - given.logits).max()
    assert least <= error / np.abs(expected.logits).max() < most
    decided = margin_of(expected.logits) > 2 * error
    assert decided.any()
    np.testing.assert_array_equal(expected.logits.argmax(1)[decided], given.mask[decided])


class StreamContract(ABC):
    """What every stream promises of the batch that fails."""

    @pytest.fixture(autouse=True)
    def _run(self, tiny_run: Run) -> None:
        self.run_directory = tiny_run

    @abstractmethod
    def open(self, outputs: tuple[str, ...]) -> Runner:
        """Open the runner under test for ``run_directory``."""

    def fail_at(self, width: int, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let computing pictures of that width fail from now on."""
        infer = runner._infer

        def failing(images: NDArray[np.uint8]) -> Outputs:
            if images.shape[2] == width:
                raise RuntimeError("out of luck")
            return infer(images)

        monkeypatch.setattr(runner, "_infer", failing)

    @pytest.mark.parametrize("place", range(5))
    def test_a_failure_while_computing_comes_in_its_place_and_ends_the_stream(
        self, place: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batches = [pictures(1, 16, 24, seed) for seed in range(5)]
        with self.open(("mask",)) as runner:
            masks = [runner.run(images).mask for images in batches]
            batches[place] = pictures(1, 16, 23)
            self.fail_at(23, runner, monkeypatch)
            answers = runner.stream(iter(batches))
            for mask in masks[:place]:
                np.testing.assert_array_equal(next(answers).mask, mask)
            with pytest.raises(BackendError, match=r"failed at N×H×W 1×16×23 \(.*out of luck"):
                next(answers)
            assert list(answers) == []
            np.testing.assert_array_equal(runner.run(pictures(1, 16, 24)).mask, masks[0])


class RunnerContract(StreamContract):
    """Subclass as ``TestXRunner`` and say how to open the runner."""

    @pytest.fixture
    def runner(self) -> Iterator[Runner]:
        with self.open(("mask", "logits", "margin")) as runner:
            yield runner

    @pytest.mark.parametrize("size", [(1, 1), (1, 97), (33, 64), (97, 131)])
    def test_any_size_in_same_size_out(self, runner: Runner, size: tuple[int, int]) -> None:
        outputs = runner.run(pictures(2, *size))
        classes = runner.spec.num_classes
        assert outputs.logits is not None
        assert outputs.margin is not None
        assert (outputs.mask.dtype, outputs.mask.shape) == (np.uint8, (2, *size))
        assert (outputs.logits.dtype, outputs.logits.shape) == (np.float32, (2, classes, *size))
        assert (outputs.margin.dtype, outputs.margin.shape) == (np.float32, (2, *size))

    def test_mask_is_the_argmax_and_margin_the_lead(self, runner: Runner) -> None:
        outputs = runner.run(pictures(1, 64, 96))
        assert outputs.logits is not None
        assert outputs.margin is not None
        clear = margin_of(outputs.logits) > 1e-3
        assert clear.mean() > 0.5
        np.testing.assert_array_equal(outputs.mask[clear], outputs.logits.argmax(1)[clear])
        np.testing.assert_allclose(outputs.margin, margin_of(outputs.logits), atol=1e-4)

    def test_only_what_was_asked_for_comes(self) -> None:
        with self.open(("mask",)) as runner:
            outputs = runner.run(pictures(1, 8, 8))
        assert outputs.logits is None
        assert outputs.margin is None

    def test_stream_keeps_the_order(self, runner: Runner) -> None:
        batches = [pictures(1, 32, 40, seed) for seed in range(3)]
        streamed = list(runner.stream(iter(batches)))
        for images, outputs in zip(batches, streamed, strict=True):
            np.testing.assert_array_equal(outputs.mask, runner.run(images).mask)

    def test_read_only_and_reversed_input_is_taken(self, runner: Runner) -> None:
        images = pictures(1, 20, 30)
        mirrored = images[:, :, ::-1]
        np.testing.assert_array_equal(
            runner.run(mirrored).mask, runner.run(np.ascontiguousarray(mirrored)).mask
        )
        images.setflags(write=False)
        assert runner.run(images).mask.shape == (1, 20, 30)

    @pytest.mark.parametrize(
        ("images", "words"),
        [
            (np.zeros((1, 8, 8, 3), np.float32), "float32"),
            (np.zeros((8, 8, 3), np.uint8), "rank 3"),
            (np.zeros((1, 3, 8, 8), np.uint8), "8 channels"),
            (np.zeros((0, 8, 8, 3), np.uint8), "N, H, W ≥ 1"),
            ([[0]], "list"),
        ],
    )
    def test_wrong_input_is_refused(self, runner: Runner, images: object, words: str) -> None:
        with pytest.raises(InputError, match=words):
            runner.run(images)  # type: ignore[arg-type]

    def test_description_is_complete(self, runner: Runner) -> None:
        description = runner.describe()
        assert description.digest.startswith("sha256:")
        assert description.checkpoint_digest.startswith("sha256:")
        assert description.threads >= 1
        assert description.library
        assert description.arithmetic in ARITHMETICS
        assert description.device

    def test_closed_runner_refuses_and_closes_twice(self) -> None:
        runner = self.open(("mask",))
        runner.close()
        runner.close()
        with pytest.raises(BackendError, match="closed"):
            runner.run(pictures(1, 8, 8))

    def test_stages_are_told_in_order_and_only_to_who_asked(self) -> None:
        with self.open(("mask",)) as runner:
            told: list[str] = []
            runner.run(pictures(1, 32, 40), on_stage=told.append)
            assert told == [COPY_IN, COMPUTE]
            runner.run(pictures(1, 32, 40))
            assert told == [COPY_IN, COMPUTE]


class LanesContract(StreamContract):
    """For runners that compute several batches of a stream at once; ``open`` gives them threads."""

    @pytest.fixture
    def streaming(self) -> Iterator[Runner]:
        with self.open(("mask",)) as runner:
            yield runner

    def test_results_come_in_order_whatever_the_sizes(self, streaming: Runner) -> None:
        sizes = [(32, 40)] * 5 + [(24, 24), (32, 40), (24, 24), (24, 24)]
        batches = [pictures(1 + seed % 2, *size, seed) for seed, size in enumerate(sizes)]
        for images, given in zip(batches, streaming.stream(iter(batches)), strict=True):
            np.testing.assert_array_equal(given.mask, streaming.run(images).mask)

    def test_the_next_batch_is_begun_before_the_result_of_the_one_before(
        self, streaming: Runner
    ) -> None:
        asked: list[int] = []

        def batches() -> Iterator[NDArray[np.uint8]]:
            for seed in range(6):
                asked.append(seed)
                yield pictures(1, 16, 16, seed)

        answers = streaming.stream(batches())
        next(answers)
        assert asked == list(range(IN_FLIGHT))
        assert len(list(answers)) == 5

    def test_the_array_may_be_used_again(self, streaming: Runner) -> None:
        batches = [pictures(1, 32, 40, seed) for seed in range(4)]
        expected = [streaming.run(images).mask for images in batches]
        array = np.empty_like(batches[0])

        def one_array() -> Iterator[NDArray[np.uint8]]:
            for images in batches:
                array[:] = images
                yield array
                array[:] = 0

        given = [outputs.mask for outputs in streaming.stream(one_array())]
        np.testing.assert_array_equal(given, expected)

    def test_a_single_batch_is_computed_on_all_threads(
        self, streaming: Runner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shapes: list[tuple[int, ...]] = []
        infer = streaming._infer

        def seen(images: NDArray[np.uint8]) -> Outputs:
            shapes.append(images.shape)
            return infer(images)

        monkeypatch.setattr(streaming, "_infer", seen)
        assert [len(outputs.mask) for outputs in streaming.stream([pictures(2, 8, 8)])] == [2]
        assert shapes == [(2, 8, 8, 3)]
        assert list(streaming.stream([])) == []
        assert len(list(streaming.stream([pictures(1, 8, 8)] * 3))) == 3
        assert len(shapes) == 1

    @pytest.mark.parametrize("good", range(IN_FLIGHT + 2))
    def test_a_refused_batch_raises_after_those_before_it(
        self, streaming: Runner, good: int
    ) -> None:
        batches: list[Any] = [pictures(1, 16, 16, seed) for seed in range(good)]
        answers = streaming.stream([*batches, np.zeros((1, 8, 8, 3), np.float32)])
        for images in batches:
            np.testing.assert_array_equal(next(answers).mask, streaming.run(images).mask)
        with pytest.raises(InputError, match="float32"):
            next(answers)

    @pytest.mark.parametrize("good", range(IN_FLIGHT + 2))
    def test_what_the_source_raises_comes_after_all_results(
        self, streaming: Runner, good: int
    ) -> None:
        def batches() -> Iterator[NDArray[np.uint8]]:
            for seed in range(good):
                yield pictures(1, 16, 16, seed)
            raise ImageError("no picture")

        answers = streaming.stream(batches())
        for seed in range(good):
            expected = streaming.run(pictures(1, 16, 16, seed)).mask
            np.testing.assert_array_equal(next(answers).mask, expected)
        with pytest.raises(ImageError, match="no picture"):
            next(answers)

    def test_streams_do_not_disturb_each_other(self, streaming: Runner) -> None:
        batches = [pictures(1, 16, 16, seed) for seed in range(4)]
        left = streaming.stream(iter(batches))
        next(left)
        both = zip(streaming.stream(batches), streaming.stream(batches[::-1]), strict=True)
        masks = [streaming.run(images).mask for images in batches]
        for place, (one, other) in enumerate(both):
            np.testing.assert_array_equal(one.mask, masks[place])
            np.testing.assert_array_equal(other.mask, masks[-1 - place])

    def test_a_runner_closed_in_the_middle_of_a_stream_refuses(self, streaming: Runner) -> None:
        answers = streaming.stream(pictures(1, 16, 16, seed) for seed in range(4))
        next(answers)
        streaming.close()
        with pytest.raises(BackendError, match="closed"):
            next(answers)
