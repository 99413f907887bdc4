"""What each scenario makes of its turns, on fakes; no test depends on how fast a machine is."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.bench import loadgen
from fcn_deploy.bench.inputs import Inputs
from fcn_deploy.bench.loadgen import LoadGenTest
from fcn_deploy.bench.scenarios import Offline, Scenario, Server, SingleStream, TimedLoop
from fcn_deploy.core.errors import MeasurementError
from fcn_deploy.results.bench import LoadGenVerdict
from fcn_deploy.results.scenarios import END_TO_END, HOST, OFFLINE, SERVER
from fcn_deploy.runners.base import Outputs
from tests.bench.measuring import measure, needs_loadgen
from tests.fakes import FakeRunner


@needs_loadgen
@pytest.mark.slow
def test_single_stream_has_loadgen_s_verdict_and_a_curve(inputs: Inputs, tmp_path: Path) -> None:
    rows = measure(
        [FakeRunner(backend="baseline", seconds=0.003), FakeRunner(backend="quick")],
        [inputs],
        [2],
        SingleStream(0.01),
        tmp_path,
        tiers=[HOST, END_TO_END],
    )
    for found in rows:
        assert found.loadgen is not None
        assert found.loadgen.valid
        assert len(found.repeats_ms) == 3
        assert found.queries >= 3 * loadgen.P90_QUERIES
        assert "p90" in found.latency_ms
        assert found.cdf_ms is not None
        assert len(found.cdf_ms) == 101
        assert list(found.cdf_ms) == sorted(found.cdf_ms)
    assert rows[0].loadgen is not None
    assert (rows[0].loadgen.early_stopping_ms or 0) >= 3


@needs_loadgen
def test_offline_counts_pictures(inputs: Inputs, tmp_path: Path) -> None:
    runner = FakeRunner(seconds=0.004)
    (found,) = measure([runner], [inputs], [4], Offline(0.05), tmp_path)
    assert found.scenario == OFFLINE
    assert found.median_ms >= 4
    assert found.images_per_s <= 1000
    assert found.latency_ms == {}
    assert found.cdf_ms is None
    assert max(shape[0] for shape in runner.shapes) == 4


class _Served:
    """LoadGen's server on a machine that keeps every bound up to a rate, batches of every size."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.rates: list[float] = []

    def __call__(
        self,
        answer: Callable[[Sequence[int]], None],
        *,
        samples: int,
        min_seconds: float,
        rate: float,
        target_p99_ms: float,
        max_batch: int,
    ) -> LoadGenTest:
        self.rates.append(rate)
        for size in range(1, max_batch + 1):
            answer([number % samples for number in range(size)])
        valid = rate <= self.capacity
        problems = () if valid else ("p99 is beyond its bound",)
        verdict = LoadGenVerdict(valid, None, target_p99_ms, problems)
        return LoadGenTest(verdict, 662, rate, {"p50": 9.0, "p99": 29.0})


@pytest.mark.parametrize("capacity", [130.0, 610.0, 4321.0])
def test_server_finds_the_highest_rate_that_keeps_its_bound(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capacity: float
) -> None:
    now = [0.0]
    monkeypatch.setattr("fcn_deploy.bench.case.time.perf_counter", lambda: now[0])
    served = _Served(capacity)
    monkeypatch.setattr(loadgen, "server", served)

    def see(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        now[0] += 0.001  # alone: the search begins at 600 pictures a second
        return images

    (found,) = measure(
        [FakeRunner(see=see)], [inputs], [4], Server(0.01, target_p99_ms=30), tmp_path
    )
    assert found.scenario == SERVER
    assert found.loadgen is not None
    assert found.loadgen.valid
    assert found.latency_ms["p99"] == 29
    assert capacity / 1.05 <= found.images_per_s <= capacity
    assert found.loadgen.target_p99_ms == 30
    fastest, slowest = found.spread_ms
    assert slowest / fastest >= 1.05  # a rate is known no finer
    assert len(served.rates) < 25


@needs_loadgen
def test_a_bound_below_one_query_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    server = Server(0.001, target_p99_ms=10)
    with pytest.raises(MeasurementError, match="--target-p99-ms"):
        measure([FakeRunner(seconds=0.02)], [inputs], [8], server, tmp_path)


class _Compiling(FakeRunner):
    """A runner that prepares each shape when it first comes, for its streams once more."""

    def __init__(self) -> None:
        super().__init__()
        self.compiled: set[tuple[str, tuple[int, ...]]] = set()
        self.kept = 0

    def reserve_shapes(self, shapes: int) -> None:
        self.kept = shapes

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        self.compiled.add(("run", images.shape))
        return super()._infer(images)

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        all_of_them = list(batches)
        if len(all_of_them) > 1:  # a lone batch is run
            self.compiled |= {("stream", images.shape) for images in all_of_them}
            return (FakeRunner._infer(self, images) for images in all_of_them)
        return super().stream(all_of_them)


@pytest.mark.parametrize(
    ("scenario", "kept"),
    [
        pytest.param(SingleStream(0.001), 2, marks=needs_loadgen),
        pytest.param(Offline(0.001), 2, marks=needs_loadgen),
        (Server(0.001, target_p99_ms=1000), 5),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("tier", [HOST, END_TO_END])
def test_nothing_is_compiled_on_the_clock(
    inputs: Inputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scenario: Scenario,
    kept: int,
    tier: str,
) -> None:
    runner = _Compiling()
    monkeypatch.setattr(loadgen, "server", _Served(1e9))
    # How the server's rate is searched is another test's.
    monkeypatch.setattr(Server, "_search", lambda self, case: (self._trial(case, 1.0), 1.0))
    for name in ("single_stream", "offline", "server"):
        asked = getattr(loadgen, name)

        def watched(*arguments: Any, asked: Any = asked, **options: Any) -> Any:
            before = set(runner.compiled)
            tested = asked(*arguments, **options)
            assert runner.compiled == before
            return tested

        monkeypatch.setattr(loadgen, name, watched)
    measure([runner], [inputs], [3, 5], scenario, tmp_path, tiers=[tier])
    # As many shapes as will come again are kept, so that none is prepared anew.
    assert runner.kept == kept


@needs_loadgen
def test_a_slow_start_costs_no_verdict(inputs: Inputs, tmp_path: Path) -> None:
    slow_at_first = itertools.count()

    def see(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        time.sleep(0.02 if next(slow_at_first) < 6 else 0.0005)
        return images

    scenario = SingleStream(0.1)
    (found,) = measure([FakeRunner(see=see)], [inputs], [1], scenario, tmp_path)
    assert found.loadgen is not None
    assert found.loadgen.valid


class _Metered(FakeRunner):
    """A runner on a GPU that uses one joule a picture, whoever asks."""

    def __init__(self) -> None:
        super().__init__(backend="gpu", device="cuda:0 (fake)", seconds=0.0005)
        self.joules = 0.0

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        self.joules += len(images)
        return super()._infer(images)


@pytest.mark.parametrize(
    "scenario",
    [
        TimedLoop(0.01),
        pytest.param(SingleStream(0.01), marks=needs_loadgen),
        pytest.param(Offline(0.01), marks=needs_loadgen),
    ],
    ids=lambda scenario: type(scenario).__name__,
)
def test_energy_is_that_of_the_queries_counted(
    inputs: Inputs, tmp_path: Path, scenario: Scenario
) -> None:
    runner = _Metered()
    (found,) = measure(
        [runner], [inputs], [2], scenario, tmp_path, energy_joules=lambda: runner.joules
    )
    # Warm-up, probes and turns begun anew use energy too, but not these pictures'.
    assert found.energy_j_per_image == pytest.approx(1, rel=0.02)


def test_a_gpu_s_energy_is_not_the_cpu_s(inputs: Inputs, tmp_path: Path) -> None:
    loop = TimedLoop(1e-9)
    rows = measure(
        [FakeRunner(backend="cpu"), FakeRunner(device="cuda:0")],
        [inputs],
        [1],
        loop,
        tmp_path,
        energy_joules=itertools.count().__next__,
    )
    assert [row.energy_j_per_image is None for row in rows] == [True, False]
    (without,) = measure([FakeRunner(device="cuda:0")], [inputs], [1], loop, tmp_path)
    assert without.energy_j_per_image is None
