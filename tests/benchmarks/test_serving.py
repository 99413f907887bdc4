"""The script that measures serving, without servers of its own."""

import os
import threading
import time
from typing import Any

import numpy as np
import pytest

from benchmarks import serving
from fcn_deploy.bench import loadgen
from fcn_deploy.core.errors import MeasurementError
from fcn_deploy.serve.settings import Settings
from tests.fakes import FakeRunner
from tests.serve.live import live_server

pytest.importorskip("tritonclient.http")
pytest.importorskip("tritonclient.grpc")

IMAGES = [np.full((1, 4, 6, 3), level, np.uint8) for level in (10, 200)]
MASKS = [FakeRunner().run(image).mask for image in IMAGES]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_every_thread_is_counted_and_a_wrong_mask_is_an_error(protocol: str) -> None:
    with live_server(FakeRunner(), Settings(grpc_port=0), "fcn") as (url, server):
        assert server.grpc is not None
        http = url.removeprefix("http://").rstrip("/")
        url = http if protocol == "http" else f"127.0.0.1:{server.grpc.port}"
        case = serving.Case("fcn-deploy", protocol, url, os.getpid())
        found = serving.load(case, IMAGES, MASKS, 3, 0.1)
        counted = server.service.metrics.statistics.success.count
        assert found["requests"] == counted - 3  # but the first of each thread
        assert found["p50_ms"] <= found["p99_ms"]
        with pytest.raises(MeasurementError, match="a wrong mask"):
            serving.load(case, IMAGES, MASKS[::-1], 2, 0.1)


def test_cpu_time_of_a_process_is_that_of_its_children_too() -> None:
    before = serving.cpu_seconds(os.getpid())
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert serving.cpu_seconds(os.getpid()) - before > 0.05
    own = serving.cpu_seconds(os.getpid())
    assert serving.cpu_seconds(os.getppid()) >= own
    assert serving.busy_seconds() > before


def test_the_table_takes_medians_of_what_lies_beyond_the_runner_in_each_round() -> None:
    def one(runner: float, server: float, valid: bool) -> dict[str, Any]:
        own = server / 10
        load = {"p50_ms": server, "cpu_ms": server, "own_cpu_ms": own, "per_s": server}
        row = {"server": "s", "protocol": "http", "1": load, "8": load, "32": load}
        row["loadgen"] = {"p99_ms": 10 * server, "valid": valid}
        return {"runner": {"p50_ms": runner, "cpu_ms": runner}, "cases": [row]}

    rounds = [one(1, 4, True), one(5, 6, False), one(2, 9, True)]  # beyond it: 3, 1, 7
    lines = serving.table({"rounds": rounds})
    assert lines[0] == "`runner.run` alone: p50 2.0 ms, CPU 2.0 ms."
    cells = [
        "s",
        "http",
        "3.0 ms",
        "3.0 ms",
        "0.6, 0.6, 0.6 ms",
        "6, 6, 6",
        "60 ms, valid in 2 of 3",
    ]
    assert lines[-1] == f"| {' | '.join(cells)} |"


def test_loadgens_server_scenario_is_answered_by_as_many_threads_as_are_asked_for() -> None:
    pytest.importorskip("mlperf_loadgen")
    together = threading.Barrier(4)
    met = threading.Event()

    def answer(numbers: Any) -> None:
        if not met.is_set():
            together.wait(timeout=30)  # no thread alone gets past this
            met.set()

    tested = loadgen.server(
        answer, samples=2, min_seconds=0.1, rate=3000, target_p99_ms=1e5, max_batch=1, workers=4
    )
    assert met.is_set()
    assert tested.samples >= 662
