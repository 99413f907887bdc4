"""Results → tables: which rows stand together, in which order, and what is said once.

Rows of a bench file are ranked only within a group: one interleaved run on one machine, the same
question (see ``ranking``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fcn_deploy.data.masks import voc_palette
from fcn_deploy.results.bench import SCENARIOS, Bench, BenchRow
from fcn_deploy.results.device import DeviceRow
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.format import number, runner_name, settings_words
from fcn_deploy.results.parity import Comparison
from fcn_deploy.results.parity_parts import Bucket, ClassFlips
from fcn_deploy.results.results import Results
from fcn_deploy.results.training import Training
from fcn_deploy.results.workload import tie

#: In which order groups are shown: what a user of the model waits for comes first.
_TIERS = ("end-to-end", "host", "device")
#: Pairs of classes that are shown; the others are summed up.
MAX_CLASS_PAIRS = 8
#: Layers of an engine that are shown; the others are summed up.
SLOWEST_LAYERS = 12


# -- speed --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BenchGroup:
    """Rows that may be set side by side, fastest first.

    Attributes:
        title: scenario, tier, batch, size.
        rows: by median time.
        latencies: of ``mean``, ``p50``, ``p90`` … those that at least one row has.
        ties: pairs that are too close to call, the baseline apart.
        leads: whether it is the first of its scenario: shown unfolded.
    """

    title: str
    rows: tuple[BenchRow, ...]
    latencies: tuple[str, ...]
    ties: tuple[tuple[str, str], ...]
    leads: bool

    @property
    def in_short(self) -> str:
        """The fastest row that counts, for a heading; or why none is named."""
        valid = [row for row in self.rows if row.is_valid]
        if not valid:
            return "no row counts: MLPerf LoadGen calls each INVALID"
        best, *others = valid
        speed = f"{number(best.images_per_s)} images/s"
        if others and tie(best.spread_ms, others[0].spread_ms):
            return f"no clear first, {speed}"
        return f"fastest: {runner_name(best.runner)}, {speed}"

    @property
    def has_energy(self) -> bool:
        """Whether a row says what a picture costs in joules."""
        return any(row.energy_j_per_image is not None for row in self.rows)

    @property
    def has_bound(self) -> bool:
        """Whether a row kept a bound of its 99th percentile."""
        return any(row.loadgen and row.loadgen.target_p99_ms is not None for row in self.rows)


def bench_groups(bench: Bench) -> list[BenchGroup]:
    """Sort a file's rows into the groups within which they may be compared."""
    groups: dict[Any, list[BenchRow]] = {}
    for row in sorted(bench.rows, key=_place):
        groups.setdefault(row.question, []).append(row)
    led: set[str] = set()
    found = []
    for rows in groups.values():
        scenario = rows[0].scenario
        found.append(_bench_group(rows, leads=scenario not in led))
        led.add(scenario)
    return found


def valid_means(bench: Bench) -> str:
    """Say what LoadGen was asked for in a bench file; empty where that is not known."""
    return settings_words(row.loadgen.settings for row in bench.rows if row.loadgen is not None)


def _place(row: BenchRow) -> tuple[Any, ...]:
    scenario = SCENARIOS.index(row.scenario) if row.scenario in SCENARIOS else len(SCENARIOS)
    tier = _TIERS.index(row.tier) if row.tier in _TIERS else len(_TIERS)
    return scenario, row.scenario, tier, row.tier, row.size, row.batch_size


def _bench_group(rows: list[BenchRow], *, leads: bool) -> BenchGroup:
    rows = sorted(rows, key=lambda row: row.median_ms)
    first = rows[0]
    others = [row for row in rows if not row.is_baseline]
    height, width = first.size
    return BenchGroup(
        title=f"{first.scenario}, {first.tier}, batch {first.batch_size}, {height}×{width}",
        rows=tuple(rows),
        latencies=tuple(sorted({name for row in rows for name in row.latency_ms})),
        ties=tuple(
            (runner_name(row.runner), runner_name(other.runner))
            for index, row in enumerate(others)
            for other in others[index + 1 :]
            if tie(row.spread_ms, other.spread_ms)
        ),
        leads=leads,
    )


# -- an engine's layers -------------------------------------------------------------------------


def slowest_layers(row: DeviceRow) -> list[tuple[str, float]]:
    """Return the slowest layers of an engine and, as one line, the rest: (name, ms)."""
    shown, rest = row.layers[:SLOWEST_LAYERS], row.layers[SLOWEST_LAYERS:]
    if len(rest) < 2:  # a single one takes no more room than its sum
        return list(row.layers)
    return [*shown, (f"{len(rest)} others", sum(ms for _name, ms in rest))]


# -- flips --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassChip:
    """A class as it is shown: its name and its colour in the pictures, as ``#rrggbb``."""

    name: str
    colour: str


def class_chips(comparison: Comparison) -> list[ClassChip]:
    """Return a comparison's classes in order."""
    return [
        ClassChip(name, _hex(colour))
        for name, colour in zip(comparison.class_names, comparison.palette, strict=True)
    ]


def most_flips(comparison: Comparison) -> tuple[tuple[ClassFlips, ...], tuple[int, int]]:
    """Return the pairs of classes to show, and of the others how many they are and their flips."""
    shown, others = comparison.by_class[:MAX_CLASS_PAIRS], comparison.by_class[MAX_CLASS_PAIRS:]
    return shown, (len(others), sum(pair.flips for pair in others))


def margin_words(bucket: Bucket, epsilon: float | None) -> str:
    """Say which margins a bucket holds, in units of ε where there is one."""
    if not epsilon or epsilon < 0:
        return "any" if bucket.high is None else f"{number(bucket.low)}–{number(bucket.high)}"
    low = f"{bucket.low / epsilon:.2g}"
    return f"beyond {low} ε" if bucket.high is None else f"{low}–{bucket.high / epsilon:.2g} ε"


def distance_words(bucket: Bucket) -> str:
    """Say which distances to a class edge a bucket holds, in px."""
    if bucket.high is None:
        return f"{bucket.low:g} px and more"
    return (
        f"{bucket.low:g} px" if bucket.low == bucket.high else f"{bucket.low:g}–{bucket.high:g} px"
    )


def _hex(colour: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


# -- training, machines, digests ----------------------------------------------------------------


@dataclass(frozen=True)
class ClassBar:
    """One class of the training's validation: its colour in the pictures and its IoU (0 to 1)."""

    name: str
    colour: str
    iou: float | None


def class_bars(training: Training) -> list[ClassBar]:
    """Return a training's classes, best IoU first."""
    palette = voc_palette(len(training.class_names))  # what `train` draws the preview with
    bars = [
        ClassBar(name, _hex(colour), iou)
        for name, colour, iou in zip(training.class_names, palette, training.val_iou, strict=True)
    ]
    return sorted(bars, key=lambda bar: -1.0 if bar.iou is None else bar.iou, reverse=True)


@dataclass(frozen=True)
class Machine:
    """A machine with its software, and the result files that come from it."""

    name: str
    properties: Mapping[str, str]
    versions: Mapping[str, str]
    files: tuple[tuple[str, str], ...]


_PROPERTY_NAMES = {
    "cpu": "CPU",
    "cpu_flags": "CPU instructions",
    "memory_gib": "memory (GiB)",
    "python": "Python",
}


def machines(environments: Iterable[Environment]) -> list[Machine]:
    """Return every machine with its software once, with the files that come from it."""
    same: dict[Any, list[Environment]] = {}
    for entry in environments:
        key = (tuple(sorted(entry.machine.items())), tuple(sorted(entry.versions.items())))
        same.setdefault(key, []).append(entry)
    return [
        Machine(
            entries[0].machine_name,
            {_PROPERTY_NAMES.get(k, k): v for k, v in entries[0].machine.items()},
            entries[0].versions,
            tuple((entry.file, entry.created) for entry in entries),
        )
        for entries in same.values()
    ]


def digests(results: Results) -> list[tuple[str, str]]:
    """Return what was measured or compared, and its digest: models, then pictures."""
    runners = results.runners
    found = [(f"checkpoint of {r.file}", r.checkpoint_digest) for r in runners]
    found += [(r.file, r.digest) for r in runners]
    compared_on = [comparison.images for comparison in results.comparisons]
    found += [
        (f"{images.count} pictures from {images.source}", images.digest) for images in compared_on
    ]
    found += [
        (f"inputs at {row.size[0]}×{row.size[1]} from {bench.source}", row.inputs_digest)
        for bench in results.benches
        for row in bench.rows
    ]
    for bisection in results.bisections:
        found += [(m.file, m.digest) for m in (bisection.reference, bisection.candidate)]
    return list(dict.fromkeys(found))
