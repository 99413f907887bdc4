"""Who asks, and when: a plain loop, or LoadGen in single stream, offline and server."""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fcn_deploy.bench import loadgen
from fcn_deploy.bench.case import Case, Query
from fcn_deploy.bench.inputs import NUM_INPUTS
from fcn_deploy.bench.loadgen import LoadGenTest
from fcn_deploy.core.errors import MeasurementError
from fcn_deploy.results.bench import LoadGenVerdict
from fcn_deploy.results.ranking import RATE_RESOLUTION
from fcn_deploy.results.scenarios import OFFLINE, SERVER, SINGLE_STREAM
from fcn_deploy.results.workload import LOADGEN, LOOP

#: Samples that LoadGen draws from: single pictures, or numbers of queries that walk through them.
SAMPLES = NUM_INPUTS
WARM_UP_RUNS = 2
#: Of a stream: more than any runner has in flight at once.
WARM_UP_BATCHES = 4
#: How often a repeat is begun anew because it ended sooner than was foreseen.
TRIES = 3
#: A server that cannot keep its bound at this share of its throughput is given up: each trial runs
#: 662 queries, and takes the longer the lower its rate.
LOWEST_UTILISATION = 0.1
Meter = Callable[[], "float | None"]


@dataclass(frozen=True)
class Repeat:
    """What one repeat of a case gave.

    Attributes:
        ms: single stream: median latency of a query; else the time per query at the throughput
            that was reached.
        queries: how many were run.
        pictures: how many those were of; the last query may have been no full batch.
        seen: each query; empty where the scenario, not the query, is timed.
        latency_ms: where the scenario, not the query, is timed.
        verdict: LoadGen's, or None where the timed loop ran.
        joules: used by the GPU for these queries and no others, or None.
    """

    ms: float
    queries: int
    pictures: int
    seen: tuple[Query, ...] = ()
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    verdict: LoadGenVerdict | None = None
    joules: float | None = None


class Scenario(ABC):
    """Who asks, and when.

    Attributes:
        name: of ``SCENARIOS``.
        clock: who takes the times.
        target_p99_ms: bound of the server scenario; None in the others.
    """

    name: str
    clock = LOADGEN
    target_p99_ms: float | None = None

    def batches(self, batch_size: int) -> Sequence[int]:
        """Return the sizes of the batches that a runner is given in a case of that batch size."""
        return (batch_size,)

    def warm_up(self, case: Case) -> None:
        """Have all prepared that the repeat will ask for: nothing is compiled on the clock."""
        for number in range(WARM_UP_RUNS):  # the one before has left its threads and caches behind
            case.query(number)

    @abstractmethod
    def repeat(self, case: Case, meter: Meter) -> Repeat:
        """Ask a warmed-up case for one repeat; ``meter`` reads the GPU's energy counter."""


#: Of one repeat of the timed loop: each query's times are kept.
MOST_QUERIES = 10_000


class TimedLoop(Scenario):
    """Single stream by a plain loop, for where LoadGen is not to be had."""

    name = SINGLE_STREAM
    clock = LOOP

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._counts: dict[Case, int] = {}

    def repeat(self, case: Case, meter: Meter) -> Repeat:
        """Time queries one after another; a case gets the same number of them in every repeat."""
        if case not in self._counts:
            once = case.query(0).wall
            self._counts[case] = max(3, min(MOST_QUERIES, round(self._seconds / max(once, 1e-6))))
        before = meter()
        seen = tuple(case.query(number) for number in range(self._counts[case]))
        joules = _difference(before, meter())
        median = statistics.median(query.latency for query in seen)
        return Repeat(1000 * median, len(seen), len(seen) * case.batch_size, seen, joules=joules)


class SingleStream(Scenario):
    """One query after another, asked by LoadGen."""

    name = SINGLE_STREAM

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def repeat(self, case: Case, meter: Meter) -> Repeat:
        """Ask until LoadGen is content: long enough, and 64 queries for its p90."""
        expected = _seconds_per_query(case)
        for _ in range(TRIES):
            seen: list[Query] = []

            def answer(
                number: int, on_result: Callable[[], None], seen: list[Query] = seen
            ) -> None:
                seen.append(case.query(number, on_result))

            before = meter()
            tested = loadgen.single_stream(
                answer, samples=SAMPLES, min_seconds=self._seconds, expected_seconds=expected
            )
            joules = _difference(before, meter())
            if tested.verdict.valid:
                break
            # It ran out of prepared queries: they were faster than the first ones had promised.
            expected = min(query.latency for query in seen) / 2
        return Repeat(
            tested.latency_ms["p50"],
            tested.samples,
            tested.samples * case.batch_size,
            tuple(seen),
            verdict=tested.verdict,
            joules=joules,
        )


class Offline(Scenario):
    """All pictures at once, in whole batches: throughput."""

    name = OFFLINE

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._rates: dict[Case, float] = {}

    def warm_up(self, case: Case) -> None:
        """Also stream: a runner may compute streams by something of their own."""
        super().warm_up(case)
        for _ in case.stream([n % SAMPLES for n in range(WARM_UP_BATCHES * case.batch_size)]):
            pass

    def repeat(self, case: Case, meter: Meter) -> Repeat:
        """Give all samples to the runner's stream and count pictures per second."""
        if case not in self._rates:
            self._rates[case] = case.batch_size / _seconds_per_query(case)

        def answer(pictures: Sequence[int], on_results: Callable[[int], None]) -> None:
            for count in case.stream(pictures):
                on_results(count)

        for _ in range(TRIES):
            before = meter()
            tested = loadgen.offline(
                answer,
                samples=SAMPLES,
                min_seconds=self._seconds,
                expected_per_s=self._rates[case],
                batch_size=case.batch_size,
            )
            joules = _difference(before, meter())
            if tested.verdict.valid:
                break
            # The pictures were done sooner than was foreseen: ask for more.
            self._rates[case] *= 2
        assert tested.samples_per_s is not None  # LoadGen counts them in this scenario
        ms = 1000 * case.batch_size / tested.samples_per_s
        queries = -(-tested.samples // case.batch_size)
        return Repeat(ms, queries, tested.samples, verdict=tested.verdict, joules=joules)


class Server(Scenario):
    """Pictures at random moments: the highest rate at which p99 stays below a bound.

    rate valid?   yes ─▶ half as much again … until one is not  ─▶ bisect between the two
                  no  ─▶ half of it         … until one is      ─▶
    """

    name = SERVER
    target_p99_ms: float

    def __init__(self, seconds: float, target_p99_ms: float) -> None:
        self._seconds = seconds
        self.target_p99_ms = target_p99_ms
        self._found: dict[Case, float] = {}
        self._warm: set[Case] = set()

    def batches(self, batch_size: int) -> Sequence[int]:
        """Return every size from the full batch to a lone picture: a batch is whatever waits."""
        return range(batch_size, 0, -1)

    def warm_up(self, case: Case) -> None:
        """Answer a batch of every size before the first repeat, later the largest and the least."""
        sizes = self.batches(case.batch_size)
        for size in sizes if case not in self._warm else {sizes[0], sizes[-1]}:
            for _ in range(WARM_UP_RUNS):
                case.answer([number % SAMPLES for number in range(size)])
        self._warm.add(case)

    def repeat(self, case: Case, meter: Meter) -> Repeat:
        """Search the highest valid rate, starting where the last repeat ended.

        Raises:
            MeasurementError: no rate is valid: a lone picture takes longer than the bound.
        """
        tested, rate = self._search(case)
        self._found[case] = rate
        return Repeat(
            1000 * case.batch_size / rate,
            tested.samples,
            tested.samples,
            latency_ms=tested.latency_ms,
            verdict=tested.verdict,
        )

    def _search(self, case: Case) -> tuple[LoadGenTest, float]:
        alone = _seconds_alone(case)
        if 1000 * alone > self.target_p99_ms:
            raise self._bound_unreachable(alone)
        rate = self._found.get(case, 0.6 / alone)
        best: LoadGenTest | None = None
        low, high = 0.0, math.inf  # valid, invalid
        while high > low * (1 + RATE_RESOLUTION):
            tested = self._trial(case, rate)
            if tested.verdict.valid:
                best, low = tested, rate
            else:
                high = rate
            if high * alone < LOWEST_UTILISATION:
                raise self._bound_unreachable(alone)
            if high == math.inf:
                # A later repeat begins at a rate that was valid: one small step up may do.
                rate = low * ((1 + RATE_RESOLUTION) if case in self._found else 1.5)
            else:
                rate = (low + high) / 2
        assert best is not None  # low has left 0
        return best, low

    def _bound_unreachable(self, alone: float) -> MeasurementError:
        """Return the error for a picture that takes longer than the bound at every rate tried."""
        return MeasurementError(
            f"no rate keeps p99 below {self.target_p99_ms:g} ms; a lone picture takes "
            f"{1000 * alone:.3g} ms",
            "raise --target-p99-ms",
        )

    def _trial(self, case: Case, rate: float) -> LoadGenTest:
        return loadgen.server(
            case.answer,
            samples=SAMPLES,
            # A rate that is too high by one step of the search must be given the time to show it:
            # so long that its backlog outgrows the bound.
            min_seconds=max(self._seconds, self.target_p99_ms / 1000 / RATE_RESOLUTION),
            rate=rate,
            target_p99_ms=self.target_p99_ms,
            max_batch=case.batch_size,
        )


def _seconds_per_query(case: Case) -> float:
    return statistics.median(max(case.query(number).latency, 1e-6) for number in range(3))


def _seconds_alone(case: Case) -> float:
    lone = replace(case, batch_size=1)
    for number in range(WARM_UP_RUNS):
        lone.query(number)
    return _seconds_per_query(lone)


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
