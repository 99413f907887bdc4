"""What bench makes of its turns, on fakes that sleep; no test depends on how fast a machine is."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.bench.case import Case
from fcn_deploy.bench.conditions import ConditionWatch
from fcn_deploy.bench.inputs import Inputs, make_inputs
from fcn_deploy.bench.measure import BenchPlan
from fcn_deploy.bench.measure import measure as measured_bench
from fcn_deploy.bench.scenarios import Meter, Repeat, Server, SingleStream, TimedLoop
from fcn_deploy.core.errors import BackendError, FcnDeployError, InputError, MeasurementError
from fcn_deploy.results.bench import ALL_STAGES, Bench, BenchRow
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.ranking import baseline_of
from fcn_deploy.results.scenarios import DEVICE, END_TO_END, HOST, TIERS
from tests.bench.measuring import measure
from tests.fakes import FakeRunner


def test_every_case_is_measured_and_runs_are_interleaved(inputs: Inputs, tmp_path: Path) -> None:
    order: list[str] = []

    def runner(name: str) -> FakeRunner:
        return FakeRunner(backend=name, see=lambda images: (order.append(name), images)[1])

    rows = measure(
        [runner("a"), runner("b")], [inputs], [1, 2], TimedLoop(0.001), tmp_path, tiers=TIERS
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
    def names(seed: int) -> list[list[str]]:
        recorded = _Recorded()
        runners = [FakeRunner(backend=name) for name in "abcd"]
        measure(runners, [inputs], [1, 2], recorded, tmp_path, repeats=5, order_seed=seed)
        return [recorded.names[start : start + 8] for start in range(0, 40, 8)]

    repeats = names(3)
    assert repeats == names(3)
    assert repeats != names(4)
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
    rows = measure(runners, [inputs], [1], TimedLoop(0.05), tmp_path)
    slow, quick = rows
    assert slow.median_ms >= 25
    assert slow.images_per_s <= 40
    assert slow.loadgen is None
    assert baseline_of(quick, rows) is slow
    assert quick.over_baseline is not None
    assert quick.over_baseline.low > 1


def test_few_queries_have_neither_percentiles_nor_a_curve(inputs: Inputs, tmp_path: Path) -> None:
    loop = TimedLoop(1e-9)
    (few,) = measure([FakeRunner()], [inputs], [1], loop, tmp_path)
    assert few.queries == 9
    assert set(few.latency_ms) == {"mean", "p50"}
    assert few.cdf_ms is None


def test_the_stages_add_up_to_the_wall(inputs: Inputs, tmp_path: Path) -> None:
    runner = FakeRunner(seconds=0.01)
    loop = TimedLoop(0.05)
    (found,) = measure([runner], [inputs], [1], loop, tmp_path, tiers=[END_TO_END])
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
    (host,) = measure([runner], [inputs], [1], loop, tmp_path)
    assert host.stages_ms is None


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
        on_dropped=why.append,
    )
    assert [row.runner.backend for row in rows] == ["quick"]
    assert len(rows[0].repeats_ms) == 3
    assert why == [
        f"baseline fp32 host 1×24×32, repeat 1 of 3: {error.message}; the row is left out"
    ]
    alone, failing = [FakeRunner(backend="baseline")], _Failing(1, error=error)
    with pytest.raises(type(error), match=error.message):
        measure(alone, [inputs], [1], failing, tmp_path)


def test_a_slow_repeat_costs_that_repeat_alone(inputs: Inputs, tmp_path: Path) -> None:
    def measured(*fails: int) -> tuple[tuple[BenchRow, ...], list[str]]:
        why: list[str] = []
        scenario = _Failing(*fails, error=MeasurementError("too slow"))
        runners = [FakeRunner(backend="baseline"), FakeRunner(backend="quick")]
        rows = measure(
            runners, [inputs], [1], scenario, tmp_path, repeats=5, on_dropped=why.append,
        )  # fmt: skip
        return rows, why

    (slow, quick), why = measured(2, 4)
    assert len(quick.repeats_ms) == 5
    pairs = [b / a for a, b in zip(quick.repeats_ms[::2], slow.repeats_ms, strict=True)]
    assert quick.over_baseline is not None
    assert (quick.over_baseline.low, quick.over_baseline.high) == (min(pairs), max(pairs))
    assert (slow.repeat_numbers, quick.repeat_numbers) == ((0, 2, 4), (0, 1, 2, 3, 4))
    assert quick.over_baseline.verdict is None  # three pairs
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
            tiers=[DEVICE], seconds=1e-9, on_dropped=why.append,
        )  # fmt: skip

    assert [row.batch_size for row in measured(1, 64)] == [1]
    assert why == ["fake fp32 device 64×24×32: out of memory; the row is left out"]
    with pytest.raises(BackendError, match="out of memory"):
        measured(64)


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
        order_seed=2**32 - 1,
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
    assert found.order_seed == 2**32 - 1
    assert dropped == []
    assert {row.workload for row in found.rows} == {
        workload for workload in plan.workloads if workload.tier != DEVICE
    }
    text = json.dumps(found.to_json(), allow_nan=False)
    fields = Fields(json.loads(text), tmp_path / "b.json", "measure again")
    assert (fields.values["kind"], fields.values["schema"]) == ("bench", 4)
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


def test_the_device_tier_is_never_asked_by_loadgen(inputs: Inputs, tmp_path: Path) -> None:
    plan = BenchPlan([FakeRunner()], [inputs], SingleStream(1), tmp_path)
    assert {(w.tier, w.clock) for w in plan.workloads} == {
        (DEVICE, "timed loop"), (HOST, "loadgen"), (END_TO_END, "loadgen"),
    }  # fmt: skip
    bound = BenchPlan([FakeRunner()], [inputs], Server(1, 30.0), tmp_path).workloads
    assert {(w.tier, w.target_p99_ms) for w in bound} == {(HOST, 30.0), (END_TO_END, 30.0)}


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
        seconds=0.001,
        on_step=lambda done, total: told.append((done, total)),
    )
    assert [(r.runner.backend, r.batch_size, r.repeats_ms) for r in rows] == [
        ("gpu", 1, (250.0,) * 3),
        ("gpu", 2, (500.0,) * 3),
    ]
    assert told == [(turn, 6) for turn in range(1, 7)]
    assert all(r.loadgen is None for r in rows)
