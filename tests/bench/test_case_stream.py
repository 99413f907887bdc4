"""Offline streams: the same batches at both tiers, decoded while others are computed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.bench.case import Case
from fcn_deploy.bench.inputs import make_inputs
from fcn_deploy.results.bench import END_TO_END, HOST
from tests.decoding import PATIENCE, Read, living_threads
from tests.fakes import FakeRunner


@pytest.mark.parametrize("tier", [HOST, END_TO_END])
def test_offline_runs_the_same_batches_at_both_tiers(tmp_path: Path, tier: str) -> None:
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(8)]
    inputs = make_inputs(pictures, (24, 32), tmp_path)
    seen: list[NDArray[np.uint8]] = []
    runner = FakeRunner(see=lambda images: (seen.append(images), images)[1])
    case = Case(runner, tier, 4, inputs, tmp_path)
    asked = [7, 0, 3, 3, 1, 2, 6, 5, 4, 0]
    assert list(case.stream(asked)) == [4, 4, 2]
    assert (np.concatenate(seen) == inputs.images[asked]).all()
    assert not living_threads()


def test_offline_decodes_the_next_batch_while_one_is_computed(
    tmp_path: Path, read_by: Callable[[Read], None]
) -> None:
    inputs = make_inputs([np.zeros((20, 30, 3), np.uint8)], (24, 32), tmp_path)
    begun = [threading.Event() for _ in inputs.files]

    def read(path: Path) -> NDArray[np.uint8]:
        number = inputs.files.index(path)
        begun[number].set()
        return inputs.images[number]

    def see(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # "Computing" ends only after the decoding of the next batch has begun.
        next_batch = 2 * len(runner.shapes)
        assert next_batch >= len(begun) or begun[next_batch].wait(PATIENCE)
        return images

    read_by(read)
    runner = FakeRunner(see=see)
    case = Case(runner, END_TO_END, 2, inputs, tmp_path)
    assert list(case.stream(range(8))) == [2, 2, 2, 2]


@pytest.mark.parametrize("threads", [1, 3])
def test_offline_decodes_on_as_many_threads_as_are_pinned(
    tmp_path: Path, read_by: Callable[[Read], None], threads: int
) -> None:
    inputs = make_inputs([np.zeros((20, 30, 3), np.uint8)], (24, 32), tmp_path)
    decoders: set[int] = set()
    together = threading.Barrier(threads)

    def read(path: Path) -> NDArray[np.uint8]:
        decoders.add(threading.get_ident())
        if inputs.files.index(path) < threads:
            together.wait(PATIENCE)  # none of them may do the work of two
        return inputs.images[inputs.files.index(path)]

    read_by(read)
    case = Case(FakeRunner(), END_TO_END, 2, inputs, tmp_path, threads)
    assert list(case.stream(range(8))) == [2, 2, 2, 2]
    assert len(decoders) == threads
