"""What result files say, as frozen values: figures as they were written, never computed anew.

    Results ─┬─ training     Training (epochs, splits)
             ├─ comparisons  Comparison (checks, flips, pictures), newest last
             ├─ benches      Bench ─▶ BenchRow (one measured case), ColdStart, Conditions
             ├─ bisections   Bisection ─▶ Layer
             ├─ devices      DeviceTier ─▶ DeviceRow
             └─ preview      Path

Each of them knows its `Environment`: which file of which machine it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcn_deploy.bench.loadgen import SINGLE_STREAM, Settings
from fcn_deploy.results.fields import InlinePicture
from fcn_deploy.results.workload import LOADGEN, LOOP, Question
from fcn_deploy.runners.base import RunnerDescription

#: What the backend names of ``benchmarks/peers`` begin with.
PEER = "peer:"
#: What a comparison's picture is drawn as, in the order in which it is shown.
VIEWS = ("image", "reference", "candidate", "flips", "margin")
#: Properties of a machine that make it another one for speed, most telling first.
_IDENTITY = ("cpu", "cores", "architecture", "memory_gib", "system", "python")
#: Share by which the memory that the system grants may differ: a new kernel keeps more for itself.
MEMORY_TOLERANCE = 0.05
_PREFIX = {"python": "Python "}
_UNIT = {"memory_gib": " GiB"}


@dataclass(frozen=True)
class Environment:
    """Where and when a file's figures came to be.

    Attributes:
        file: name of the file, below the run directory where it lies there, else as given.
        created: ISO 8601, UTC.
        machine: property → value, as text.
        versions: distribution → version.
    """

    file: str
    created: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def machine_name(self) -> str:
        """CPU and cores, for a heading."""
        return machine_name(self.machine)

    def same_machine(self, other: Environment) -> bool:
        """Say whether figures were taken on the same machine, by the same Python."""
        return not differing(
            {name: self.property(name) for name in _IDENTITY},
            {name: other.property(name) for name in _IDENTITY},
            _IDENTITY,
        )

    def property(self, name: str) -> str:
        """Return a property of the machine, empty if unknown; of its system the name alone.

        A kernel moves on without the machine becoming another one.
        """
        value = self.machine.get(name, "")
        return value.partition(" ")[0] if name == "system" else value


def differing(
    one: Mapping[str, str], other: Mapping[str, str], names: Sequence[str]
) -> tuple[str, ...]:
    """Return in which of some properties two machines differ; memory may do so a little."""
    return tuple(
        name
        for name in names
        if one.get(name) != other.get(name)
        and not (name == "memory_gib" and _about_equal(one.get(name), other.get(name)))
    )


def _about_equal(one: str | None, other: str | None) -> bool:
    try:
        less, more = sorted((float(one or 0), float(other or 0)))
    except ValueError:
        return False
    return more - less <= MEMORY_TOLERANCE * less


def machine_name(machine: Mapping[str, str]) -> str:
    """Return a machine's CPU and cores, for a heading."""
    cores = f", {machine['cores']} cores" if "cores" in machine else ""
    return f"{machine.get('cpu', 'unknown machine')}{cores}"


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
    data_seconds: float | None
    compute_seconds: float | None
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
        options: of the command line that began it, as they were typed.
        freeze_epochs: the body was not trained in the first so many; None: never frozen.
        best_epoch: whose weights were kept, by validation mIoU.
        val_iou: per class, of the best epoch; None where the class does not occur.
        recipe: its fields, as text.
        data_argument: what ``--data`` was, if the file says.
    """

    environment: Environment
    architecture: str
    weights: str | None
    options: tuple[str, ...]
    freeze_epochs: int | None
    best_epoch: int
    seed: int
    device: str
    recipe: Mapping[str, str]
    data_argument: str | None
    class_names: tuple[str, ...]
    splits: tuple[Split, ...]
    epochs: tuple[Epoch, ...]
    val_iou: tuple[float | None, ...]

    @property
    def best(self) -> Epoch:
        """The epoch whose weights were kept."""
        return next(epoch for epoch in self.epochs if epoch.epoch == self.best_epoch)


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
class ClassFlips:
    """How often one class became another.

    Attributes:
        reference: index of the class that the reference gave.
        candidate: index of the one that the candidate gave.
    """

    reference: int
    candidate: int
    flips: int


@dataclass(frozen=True)
class Bucket(Region):
    """Pixels between two bounds, and the flips among them.

    Attributes:
        low: of the margin (in logits) or distance (in px).
        high: the same; None where nothing bounds it.
    """

    low: float
    high: float | None


@dataclass(frozen=True)
class MarginScale:
    """How margins are drawn: colours from low to high, evenly spaced, as ``#rrggbb``."""

    low: float
    high: float
    colours: tuple[str, ...]


@dataclass(frozen=True)
class WorstPicture:
    """A picture with many flips, and what shows it: view → picture."""

    name: str
    flips: int
    pixels: int
    views: Mapping[str, InlinePicture]
    margin_scale: MarginScale | None


@dataclass(frozen=True)
class Comparison:
    """One candidate against the reference, out of a parity file.

    Attributes:
        reference_machine: where the reference ran, if that was another machine.
        palette: red, green, blue per class.
        epsilon: largest |Δlogit|; None where it is not finite.
        by_class: pairs of classes, most flips first.
        by_margin: by the reference's margin, in logits.
        by_distance: by the distance to the next class edge, in px.
        diagnosis: what a failure looks like, as sentences.
        arguments: of the command line, as they were typed: RUN, or two files of saved outputs;
            None where the file does not say.
        options: the same of its options.
    """

    environment: Environment
    reference: RunnerDescription
    candidate: RunnerDescription
    reference_machine: str | None
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
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
    by_class: tuple[ClassFlips, ...]
    by_margin: tuple[Bucket, ...]
    by_distance: tuple[Bucket, ...]
    diagnosis: tuple[str, ...]
    pictures: tuple[WorstPicture, ...]
    arguments: tuple[str, ...] | None
    options: tuple[str, ...] | None

    @property
    def is_labelled(self) -> bool:
        """Whether mean IoUs were compared: at least one pixel has a label."""
        return self.scores is not None and self.scores.reference_miou is not None

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
    def question(self) -> Question:
        """Rows of one file may be ranked against each other only where this is the same."""
        return Question(
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
class Sensor:
    """What a GPU said of itself; None where it did not.

    Attributes:
        throttle_reasons: what held its clocks back, in words.
    """

    name: str | None
    sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    temperature_c: float | None
    power_w: float | None
    throttle_reasons: tuple[str, ...] | None


@dataclass(frozen=True)
class Conditions:
    """What the machine was doing while it was measured.

    Attributes:
        threads: CPU threads that every runner was pinned to.
        load_before: load average of the minute before.
        load_after: and of the last one.
        steal_share: of the CPU's time that the host gave to others, 0 to 1.
        others_share: of the machine's CPU time, what other programs took, 0 to 1.
        warnings: why to doubt the figures, as sentences.
    """

    threads: int
    load_before: float | None
    load_after: float | None
    steal_share: float | None
    others_share: float | None
    gpu_before: tuple[Sensor, ...]
    gpu_after: tuple[Sensor, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ColdStart:
    """What a backend costs before its first figure; None where it is not known.

    Attributes:
        size: (height, width) in pixels of the first picture.
        largest: (N, height, width) of the batches after it, whose memory is told.
        cold_start_ms: from the start of a process to its first mask.
        open_ms: of that, opening the runner.
        first_run_ms: of that, the first picture.
        peak_rss_mib: most host memory.
        device_memory_mib: GPU memory at the end.
        build_seconds: building the engine, where one is built.
        error: why there are no figures.
    """

    runner: RunnerDescription
    size: tuple[int, int] | None
    largest: tuple[int, int, int] | None
    cold_start_ms: float | None
    open_ms: float | None
    first_run_ms: float | None
    peak_rss_mib: float | None
    device_memory_mib: float | None
    build_seconds: float | None
    error: str | None


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


@dataclass(frozen=True)
class Layer:
    """How far a layer's output is from the reference's; None where it is not finite.

    Attributes:
        scale: RMS of the reference's output.
        relative_error: RMS error over ``scale``.
        beyond: more than the tolerance, or not finite.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    scale: float | None
    max_error: float | None
    relative_error: float | None
    finite: bool
    beyond: bool


@dataclass(frozen=True)
class Bisection:
    """Two ONNX files, layer by layer, out of a bisect file.

    Attributes:
        tolerance: relative RMS error that a layer's output may have.
        layers: in the order of computing.
        arguments: of the command line, as they were typed; None where the file does not say.
        options: the same of its options.
    """

    environment: Environment
    reference_file: str
    reference_digest: str
    reference_precision: str
    candidate_file: str
    candidate_digest: str
    candidate_precision: str
    source: str
    count: int
    tolerance: float
    layers: tuple[Layer, ...]
    arguments: tuple[str, ...] | None
    options: tuple[str, ...] | None

    @property
    def first(self) -> Layer | None:
        """The first layer beyond its tolerance, None where there is none."""
        return next((layer for layer in self.layers if layer.beyond), None)


@dataclass(frozen=True)
class DeviceRow:
    """What one engine gives for one batch shape.

    Attributes:
        batch_size: pictures at once.
        size: (height, width) in pixels.
        device_ms: computing one batch, recorded as a graph, by the device's events.
        pinned_ms: a batch of a stream from and to pinned memory.
        of_floor: share of what the slower of bus and device allows that this reaches.
        layers: (name, ms) by TensorRT's profiler, the slowest first.
    """

    batch_size: int
    size: tuple[int, int]
    device_ms: float
    pinned_ms: float
    of_floor: float
    layers: tuple[tuple[str, float], ...]

    @property
    def layers_ms(self) -> float:
        """All layers together; the profiler between them makes it more than ``device_ms``."""
        return sum(ms for _name, ms in self.layers)


@dataclass(frozen=True)
class DeviceTier:
    """One engine on its device, out of a file of ``benchmarks/gpu/device_tier.py``."""

    environment: Environment
    runner: RunnerDescription
    rows: tuple[DeviceRow, ...]


@dataclass(frozen=True)
class Results:
    """Everything that result files say: those of a run, or several of anywhere.

    Attributes:
        name: of the run, for the title.
        run_argument: the RUN argument as typed in a shell, with a leading space, or empty.
        out_option: the same as an option of ``train``.
        files: where single files were given: these, as given; empty for a run.
        trainings: newest last; a run has one at most.
        preview: the grid image | prediction | truth, if there.
        comparisons: newest last.
        benches: newest last.
        bisections: newest last.
        devices: newest last.
        checkpoint_digest: of the checkpoint that lies in the run now, if there is one.
    """

    name: str
    run_argument: str = ""
    out_option: str = ""
    files: tuple[str, ...] = ()
    trainings: tuple[Training, ...] = ()
    preview: Path | None = None
    comparisons: tuple[Comparison, ...] = ()
    benches: tuple[Bench, ...] = ()
    bisections: tuple[Bisection, ...] = ()
    devices: tuple[DeviceTier, ...] = ()
    checkpoint_digest: str | None = None

    @property
    def training(self) -> Training | None:
        """The newest training, if there is one."""
        return self.trainings[-1] if self.trainings else None

    @property
    def environments(self) -> tuple[Environment, ...]:
        """Of every file that was read, each file once."""
        found = [training.environment for training in self.trainings]
        found += [comparison.environment for comparison in self.comparisons]
        found += [bench.environment for bench in self.benches]
        found += [bisection.environment for bisection in self.bisections]
        found += [device.environment for device in self.devices]
        return tuple({environment.file: environment for environment in found}.values())

    @property
    def proving_environments(self) -> tuple[Environment, ...]:
        """Of the files that masks and speed come from, each file once: training may be anywhere."""
        found = [comparison.environment for comparison in self.comparisons]
        found += [bench.environment for bench in self.benches]
        return tuple({environment.file: environment for environment in found}.values())

    @property
    def runners(self) -> tuple[RunnerDescription, ...]:
        """Every mention of one: each comparison's reference and candidate, then the bench rows."""
        compared = [r for c in self.comparisons for r in (c.reference, c.candidate)]
        measured = [row.runner for bench in self.benches for row in bench.rows]
        return (*compared, *measured)

    @property
    def several_machines(self) -> bool:
        """Whether masks and speed come from more than one machine, or Python."""
        return len({self.machine_of(entry) for entry in self.proving_environments}) > 1

    def machine_of(self, environment: Environment) -> int:
        """Return a number that is the same for all environments of one machine and Python."""
        return next(
            number
            for number, entry in enumerate(self.environments)
            if entry.same_machine(environment)
        )

    def machine_label(self, environment: Environment) -> str:
        """Return a machine's name, with what tells it from another one of the same name."""
        alike = [e for e in self.proving_environments if e.machine_name == environment.machine_name]
        telling = [
            f"{_PREFIX.get(name, '')}{environment.property(name)}{_UNIT.get(name, '')}"
            for name in _IDENTITY
            if environment.property(name) and len({entry.property(name) for entry in alike}) > 1
        ]
        return ", ".join([environment.machine_name, *telling])

    def is_stale(self, runner: RunnerDescription) -> bool:
        """Whether a figure belongs to another checkpoint than the one in the run."""
        current = self.checkpoint_digest
        return current is not None and runner.checkpoint_digest != current
