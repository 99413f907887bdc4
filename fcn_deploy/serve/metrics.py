"""Metrics: what a server counts, in a registry of its own, as Prometheus reads it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from fcn_deploy.results.runner import RunnerDescription

_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_STAGES = ("read", "decode", "queue", "compute", "encode", "total")
_BATCHES = (1, 2, 4, 8, 16, 32, 64)


@dataclass
class Tally:
    """A count, and the seconds that belong to it: what the protocol's statistics are made of."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Add so many, which took so long together."""
        self.count += count
        self.seconds += seconds


@dataclass
class Statistics:
    """What the protocol's statistics report, since the start.

    Attributes:
        success: requests that were answered.
        fail: requests whose pictures the runner failed on.
        queue: how long the answered ones waited.
        compute: how long their batches took.
        pictures: that were computed.
        batches: by the number of pictures in it.
        last: when the last one was computed, in milliseconds since 1970.
    """

    success: Tally = field(default_factory=Tally)
    fail: Tally = field(default_factory=Tally)
    queue: Tally = field(default_factory=Tally)
    compute: Tally = field(default_factory=Tally)
    pictures: int = 0
    batches: dict[int, Tally] = field(default_factory=dict)
    last: int = 0


class Metrics:
    """Counters, gauges and histograms of one server.

    Attributes:
        queue_depth: requests that wait for the runner.
        stage_seconds: for each stage of a request for masks, how long it took: read, decode,
            queue, compute, encode, total.
        pixels: that were computed.
        runner_cpu: CPU seconds that the runner's thread spent in ``runner.run``; what threads of
            the backend's own spent is not in it.
        accepted: requests that were read whole.
        answered: of these, those whose answer was handed to their connection; of a client that
            has gone, it goes nowhere.
        statistics: the same for the protocol's own statistics.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "fcn_deploy_requests",
            "Requests by route and HTTP status.",
            ("route", "code"),
            registry=self._registry,
        )
        self.queue_depth = Gauge(
            "fcn_deploy_queue_depth", "Requests that wait.", registry=self._registry
        )
        self._ready = Gauge(
            "fcn_deploy_ready", "Whether requests are wanted.", registry=self._registry
        )
        self._batch_pictures = Histogram(
            "fcn_deploy_batch_pictures",
            "Pictures in a batch.",
            registry=self._registry,
            buckets=_BATCHES,
        )
        self._batch_seconds = Histogram(
            "fcn_deploy_batch_seconds",
            "How long the runner took for a batch.",
            registry=self._registry,
            buckets=_SECONDS,
        )
        stage_seconds = Histogram(
            "fcn_deploy_stage_seconds",
            "How long a stage of an answered request took.",
            ("stage",),
            registry=self._registry,
            buckets=_SECONDS,
        )
        self.stage_seconds = {stage: stage_seconds.labels(stage) for stage in _STAGES}
        self.pixels = Counter(
            "fcn_deploy_pixels", "Pixels that were computed.", registry=self._registry
        )
        self.runner_cpu = Counter(
            "fcn_deploy_runner_cpu_seconds",
            "CPU time of the runner's thread while it computed batches.",
            registry=self._registry,
        )
        self.accepted = 0
        self.answered = 0
        self.statistics = Statistics()

    def describe(self, runner: RunnerDescription) -> None:
        """Publish which network answers, as labels of a gauge that is always 1."""
        Gauge(
            "fcn_deploy_model_info",
            "The network that answers.",
            ("backend", "device", "precision", "digest"),
            registry=self._registry,
        ).labels(runner.backend, runner.device, runner.precision, runner.digest).set(1)

    def request_done(self, route: str, code: int) -> None:
        """Count a request that has its answer."""
        self._requests.labels(route, str(code)).inc()

    def batch_done(self, pictures: int, pixels: int, seconds: float) -> None:
        """Count a batch that was computed."""
        self._batch_pictures.observe(pictures)
        self._batch_seconds.observe(seconds)
        self.pixels.inc(pixels)
        self.statistics.pictures += pictures
        self.statistics.batches.setdefault(pictures, Tally()).add(seconds)
        self.statistics.last = int(time.time() * 1000)

    def inferred(self, queue_seconds: float, compute_seconds: float) -> None:
        """Count a request that has its masks."""
        self.stage_seconds["queue"].observe(queue_seconds)
        self.stage_seconds["compute"].observe(compute_seconds)
        self.statistics.success.add(queue_seconds + compute_seconds)
        self.statistics.queue.add(queue_seconds)
        self.statistics.compute.add(compute_seconds)

    def failed(self, seconds: float) -> None:
        """Count a request that was taken and has no masks."""
        self.statistics.fail.add(seconds)

    def text(self, ready: bool) -> bytes:
        """Return everything in Prometheus' text format."""
        self._ready.set(ready)
        return generate_latest(self._registry)
