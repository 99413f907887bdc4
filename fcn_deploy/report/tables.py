"""Results → tables of layers, flips, classes, machines and digests: order, and what is said once.

The bench table is ``fcn_deploy.results.bench_table``'s, for the terminal and Markdown as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fcn_deploy.data.masks import voc_palette
from fcn_deploy.results.device import DeviceRow
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.format import number
from fcn_deploy.results.parity import Comparison
from fcn_deploy.results.parity_parts import Bucket, ClassFlips
from fcn_deploy.results.results import Results
from fcn_deploy.results.training import Training

#: Pairs of classes that are shown; the others are summed up.
MAX_CLASS_PAIRS = 8
#: Layers of an engine that are shown; the others are summed up.
SLOWEST_LAYERS = 12


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
        ClassChip(name, hex_colour(colour))
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


def hex_colour(colour: Sequence[int]) -> str:
    """Return RGB as ``#rrggbb``."""
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
        ClassBar(name, hex_colour(colour), iou)
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
        key = (tuple(sorted(entry.properties.items())), tuple(sorted(entry.versions.items())))
        same.setdefault(key, []).append(entry)
    return [
        Machine(
            entries[0].machine_name,
            {_PROPERTY_NAMES.get(k, k): v for k, v in entries[0].properties.items()},
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
        (
            f"{file.pictures.count} labelled pictures from {file.pictures.source}",
            file.pictures.digest,
        )
        for file in results.evaluations
    ]
    found += [
        (f"inputs at {row.size[0]}×{row.size[1]} from {bench.source}", row.inputs_digest)
        for bench in results.benches
        for row in bench.rows
    ]
    for bisection in results.bisections:
        found += [(m.file, m.digest) for m in (bisection.reference, bisection.candidate)]
    return list(dict.fromkeys(found))
