"""What a bench file holds: rows with their ratios, LoadGen's verdicts, and the whole document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fcn_deploy.results.conditions import ColdStart, Conditions
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.ratio import Ratio
from fcn_deploy.results.record import Positive, Record, as_json, read_field, read_fields
from fcn_deploy.results.runner import STAGES, RunnerDescription
from fcn_deploy.results.scenarios import SINGLE_STREAM
from fcn_deploy.results.workload import LOADGEN, LOOP, Workload

if TYPE_CHECKING:
    from typing_extensions import Self

#: What the header of a bench file says of its layout.
KIND, SCHEMA = "bench", 4
#: What the backend names of ``benchmarks/peers`` begin with.
PEER = "peer:"
DECODE, WRITE = "decode", "write"
ALL_STAGES = (DECODE, *STAGES, WRITE)
#: Points of a latency distribution: 0, 1, …, 100 % of the queries.
CDF_POINTS = 101


@dataclass(frozen=True)
class Settings(Record):
    """What LoadGen was asked for: VALID means that this was kept; a submission asks for more.

    Attributes:
        min_seconds: that a test lasts at least.
        min_queries: that are asked at least; offline, pictures, all at once.
        distinct_samples: that queries draw from.
    """

    min_seconds: float
    min_queries: int
    distinct_samples: int


@dataclass(frozen=True)
class LoadGenVerdict(Record):
    """What LoadGen says of one test, or of all repeats of a row together.

    Attributes:
        valid: whether its rules were kept, in every repeat.
        early_stopping_ms: its p90 of single stream, on the safe side: of the slowest repeat.
        target_p99_ms: bound of the server scenario.
        problems: which of its rules were not kept, as sentences.
        settings: the least that it was asked for in any repeat; None where its log does not say.
    """

    valid: bool
    early_stopping_ms: float | None = None
    target_p99_ms: float | None = None
    problems: tuple[str, ...] = ()
    settings: Settings | None = None


@dataclass(frozen=True)
class BenchRow(Record):
    """One measured case; milliseconds are per query.

    Attributes:
        runner: what ran.
        scenario: of ``SCENARIOS``.
        tier: of ``TIERS``.
        batch_size: pictures per query.
        size: (height, width) in pixels.
        inputs_digest: of the decoded pictures.
        repeats_ms: what each repeat took.
        repeat_numbers: which repeats of the run these are, from 0: those of two rows pair up.
        queries: in all repeats together.
        latency_ms: mean, p50, and of p90, p95, p99 those for which there were enough queries.
        cdf_ms: latencies at 0, 1, …, 100 % of the queries, or None.
        median_ms: of the repeats.
        spread_ms: fastest and slowest repeat; a server's rate is known no finer than its search.
        cv: coefficient of variation of the repeats: standard deviation over mean.
        images_per_s: throughput; single stream: at one query at a time.
        stages_ms: of ``ALL_STAGES``, mean per query; None but for end-to-end.
        wall_ms: mean wall time of a query, the writing of masks included; None where
            ``stages_ms`` is.
        loadgen: None where the timed loop ran.
        energy_j_per_image: over all repeats, or None.
        over_baseline: None where the plain export was not measured beside it.
    """

    runner: RunnerDescription
    scenario: str
    tier: str
    batch_size: int
    size: tuple[int, int]
    inputs_digest: str
    repeats_ms: tuple[Positive, ...]
    repeat_numbers: tuple[int, ...]
    queries: int
    latency_ms: Mapping[str, float]
    median_ms: Positive
    spread_ms: tuple[float, float]
    cv: float
    images_per_s: Positive
    cdf_ms: tuple[float, ...] | None = None
    stages_ms: Mapping[str, float] | None = None
    wall_ms: float | None = None
    loadgen: LoadGenVerdict | None = None
    energy_j_per_image: float | None = None
    over_baseline: Ratio | None = None

    @property
    def workload(self) -> Workload:
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
    def by_repeat(self) -> dict[int, float]:
        """Number of a repeat → what it took, in milliseconds."""
        return dict(zip(self.repeat_numbers, self.repeats_ms, strict=True))

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

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        values = super().to_json()
        ratio = values.pop("over_baseline")
        return {**values, "speedup_over_baseline": ratio}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read back what :meth:`to_json` gave.

        Raises:
            ArtifactError: a field is missing or damaged.
        """
        latency = fields.child("latency_ms")
        stages = fields.child_or_none("stages_ms")
        repeats, numbers = (
            fields.positives("repeats_ms"),
            fields.non_negative_ints("repeat_numbers"),
        )
        if len(numbers) != len(repeats) or any(a >= b for a, b in pairwise(numbers)):
            raise fields.wrong("repeat_numbers", "a rising list as long as repeats_ms")
        read = read_fields(
            cls,
            fields,
            latency_ms={name: latency.number(name) for name in latency.values},
            spread_ms=fields.numbers("spread_ms", 2),
            cdf_ms=fields.sequence_or_none("cdf_ms", CDF_POINTS),
            stages_ms=None if stages is None else {s: stages.number(s) for s in ALL_STAGES},
            over_baseline=read_field(Ratio | None, fields, "speedup_over_baseline"),
        )
        return cls(**read)


@dataclass(frozen=True)
class Bench:
    """One bench file: one interleaved run of the clock.

    Attributes:
        options: of the command line, as they were typed; empty where none were.
        source: where the pictures come from.
        distinct_inputs: how many of the pictures differ, the fewest of a size.
        clock: ``loadgen`` or ``timed loop``.
        clock_version: of LoadGen.
        clock_reason: why the timed loop ran in LoadGen's stead.
        seconds: that a row was timed at least, per repeat.
        cold_starts: what each backend costs before its first figure; empty where not asked for.
        rows: interleaved; those of one workload may be ranked.
        masks: backend and precision → share of pixels as our PyTorch runner has them; None where
            the masks were not compared.
        references: rows of other networks, measured apart: they are never ranked.
        order_seed: from which the order of the rows in each repeat was drawn; None: not recorded.
    """

    environment: Environment
    options: tuple[str, ...]
    source: str
    distinct_inputs: int
    clock: str
    clock_version: str | None
    clock_reason: str | None
    seconds: float
    conditions: Conditions
    cold_starts: tuple[ColdStart, ...]
    rows: tuple[BenchRow, ...]
    masks: Mapping[str, float] | None = None
    references: tuple[BenchRow, ...] = ()
    order_seed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the whole document as JSON values, its header first."""
        return {
            **self.environment.to_json(KIND, SCHEMA),
            "options": list(self.options),
            "inputs": {"source": self.source, "distinct": self.distinct_inputs},
            "clock": {
                "name": self.clock,
                "version": self.clock_version,
                "reason": self.clock_reason,
                "seconds": self.seconds,
            },
            "order_seed": self.order_seed,
            "conditions": self.conditions.to_json(),
            "cold_starts": as_json(self.cold_starts),
            "rows": as_json(self.rows),
            "masks": as_json(self.masks),
            "references": as_json(self.references),
        }

    @classmethod
    def from_fields(cls, fields: Fields, environment: Environment) -> Bench:
        """Read back what :meth:`to_json` gave, but for the header, which tells the kind apart.

        Raises:
            ArtifactError: a field is missing or damaged.
        """
        inputs, clock = fields.child("inputs"), fields.child("clock")
        masks = fields.child_or_none("masks")
        read = read_fields(
            cls,
            fields,
            environment=environment,
            source=inputs.text("source"),
            distinct_inputs=inputs.non_negative_int("distinct"),
            clock=clock.text("name"),
            clock_version=clock.text_or_none("version"),
            clock_reason=clock.text_or_none("reason"),
            seconds=clock.number("seconds"),
            masks=None if masks is None else {name: masks.number(name) for name in masks.values},
        )
        return cls(**read)
