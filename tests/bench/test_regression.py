"""Has it become slower?  Benches with made-up figures, so that every answer is known."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from fcn_deploy.bench import regression
from fcn_deploy.bench.inputs import make_inputs
from fcn_deploy.bench.measure import BenchPlan, measure_rows
from fcn_deploy.bench.regression import RequestedCases, SpeedChange, read_bench
from fcn_deploy.bench.scenarios import TimedLoop
from fcn_deploy.core.errors import ArtifactError, InputError
from fcn_deploy.results.bench import Bench, BenchRow, LoadGenVerdict
from fcn_deploy.results.ratio import MIN_REPEATS_FOR_VERDICT
from fcn_deploy.results.scenarios import END_TO_END, HOST, SERVER, SINGLE_STREAM
from fcn_deploy.results.workload import LOOP, Workload
from tests.fakes import FakeRunner
from tests.result_files import bare_row, measured_bench

STEADY = (50.0, 51.0, 52.0)
VALID = LoadGenVerdict(True)
INVALID = LoadGenVerdict(False, problems=("too short",))


def row(backend: str, repeats: tuple[float, ...], **changes: Any) -> BenchRow:
    """Return a row in which each repeat comes twice: three are too few for a verdict."""
    runner = changes.pop("runner", FakeRunner(backend=backend).describe())
    return bare_row(runner, 2 * repeats, **changes)


def bench(*rows: BenchRow, machine: dict[str, Any] | None = None) -> Bench:
    made = measured_bench(*rows)
    here = made.environment
    return replace(made, environment=replace(here, machine={**here.machine, **(machine or {})}))


def with_baseline(baseline: tuple[float, ...], ort: tuple[float, ...]) -> Bench:
    return bench(row("baseline", baseline), row("ort", ort))


def compare(
    before: Bench, now: Bench, limit: float = 0.1, asked: RequestedCases | None = None
) -> SpeedChange:
    return regression.compare(before, now, limit, asked)


def found(comparison: SpeedChange) -> list[str]:
    return [change.outcome for change in comparison.changes]


@pytest.mark.parametrize(
    ("now", "outcome"),
    [
        (STEADY, "same"),
        ((65.0, 66.0, 67.0), "slower"),
        ((54.0, 54.5, 55.0), "same"),  # beyond the noise, but below 10 %
        ((49.0, 66.0, 67.0), "same"),  # 29 % slower, but a third of the repeats are not
        ((51.5, 66.0, 67.0), "slower"),  # the spreads overlap, and hardly any pair of repeats does
        ((30.0, 31.0, 32.0), "faster"),
    ],
)
def test_slower_is_beyond_the_limit_and_the_noise(now: tuple[float, ...], outcome: str) -> None:
    comparison = compare(bench(row("ort", STEADY)), bench(row("ort", now)))
    assert found(comparison) == [outcome]
    assert bool(comparison.slower) == (outcome == "slower")
    assert "1 compared" in list(comparison.sentences())[-1]


def test_too_few_repeats_are_not_compared() -> None:
    few = bare_row(FakeRunner(backend="ort").describe(), STEADY)
    kept = row("torch", STEADY)
    comparison = compare(bench(few, kept), bench(row("ort", STEADY), kept))
    assert comparison.uncompared == (
        "ort fp32 host, batch 1, 24×32: too few repeats for a verdict (at least 5), 3 then, 6 now",
    )
    with pytest.raises(InputError, match="no row could be compared"):
        compare(bench(few), bench(row("ort", STEADY)))


def test_a_slow_day_of_the_machine_is_no_regression() -> None:
    before = with_baseline((100, 101, 102), STEADY)
    slow_day = with_baseline((150, 151, 152), (75, 76, 77))
    assert found(compare(before, slow_day)) == ["same"]
    # Nor does a fast day hide one.
    fast_day = with_baseline((70, 71, 72), STEADY)
    comparison = compare(before, fast_day)
    assert found(comparison) == ["slower"]
    assert "against the baseline of its minute" in str(comparison.slower[0])


def test_another_baseline_is_no_unit() -> None:
    other = FakeRunner(backend="baseline", digest="sha256:other").describe()
    before = with_baseline((100, 101, 102), STEADY)
    now = bench(row("baseline", (10, 11, 12), runner=other), row("ort", STEADY))
    comparison = compare(before, now)
    assert found(comparison) == ["same"]
    assert "in milliseconds" in str(comparison.changes[0])


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"library": "ONNX Runtime 9"}, "the baseline's library has changed"),
        ({"loadgen": INVALID}, "LoadGen calls the baseline INVALID"),
    ],
)
def test_a_baseline_that_is_not_the_same_any_more_is_no_unit(
    changes: dict[str, Any], note: str
) -> None:
    before = bench(
        row("baseline", (100, 101, 102), loadgen=VALID), row("ort", STEADY, loadgen=VALID)
    )
    library = changes.pop("library", None)
    now = row("baseline", (50, 50.5, 51), **{"loadgen": VALID} | changes)
    if library is not None:
        now = replace(now, runner=replace(now.runner, library=library))
    comparison = compare(before, bench(now, row("ort", STEADY, loadgen=VALID)))
    assert found(comparison) == ["same"]
    assert "in milliseconds" in str(comparison.changes[0])
    (unit,) = comparison.units
    assert unit.startswith(note)


@pytest.mark.parametrize(
    ("now", "outcome", "said"),
    [
        (((50, 50.5, 51), STEADY), "slower", "takes 50% less time"),
        (((200, 202, 204), (100, 102, 104)), "same", "takes 100% longer"),
    ],
)
def test_a_unit_of_another_length_is_said(
    now: tuple[tuple[float, ...], tuple[float, ...]], outcome: str, said: str
) -> None:
    comparison = compare(with_baseline((100, 101, 102), STEADY), with_baseline(*now))
    assert found(comparison) == [outcome]
    (unit,) = comparison.units
    assert unit.startswith(f"the baseline itself {said}")
    assert f"note: {unit}" in list(comparison.sentences())


def test_a_row_that_was_asked_for_and_has_no_figure_is_lost() -> None:
    kept = row("torch", STEADY)
    before = bench(row("ort", STEADY), row("ort", STEADY, batch_size=2), kept)
    workload = Workload(SINGLE_STREAM, None, LOOP, HOST, 1, (24, 32), "sha256:in")
    ort = row("ort", STEADY).runner
    asked = RequestedCases((ort,), frozenset({workload}))
    comparison = compare(before, bench(kept), asked=asked)
    assert not comparison.passed
    assert comparison.lost == ("ort fp32 host, batch 1, 24×32: not measured this time",)
    assert comparison.uncompared == ("ort fp32 host, batch 2, 24×32: not measured this time",)
    assert list(comparison.sentences())[-1].endswith("of 1 compared; 1 lost")
    assert compare(before, bench(kept)).passed  # nobody says that it was asked for
    for other in (
        RequestedCases((ort,), frozenset({replace(workload, inputs_digest="sha256:other")})),
        RequestedCases((replace(ort, threads=7),), frozenset({workload})),
        RequestedCases((replace(ort, digest="sha256:other"),), frozenset({workload})),
    ):
        assert compare(before, bench(kept), asked=other).passed


def test_a_row_that_was_asked_for_and_has_too_few_repeats_is_lost() -> None:
    kept, few = row("torch", STEADY), bare_row(FakeRunner(backend="ort").describe(), STEADY)
    before = bench(row("ort", STEADY), kept)
    workload = Workload(SINGLE_STREAM, None, LOOP, HOST, 1, (24, 32), "sha256:in")
    asked = RequestedCases((few.runner,), frozenset({workload}))
    comparison = compare(before, bench(few, kept), asked=asked)
    assert not comparison.passed
    assert comparison.lost == (
        "ort fp32 host, batch 1, 24×32: too few repeats for a verdict (at least 5), 6 then, 3 now",
    )
    assert compare(before, bench(few, kept)).passed  # nobody says that it was asked for
    assert compare(bench(few, kept), bench(few, kept), asked=asked).passed  # nor were then


def test_a_baseline_that_lost_repeats_is_no_unit() -> None:
    before = with_baseline((100, 101, 102), STEADY)
    few = bare_row(before.rows[0].runner, (100, 101, 102))
    comparison = compare(before, bench(few, row("ort", (75, 76, 77))))
    assert found(comparison) == ["slower"]
    assert "in milliseconds" in str(comparison.slower[0])
    (unit,) = comparison.units
    assert unit.startswith("the baseline has too few repeats")


@pytest.mark.parametrize(("scenario", "outcome"), [(SINGLE_STREAM, "slower"), (SERVER, "same")])
def test_in_units_of_the_baseline_a_searched_rate_counts_twice(scenario: str, outcome: str) -> None:
    def measured(ms: float) -> Bench:
        rows = row("baseline", (100, 100, 100)), row("ort", (ms, ms, ms))
        return bench(*(replace(made, scenario=scenario) for made in rows))

    # 8 % lie between a rate's resolution of 5 % and that of a quotient of two, 10 %.
    assert found(compare(measured(50), measured(54), 0.05)) == [outcome]
    assert found(compare(measured(50), measured(56), 0.05)) == ["slower"]


def test_the_unit_is_the_baseline_of_the_rows_own_device() -> None:
    def on_gpu(backend: str, repeats: tuple[float, ...]) -> BenchRow:
        runner = FakeRunner(backend=backend, device="cuda:0 (Fake GPU)").describe()
        return row(backend, repeats, runner=runner)

    before = bench(
        row("baseline", (100, 101, 102)), on_gpu("baseline-cuda", (10, 10.1, 10.2)),
        on_gpu("trt", (1, 1.01, 1.02)), row("ort", STEADY),
    )  # fmt: skip
    slow_gpu = bench(
        row("baseline", (100, 101, 102)), on_gpu("baseline-cuda", (20, 20.2, 20.4)),
        on_gpu("trt", (2, 2.02, 2.04)), row("ort", STEADY),
    )  # fmt: skip
    comparison = compare(before, slow_gpu)
    assert found(comparison) == ["same", "same"]
    assert all(change.by_baseline for change in comparison.changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"runner": FakeRunner(backend="ort", digest="sha256:b").describe()}, "another model file"),
        ({"inputs_digest": "sha256:other"}, "other pictures"),
        ({"runner": FakeRunner(backend="ort", threads=7).describe()}, "other threads"),
        ({"batch_size": 8}, "not in "),
        ({"size": (48, 64)}, "not in "),
        ({"scenario": "offline"}, "not in "),
        ({"tier": "end-to-end"}, "not in "),
    ],
)
def test_unlike_rows_are_named_not_compared(changes: dict[str, Any], why: str) -> None:
    before = bench(row("torch", STEADY), row("ort", STEADY))
    now = bench(row("torch", STEADY), row("ort", (500, 501, 502), **changes))
    comparison = compare(before, now)
    assert found(comparison) == ["same"]
    assert not comparison.slower
    (first, *rest) = comparison.uncompared
    assert first.startswith("ort fp32")
    assert why in first
    # A case that is gone is named too.
    assert len(rest) == (1 if why == "not in " else 0)
    with pytest.raises(InputError, match="no row could be compared"):
        compare(bench(row("ort", STEADY)), bench(row("ort", STEADY, **changes)))


def test_another_bound_or_clock_is_another_workload() -> None:
    def served(bound: float) -> BenchRow:
        verdict = LoadGenVerdict(True, target_p99_ms=bound)
        return row("ort", STEADY, scenario=SERVER, loadgen=verdict)

    before = bench(row("torch", STEADY), served(100.0))
    (why,) = compare(before, bench(row("torch", STEADY), served(10.0))).uncompared
    assert "p99 bound 100 ms then, 10 ms now" in why
    assert found(compare(before, bench(served(100.0)))) == ["same"]

    looped = bench(row("torch", STEADY), row("ort", STEADY))
    (why,) = compare(
        looped, bench(row("torch", STEADY), row("ort", STEADY, loadgen=VALID))
    ).uncompared
    assert "clock timed loop then, loadgen now" in why


def test_another_machine_is_refused() -> None:
    before = bench(row("ort", STEADY), machine={"cpu": "Zilog Z80"})
    with pytest.raises(InputError, match="Zilog Z80 → "):
        compare(before, bench(row("ort", STEADY)))
    # The system and the Python may move on: they are what one wants to compare.
    moved = bench(row("ort", STEADY), machine={"python": "3.99", "system": "Linux 99"})
    assert found(compare(moved, bench(row("ort", STEADY)))) == ["same"]


def test_a_kernel_that_keeps_more_memory_makes_no_other_machine() -> None:
    before = bench(row("ort", STEADY), machine={"memory_gib": 23.5})
    assert found(compare(before, bench(row("ort", STEADY), machine={"memory_gib": 23.1})))
    with pytest.raises(InputError, match=r"memory_gib 23\.5 → 47\.0"):
        compare(before, bench(row("ort", STEADY), machine={"memory_gib": 47.0}))


def test_rows_that_loadgen_calls_invalid_are_not_compared() -> None:
    def measured(verdict: LoadGenVerdict) -> Bench:
        return bench(row("torch", STEADY, loadgen=VALID), row("ort", STEADY, loadgen=verdict))

    comparison = compare(measured(INVALID), measured(VALID))
    assert [change.now.runner.backend for change in comparison.changes] == ["torch"]
    assert comparison.uncompared == ("ort fp32 host, batch 1, 24×32: INVALID by LoadGen then",)
    assert comparison.passed
    comparison = compare(measured(VALID), measured(INVALID))
    assert comparison.lost == ("ort fp32 host, batch 1, 24×32: VALID then, INVALID by LoadGen now",)
    assert not comparison.passed


def test_a_thirty_percent_sleep_is_found_on_a_clock_that_only_it_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("fcn_deploy.bench.case.time.perf_counter", lambda: now[0])

    def runner(backend: str, seconds: float) -> FakeRunner:
        def see(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
            now[0] += seconds
            return images

        return FakeRunner(backend=backend, see=see)

    pictures = [np.zeros((8, 8, 3), np.uint8)]
    inputs = make_inputs(pictures, (24, 32), tmp_path)

    def measured(ours: float) -> Bench:
        plan = BenchPlan(
            [runner("baseline", 0.05), runner("ort", ours)],
            [inputs],
            TimedLoop(0.5),
            tmp_path,
            tiers=[HOST, END_TO_END],
            repeats=5,
        )
        return measured_bench(rows=measure_rows(plan))

    old = measured(0.04)
    assert found(compare(old, measured(0.04))) == ["same", "same"]
    assert found(compare(old, measured(0.04 * 1.3))) == ["slower", "slower"]


def _recorded() -> list[Path]:
    files = sorted((Path(__file__).parents[2] / "benchmarks" / "results").rglob("*.json"))
    return [f for f in files if json.loads(f.read_text(encoding="utf-8"))["kind"] == "bench"]


@pytest.mark.parametrize("path", _recorded(), ids=lambda path: path.name)
def test_recorded_results_are_compared(path: Path) -> None:
    recorded = read_bench(path)
    if max(len(row.repeats_ms) for row in recorded.rows) < MIN_REPEATS_FOR_VERDICT:
        with pytest.raises(InputError, match="too few repeats for a verdict"):
            compare(recorded, recorded)
        return
    comparison = compare(recorded, recorded)
    assert set(found(comparison)) == {"same"}
    assert not comparison.uncompared
    assert all(row.loadgen is None or row.loadgen.valid for row in recorded.rows)


def test_only_results_of_bench_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    with pytest.raises(ArtifactError, match=r"old\.json"):
        read_bench(path)
    path.write_text('{"kind": "bench", "schema": 1}', encoding="utf-8")
    with pytest.raises(ArtifactError, match="schema 1"):
        read_bench(path)


@pytest.mark.parametrize("word", ["x%", "-1", "nan", "inf"])
def test_a_limit_is_a_percentage(word: str) -> None:
    from fcn_deploy.commands.bench import bench

    result = CliRunner().invoke(bench, ["--max-slowdown", word])
    assert result.exit_code == 2
    assert "write e.g. 10%" in result.output
