"""LoadGen is asked for real, on answers that sleep; whether a figure is fast decides nothing."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fcn_deploy.bench import loadgen
from fcn_deploy.core.errors import BackendError, MeasurementError
from fcn_deploy.results import bench

pytestmark = pytest.mark.skipif(
    loadgen.unavailable_reason() is not None, reason="LoadGen has no wheel for this Python"
)


def test_single_stream_asks_until_it_may_print_a_p90() -> None:
    asked: list[int] = []

    def answer(number: int, on_result: Callable[[], None]) -> None:
        asked.append(number)
        time.sleep(0.001)
        on_result()
        time.sleep(0.002)  # e.g. writing the mask: after the result, so not in the latency

    tested = loadgen.single_stream(answer, samples=8, min_seconds=0.01, expected_seconds=0.003)
    assert tested.verdict.valid
    assert tested.verdict.problems == ()
    assert tested.samples == len(asked) >= loadgen.P90_QUERIES
    assert set(asked) == set(range(8))
    assert tested.verdict.early_stopping_ms is not None
    assert (
        tested.verdict.early_stopping_ms
        >= tested.latency_ms["p90"]
        >= tested.latency_ms["p50"]
        >= 1
    )
    assert tested.samples_per_s is None
    assert tested.verdict.settings == bench.Settings(0.01, loadgen.P90_QUERIES, 8)


def test_too_few_queries_are_called_invalid_and_why() -> None:
    slow = loadgen.single_stream(
        lambda number, done: (time.sleep(0.005), done())[1],
        samples=4,
        min_seconds=0.001,
        expected_seconds=0.005,
        min_queries=1,
    )
    assert slow.samples < loadgen.P90_QUERIES
    assert not slow.verdict.valid
    assert "Need to process at least 64 queries" in " ".join(slow.verdict.problems)


def test_offline_gives_all_samples_at_once() -> None:
    calls: list[int] = []

    def answer(pictures: Sequence[int], on_results: Callable[[int], None]) -> None:
        calls.append(len(pictures))
        for start in range(0, len(pictures), 3):
            time.sleep(0.001)
            on_results(len(pictures[start : start + 3]))

    tested = loadgen.offline(answer, samples=8, min_seconds=0.05, expected_per_s=3000)
    assert calls == [tested.samples]
    assert tested.samples >= 150
    assert tested.samples_per_s is not None
    assert tested.samples_per_s <= 3000


@pytest.mark.parametrize(("seconds", "rate", "batch"), [(0.01, 100, 7), (0.05, 2345.6, 32)])
def test_offline_asks_for_whole_batches_and_not_for_few(
    seconds: float, rate: float, batch: int
) -> None:
    calls: list[int] = []

    def answer(pictures: Sequence[int], on_results: Callable[[int], None]) -> None:
        calls.append(len(pictures))
        on_results(len(pictures))

    loadgen.offline(answer, samples=8, min_seconds=seconds, expected_per_s=rate, batch_size=batch)
    (count,) = calls
    assert count % batch == 0
    assert count >= max(
        loadgen.OFFLINE_SAMPLES, batch * loadgen.OFFLINE_BATCHES, 1.1 * rate * seconds
    )


def test_offline_refuses_too_few_results() -> None:
    with pytest.raises(MeasurementError, match="63 results came for 64 pictures"):
        loadgen.offline(
            lambda pictures, on_results: on_results(len(pictures) - 1),
            samples=8, min_seconds=0.01, expected_per_s=100,
        )  # fmt: skip


def test_server_answers_together_what_waits_and_keeps_its_bound() -> None:
    batches: list[int] = []

    def answer(pictures: Sequence[int]) -> None:
        batches.append(len(pictures))
        time.sleep(0.002)

    tested = loadgen.server(
        answer, samples=8, min_seconds=0.01, rate=2000, target_p99_ms=10_000, max_batch=16
    )
    assert tested.verdict.valid
    assert sum(batches) == tested.samples >= loadgen.P99_QUERIES
    assert 1 < max(batches) <= 16
    assert tested.latency_ms["p99"] >= 2
    assert tested.verdict.target_p99_ms == 10_000


def test_a_bound_that_is_not_kept_is_invalid() -> None:
    tested = loadgen.server(
        lambda pictures: time.sleep(0.002),
        samples=8,
        min_seconds=0.01,
        rate=2000,
        target_p99_ms=1,
        max_batch=1,
    )
    assert not tested.verdict.valid
    assert "p99 is beyond its bound" in tested.verdict.problems


class _BrokenError(Exception):
    pass


def _break(*_: object) -> None:
    raise _BrokenError


@pytest.mark.parametrize(
    "run",
    [
        lambda: loadgen.single_stream(_break, samples=8, min_seconds=0.01, expected_seconds=0.001),
        lambda: loadgen.offline(_break, samples=8, min_seconds=0.01, expected_per_s=1000),
        lambda: loadgen.server(
            _break, samples=8, min_seconds=0.01, rate=5000, target_p99_ms=100, max_batch=4
        ),
    ],
)
def test_what_goes_wrong_inside_comes_out(run: Callable[[], object]) -> None:
    with pytest.raises(_BrokenError):
        run()
    # LoadGen is whole afterwards.
    after = loadgen.single_stream(
        lambda number, done: done(), samples=8, min_seconds=0.01, expected_seconds=1e-6
    )
    assert after.verdict.valid


def test_a_log_that_says_nothing_is_an_error(tmp_path: Path) -> None:
    for content in (None, "", ":::MLLOG {"):
        if content is not None:
            (tmp_path / "log").write_text(content, encoding="utf-8")
        with pytest.raises(MeasurementError, match="--clock loop"):
            loadgen.read_log(tmp_path / "log")


def test_without_loadgen_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlperf_loadgen", None)
    assert "pip install mlcommons-loadgen" in (loadgen.unavailable_reason() or "")
    with pytest.raises(BackendError, match="pip install mlcommons-loadgen"):
        loadgen.single_stream(_break, samples=1, min_seconds=1, expected_seconds=1)
