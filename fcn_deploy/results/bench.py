"""Tiers, scenarios, settings, BenchRow, Ratio, Bench."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fcn_deploy.results.conditions import (
    ColdStart,
    Conditions,
    cold_start_from_fields,
    conditions_from_fields,
)
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.fields import Fields, typed
from fcn_deploy.results.runner import STAGES, RunnerDescription
from fcn_deploy.results.workload import LOADGEN, LOOP, Workload

#: What the backend names of ``benchmarks/peers`` begin with.
PEER = "peer:"


@dataclass(frozen=True)
class Ratio:
    """How many times faster one row is than another: median, worst and best repeat."""

    median: float
    low: float
    high: float
    tie: bool


@dataclass(frozen=True)
class LoadGenVerdict:
    """What LoadGen says of a row.

    Attributes:
        early_stopping_ms: its p90 of single stream, on the safe side.
        target_p99_ms: bound of the server scenario.
        problems: which of its rules were not kept, as sentences.
        settings: what it was asked for; None where the file does not say.
    """

    valid: bool
    early_stopping_ms: float | None
    target_p99_ms: float | None
    problems: tuple[str, ...]
    settings: Settings | None


@dataclass(frozen=True)
class BenchRow:
    """One measured case; milliseconds are per query.

    Attributes:
        cdf_ms: latencies at 0, 1, …, 100 % of the queries, or None.
        cv: coefficient of variation of the repeats.
        stages_ms: of ``STAGES``, mean per query; None but for end-to-end.
        wall_ms: mean wall time of a query, the writing of masks included.
        loadgen: None where the timed loop ran.
    """

    runner: RunnerDescription
    scenario: str
    tier: str
    batch_size: int
    size: tuple[int, int]
    concurrency: int | None
    inputs_digest: str
    repeats_ms: tuple[float, ...]
    queries: int
    latency_ms: Mapping[str, float]
    cdf_ms: tuple[float, ...] | None
    median_ms: float
    low_ms: float
    high_ms: float
    cv: float
    images_per_s: float
    stages_ms: Mapping[str, float] | None
    wall_ms: float | None
    loadgen: LoadGenVerdict | None
    energy_j_per_image: float | None
    over_baseline: Ratio | None

    @property
    def question(self) -> Workload:
        """Rows of one file may be ranked against each other only where this is the same."""
        return Workload(
            self.scenario,
            None if self.loadgen is None else self.loadgen.target_p99_ms,
            LOOP if self.loadgen is None else LOADGEN,
            self.tier,
            self.batch_size,
            self.size,
            self.inputs_digest,
        )

    @property
    def spread_ms(self) -> tuple[float, float]:
        """Fastest and slowest repeat."""
        return self.low_ms, self.high_ms

    @property
    def conditions(self) -> str:
        """Scenario, where it is not the usual one, tier, batch and size in words."""
        scenario = "" if self.scenario == SINGLE_STREAM else f"{self.scenario}, "
        height, width = self.size
        return f"{scenario}{self.tier}, batch {self.batch_size}, {height}×{width}"

    @property
    def is_peer(self) -> bool:
        """Whether this is somebody else's way to run the network, out of ``benchmarks/peers``."""
        return self.runner.backend.startswith(PEER)

    @property
    def is_valid(self) -> bool:
        """Whether it counts: LoadGen has not called it invalid."""
        return self.loadgen is None or self.loadgen.valid

    @property
    def is_baseline(self) -> bool:
        """Whether this is the plain export."""
        return self.runner.is_baseline


@dataclass(frozen=True)
class Bench:
    """One bench file: one interleaved run of the clock.

    Attributes:
        clock: ``loadgen`` or ``timed loop``.
        clock_version: of LoadGen.
        clock_reason: why the timed loop ran in LoadGen's stead.
        seconds: that a row was timed at least, per repeat.
        options: of the command line, as they were typed; None where the file does not say.
    """

    environment: Environment
    source: str
    distinct_inputs: int
    clock: str
    clock_version: str | None
    clock_reason: str | None
    seconds: float | None
    conditions: Conditions
    cold_starts: tuple[ColdStart, ...]
    rows: tuple[BenchRow, ...]
    options: tuple[str, ...] | None


DEVICE, HOST, END_TO_END = "device", "host", "end-to-end"
TIERS = (DEVICE, HOST, END_TO_END)
DECODE, WRITE = "decode", "write"
ALL_STAGES = (DECODE, *STAGES, WRITE)
SINGLE_STREAM, OFFLINE, SERVER = "single-stream", "offline", "server"
#: What MLPerf calls the ways to ask.
SCENARIOS = (SINGLE_STREAM, OFFLINE, SERVER)


@dataclass(frozen=True)
class Settings:
    """What LoadGen was asked for: VALID means that this was kept; a submission asks for more.

    Attributes:
        min_seconds: that a test lasts at least.
        min_queries: that are asked at least; offline, pictures, all at once.
        distinct_samples: that queries draw from.
    """

    min_seconds: float
    min_queries: int
    distinct_samples: int


#: Points of a latency distribution: 0, 1, …, 100 % of the queries.
CDF_POINTS = 101


def bench_from_fields(fields: Fields, environment: Environment) -> Bench:
    """Read the JSON of a bench back."""
    inputs, clock = fields.child("inputs"), fields.child("clock")
    return Bench(
        environment=environment,
        source=inputs.text("source"),
        distinct_inputs=inputs.whole("distinct"),
        clock=clock.text("name"),
        clock_version=clock.text_or_none("version"),
        clock_reason=clock.text_or_none("reason"),
        seconds=clock.number_or_none("seconds"),
        conditions=conditions_from_fields(fields.child("conditions")),
        cold_starts=tuple(cold_start_from_fields(entry) for entry in fields.children("runners")),
        rows=tuple(bench_row_from_fields(entry) for entry in fields.children("rows")),
        options=typed(fields, "options"),
    )


def bench_row_from_fields(fields: Fields) -> BenchRow:
    """Read the JSON of a bench row back."""
    low, high = fields.numbers("spread_ms", 2)
    latency = fields.child("latency_ms")
    stages = fields.child_or_none("stages_ms")
    loadgen = fields.child_or_none("loadgen")
    ratio = fields.child_or_none("speedup_over_baseline")
    return BenchRow(
        runner=RunnerDescription.from_fields(fields.child("runner")),
        scenario=fields.text("scenario"),
        tier=fields.text("tier"),
        batch_size=fields.whole("batch_size"),
        size=fields.size("size"),
        concurrency=fields.whole_or_none("concurrency"),
        inputs_digest=fields.text("inputs_digest"),
        repeats_ms=fields.numbers("repeats_ms"),
        queries=fields.whole("queries"),
        latency_ms={name: latency.number(name) for name in latency.values},
        cdf_ms=fields.sequence_or_none("cdf_ms", CDF_POINTS),
        median_ms=fields.positive("median_ms"),
        low_ms=low,
        high_ms=high,
        cv=fields.number("cv"),
        images_per_s=fields.positive("images_per_s"),
        stages_ms=None if stages is None else {name: stages.number(name) for name in ALL_STAGES},
        wall_ms=fields.number_or_none("wall_ms"),
        loadgen=None if loadgen is None else loadgen_from_fields(loadgen),
        energy_j_per_image=fields.number_or_none("energy_j_per_image"),
        over_baseline=None if ratio is None else ratio_from_fields(ratio),
    )


def loadgen_from_fields(fields: Fields) -> LoadGenVerdict:
    # Older files do not say.
    """Read the JSON of a loadgen back."""
    settings = fields.child_or_none("settings") if "settings" in fields.values else None
    return LoadGenVerdict(
        fields.flag("valid"),
        fields.number_or_none("early_stopping_ms"),
        fields.number_or_none("target_p99_ms"),
        fields.texts("problems"),
        None if settings is None else settings_from_fields(settings),
    )


def settings_from_fields(fields: Fields) -> Settings:
    """Read the JSON of a settings back."""
    return Settings(
        fields.number("min_seconds"),
        fields.whole("min_queries"),
        fields.whole("distinct_samples"),
    )


def ratio_from_fields(fields: Fields) -> Ratio:
    """Read the JSON of a ratio back."""
    return Ratio(
        fields.positive("median"),
        fields.positive("low"),
        fields.positive("high"),
        fields.flag("tie"),
    )
