"""Result files of a run → one HTML file that a person reads: no network, no script.

    metrics.json ─┐
    parity/*.json ─┼─ read_results ──▶ Results ──┬─ summary_lines ─┐
    bench/*.json  ─┤                             ├─ charts, groups ─┼─ render ──▶ report.html
    *.png         ─┘                             └─ pictures ───────┘

The figures are read, never computed anew, with one exception: which rows of a bench file tie with
one another follows from their repeats.  Rows are set side by side only within one file (one
interleaved run on one machine) and one group (tier, batch, size, concurrency, inputs).
"""

from __future__ import annotations

import base64
import io
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from fcn_deploy.artifacts import DEFAULT_RUN, Run, file_digest, read_json, write_bytes
from fcn_deploy.errors import ArtifactError, ImageError, MissingStageError
from fcn_deploy.images import read_image
from fcn_deploy.masks import voc_palette
from fcn_deploy.runners.base import RunnerDescription

if TYPE_CHECKING:
    from markupsafe import Markup

#: Kind → schema of the result files that this version reads.  Said again here because rooms on
#: one line never import each other; a test holds it against the rooms that write them.
SCHEMAS = {"train": 1, "parity": 1, "bench": 1}
BASELINE = "baseline"
#: Backend and precision that `parity` compares the others with.
REFERENCE = "torch fp32"
END_TO_END = "end-to-end"
#: What a comparison's picture is drawn as, in the order in which the report shows it.
VIEWS = ("image", "reference", "candidate", "flips")
#: Pictures are shrunk to this before they ride along: wider is not seen on the page.
MAX_PICTURE_WIDTH = 1400
#: Above this load per core before the run, the figures come with a warning.
BUSY_LOAD_PER_CORE = 0.5


# -- what the files say -------------------------------------------------------------------------


@dataclass(frozen=True)
class Environment:
    """Where and when a file's figures came to be.

    Attributes:
        file: name of the file, below the run directory where it lies there.
        created: ISO 8601, UTC.
        machine: property → value, as text.
        versions: distribution → version.
        cores: usable CPU cores, if said.
    """

    file: str
    created: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    cores: int | None

    @property
    def machine_name(self) -> str:
        """CPU and cores, for a heading."""
        cores = "" if self.cores is None else f", {self.cores} cores"
        return f"{self.machine.get('cpu', 'unknown machine')}{cores}"


@dataclass(frozen=True)
class Epoch:
    """Figures of one epoch; scores are shares, 0 to 1, None where nothing was labelled."""

    epoch: int
    loss: float | None
    train_pixel_accuracy: float | None
    train_mean_iou: float | None
    val_pixel_accuracy: float | None
    val_mean_iou: float | None
    examples_per_s: float | None
    seconds: float | None


@dataclass(frozen=True)
class Split:
    """How many examples of a data set were read, and how many dropped as smaller than the crop."""

    name: str
    source: str
    read: int
    dropped: int


@dataclass(frozen=True)
class Training:
    """What ``metrics.json`` holds.

    Attributes:
        val_iou: per class, of the last epoch; None where the class does not occur.
        recipe: its fields, as text.
        data_argument: what ``--data`` was, if the file says.
    """

    environment: Environment
    architecture: str
    weights: str | None
    freeze_backbone: bool
    seed: int
    device: str
    recipe: Mapping[str, str]
    data_argument: str | None
    class_names: tuple[str, ...]
    splits: tuple[Split, ...]
    epochs: tuple[Epoch, ...]
    val_iou: tuple[float | None, ...]


@dataclass(frozen=True)
class Check:
    """One point of the parity gate."""

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Region:
    """Pixels of a kind (near a class edge, or not) and the flips among them."""

    pixels: int
    flips: int

    @property
    def share(self) -> float | None:
        """Flips per pixel, None where there are no pixels."""
        return self.flips / self.pixels if self.pixels else None


@dataclass(frozen=True)
class Scores:
    """Scores against the labels, before (reference) and after (candidate); shares, 0 to 1."""

    reference_miou: float | None
    candidate_miou: float | None
    worst_class: str
    worst_change_points: float
    classes: tuple[tuple[str, float | None, float | None], ...]

    @property
    def miou_change_points(self) -> float | None:
        """Change of the mean IoU, in points (hundredths)."""
        if self.reference_miou is None or self.candidate_miou is None:
            return None
        return 100 * (self.candidate_miou - self.reference_miou)


@dataclass(frozen=True)
class WorstPicture:
    """A picture with many flips, and the files that show it: view → path."""

    name: str
    flips: int
    pixels: int
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Comparison:
    """One candidate against the reference, out of a parity file."""

    environment: Environment
    reference: RunnerDescription
    candidate: RunnerDescription
    source: str
    count: int
    pixels: int
    images_digest: str
    epsilon: float | None
    agreement: float
    flips: int
    widest_flip_margin: float | None
    boundary: Region
    interior: Region
    scores: Scores | None
    checks: tuple[Check, ...]
    passed: bool
    pictures: tuple[WorstPicture, ...]

    @property
    def failed_checks(self) -> tuple[str, ...]:
        """Names of the points of the gate that do not hold."""
        return tuple(check.name for check in self.checks if not check.passed)


@dataclass(frozen=True)
class Ratio:
    """How many times faster one row is than another: median, worst and best repeat."""

    median: float
    low: float
    high: float
    tie: bool


@dataclass(frozen=True)
class BenchRow:
    """One measured case; milliseconds are per query."""

    runner: RunnerDescription
    tier: str
    batch_size: int
    size: tuple[int, int]
    concurrency: int
    inputs_digest: str
    repeats_ms: tuple[float, ...]
    queries: int
    latency_ms: Mapping[str, float]
    median_ms: float
    low_ms: float
    high_ms: float
    images_per_s: float
    over_baseline: Ratio | None

    @property
    def group(self) -> tuple[str, int, tuple[int, int], int, str]:
        """Rows of one file may be ranked against each other only where this is the same."""
        return self.tier, self.batch_size, self.size, self.concurrency, self.inputs_digest

    @property
    def conditions(self) -> str:
        """Tier, batch and size in words."""
        return f"{self.tier}, batch {self.batch_size}, {self.size[0]}×{self.size[1]}"

    @property
    def is_baseline(self) -> bool:
        """Whether this is the plain export."""
        return self.runner.backend == BASELINE


@dataclass(frozen=True)
class Bench:
    """One bench file: one interleaved run of the clock."""

    environment: Environment
    source: str
    distinct_inputs: int
    load_before: float | None
    rows: tuple[BenchRow, ...]

    @property
    def busy(self) -> bool:
        """Whether the machine had other work when the run began."""
        cores = self.environment.cores
        return bool(self.load_before and cores and self.load_before > BUSY_LOAD_PER_CORE * cores)


@dataclass(frozen=True)
class Results:
    """Everything that a report shows; several runs' files would meet here.

    Attributes:
        name: of the run, for the title.
        run_argument: the RUN argument as typed in a shell, with a leading space, or empty.
        out_option: the same as an option of ``train``.
        training: None where the run has no figures of it.
        preview: the grid image | prediction | truth, if there.
        comparisons: newest last.
        benches: newest last.
        checkpoint_digest: of the checkpoint that lies in the run now, if there is one.
    """

    name: str
    run_argument: str = ""
    out_option: str = ""
    training: Training | None = None
    preview: Path | None = None
    comparisons: tuple[Comparison, ...] = ()
    benches: tuple[Bench, ...] = ()
    checkpoint_digest: str | None = None

    @property
    def environments(self) -> tuple[Environment, ...]:
        """Of every file that was read, each file once."""
        found = [self.training.environment] if self.training else []
        found += [comparison.environment for comparison in self.comparisons]
        found += [bench.environment for bench in self.benches]
        return tuple({environment.file: environment for environment in found}.values())

    def is_stale(self, runner: RunnerDescription) -> bool:
        """Whether a figure belongs to another checkpoint than the one in the run."""
        current = self.checkpoint_digest
        return current is not None and runner.checkpoint_digest != current


# -- reading ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fields:
    """A JSON object on its way in: whatever is missing or wrong is named with its place."""

    values: Mapping[str, Any]
    file: Path
    repair: str
    where: str = ""

    def wrong(self, name: str, expected: str) -> ArtifactError:
        state = "is missing" if name not in self.values else f"is not {expected}"
        return ArtifactError(f"{self.file} is damaged: {self.where}{name} {state}", self.repair)

    def text(self, name: str) -> str:
        value = self.values.get(name)
        if not isinstance(value, str):
            raise self.wrong(name, "text")
        return value

    def text_or_none(self, name: str) -> str | None:
        return None if self.values.get(name) is None else self.text(name)

    def flag(self, name: str) -> bool:
        value = self.values.get(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def whole(self, name: str) -> int:
        value = self.values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise self.wrong(name, "a whole number")
        return value

    def number(self, name: str) -> float:
        value = _finite(self.values.get(name))
        if value is None:
            raise self.wrong(name, "a number")
        return value

    def number_or_none(self, name: str) -> float | None:
        if name in self.values and self.values[name] is None:
            return None
        return self.number(name)

    def positive(self, name: str) -> float:
        value = self.number(name)
        if value <= 0:
            raise self.wrong(name, "a number above 0")
        return value

    def items(self, name: str) -> Sequence[Any]:
        value = self.values.get(name)
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.items(name)
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(name, "a list of texts")
        return tuple(values)

    def numbers(self, name: str, length: int | None = None) -> tuple[float, ...]:
        values = [_finite(value) for value in self.items(name)]
        known = tuple(value for value in values if value is not None)
        if not known or len(known) != len(values) or len(known) != (length or len(known)):
            raise self.wrong(name, f"a list of {length or 'some'} numbers")
        return known

    def numbers_or_none(self, name: str) -> tuple[float | None, ...]:
        values = self.items(name)
        if not all(value is None or _finite(value) is not None for value in values):
            raise self.wrong(name, "a list of numbers")
        return tuple(_finite(value) for value in values)

    def size(self, name: str) -> tuple[int, int]:
        height, width = self.numbers(name, 2)
        return int(height), int(width)

    def child(self, name: str) -> _Fields:
        value = self.values.get(name)
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return _Fields(value, self.file, self.repair, f"{self.where}{name}.")

    def child_or_none(self, name: str) -> _Fields | None:
        if name in self.values and self.values[name] is None:
            return None
        return self.child(name)

    def children(self, name: str) -> list[_Fields]:
        values = self.items(name)
        if not all(isinstance(value, dict) for value in values):
            raise self.wrong(name, "a list of objects")
        return [
            _Fields(value, self.file, self.repair, f"{self.where}{name}[{index}].")
            for index, value in enumerate(values)
        ]

    def as_texts(self, name: str) -> dict[str, str]:
        """Return an object of plain values as text, whatever its keys: machines grow new ones."""
        values = self.child(name).values
        return {
            str(key): "×".join(map(str, value)) if isinstance(value, list) else str(value)
            for key, value in values.items()
            if value is not None and not isinstance(value, dict)
        }


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON's whole numbers have no end
        return None
    return number if math.isfinite(number) else None


def read_results(run: Run) -> Results:
    """Read what there is of a run.

    Raises:
        MissingStageError: there is nothing at all.
        ArtifactError: a file is damaged, foreign, or of another schema.
    """
    argument = "" if run.root == DEFAULT_RUN else f" {shlex.quote(str(run.root))}"
    out = argument and f" --out{argument}"
    training = None
    if run.metrics.exists():
        again = f"train again with `fcn-deploy train{out} --overwrite`, or delete the file"
        training = _training(_open(run, run.metrics, "train", again))
    comparisons = [
        comparison
        for path in _result_files(run.parity_folder)
        for comparison in _comparisons(
            _open(run, path, "parity", f"run `fcn-deploy parity{argument}` again, or delete it")
        )
    ]
    benches = [
        _bench(_open(run, path, "bench", f"run `fcn-deploy bench{argument}` again, or delete it"))
        for path in _result_files(run.bench_folder)
    ]
    preview = run.preview if run.preview.is_file() else None
    if not (training or comparisons or benches or preview):
        raise MissingStageError(
            f"nothing to report in {run.root}", f"run `fcn-deploy train{out}` first"
        )
    return Results(
        name=str(run.root) if run.root.name else run.root.resolve().name,
        run_argument=argument,
        out_option=out,
        training=training,
        preview=preview,
        comparisons=tuple(sorted(comparisons, key=lambda entry: entry.environment.created)),
        benches=tuple(sorted(benches, key=lambda entry: entry.environment.created)),
        checkpoint_digest=file_digest(run.checkpoint) if run.checkpoint.is_file() else None,
    )


def _result_files(folder: Path) -> list[Path]:
    # A name with a dot in front is a file that another command is just writing.
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))


def _open(run: Run, path: Path, kind: str, repair: str) -> tuple[_Fields, Environment]:
    try:
        fields = _Fields(read_json(path, repair), path, repair)
    except RecursionError as error:
        raise ArtifactError(f"{path} is nested too deeply", repair) from error
    if fields.values.get("kind") != kind:
        raise ArtifactError(f"{path} is not a {kind} result of fcn-deploy", repair)
    schema = fields.values.get("schema")
    if schema != SCHEMAS[kind] or isinstance(schema, bool):
        raise ArtifactError(
            f"{path} has schema {schema}, this version reads {SCHEMAS[kind]}", repair
        )
    machine = fields.as_texts("machine")
    cores = machine.get("cores", "")
    return fields, Environment(
        file=path.relative_to(run.root).as_posix(),
        created=fields.text("created"),
        machine=machine,
        versions=fields.as_texts("versions"),
        cores=int(cores) if cores.isdecimal() else None,
    )


def _training(opened: tuple[_Fields, Environment]) -> Training:
    fields, environment = opened
    class_names = fields.texts("class_names")
    epochs = fields.children("epochs")
    if not epochs:
        raise fields.wrong("epochs", "a list of at least one epoch")
    val_iou = epochs[-1].numbers_or_none("val_iou")
    if len(val_iou) != len(class_names):
        raise epochs[-1].wrong("val_iou", f"one number for each of {len(class_names)} classes")
    data = fields.child("data")
    return Training(
        environment=environment,
        architecture=fields.text("architecture"),
        weights=fields.text_or_none("weights"),
        freeze_backbone=fields.flag("freeze_backbone"),
        seed=fields.whole("seed"),
        device=fields.text("device"),
        recipe=fields.as_texts("recipe"),
        data_argument=fields.text_or_none("data_argument"),
        class_names=class_names,
        splits=tuple(_split(name, data.child(name)) for name in data.values),
        epochs=tuple(_epoch(entry) for entry in epochs),
        val_iou=val_iou,
    )


def _split(name: str, fields: _Fields) -> Split:
    return Split(name, fields.text("source"), fields.whole("read"), fields.whole("dropped"))


def _epoch(fields: _Fields) -> Epoch:
    return Epoch(
        epoch=fields.whole("epoch"),
        loss=fields.number_or_none("loss"),
        train_pixel_accuracy=fields.number_or_none("train_pixel_accuracy"),
        train_mean_iou=fields.number_or_none("train_mean_iou"),
        val_pixel_accuracy=fields.number_or_none("val_pixel_accuracy"),
        val_mean_iou=fields.number_or_none("val_mean_iou"),
        examples_per_s=fields.number_or_none("examples_per_s"),
        seconds=fields.number_or_none("seconds"),
    )


def _runner(fields: _Fields) -> RunnerDescription:
    return RunnerDescription(
        backend=fields.text("backend"),
        device=fields.text("device"),
        precision=fields.text("precision"),
        library=fields.text("library"),
        threads=fields.whole("threads"),
        file=fields.text("file"),
        digest=fields.text("digest"),
        checkpoint_digest=fields.text("checkpoint_digest"),
        providers=fields.texts("providers"),
    )


def _comparisons(opened: tuple[_Fields, Environment]) -> list[Comparison]:
    fields, environment = opened
    return [_comparison(entry, environment) for entry in fields.children("results")]


def _comparison(fields: _Fields, environment: Environment) -> Comparison:
    images = fields.child("images")
    checks = tuple(
        Check(entry.text("name"), entry.flag("passed"), entry.text("sentence"))
        for entry in fields.children("checks")
    )
    if not checks:  # all() of nothing would pass
        raise fields.wrong("checks", "a list of at least one check")
    scores = fields.child_or_none("scores")
    return Comparison(
        environment=environment,
        reference=_runner(fields.child("reference")),
        candidate=_runner(fields.child("candidate")),
        source=images.text("source"),
        count=images.whole("count"),
        pixels=images.whole("pixels"),
        images_digest=images.text("digest"),
        epsilon=fields.number_or_none("epsilon"),
        agreement=fields.number("agreement"),
        flips=fields.whole("flips"),
        widest_flip_margin=fields.number_or_none("widest_flip_margin"),
        boundary=_region(fields.child("boundary")),
        interior=_region(fields.child("interior")),
        scores=None if scores is None else _scores(scores),
        checks=checks,
        passed=fields.flag("passed") and all(check.passed for check in checks),
        pictures=tuple(_worst_picture(entry) for entry in fields.children("pictures")),
    )


def _region(fields: _Fields) -> Region:
    return Region(fields.whole("pixels"), fields.whole("flips"))


def _scores(fields: _Fields) -> Scores:
    worst = fields.child("worst_class")
    return Scores(
        reference_miou=fields.number_or_none("reference_miou"),
        candidate_miou=fields.number_or_none("candidate_miou"),
        worst_class=worst.text("name"),
        worst_change_points=worst.number("change_points"),
        classes=tuple(
            (
                entry.text("name"),
                entry.number_or_none("reference_iou"),
                entry.number_or_none("candidate_iou"),
            )
            for entry in fields.children("classes")
        ),
    )


def _worst_picture(fields: _Fields) -> WorstPicture:
    files = fields.child("files")
    paths = {}
    for view in VIEWS:
        name = files.text(view)
        # A result file may come from elsewhere: it must not pull other files into the page.
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise files.wrong(view, "a path below the folder of its result file")
        paths[view] = fields.file.parent / name
    return WorstPicture(fields.text("name"), fields.whole("flips"), fields.whole("pixels"), paths)


def _bench(opened: tuple[_Fields, Environment]) -> Bench:
    fields, environment = opened
    inputs = fields.child("inputs")
    return Bench(
        environment=environment,
        source=inputs.text("source"),
        distinct_inputs=inputs.whole("distinct"),
        load_before=fields.number_or_none("load_before"),
        rows=tuple(_bench_row(entry) for entry in fields.children("rows")),
    )


def _bench_row(fields: _Fields) -> BenchRow:
    low, high = fields.numbers("spread_ms", 2)
    latency = fields.child("latency_ms")
    ratio = fields.child_or_none("speedup_over_baseline")
    return BenchRow(
        runner=_runner(fields.child("runner")),
        tier=fields.text("tier"),
        batch_size=fields.whole("batch_size"),
        size=fields.size("size"),
        concurrency=fields.whole("concurrency"),
        inputs_digest=fields.text("inputs_digest"),
        repeats_ms=fields.numbers("repeats_ms"),
        queries=fields.whole("queries"),
        latency_ms={name: latency.number(name) for name in latency.values},
        median_ms=fields.positive("median_ms"),
        low_ms=low,
        high_ms=high,
        images_per_s=fields.positive("images_per_s"),
        over_baseline=None if ratio is None else _ratio(ratio),
    )


def _ratio(fields: _Fields) -> Ratio:
    return Ratio(
        fields.positive("median"),
        fields.positive("low"),
        fields.positive("high"),
        fields.flag("tie"),
    )


# -- words and figures --------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Return a figure with 3 significant digits; ``n/a`` for None."""
    if value is None:
        return "n/a"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e9:
        return f"{value:.2e}"
    magnitude = math.floor(math.log10(abs(value)))
    rounded = round(value, 2 - magnitude)
    magnitude = math.floor(math.log10(abs(rounded)))  # 9.996 has become 10.0
    return f"{rounded:,.{max(0, 2 - magnitude)}f}"


def percent(share: float | None) -> str:
    """Return a share as a percentage; what is not all of it never reads ``100%``."""
    if share is None:
        return "n/a"
    if share in (0, 1):
        return f"{share:.0%}"
    if not 0.99 < share < 1:
        return f"{number(100 * share)}%"
    decimals = max(1, 1 - math.floor(math.log10(100 * (1 - share))))
    scale = 10.0**decimals
    # Rounded down: a thousandth of the last digit forgives what floats cannot say.
    shown = f"{math.floor(100 * share * scale + 1e-3) / scale:.{decimals}f}"
    return f"{shown.rstrip('0')}%"


def score(share: float | None, decimals: int = 1) -> str:
    """Return an IoU or accuracy as a percentage; no validation set resolves more digits."""
    return "n/a" if share is None else f"{100 * share:.{decimals}f}%"


def points(change: float | None) -> str:
    """Return a change in points (hundredths) with its sign."""
    return "n/a" if change is None else f"{change:+.3f}"


def runner_name(runner: RunnerDescription) -> str:
    """Return backend, precision and, beyond the CPU, device: ``ort fp32``."""
    if runner.backend == BASELINE:
        return "plain export"
    place = "" if runner.device == "cpu" else f" on {runner.device}"
    return f"{runner.backend} {runner.precision}{place}"


def speed_words(ratio: Ratio) -> str:
    """Say how a row compares with the baseline; a tie is called a tie."""
    low, high = number(ratio.low), number(ratio.high)
    if ratio.tie:
        return f"a tie with the plain export ({low}–{high}× its speed)"
    if ratio.median >= 1:
        return f"{number(ratio.median)}× faster than the plain export ({low}–{high})"
    slow, slower = number(1 / ratio.high), number(1 / ratio.low)
    return f"{number(1 / ratio.median)}× slower than the plain export ({slow}–{slower})"


State = Literal["failed", "unchecked", "passed", "reference"]
_LOUDEST_FIRST: tuple[State, ...] = ("failed", "unchecked", "passed", "reference")


@dataclass(frozen=True)
class SummaryLine:
    """One backend in one sentence.

    Attributes:
        label: which backend.
        state: of its masks.
        sentence: masks first, then speed; commands stand between backticks.
    """

    label: str
    state: State
    sentence: str

    def __str__(self) -> str:
        return f"{self.label}: {self.sentence}"


def summary_lines(results: Results) -> list[SummaryLine]:
    """Say of each backend whether its masks are the same and how fast it is.

    A backend is a backend at a precision on a device.  Parity counts only where it was run on the
    very file that was measured, from the checkpoint that lies in the run.  The speed is that of
    the newest bench file per machine, end to end where measured so, at the smallest batch.
    """
    runners: dict[str, None] = {}
    for comparison in results.comparisons:
        runners[runner_name(comparison.candidate)] = None
    for bench in results.benches:
        for row in bench.rows:
            if not row.is_baseline:
                runners[runner_name(row.runner)] = None
    lines = [_summary_line(results, label) for label in runners]
    return sorted(lines, key=lambda line: _LOUDEST_FIRST.index(line.state))


def _summary_line(results: Results, label: str) -> SummaryLine:
    rows = _headline_rows(results, label)
    state, masks = _mask_words(results, label, rows)
    speeds = [_row_words(results, bench, row, len(rows) > 1) for bench, row in rows]
    if state == "failed" and speeds:
        speeds[-1] += ", for different masks"
    if not speeds:
        runner = _known_runner(results, label)
        speeds = [f"speed not measured: run `{_command('bench', results, runner)}`"]
    return SummaryLine(
        label, state, (", " if len(speeds) == 1 and rows else "; ").join([masks, *speeds])
    )


def _headline_rows(results: Results, label: str) -> list[tuple[Bench, BenchRow]]:
    """Return the row to name first of each machine, out of its newest file."""
    newest: dict[tuple[tuple[str, str], ...], tuple[Bench, BenchRow]] = {}
    for bench in results.benches:  # the newest comes last and wins
        rows = [row for row in bench.rows if runner_name(row.runner) == label]
        if rows:
            chosen = min(rows, key=lambda row: (row.tier != END_TO_END, row.batch_size))
            newest[tuple(sorted(bench.environment.machine.items()))] = (bench, chosen)
    return list(newest.values())


def _row_words(results: Results, bench: Bench, row: BenchRow, name_machine: bool) -> str:
    if row.over_baseline is None:
        words = f"{number(row.median_ms)} ms per query, {row.conditions}, no baseline beside it"
    else:
        words = f"{speed_words(row.over_baseline)}, {row.conditions}"
    if name_machine:
        words += f", on {bench.environment.machine_name}"
    return f"{words}, measured on an older checkpoint" if results.is_stale(row.runner) else words


def _mask_words(
    results: Results, label: str, rows: Sequence[tuple[Bench, BenchRow]]
) -> tuple[State, str]:
    ours = [c for c in results.comparisons if runner_name(c.candidate) == label]
    command = f"run `{_command('parity', results, _known_runner(results, label))}`"
    if not ours:
        if any(runner_name(c.reference) == label for c in results.comparisons):
            return "reference", "the reference for the masks"
        if label.startswith(REFERENCE):
            return "reference", "the reference for the masks (nothing was compared with it yet)"
        return "unchecked", f"MASKS NOT CHECKED: {command}"
    fresh = [c for c in ours if not results.is_stale(c.candidate)]
    if not fresh:
        return "unchecked", f"MASKS CHECKED ON AN OLDER CHECKPOINT ONLY: {command}"
    measured = {row.runner.digest for _, row in rows if not results.is_stale(row.runner)}
    same_file = [c for c in fresh if not measured or c.candidate.digest in measured]
    if not same_file or measured - {c.candidate.digest for c in same_file}:
        return "unchecked", f"MASKS CHECKED ON ANOTHER FILE THAN THE ONE MEASURED: {command}"
    failed = [c for c in same_file if not c.passed]
    if failed:
        points_missed = ", ".join(dict.fromkeys(n for c in failed for n in c.failed_checks))
        return "failed", f"MASKS DIFFER, THE GATE FAILED ({points_missed or 'see below'})"
    worst = min(c.agreement for c in same_file)
    share = "" if worst == 1 else f", {percent(worst)} of the pixels agree"
    return "passed", f"same masks (gate passed{share})"


def _known_runner(results: Results, label: str) -> RunnerDescription:
    runners = [c.candidate for c in results.comparisons]
    runners += [row.runner for bench in results.benches for row in bench.rows]
    return next(runner for runner in runners if runner_name(runner) == label)


def _command(verb: str, results: Results, runner: RunnerDescription) -> str:
    return (
        f"fcn-deploy {verb}{results.run_argument} --backend {shlex.quote(runner.backend)}"
        f"{_precision_flag(runner.precision)}"
    )


def _precision_flag(precision: str) -> str:
    return "" if precision == "fp32" else f" --{precision}"


def repeat_commands(results: Results) -> list[str]:
    """Return the shell commands that make all of this again, in order."""
    training = results.training
    commands = [_train_command(results) if training else f"fcn-deploy train{results.out_option}"]
    precisions = sorted({runner.precision for runner in _all_runners(results)} | {"fp32"})
    run = results.run_argument
    commands += [f"fcn-deploy export{run}{_precision_flag(p)}" for p in reversed(precisions)]
    candidates = [c.candidate for c in results.comparisons]
    commands += [_command("parity", results, runner) for runner in candidates]
    if not candidates:
        commands.append(f"fcn-deploy parity{run}")
    commands += [_bench_command(results, bench) for bench in results.benches]
    if not results.benches:
        commands.append(f"fcn-deploy bench{run}")
    return [*dict.fromkeys(commands), f"fcn-deploy report{run}"]


def _all_runners(results: Results) -> list[RunnerDescription]:
    runners = [r for c in results.comparisons for r in (c.reference, c.candidate)]
    return runners + [row.runner for bench in results.benches for row in bench.rows]


def _train_command(results: Results) -> str:
    training = results.training
    assert training is not None
    recipe = training.recipe
    options = [
        ("--data", training.data_argument),
        ("--arch", training.architecture),
        ("--weights", training.weights or "none"),
        ("--recipe", recipe.get("name")),
        ("--epochs", recipe.get("epochs")),
        ("--batch-size", recipe.get("batch_size")),
        ("--crop-size", recipe.get("crop_size", "").replace("×", "x") or None),
        ("--lr", recipe.get("lr")),
        ("--seed", str(training.seed)),
    ]
    words = "".join(f" {name} {shlex.quote(value)}" for name, value in options if value)
    freeze = " --freeze-backbone" if training.freeze_backbone else ""
    return f"fcn-deploy train{results.out_option}{words}{freeze}"


def _bench_command(results: Results, bench: Bench) -> str:
    rows = [row for row in bench.rows if not row.is_baseline]
    backends = dict.fromkeys(row.runner.backend for row in rows)
    batches = sorted({row.batch_size for row in rows})
    sizes = dict.fromkeys(row.size for row in rows)
    flags = dict.fromkeys(_precision_flag(row.runner.precision) for row in rows)
    threads = {row.runner.threads for row in rows}
    return (
        f"fcn-deploy bench{results.run_argument}"
        + "".join(f" --backend {shlex.quote(backend)}" for backend in backends)
        + "".join(flags)
        + (f" --batch {','.join(map(str, batches))}" if batches else "")
        + "".join(f" --size {height}x{width}" for height, width in sizes)
        + (f" --threads {threads.pop()}" if len(threads) == 1 else "")
    )


# -- the bench table ----------------------------------------------------------------------------


@dataclass(frozen=True)
class BenchGroup:
    """Rows that may be set side by side, fastest first.

    Attributes:
        title: tier, batch, size, concurrency.
        rows: by median latency.
        percentiles: those that at least one row had enough queries for.
        scale_ms: the slowest repeat of all: full width of a bar.
        ties: pairs that are too close to call, the baseline apart.
    """

    title: str
    rows: tuple[BenchRow, ...]
    percentiles: tuple[str, ...]
    scale_ms: float
    ties: tuple[tuple[str, str], ...]


def bench_groups(bench: Bench) -> list[BenchGroup]:
    """Sort a file's rows into the groups within which they may be compared."""
    groups: dict[Any, list[BenchRow]] = {}
    for row in sorted(bench.rows, key=lambda row: (row.size, row.batch_size, row.tier)):
        groups.setdefault(row.group, []).append(row)
    return [_bench_group(rows) for rows in groups.values()]


def _bench_group(rows: list[BenchRow]) -> BenchGroup:
    rows = sorted(rows, key=lambda row: row.median_ms)
    first = rows[0]
    percentiles = {name for row in rows for name in row.latency_ms if name != "median"}
    others = [row for row in rows if not row.is_baseline]
    return BenchGroup(
        title=f"{first.conditions}, {first.concurrency} "
        f"{'query' if first.concurrency == 1 else 'queries'} at a time",
        rows=tuple(rows),
        percentiles=tuple(sorted(percentiles)),
        scale_ms=max(max(row.high_ms, row.median_ms) for row in rows),
        ties=tuple(
            (runner_name(row.runner), runner_name(other.runner))
            for index, row in enumerate(others)
            for other in others[index + 1 :]
            if is_tie(row, other)
        ),
    )


def is_tie(row: BenchRow, other: BenchRow) -> bool:
    """Whether neither of two rows of a group is faster, by the rule of ``bench``: repeat by repeat.

    Where the repeats do not pair up, overlapping spreads decide.
    """
    if len(row.repeats_ms) != len(other.repeats_ms) or min(row.repeats_ms + other.repeats_ms) <= 0:
        return row.low_ms <= other.high_ms and other.low_ms <= row.high_ms
    ratios = [b / a for a, b in zip(row.repeats_ms, other.repeats_ms, strict=True)]
    return min(ratios) <= 1 <= max(ratios)


# -- the training curves ------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """One line of a chart: polylines in the chart's coordinates, broken where a value is missing.

    Attributes:
        name: for the legend, also the line's style.
        segments: points per unbroken piece.
        dots: points to mark, where a line alone would show nothing or little.
    """

    name: Literal["train", "val"]
    segments: tuple[tuple[tuple[float, float], ...], ...]
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """A small line chart, laid out; the template only draws it.

    Attributes:
        title: above it.
        description: what it shows, for who cannot see it.
        x_ticks: position and label.
        y_ticks: position and label.
        curves: the lines.
    """

    title: str
    description: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    curves: tuple[Curve, ...]


#: Size of a chart and its plot area, in the units of its coordinates (px at full width).
CHART_SIZE = (330, 218)
PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, PLOT_BOTTOM = 42, 320, 12, 180
_FEW_EPOCHS = 8


def training_charts(training: Training) -> list[Chart]:
    """Lay out loss, pixel accuracy and mean IoU over the epochs."""
    epochs = training.epochs
    return [
        _chart("Loss", epochs, {"train": [e.loss for e in epochs]}, None),
        _chart(
            "Pixel accuracy",
            epochs,
            {
                "train": [e.train_pixel_accuracy for e in epochs],
                "val": [e.val_pixel_accuracy for e in epochs],
            },
            1.0,
        ),
        _chart(
            "Mean IoU",
            epochs,
            {
                "train": [e.train_mean_iou for e in epochs],
                "val": [e.val_mean_iou for e in epochs],
            },
            1.0,
        ),
    ]


def _chart(
    title: str,
    epochs: Sequence[Epoch],
    series: Mapping[Literal["train", "val"], Sequence[float | None]],
    top: float | None,
) -> Chart:
    known = [value for values in series.values() for value in values if value is not None]
    y_ticks = _ticks(min([0.0, *known]), top if top is not None else max([0.0, *known]) or 1.0)
    low, high = y_ticks[0], max(y_ticks[-1], *known) if known else y_ticks[-1]
    first, last = epochs[0].epoch, epochs[-1].epoch

    def x(epoch: float) -> float:
        share = (epoch - first) / (last - first) if last > first else 0.5
        return round(PLOT_LEFT + share * (PLOT_RIGHT - PLOT_LEFT), 1)

    def y(value: float) -> float:
        return round(PLOT_BOTTOM - (value - low) / (high - low) * (PLOT_BOTTOM - PLOT_TOP), 1)

    curves = []
    for name, values in series.items():
        placed = [
            None if value is None else (x(epoch.epoch), y(value))
            for epoch, value in zip(epochs, values, strict=True)
        ]
        curves.append(_curve(name, placed))
    label = score if top is not None else _plain
    return Chart(
        title,
        "; ".join(_ends(title, name, values, label) for name, values in series.items()),
        tuple((x(epoch), str(epoch)) for epoch in _epoch_ticks(first, last)),
        tuple((y(tick), f"{tick:.0%}" if top is not None else _plain(tick)) for tick in y_ticks),
        tuple(curves),
    )


def _curve(
    name: Literal["train", "val"], placed: Sequence[tuple[float, float] | None]
) -> Curve:  # fmt: skip
    segments: list[list[tuple[float, float]]] = [[]]
    for point in placed:
        if point is None:
            segments.append([])
        else:
            segments[-1].append(point)
    alone = [segment[0] for segment in segments if len(segment) == 1]
    dots = [p for p in placed if p is not None] if len(placed) <= _FEW_EPOCHS else alone
    return Curve(name, tuple(tuple(s) for s in segments if len(s) > 1), tuple(dots))


def _plain(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3g}"


def _ends(title: str, name: str, values: Sequence[float | None], label: Any) -> str:
    return f"{title} ({name}) from {label(values[0])} to {label(values[-1])}"


def _ticks(low: float, high: float) -> list[float]:
    """Return 4 to 7 round values that span ``low`` to ``high``."""
    rough = max(high - low, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [step * index for index in range(first, last + 1)]


def _epoch_ticks(first: int, last: int) -> list[int]:
    step = next((s for s in (1, 2, 5, 10, 20, 50, 100) if (last - first) / s <= 6), 0)
    step = step or (last - first) // 6
    inner = range(first - first % step + step, last + 1, step)
    # The first epoch is always named; its neighbour only where the two do not touch.
    return [first, *(epoch for epoch in inner if step == 1 or epoch - first >= step / 2)]


# -- pictures -----------------------------------------------------------------------------------


def data_uri(path: Path, repair: str) -> str:
    """Return a picture as a ``data:`` URI: colour-exact PNG for masks, else JPEG.

    Pictures wider than ``MAX_PICTURE_WIDTH`` are shrunk.

    Raises:
        ArtifactError: the file is no readable picture.
    """
    try:
        image = Image.fromarray(read_image(path))
    except ImageError as error:
        raise ArtifactError(error.message, repair) from error
    # getcolors gives None beyond its limit: then it is a photograph.
    flat = image.getcolors(256) is not None
    if image.width > MAX_PICTURE_WIDTH:
        height = max(1, round(image.height * MAX_PICTURE_WIDTH / image.width))
        kernel = Image.Resampling.NEAREST if flat else Image.Resampling.LANCZOS
        image = image.resize((MAX_PICTURE_WIDTH, height), kernel)
    content = io.BytesIO()
    if flat:
        red, green, blue = np.moveaxis(np.asarray(image, dtype=np.int32), 2, 0)
        codes, indices = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
        small = Image.fromarray(indices.reshape(red.shape).astype(np.uint8))
        small.putpalette([code >> shift & 255 for code in codes.tolist() for shift in (16, 8, 0)])
        small.save(content, format="PNG", optimize=True)
        kind = "png"
    else:
        image.save(content, format="JPEG", quality=88, subsampling=0)  # the grid holds masks too
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def _drawn(results: Results) -> dict[str, str]:
    """Return path → data URI of every picture that the report shows and that is there."""
    pictures = {}
    if results.preview is not None:
        again = f"train again, or delete {results.preview}"
        pictures[str(results.preview)] = data_uri(results.preview, again)
    for comparison in results.comparisons:
        again = f"run `{_command('parity', results, comparison.candidate)}` again"
        for picture in comparison.pictures:
            for path in picture.files.values():
                if path.is_file():
                    pictures[str(path)] = data_uri(path, again)
    return pictures


# -- the page -----------------------------------------------------------------------------------


def write_report(run: Run, target: Path | None = None) -> Path:
    """Gather what there is of a run into one self-contained HTML file.

    Args:
        run: the run directory.
        target: the file to write; by default the run's ``report.html``.

    Returns:
        The file that was written.

    Raises:
        MissingStageError: the run holds no results at all.
        ArtifactError: a result is damaged or foreign, or the file cannot be written.
    """
    target = target or run.report
    page = render(read_results(run))
    # JSON may hold half a surrogate pair, which UTF-8 cannot.
    write_bytes(target, page.encode("utf-8", errors="replace"))
    return target


def render(results: Results) -> str:
    """Return the HTML page.

    Raises:
        ArtifactError: a picture is damaged.
    """
    from jinja2 import Environment as Templates
    from jinja2 import FileSystemLoader, StrictUndefined

    templates = Templates(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "number": number,
        "percent": percent,
        "points": points,
        "score": score,
        "runner": runner_name,
        "prose": prose,
    }
    return templates.get_template("report.html.j2").render(
        results=results,
        summary=summary_lines(results),
        charts=training_charts(results.training) if results.training else [],
        classes=_class_bars(results.training) if results.training else [],
        benches=[(bench, bench_groups(bench)) for bench in results.benches],
        pictures=_drawn(results),
        views=VIEWS,
        machines=_machines(results.environments),
        digests=_digests(results),
        commands=repeat_commands(results),
        parity_command=lambda runner: _command("parity", results, runner),
        chart_size=CHART_SIZE,
        plot=(PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, PLOT_BOTTOM),
    )


def prose(text: str) -> Markup:
    """Escape a sentence and set what stands between backticks as code."""
    from markupsafe import Markup, escape

    pieces = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if index % 2 else escape(piece)
        for index, piece in enumerate(pieces)
    )


@dataclass(frozen=True)
class ClassBar:
    """One class of the training's validation: its colour in the pictures and its IoU (0 to 1)."""

    name: str
    colour: str
    iou: float | None


def _class_bars(training: Training) -> list[ClassBar]:
    palette = voc_palette(len(training.class_names))  # what `train` draws the preview with
    bars = [
        ClassBar(name, "#{:02x}{:02x}{:02x}".format(*colour), iou)
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


_PROPERTY_NAMES = {"cpu": "CPU", "memory_gib": "memory (GiB)", "python": "Python"}


def _machines(environments: Iterable[Environment]) -> list[Machine]:
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


def _digests(results: Results) -> list[tuple[str, str]]:
    """Return what was measured or compared, and its digest: models, then pictures."""
    runners = _all_runners(results)
    found = [(f"checkpoint of {r.file}", r.checkpoint_digest) for r in runners]
    found += [(r.file, r.digest) for r in runners]
    found += [(f"{c.count} pictures from {c.source}", c.images_digest) for c in results.comparisons]
    found += [
        (f"inputs at {row.size[0]}×{row.size[1]} from {bench.source}", row.inputs_digest)
        for bench in results.benches
        for row in bench.rows
    ]
    return list(dict.fromkeys(found))
