"""Which rows of a run are held against which, and what their repeats in pairs say."""

from dataclasses import replace
from typing import Any

import pytest

from fcn_deploy.core.errors import InputError
from fcn_deploy.results.bench import BenchRow, LoadGenVerdict
from fcn_deploy.results.ranking import baseline_of, speedup, strongest_pytorch, with_ratios
from fcn_deploy.results.scenarios import END_TO_END, HOST, OFFLINE, SERVER
from tests.fakes import FakeRunner
from tests.result_files import bare_row

INVALID = LoadGenVerdict(False, problems=("too short",))


def row(backend: str, repeats: tuple[float, ...], tier: str = HOST, **rest: Any) -> BenchRow:
    return bare_row(FakeRunner(backend=backend).describe(), repeats, tier=tier, **rest)


def by(library: str, backend: str, ms: float, **rest: Any) -> BenchRow:
    made = row(backend, (ms,) * 5, **rest)
    return replace(made, runner=replace(made.runner, library=library))


def on_gpu(made: BenchRow) -> BenchRow:
    return replace(made, runner=replace(made.runner, device="cuda:0 (Fake GPU)"))


def test_ratios_pair_the_repeats() -> None:
    # A machine that slows down hits both rows of a repeat, and the ratio stays.
    slow, quick = row("baseline", (10, 20, 40, 80, 160)), row("a", (5, 10, 20, 40, 80))
    ratio = speedup(quick, slow)
    assert (ratio.median, ratio.low, ratio.high) == (2, 2, 2)
    assert ratio.interval == pytest.approx((2, 2))
    assert ratio.verdict == "faster"
    assert speedup(slow, quick).verdict == "slower"


def test_a_repeat_that_one_row_lacks_has_no_pair() -> None:
    slow, quick = row("baseline", (10, 20, 40)), row("a", (5, 10, 999, 20))
    slow = replace(slow, repeat_numbers=(0, 1, 3))
    assert (speedup(quick, slow).low, speedup(quick, slow).high) == (2, 2)
    with pytest.raises(InputError, match="without a repeat"):
        speedup(quick, replace(slow, repeat_numbers=(4, 5, 6)))


def test_a_server_is_known_no_finer_than_its_search() -> None:
    def verdict(factor: float, scenario: str) -> str | None:
        repeats = (10.0, 11.0, 12.0, 10.5, 11.5, 12.5)
        ours = row("a", tuple(ms / factor for ms in repeats), scenario=scenario)
        return speedup(ours, row("baseline", repeats, scenario=scenario)).verdict

    assert verdict(1.04, OFFLINE) == "faster"
    assert verdict(1.04, SERVER) == "tie"
    assert verdict(1.06, SERVER) == "faster"


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
        speedup(row("a", (1, 1, 1)), other)


def test_a_baseline_has_the_same_workload() -> None:
    ours, elsewhere = row("a", (1, 1, 1)), row("baseline", (1, 1, 1), END_TO_END)
    assert baseline_of(ours, [elsewhere]) is None


def test_a_gpu_is_held_against_the_plain_export_on_a_gpu() -> None:
    ours, there = row("ort", (1, 1, 1)), on_gpu(row("trt", (1, 1, 1)))
    cpu_baseline, gpu_baseline = row("baseline", (9, 9, 9)), on_gpu(row("baseline-cuda", (9, 9, 9)))
    rows = [cpu_baseline, gpu_baseline, ours, there]
    assert baseline_of(ours, rows) is cpu_baseline
    assert baseline_of(there, rows) is gpu_baseline
    assert baseline_of(there, [cpu_baseline, there]) is None  # a ratio of two machines says nothing


def test_each_row_has_its_ratio() -> None:
    rows = [row("baseline", (10, 20, 40)), row("a", (5, 10, 20)), row("a", (5, 5, 6), END_TO_END)]
    first, second, third = (made.over_baseline for made in with_ratios(rows))
    assert first is not None
    assert first.median == 1
    assert second is not None
    assert (second.median, second.verdict) == (2, None)  # three repeats are no verdict
    assert third is None  # of another tier


def test_the_strongest_pytorch_row_is_found_from_the_times() -> None:
    ours = by("ONNX Runtime 1.31.1", "ort", 10)
    eager, compiled = by("PyTorch 2.15, eager", "peer:a", 30), by("PyTorch 2.15", "peer:b", 20)
    rows = [ours, eager, compiled]
    assert strongest_pytorch(ours, rows) is compiled
    assert strongest_pytorch(compiled, rows) is compiled
    assert strongest_pytorch(ours, [ours, eager]) is eager
    assert strongest_pytorch(ours, [ours]) is None
    # What LoadGen refuses, another workload, and another device are no measure.
    for unfit in (
        by("PyTorch 2.15", "peer:c", 5, loadgen=INVALID),
        by("PyTorch 2.15", "peer:c", 5, tier=END_TO_END),
        on_gpu(by("PyTorch 2.15", "peer:c", 5)),
    ):
        assert strongest_pytorch(ours, [*rows, unfit]) is compiled
