"""How long a bench is said to take: from what a query takes, and the least that is asked for."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.bench.duration import duration_words, expected_duration
from fcn_deploy.bench.inputs import Inputs
from fcn_deploy.bench.measure import BenchPlan
from fcn_deploy.bench.scenarios import Offline, Scenario, Server, SingleStream, TimedLoop
from fcn_deploy.core.errors import BackendError
from fcn_deploy.results.scenarios import HOST
from tests.fakes import FakeRunner


@pytest.mark.parametrize(
    ("scenario", "batch_size", "seconds"),
    [
        # 64 queries of 0.25 s and five with which a repeat begins, seven times.
        (SingleStream(0.5), 1, 7 * 69 * 0.25),
        (SingleStream(60.0), 1, 7 * (60 + 5 * 0.25)),
        (TimedLoop(0.5), 1, 7 * 8 * 0.25),
        (Offline(0.5), 8, 7 * 13 * 2.0),  # 64 pictures in batches of 8
        (Server(0.5, 100.0), 1, 18 * 662 * 0.25),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_least_that_is_asked_for_is_counted(
    inputs: Inputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scenario: Scenario,
    batch_size: int,
    seconds: float,
) -> None:
    now = [0.0]
    monkeypatch.setattr("fcn_deploy.bench.case.time.perf_counter", lambda: now[0])

    def see(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        now[0] += 0.25 * len(images)
        return images

    plan = BenchPlan(
        [FakeRunner(see=see)], [inputs], scenario, tmp_path, [batch_size], [HOST], 7,
        seconds=60.0 if seconds > 400 and scenario.name == "single-stream" else 0.5,
    )  # fmt: skip
    assert expected_duration(plan) == (1, pytest.approx(seconds))


def test_what_fails_is_not_counted(inputs: Inputs, tmp_path: Path) -> None:
    def see(_images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        raise BackendError("out of memory")

    runners = [FakeRunner(backend="a"), FakeRunner(backend="b", see=see)]
    plan = BenchPlan(runners, [inputs], TimedLoop(0.5), tmp_path, [1], [HOST])
    rows, seconds = expected_duration(plan)
    assert rows == 1
    assert seconds >= 7 * 0.5


def test_no_finer_than_it_is_known() -> None:
    assert [duration_words(seconds) for seconds in (0.1, 44, 91, 1320)] == [
        "about 10 seconds", "about 40 seconds", "about 2 minutes", "about 22 minutes",
    ]  # fmt: skip
