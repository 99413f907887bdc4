import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.runners.base import Outputs
from fcn_deploy.runners.cpu_streams import IN_FLIGHT, LANES, in_threads
from tests.fakes import FakeRunner

SECONDS = 20


def numbered(batches: int, taken: list[int]) -> Iterator[NDArray[np.uint8]]:
    for number in range(batches):
        taken.append(number)
        yield np.full((1, 2, 3, 3), number, np.uint8)


def test_a_lane_that_is_done_first_finds_a_batch_to_go_on_with() -> None:
    """The first batch is not done before the second lane has computed two behind it."""
    behind_the_first = threading.Semaphore(0)

    def compute(images: NDArray[np.uint8]) -> Outputs:
        if images[0, 0, 0, 0] == 0:
            for _ in range(LANES):
                assert behind_the_first.acquire(timeout=SECONDS)
        else:
            behind_the_first.release()
        return Outputs(images[..., 0])

    answers = list(in_threads(FakeRunner(), numbered(6, []), lambda: compute))
    assert [int(outputs.mask[0, 0, 0]) for outputs in answers] == list(range(6))


def test_no_more_is_taken_and_computed_than_was_promised() -> None:
    at_once, most, lock = 0, 0, threading.Lock()

    def compute(images: NDArray[np.uint8]) -> Outputs:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        both_inside.wait(SECONDS)
        with lock:
            at_once -= 1
        return Outputs(images[..., 0])

    both_inside = threading.Barrier(LANES)
    taken: list[int] = []
    for done, _ in enumerate(in_threads(FakeRunner(), numbered(8, taken), lambda: compute)):
        assert len(taken) == min(8, done + IN_FLIGHT)
    assert most == LANES
