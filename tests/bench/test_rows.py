"""What a row says of its repeats: percentiles, ratios, its baseline and LoadGen's verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fcn_deploy.bench.rows import (
    MIN_QUERIES,
    MeasuredRow,
    percentiles,
    speedup,
    verdict_of_repeats,
    with_ratios,
)
from fcn_deploy.core.errors import InputError
from fcn_deploy.results.bench import (
    END_TO_END,
    HOST,
    OFFLINE,
    SERVER,
    BenchRow,
    LoadGenVerdict,
    Ratio,
    Settings,
    baseline_of,
)
from tests.fakes import FakeRunner
from tests.result_files import bare_row


def row(backend: str, repeats: tuple[float, ...], tier: str = HOST, **rest: Any) -> BenchRow:
    return bare_row(FakeRunner(backend=backend).describe(), repeats, tier=tier, **rest)


def ratio_of(one: BenchRow, over: BenchRow) -> Ratio:
    """Return how many times faster a row is than another that has the same repeats."""
    return speedup(*(MeasuredRow(row, dict(enumerate(row.repeats_ms))) for row in (one, over)))


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


def test_each_row_has_its_ratio() -> None:
    rows = [row("baseline", (10, 20, 40)), row("a", (5, 10, 20)), row("a", (5, 5, 6), END_TO_END)]
    found = with_ratios([MeasuredRow(row, dict(enumerate(row.repeats_ms))) for row in rows])
    first, second, third = (row.over_baseline for row in found)
    assert first is not None
    assert first.median == 1
    assert second is not None
    assert second.median == 2
    assert third is None  # of another tier


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
