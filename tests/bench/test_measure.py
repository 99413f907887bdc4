"""What bench makes of its turns, on fakes that sleep; no test depends on how fast a machine is."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.bench import loadgen
from fcn_deploy.bench.case import Case
from fcn_deploy.bench.conditions import ConditionWatch
from fcn_deploy.bench.inputs import Inputs, make_inputs
from fcn_deploy.bench.loadgen import LoadGenTest
from fcn_deploy.bench.measure import BenchPlan, measure_rows
from fcn_deploy.bench.measure import measure as measured_bench
from fcn_deploy.bench.rows import (
    MIN_QUERIES,
    MeasuredRow,
    percentiles,
    speedup,
    verdict_of_repeats,
    with_ratios,
)
from fcn_deploy.bench.scenarios import (
    Meter,
    Offline,
    Repeat,
    Scenario,
    Server,
    SingleStream,
    TimedLoop,
)
from fcn_deploy.core.errors import BackendError, FcnDeployError, InputError, MeasurementError
from fcn_deploy.results.bench import (
    ALL_STAGES,
    DEVICE,
    END_TO_END,
    HOST,
    OFFLINE,
    SERVER,
    TIERS,
    Bench,
    BenchRow,
    LoadGenVerdict,
    Ratio,
    Settings,
)
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.workload import baseline_of
from fcn_deploy.runners.base import Outputs
from tests.fakes import FakeRunner
from tests.result_files import bare_row

needs_loadgen = pytest.mark.skipif(
    loadgen.unavailable_reason() is not None, reason="LoadGen has no wheel for this Python"
)


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(3)]
    return make_inputs(pictures, (24, 32), tmp_path)


def measure(
    runners: Sequence[FakeRunner],
    inputs: Sequence[Inputs],
    batch_sizes: Sequence[int],
    scenario: Scenario,
    folder: Path,
    *,
    tiers: Sequence[str] = TIERS,
    repeats: int = 5,
    seconds: float = 0.5,
    **told: Any,
) -> tuple[BenchRow, ...]:
    plan = BenchPlan(runners, inputs, scenario, folder, batch_sizes, tiers, repeats, seconds)
    return measure_rows(plan, **told)


def row(backend: str, repeats: tuple[float, ...], tier: str = HOST, **rest: Any) -> BenchRow:
    return bare_row(FakeRunner(backend=backend).describe(), repeats, tier=tier, **rest)


def ratio_of(one: BenchRow, over: BenchRow) -> Ratio:
    """Return how many times faster a row is than another that has the same repeats."""
    return speedup(*(MeasuredRow(row, dict(enumerate(row.repeats_ms))) for row in (one, over)))


def test_every_case_is_measured_and_runs_are_interleaved(inputs: Inputs, tmp_path: Path) -> None:
    order: list[str] = []

    def runner(name: str) -> FakeRunner:
        return FakeRunner(backend=name, see=lambda images: (order.append(name), images)[1])

    rows = measure(
        [runner("a"), runner("b")], [inputs], [1, 2], TimedLoop(0.001), tmp_path, repeats=3
    )
    assert {(r.runner.backend, r.tier, r.batch_size) for r in rows} == {
        (b, t, n) for b in "ab" for t in (HOST, END_TO_END) for n in (1, 2)
    }
    assert all(len(r.repeats_ms) == 3 for r in rows)
    turns = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    # 8 cases take 3 turns each: never all of one runner in a row
    assert len(turns) >= 12


class _Recorded(TimedLoop):
    """Writes down whose turn it is."""

    def __init__(self) -> None:
        super().__init__(1e-9)
        self.names: list[str] = []

    def repeat(self, case: Case, meter: Meter) -> Repeat:
        self.names.append(case.name)
        return super().repeat(case, meter)


def test_each_repeat_has_an_order_of_its_own(inputs: Inputs, tmp_path: Path) -> None:
    def names() -> list[list[str]]:
        recorded = _Recorded()
        runners = [FakeRunner(backend=name) for name in "abcd"]
        measure(runners, [inputs], [1, 2], recorded, tmp_path, tiers=[HOST], repeats=5)
        return [recorded.names[start : start + 8] for start in range(0, 40, 8)]

    repeats = names()
    assert repeats == names()  # in every run the same
    assert all(sorted(order) == sorted(repeats[0]) for order in repeats)
    for name in repeats[0]:
        before = {order[order.index(name) - 1] for order in repeats}
        assert len(before) > 1
    for order in repeats:  # rows that will be ranked come one after the other
        batches = [name.split()[-1] for name in order]
        assert sum(a != b for a, b in itertools.pairwise(batches)) == 1


def test_a_sleep_is_seen_and_ranked(inputs: Inputs, tmp_path: Path) -> None:
    # 25 ms against next to nothing: a thousandfold, beyond any noise of a busy machine.
    runners = [FakeRunner(backend="baseline", seconds=0.025), FakeRunner(backend="quick")]
    rows = measure(runners, [inputs], [1], TimedLoop(0.05), tmp_path, tiers=[HOST], repeats=3)
    slow, quick = rows
    assert slow.median_ms >= 25
    assert slow.images_per_s <= 40
    assert slow.loadgen is None
    assert baseline_of(quick, rows) is slow
    assert quick.over_baseline is not None
    assert quick.over_baseline.low > 1


def test_ratios_pair_the_repeats() -> None:
    # A machine that slows down hits both rows of a repeat, and the ratio stays.
    slow, quick = row("baseline", (10, 20, 40)), row("a", (5, 10, 20))
    assert ratio_of(quick, slow) == ratio_of(row("b", (5, 10, 20)), slow)
    ratio = ratio_of(quick, slow)
    assert (ratio.median, ratio.low, ratio.high) == (2, 2, 2)


def test_rows_whose_spreads_overlap_are_a_tie() -> None:
    slow = row("baseline", (10, 11, 12))
    assert not ratio_of(row("a", (8, 9, 9.9)), slow).tie
    assert ratio_of(row("a", (9, 10, 10.5)), slow).tie  # faster in each repeat, by less than noise
    assert ratio_of(row("a", (11, 10, 13)), slow).tie
    # A server's rate is known to 5 %: its spread is that much wider.
    served = row("baseline", (10, 11, 12), scenario=SERVER)
    assert ratio_of(row("a", (9.5, 9.6, 9.7), scenario=SERVER), served).tie
    assert not ratio_of(row("a", (8, 9, 9.4), scenario=SERVER), served).tie


@pytest.mark.parametrize(
    "other",
    [
        row("baseline", (1, 1, 1), END_TO_END),
        row("baseline", (1, 1, 1), inputs_digest="x"),
        row("baseline", (1, 1, 1), scenario=OFFLINE),
        row("baseline", (1, 1, 1), loadgen=LoadGenVerdict(True, target_p99_ms=50.0)),
    ],
)
def test_unlike_rows_are_not_ranked(other: BenchRow) -> None:
    with pytest.raises(InputError, match="not ranked"):
        ratio_of(row("a", (1, 1, 1)), other)


def test_a_baseline_has_the_same_workload() -> None:
    ours, elsewhere = row("a", (1, 1, 1)), row("baseline", (1, 1, 1), END_TO_END)
    assert baseline_of(ours, [elsewhere]) is None


def test_a_gpu_is_held_against_the_plain_export_on_a_gpu() -> None:
    def on_gpu(backend: str) -> BenchRow:
        runner = FakeRunner(backend=backend, device="cuda:0 (Fake GPU)").describe()
        return replace(row(backend, (1, 1, 1)), runner=runner)

    ours, there = row("ort", (1, 1, 1)), on_gpu("trt")
    cpu_baseline, gpu_baseline = row("baseline", (9, 9, 9)), on_gpu("baseline-cuda")
    rows = [cpu_baseline, gpu_baseline, ours, there]
    assert baseline_of(ours, rows) is cpu_baseline
    assert baseline_of(there, rows) is gpu_baseline
    assert baseline_of(there, [cpu_baseline, there]) is None  # a ratio of two machines says nothing


def test_percentiles_need_their_number_of_queries() -> None:
    assert percentiles(range(63)) == {"mean": 31, "p50": 31}
    assert percentiles(range(1, 101)) == {"mean": 50.5, "p50": 50.5, "p90": 90}
    assert percentiles(range(200, 0, -1)) == {"mean": 100.5, "p50": 100.5, "p90": 180, "p95": 190}
    assert set(percentiles(range(662))) == {"mean", "p50", *MIN_QUERIES}


def test_few_queries_have_neither_percentiles_nor_a_curve(inputs: Inputs, tmp_path: Path) -> None:
    loop = TimedLoop(1e-9)
    (few,) = measure([FakeRunner()], [inputs], [1], loop, tmp_path, tiers=[HOST], repeats=3)
    assert few.queries == 9
    assert set(few.latency_ms) == {"mean", "p50"}
    assert few.cdf_ms is None


def test_the_stages_add_up_to_the_wall(inputs: Inputs, tmp_path: Path) -> None:
    runner = FakeRunner(seconds=0.01)
    loop = TimedLoop(0.05)
    (found,) = measure([runner], [inputs], [1], loop, tmp_path, tiers=[END_TO_END], repeats=3)
    assert found.stages_ms is not None
    assert found.wall_ms is not None
    assert tuple(found.stages_ms) == ALL_STAGES
    assert found.stages_ms["compute"] >= 10
    assert found.stages_ms["write"] > 0
    assert sum(found.stages_ms.values()) == pytest.approx(found.wall_ms, rel=0.05)
    # Writing comes after the result: no latency holds it.
    assert found.latency_ms["mean"] == pytest.approx(
        found.wall_ms - found.stages_ms["write"], rel=0.05
    )
    (host,) = measure([runner], [inputs], [1], loop, tmp_path, tiers=[HOST], repeats=3)
    assert host.stages_ms is None


@needs_loadgen
def test_single_stream_has_loadgen_s_verdict_and_a_curve(inputs: Inputs, tmp_path: Path) -> None:
    rows = measure(
        [FakeRunner(backend="baseline", seconds=0.003), FakeRunner(backend="quick")],
        [inputs],
        [2],
        SingleStream(0.01),
        tmp_path,
        tiers=[HOST, END_TO_END],
        repeats=3,
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
    (found,) = measure([runner], [inputs], [4], Offline(0.05), tmp_path, tiers=[HOST], repeats=3)
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
        [FakeRunner(see=see)],
        [inputs],
        [4],
        Server(0.01, target_p99_ms=30),
        tmp_path,
        tiers=[HOST],
        repeats=3,
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
    measure([runner], [inputs], [3, 5], scenario, tmp_path, tiers=[tier], repeats=3)
    # As many shapes as will come again are kept, so that none is prepared anew.
    assert runner.kept == kept


@needs_loadgen
def test_a_bound_below_one_query_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    server = Server(0.001, target_p99_ms=10)
    with pytest.raises(MeasurementError, match="--target-p99-ms"):
        measure([FakeRunner(seconds=0.02)], [inputs], [8], server, tmp_path, tiers=[HOST])


class _Failing(TimedLoop):
    """A loop that has no figure for some turns of the baseline."""

    def __init__(self, *fails: int, error: FcnDeployError) -> None:
        super().__init__(1e-9)
        self._fails = fails
        self._error = error
        self._turns = itertools.count(1)

    def repeat(self, case: Case, meter: Meter) -> Repeat:
        if case.runner.describe().backend == "baseline" and next(self._turns) in self._fails:
            raise self._error
        return super().repeat(case, meter)


@pytest.mark.parametrize("error", [MeasurementError("too slow"), BackendError("out of memory")])
def test_a_case_without_a_figure_costs_the_others_nothing(
    inputs: Inputs, tmp_path: Path, error: FcnDeployError
) -> None:
    why: list[str] = []
    rows = measure(
        [FakeRunner(backend="baseline"), FakeRunner(backend="quick")],
        [inputs],
        [1],
        _Failing(1, error=error),
        tmp_path,
        tiers=[HOST],
        repeats=3,
        on_dropped=why.append,
    )
    assert [row.runner.backend for row in rows] == ["quick"]
    assert len(rows[0].repeats_ms) == 3
    assert why == [
        f"baseline fp32 host 1×24×32, repeat 1 of 3: {error.message}; the row is left out"
    ]
    alone, failing = [FakeRunner(backend="baseline")], _Failing(1, error=error)
    with pytest.raises(type(error), match=error.message):
        measure(alone, [inputs], [1], failing, tmp_path, tiers=[HOST], repeats=3)


def test_a_slow_repeat_costs_that_repeat_alone(inputs: Inputs, tmp_path: Path) -> None:
    def measured(*fails: int) -> tuple[tuple[BenchRow, ...], list[str]]:
        why: list[str] = []
        scenario = _Failing(*fails, error=MeasurementError("too slow"))
        runners = [FakeRunner(backend="baseline"), FakeRunner(backend="quick")]
        rows = measure(
            runners, [inputs], [1], scenario, tmp_path,
            tiers=[HOST], repeats=5, on_dropped=why.append,
        )  # fmt: skip
        return rows, why

    (slow, quick), why = measured(2, 4)
    assert len(quick.repeats_ms) == 5
    pairs = [b / a for a, b in zip(quick.repeats_ms[::2], slow.repeats_ms, strict=True)]
    assert quick.over_baseline is not None
    assert (quick.over_baseline.low, quick.over_baseline.high) == (min(pairs), max(pairs))
    assert why == [f"baseline fp32 host 1×24×32, repeat {n} of 5: too slow" for n in (2, 4)]
    rows, why = measured(2, 3, 5)  # two repeats show no spread
    assert [row.runner.backend for row in rows] == ["quick"]
    assert why[-1].endswith("the row is left out")


class _OutOfMemory(FakeRunner):
    def device_seconds(self, images: NDArray[np.uint8]) -> float | None:
        if len(images) > 1:
            raise BackendError("out of memory")
        return 0.25


def test_a_batch_too_large_for_the_device_costs_the_others_nothing(
    inputs: Inputs, tmp_path: Path
) -> None:
    why: list[str] = []

    def measured(*batches: int) -> tuple[BenchRow, ...]:
        return measure(
            [_OutOfMemory()], [inputs], batches, TimedLoop(1e-9), tmp_path,
            tiers=[DEVICE], repeats=3, seconds=1e-9, on_dropped=why.append,
        )  # fmt: skip

    assert [row.batch_size for row in measured(1, 64)] == [1]
    assert why == ["fake fp32 device 64×24×32: out of memory; the row is left out"]
    with pytest.raises(BackendError, match="out of memory"):
        measured(64)


@needs_loadgen
def test_a_slow_start_costs_no_verdict(inputs: Inputs, tmp_path: Path) -> None:
    slow_at_first = itertools.count()

    def see(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        time.sleep(0.02 if next(slow_at_first) < 6 else 0.0005)
        return images

    scenario = SingleStream(0.1)
    (found,) = measure(
        [FakeRunner(see=see)], [inputs], [1], scenario, tmp_path, tiers=[HOST], repeats=3
    )
    assert found.loadgen is not None
    assert found.loadgen.valid


def test_too_few_repeats_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 3"):
        measure([FakeRunner()], [inputs], [1], TimedLoop(0.1), tmp_path, repeats=2)


def test_a_tier_that_no_runner_has_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="device"):
        measure([FakeRunner()], [inputs], [1], TimedLoop(0.1), tmp_path, tiers=[DEVICE])


def test_a_bench_is_what_is_written_and_read_again(inputs: Inputs, tmp_path: Path) -> None:
    plan = BenchPlan(
        runners=[FakeRunner(backend="baseline", threads=2), FakeRunner(backend="quick", threads=2)],
        inputs=[inputs],
        scenario=TimedLoop(1e-9),
        folder=tmp_path,
        batch_sizes=[1, 2],
        repeats=3,
        seconds=0.25,
        source="made up",
        loop_reason="asked for",
        options=["--clock", "loop"],
    )
    dropped: list[str] = []
    found = measured_bench(plan, ConditionWatch(threads=2), on_dropped=dropped.append)
    assert (found.clock, found.clock_version, found.clock_reason) == (
        "timed loop",
        None,
        "asked for",
    )
    assert (found.source, found.distinct_inputs, found.seconds) == ("made up", 3, 0.25)
    assert found.conditions.threads == 2
    assert dropped == []
    assert {row.workload for row in found.rows} == {
        workload for workload in plan.workloads if workload.tier != DEVICE
    }
    text = json.dumps(found.to_json(), allow_nan=False)
    fields = Fields(json.loads(text), tmp_path / "b.json", "measure again")
    assert (fields.values["kind"], fields.values["schema"]) == ("bench", 3)
    assert fields.values["machine"]["cores"] >= 1
    assert Bench.from_fields(fields, Environment.from_fields(fields, "")) == found


def test_what_is_dropped_and_one_picture_stand_among_the_warnings(tmp_path: Path) -> None:
    same = make_inputs([np.zeros((8, 8, 3), np.uint8)], (8, 8), tmp_path)
    failing = _Failing(1, error=MeasurementError("too slow"))
    runners = [FakeRunner(backend="baseline"), FakeRunner(backend="quick")]
    plan = BenchPlan(runners, [same], failing, tmp_path, tiers=[HOST], repeats=3)
    told: list[str] = []
    found = measured_bench(plan, ConditionWatch(threads=1), on_dropped=told.append)
    assert [row.runner.backend for row in found.rows] == ["quick"]
    assert found.distinct_inputs == 1
    same_picture, lost, *_ = found.conditions.warnings
    assert same_picture.startswith("all inputs of a size are the same picture")
    assert [lost] == told
    assert "too slow; the row is left out" in lost


def test_each_row_has_its_ratio() -> None:
    rows = [row("baseline", (10, 20, 40)), row("a", (5, 10, 20)), row("a", (5, 5, 6), END_TO_END)]
    found = with_ratios([MeasuredRow(row, dict(enumerate(row.repeats_ms))) for row in rows])
    first, second, third = (row.over_baseline for row in found)
    assert first is not None
    assert first.median == 1
    assert second is not None
    assert second.median == 2
    assert third is None  # of another tier


def test_the_device_tier_is_never_asked_by_loadgen(inputs: Inputs, tmp_path: Path) -> None:
    plan = BenchPlan([FakeRunner()], [inputs], SingleStream(1), tmp_path)
    assert {(w.tier, w.clock) for w in plan.workloads} == {
        (DEVICE, "timed loop"), (HOST, "loadgen"), (END_TO_END, "loadgen"),
    }  # fmt: skip
    bound = BenchPlan([FakeRunner()], [inputs], Server(1, 30.0), tmp_path).workloads
    assert {(w.tier, w.target_p99_ms) for w in bound} == {(HOST, 30.0), (END_TO_END, 30.0)}


def test_one_invalid_repeat_makes_a_row_invalid() -> None:
    good = LoadGenVerdict(True, early_stopping_ms=2.0)
    bad = LoadGenVerdict(False, problems=("too short",))
    found = verdict_of_repeats([good, bad, bad])
    assert found == LoadGenVerdict(False, early_stopping_ms=2.0, problems=("too short",))
    assert verdict_of_repeats([]) is None


def test_the_least_that_a_repeat_was_asked_for_is_kept() -> None:
    found = verdict_of_repeats(
        [LoadGenVerdict(True, settings=Settings(0.5, queries, 8)) for queries in (640, 64, 320)]
    )
    assert found is not None
    assert found.settings == Settings(0.5, 64, 8)


class _DeviceClock(FakeRunner):
    """A runner whose device says that every picture takes a quarter of a second."""

    def device_seconds(self, images: NDArray[np.uint8]) -> float | None:
        self.run(images)
        return 0.25 * len(images)


def test_the_device_tier_is_the_device_s_own_time(inputs: Inputs, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    rows = measure(
        [FakeRunner(backend="cpu"), _DeviceClock(backend="gpu")],
        [inputs],
        [1, 2],
        TimedLoop(1),
        tmp_path,
        tiers=[DEVICE],
        repeats=3,
        seconds=0.001,
        on_step=lambda done, total: told.append((done, total)),
    )
    assert [(r.runner.backend, r.batch_size, r.repeats_ms) for r in rows] == [
        ("gpu", 1, (250.0,) * 3),
        ("gpu", 2, (500.0,) * 3),
    ]
    assert told == [(turn, 6) for turn in range(1, 7)]
    assert all(r.loadgen is None for r in rows)


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
        [runner],
        [inputs],
        [2],
        scenario,
        tmp_path,
        tiers=[HOST],
        repeats=3,
        energy_joules=lambda: runner.joules,
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
        tiers=[HOST],
        repeats=3,
        energy_joules=itertools.count().__next__,
    )
    assert [row.energy_j_per_image is None for row in rows] == [True, False]
    (without,) = measure([FakeRunner(device="cuda:0")], [inputs], [1], loop, tmp_path, tiers=[HOST])
    assert without.energy_j_per_image is None
