"""What the clock does, on fakes that sleep; no test depends on how fast the machine is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.bench import (
    DEVICE,
    END_TO_END,
    HOST,
    MIN_QUERIES,
    NUM_INPUTS,
    Inputs,
    Row,
    baseline_of,
    bench_document,
    make_inputs,
    measure,
    percentiles,
    speedup,
)
from fcn_deploy.errors import InputError
from tests.fakes import FakeRunner


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(3)]
    return make_inputs(pictures, (24, 32), tmp_path)


def row(backend: str, repeats: tuple[float, ...], tier: str = HOST, digest: str = "d") -> Row:
    return Row(
        FakeRunner(backend=backend).describe(), tier, 1, (24, 32), digest, repeats, 30, {},
    )  # fmt: skip


def test_inputs_are_distinct_hashed_and_the_same_for_both_tiers(inputs: Inputs) -> None:
    from fcn_deploy.images import read_image

    assert inputs.images.shape == (NUM_INPUTS, 24, 32, 3)
    for path, image in zip(inputs.files, inputs.images, strict=True):
        np.testing.assert_array_equal(read_image(path), image)
    assert len({image.tobytes() for image in inputs.images}) > 1
    assert inputs.digest.startswith("sha256:")


def test_queries_walk_through_all_inputs(inputs: Inputs) -> None:
    seen = {image.tobytes() for query in range(4) for image in inputs.batch(query, 2)}
    assert seen == {image.tobytes() for image in inputs.images}
    assert inputs.batch(0, 11).shape[0] == 11


def test_every_case_is_measured_and_runs_are_interleaved(inputs: Inputs) -> None:
    order: list[str] = []

    def runner(name: str) -> FakeRunner:
        return FakeRunner(backend=name, see=lambda images: (order.append(name), images)[1])

    rows = measure(
        [runner("a"), runner("b")], [inputs], [1, 2], repeats=3, seconds_per_repeat=0.001
    )
    assert {(r.runner.backend, r.tier, r.batch_size) for r in rows} == {
        (b, t, n) for b in "ab" for t in (HOST, END_TO_END) for n in (1, 2)
    }
    assert all(len(r.repeats_ms) == 3 for r in rows)
    turns = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    # 8 cases take 3 turns each, after 8 turns of calibration: never all of one runner in a row
    assert len(turns) >= 8 + 3 * 8 - 3


def test_a_sleep_is_seen_and_ranked(inputs: Inputs) -> None:
    # 25 ms against next to nothing: a thousandfold, beyond any noise of a busy machine.
    runners = [FakeRunner(backend="baseline", seconds=0.025), FakeRunner(backend="quick")]
    rows = measure(runners, [inputs], [1], tiers=[HOST], repeats=3, seconds_per_repeat=0.05)
    slow, quick = rows
    assert slow.median_ms >= 25
    assert slow.images_per_s <= 40
    assert baseline_of(quick, rows) is slow
    assert speedup(quick, slow).low > 1


def test_ratios_pair_the_repeats() -> None:
    # A machine that slows down hits both rows of a repeat, and the ratio stays.
    slow, quick = row("baseline", (10, 20, 40)), row("a", (5, 10, 20))
    assert speedup(quick, slow) == speedup(row("b", (5, 10, 20)), slow)
    ratio = speedup(quick, slow)
    assert (ratio.median, ratio.low, ratio.high, ratio.tie) == (2, 2, 2, False)
    assert speedup(row("a", (9, 21, 40)), slow).tie


@pytest.mark.parametrize(
    "other", [row("b", (1, 1, 1), END_TO_END), row("b", (1, 1, 1), digest="x")]
)
def test_unlike_rows_are_not_ranked(other: Row) -> None:
    with pytest.raises(InputError, match="not ranked"):
        speedup(row("a", (1, 1, 1)), other)
    assert baseline_of(row("a", (1, 1, 1)), [other]) is None


def test_percentiles_need_their_number_of_queries(inputs: Inputs) -> None:
    few = measure([FakeRunner()], [inputs], [1], tiers=[HOST], repeats=3, seconds_per_repeat=1e-9)
    assert few[0].queries < MIN_QUERIES["p90"]
    assert few[0].latency_ms == {}
    assert percentiles(range(63)) == {}
    assert percentiles(range(1, 101)) == {"p90": 90}
    assert percentiles(range(200, 0, -1)) == {"p90": 180, "p95": 190}
    assert set(percentiles(range(662))) == {"p90", "p95", "p99"}


def test_too_few_repeats_are_refused(inputs: Inputs) -> None:
    with pytest.raises(InputError, match="at least 3"):
        measure([FakeRunner()], [inputs], [1], repeats=2)


def test_no_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--images"):
        make_inputs([], (8, 8), tmp_path)


def test_the_document_names_tier_batch_size_and_ratio() -> None:
    rows = [row("baseline", (10, 20, 40)), row("a", (5, 10, 20)), row("a", (5, 5, 5), END_TO_END)]
    document = json.loads(json.dumps(bench_document(rows, "made up", 0.5), allow_nan=False))
    assert (document["kind"], document["schema"]) == ("bench", 1)
    assert document["machine"]["cores"] >= 1
    first, second, third = document["rows"]
    assert first["speedup_over_baseline"]["median"] == 1
    assert second["speedup_over_baseline"]["median"] == 2
    assert third["speedup_over_baseline"] is None
    assert second["tier"] == "host"
    assert second["size"] == [24, 32]
    assert second["concurrency"] == 1


class _DeviceClock(FakeRunner):
    """A runner whose device says that every picture takes a quarter of a second."""

    def device_seconds(self, images: NDArray[np.uint8]) -> float | None:
        self.run(images)
        return 0.25 * len(images)


def test_the_device_tier_is_the_device_s_own_time(inputs: Inputs) -> None:
    told: list[tuple[int, int]] = []
    rows = measure(
        [FakeRunner(backend="cpu"), _DeviceClock(backend="gpu")],
        [inputs],
        [1, 2],
        tiers=[DEVICE],
        repeats=3,
        seconds_per_repeat=0.001,
        on_step=lambda done, total: told.append((done, total)),
    )
    assert [(r.runner.backend, r.batch_size, r.repeats_ms) for r in rows] == [
        ("gpu", 1, (250.0,) * 3),
        ("gpu", 2, (500.0,) * 3),
    ]
    assert told == [(turn, 6) for turn in range(1, 7)]
