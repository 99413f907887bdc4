"""One contract for all runners: a backend's test file is a ten-line subclass of this class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.errors import BackendError, InputError
from fcn_deploy.metrics import margin_of
from fcn_deploy.runners.base import COMPUTE, COPY_IN, Runner


def pictures(count: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return random pictures, uint8 [N, H, W, 3]."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


class RunnerContract(ABC):
    """Subclass as ``TestXRunner`` and say how to open the runner."""

    @abstractmethod
    def open(self, outputs: tuple[str, ...]) -> Runner:
        """Open the runner under test."""

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

    def test_a_buffer_of_its_own_and_views_give_the_same(self, runner: Runner) -> None:
        buffer = runner.batch_buffer((2, 20, 30))
        assert (buffer.dtype, buffer.shape) == (np.uint8, (2, 20, 30, 3))
        buffer[...] = pictures(2, 20, 30)
        expected = runner.run(pictures(2, 20, 30)).mask
        np.testing.assert_array_equal(runner.run(buffer).mask, expected)
        for outputs in runner.stream_views([buffer]):
            np.testing.assert_array_equal(outputs.mask, expected)

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
