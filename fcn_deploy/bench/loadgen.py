"""MLPerf LoadGen: who asks, when, and whether the figures count.

    single_stream   one query after another            → latency, p90 by early stopping
    offline         all samples at once                → throughput
    server          samples at random moments (Poisson) → is p99 below a bound at this rate?

LoadGen takes the times itself, in C++, and writes a log of its own; :class:`LoadGenTest` is what
that log says.  A sample is whatever the caller makes of a number: a picture, or a batch of them.
"""

from __future__ import annotations

import json
import math
import queue
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import BackendError, MeasurementError, cannot_import
from fcn_deploy.results.bench import LoadGenVerdict, Settings

INSTALL = "pip install mlcommons-loadgen (it has wheels for Python up to 3.13 on common machines)"
#: Fewest queries for which LoadGen's early stopping gives a p90, and a p99.
P90_QUERIES, P99_QUERIES = 64, 662
#: Offline, fewest samples, and fewest batches of them: one alone has nothing to overlap with.
OFFLINE_SAMPLES, OFFLINE_BATCHES = 64, 4
#: By so much LoadGen raises the number of samples that the expected rate makes.
_SLACK = 1.1
_LOG = "mlperf_log_detail.txt"
_MARK = ":::MLLOG "


def unavailable_reason() -> str | None:
    """Return why LoadGen cannot be used here and what to install, or None."""
    try:
        import mlperf_loadgen  # noqa: F401
    except ImportError as error:
        return f"{cannot_import('MLPerf LoadGen', error)}; {INSTALL}"
    return None


def version() -> str:
    """Return the installed version of LoadGen."""
    return metadata.version("mlcommons-loadgen")


@dataclass(frozen=True)
class LoadGenTest:
    """What LoadGen's log says of one test.

    Attributes:
        verdict: whether it counts.
        samples: how many were answered.
        samples_per_s: throughput, or None in single stream.
        latency_ms: LoadGen's ``mean``, ``p50``, ``p90``, ``p95``, ``p99`` per sample.
    """

    verdict: LoadGenVerdict
    samples: int
    samples_per_s: float | None
    latency_ms: dict[str, float]


def single_stream(
    answer: Callable[[int, Callable[[], None]], None],
    *,
    samples: int,
    min_seconds: float,
    expected_seconds: float,
    min_queries: int = P90_QUERIES,
) -> LoadGenTest:
    """Ask one query after another.

    Args:
        answer: called with a sample's number and with what to call when its result is there; what
            it does after that call is not in the latency.
        samples: how many different ones there are.
        min_seconds: the test lasts at least so long.
        expected_seconds: that one query takes; LoadGen prepares as many queries as it then needs,
            and after too high a guess runs out of them before the time is up: invalid.
        min_queries: and asks at least so many.

    Raises:
        BackendError: LoadGen is not installed.
        Exception: whatever ``answer`` raised.
    """
    lg = _load()
    settings = _settings(lg, lg.TestScenario.SingleStream, min_seconds, min_queries)
    settings.single_stream_expected_latency_ns = max(1, round(0.5e9 * expected_seconds))
    return _run(lg, settings, samples, _StreamAnswers(lg, answer))


def offline(
    answer: Callable[[Sequence[int], Callable[[int], None]], None],
    *,
    samples: int,
    min_seconds: float,
    expected_per_s: float,
    batch_size: int = 1,
) -> LoadGenTest:
    """Ask for all samples at once: a whole number of batches, so that none is of another shape.

    Args:
        answer: called with the samples' numbers, and with what to call after each so many results.
        samples: how many different ones there are.
        min_seconds: so many seconds' worth of samples, at the expected rate.
        expected_per_s: samples per second; too low a guess makes the test shorter than asked for,
            which LoadGen calls invalid.
        batch_size: samples that are answered together; at least ``OFFLINE_SAMPLES`` of them and
            ``OFFLINE_BATCHES`` batches are asked for.

    Raises:
        BackendError: LoadGen is not installed.
        Exception: whatever ``answer`` raised.
    """
    lg = _load()
    wanted = max(OFFLINE_SAMPLES, math.ceil(_SLACK * expected_per_s * min_seconds))
    batches = max(OFFLINE_BATCHES, -(-wanted // batch_size))
    # In this scenario LoadGen takes its least number of queries for one of samples.
    settings = _settings(lg, lg.TestScenario.Offline, min_seconds, batches * batch_size)
    settings.offline_expected_qps = expected_per_s
    return _run(lg, settings, samples, _OfflineAnswers(lg, answer))


def server(
    answer: Callable[[Sequence[int]], None],
    *,
    samples: int,
    min_seconds: float,
    rate: float,
    target_p99_ms: float,
    max_batch: int,
    workers: int = 1,
) -> LoadGenTest:
    """Ask at random moments, so many times a second on the average.

    Samples that wait are taken together, up to ``max_batch``, by the next worker that is free.

    Args:
        answer: called with the samples' numbers; their results are there when it returns.
        samples: how many different ones there are.
        min_seconds: the test lasts at least so long, and asks at least 662 queries.
        rate: samples per second.
        target_p99_ms: bound of the 99th percentile, from a sample's moment to its result.
        max_batch: most samples to answer at once.
        workers: threads that call ``answer``.

    Raises:
        BackendError: LoadGen is not installed.
        Exception: whatever ``answer`` raised.
    """
    lg = _load()
    settings = _settings(lg, lg.TestScenario.Server, min_seconds, P99_QUERIES)
    settings.server_target_qps = rate
    settings.server_target_latency_ns = round(target_p99_ms * 1e6)
    settings.server_target_latency_percentile = 0.99
    with _Workers(lg, answer, max_batch, workers) as worker:
        tested = _run(lg, settings, samples, worker)
    return replace(tested, verdict=replace(tested.verdict, target_p99_ms=target_p99_ms))


def _load() -> Any:
    if (reason := unavailable_reason()) is not None:
        raise BackendError(reason)
    import mlperf_loadgen

    return mlperf_loadgen


def _settings(lg: Any, scenario: Any, min_seconds: float, min_queries: int) -> Any:
    settings = lg.TestSettings()
    settings.scenario = scenario
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = max(1, round(1000 * min_seconds))
    settings.min_query_count = min_queries
    return settings


class _Answers:
    """LoadGen's callbacks.  What goes wrong inside is kept and raised after the test.

    An exception must not pass through LoadGen's C++ threads; after one, the rest of the queries are
    given back unanswered, so that the test ends.
    """

    def __init__(self, lg: Any) -> None:
        self._lg = lg
        self.failure: BaseException | None = None

    def issue(self, samples: Sequence[Any]) -> None:
        """Take what LoadGen asks."""
        if self.failure is not None:
            self._complete(samples)
            return
        try:
            self._take(samples)
        except BaseException as failure:  # Ctrl-C lands here too
            self.failure = failure
            self._complete(samples)

    def flush(self) -> None:
        """Nothing is held back."""

    def _take(self, samples: Sequence[Any]) -> None:
        raise NotImplementedError

    def _complete(self, samples: Sequence[Any]) -> None:
        self._lg.QuerySamplesComplete(
            [self._lg.QuerySampleResponse(sample.id, 0, 0) for sample in samples]
        )


class _StreamAnswers(_Answers):
    def __init__(self, lg: Any, answer: Callable[[int, Callable[[], None]], None]) -> None:
        super().__init__(lg)
        self._answer = answer

    def _take(self, samples: Sequence[Any]) -> None:
        (sample,) = samples
        told = False

        def on_result() -> None:
            nonlocal told
            told = True
            self._complete(samples)

        try:
            self._answer(sample.index, on_result)
        except BaseException as failure:
            self.failure = failure
        if not told:
            self._complete(samples)


class _OfflineAnswers(_Answers):
    def __init__(
        self, lg: Any, answer: Callable[[Sequence[int], Callable[[int], None]], None]
    ) -> None:
        super().__init__(lg)
        self._answer = answer

    def _take(self, samples: Sequence[Any]) -> None:
        done = 0

        def on_results(count: int) -> None:
            nonlocal done
            self._complete(samples[done : done + count])
            done += count

        try:
            self._answer([sample.index for sample in samples], on_results)
            if done != len(samples):
                raise MeasurementError(f"{done} results came for {len(samples)} pictures")
        except BaseException as failure:
            self.failure = failure
        self._complete(samples[done:])


class _Workers(_Answers):
    """Queues what LoadGen asks and answers it on threads of its own."""

    def __init__(
        self, lg: Any, answer: Callable[[Sequence[int]], None], max_batch: int, threads: int
    ) -> None:
        super().__init__(lg)
        self._answer = answer
        self._max_batch = max_batch
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name="loadgen-server", daemon=True)
            for _ in range(threads)
        ]

    def __enter__(self) -> _Workers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _take(self, samples: Sequence[Any]) -> None:
        for sample in samples:
            self._waiting.put(sample)

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            while len(batch) < self._max_batch and not self._waiting.empty():
                if (further := self._waiting.get()) is None:
                    self._waiting.put(None)
                    break
                batch.append(further)
            if self.failure is None:
                try:
                    self._answer([sample.index for sample in batch])
                except BaseException as failure:
                    self.failure = failure
            self._complete(batch)


def _run(lg: Any, settings: Any, samples: int, answers: _Answers) -> LoadGenTest:
    with tempfile.TemporaryDirectory() as folder:
        log = lg.LogSettings()
        log.log_output.outdir = folder
        log.log_output.copy_summary_to_stdout = False
        log.enable_trace = False
        system = lg.ConstructSUT(answers.issue, answers.flush)
        library = lg.ConstructQSL(samples, samples, lambda _: None, lambda _: None)
        try:
            lg.StartTestWithLogSettings(system, library, settings, log, "")
        finally:
            lg.DestroyQSL(library)
            lg.DestroySUT(system)
        if answers.failure is not None:
            raise answers.failure
        return read_log(Path(folder) / _LOG)


def read_log(log: Path) -> LoadGenTest:
    """Return what LoadGen's detail log says.

    Raises:
        MeasurementError: the log is missing or says nothing.
    """
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line[len(_MARK) :]) for line in lines if line.startswith(_MARK)]
        said = {entry["key"]: entry["value"] for entry in entries}
        return LoadGenTest(
            verdict=LoadGenVerdict(
                valid=said["result_validity"] == "VALID",
                # 0 where there were too few queries
                early_stopping_ms=(said.get("early_stopping_latency_ss") or 0) / 1e6 or None,
                problems=tuple(_problems(said)),
                settings=_logged_settings(said),
            ),
            samples=said["result_query_count"] * said["effective_samples_per_query"],
            samples_per_s=said.get(
                "result_samples_per_second", said.get("result_completed_samples_per_sec")
            ),
            latency_ms={
                name: said[f"result_{key}_latency_ns"] / 1e6
                for name, key in _LATENCIES.items()
                if f"result_{key}_latency_ns" in said
            },
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MeasurementError(
            f"MLPerf LoadGen left no result ({type(error).__name__}: {error})",
            "run again, or time with --clock loop",
        ) from error


def _logged_settings(said: dict[str, Any]) -> Settings | None:
    names = (
        "requested_min_duration_ms", "requested_min_query_count",
        "effective_performance_sample_count",
    )  # fmt: skip
    if any(name not in said for name in names):
        return None
    duration, queries, samples = (said[name] for name in names)
    return Settings(duration / 1000, queries, samples)


_LATENCIES = {
    "mean": "mean",
    "p50": "50.00_percentile",
    "p90": "90.00_percentile",
    "p95": "95.00_percentile",
    "p99": "99.00_percentile",
}


def _problems(said: dict[str, Any]) -> list[str]:
    broken = {
        "result_perf_constraints_met": "p99 is beyond its bound",
        "result_min_duration_met": "the test was shorter than asked for",
        "result_min_queries_met": "too few queries were run",
    }
    problems = [words for key, words in broken.items() if said.get(key) is False]
    if said.get("early_stopping_met") is False:
        lines = str(said.get("early_stopping_result", "")).replace("*", " ").split()
        problems.append("early stopping: " + " ".join(lines))
    if said.get("num_errors"):
        problems.append(f"LoadGen counted {said['num_errors']} errors")
    return problems
