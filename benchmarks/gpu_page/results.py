"""The recorded results that were measured on a GPU, of every kind, for the pages that show them.

    benchmarks/results/**/*.json ──▶ read_gpu_results ──▶ GpuResults

    parity, bench, device, train   read by ``fcn_deploy.results``
    tests                          ``benchmarks/gpu/pytest_json.py`` writes them
    turns                          ``benchmarks/gpu/turns.py`` writes them
    masks                          ``benchmarks/gpu/parity_apart.py --masks-only`` writes them
    rtx-load                       ``benchmarks/gpu/rtx_engine.py`` writes them
    *.plan.json                    the sidecar of an engine, as ``fcn-deploy build`` wrote it

What a file is, its content says, never its name.  A file that cannot be read, e.g. one of an older
schema, is passed over and named with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fcn_deploy.core.errors import ArtifactError, FcnDeployError
from fcn_deploy.core.files import read_json
from fcn_deploy.results.bench import Bench, BenchRow
from fcn_deploy.results.device import DeviceTier
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.parity import Comparison, ParityFile
from fcn_deploy.results.read import read_files
from fcn_deploy.results.record import Positive, read_fields
from fcn_deploy.results.results import Results
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.training import Training
from fcn_deploy.tensorrt.engine_file import EngineSidecar

#: Schemas of the kinds that only the scripts in ``benchmarks/gpu`` write.
TESTS, TESTS_SCHEMA = "tests", 1
TURNS, TURNS_SCHEMA = "turns", 1
MASKS, MASKS_SCHEMA = "masks", 1
RTX_LOAD, RTX_LOAD_SCHEMA = "rtx-load", 1
SIDECAR = ".plan.json"
#: Kinds that the package reads and the pages show.
_SHOWN = ("parity", "bench", "device", "train")
#: Kinds that hold nothing for these pages.
_OTHERS = (
    "evaluate",
    "bisect",
    "overlap",
    "probe",
    "journal",
    "serving",
    "networks",
    "training-budget",
)
_REPAIR = "measure it anew, or delete it"
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True)
class TestOutcome:
    """What became of one test.

    Attributes:
        name: pytest's own, e.g. ``tests/runners/test_trt_gpu.py::test_x``.
        outcome: ``passed``, ``failed`` or ``skipped``.
        reason: why it was skipped, or None.
    """

    __test__ = False  # for pytest, which collects classes of such names

    name: str
    outcome: str
    reason: str | None

    @classmethod
    def from_fields(cls, fields: Fields) -> TestOutcome:
        outcome = fields.text("outcome")
        if outcome not in (PASSED, FAILED, SKIPPED):
            raise fields.wrong("outcome", f"{PASSED}, {FAILED} or {SKIPPED}")
        return cls(fields.text("name"), outcome, fields.text_or_none("reason"))


@dataclass(frozen=True)
class TestRun:
    """A run of ``pytest -m gpu``.

    Attributes:
        environment: where and when.
        gpu: its name.
        driver: the CUDA version that its driver supports, or None where it is not known.
        libraries: name and version of what was tested, as far as it can be told.
        exit_code: pytest's.
        outcomes: one for each test.
    """

    __test__ = False

    environment: Environment
    gpu: str
    driver: str | None
    libraries: tuple[str, ...]
    exit_code: int
    outcomes: tuple[TestOutcome, ...]

    @classmethod
    def from_fields(cls, fields: Fields, environment: Environment) -> TestRun:
        gpu = fields.child("gpu")
        name, driver = gpu.text("name"), gpu.text_or_none("driver")
        return cls(**read_fields(cls, fields, environment=environment, gpu=name, driver=driver))


@dataclass(frozen=True)
class TurnsRow:
    """How many times more pictures per second an engine gives than one other backend.

    Attributes:
        engine_tier: ``pinned`` or ``host``: whose memory the engine's pictures came from.
        over: the other backend.
        precision: of the other.
        tier: of the other.
        batch_size: pictures at once.
        size: (height, width).
        median: of the ratios, one a turn.
        low: the smallest.
        high: the largest.
    """

    engine_tier: str
    over: str
    precision: str
    tier: str
    batch_size: int
    size: tuple[int, int]
    median: Positive
    low: float
    high: float

    @classmethod
    def from_fields(cls, fields: Fields) -> TurnsRow:
        low, high = fields.numbers("range", 2)
        size = fields.non_negative_int("batch")
        return cls(**read_fields(cls, fields, batch_size=size, low=low, high=high))


@dataclass(frozen=True)
class Turns:
    """An engine and other backends that took turns.

    Attributes:
        environment: where and when.
        engine: the engine.
        rows: one for each other backend and shape.
    """

    environment: Environment
    engine: RunnerDescription
    rows: tuple[TurnsRow, ...]

    @classmethod
    def from_fields(cls, fields: Fields, environment: Environment) -> Turns:
        return cls(**read_fields(cls, fields, environment=environment))


@dataclass(frozen=True)
class MaskShare:
    """How many pixels of a runner's masks are as the reference's, without logits: no gate.

    Attributes:
        environment: where and when.
        runner: whose masks they are.
        pixels: that were compared.
        flips: of them, those that got another class.
        agreement: share that got the same.
        required: share that the gate asks for.
        widest_flip_margin: of the reference, among the flips, in logits.
    """

    environment: Environment
    runner: RunnerDescription
    pixels: int
    flips: int
    agreement: float
    required: float
    widest_flip_margin: float

    @classmethod
    def from_fields(cls, fields: Fields, environment: Environment) -> MaskShare:
        return cls(**read_fields(cls, fields, environment=environment))


@dataclass(frozen=True)
class RtxLoad:
    """What TensorRT for RTX said to an engine on a GPU, beside our own check.

    Attributes:
        environment: where and when.
        gpu: its name.
        driver: the CUDA version that its driver supports.
        library: name and version of TensorRT for RTX.
        our_check: ``accepted``, or why it was not.
        loaded: whether TensorRT made an engine of the plan.
        last_error: what TensorRT said last.
    """

    environment: Environment
    gpu: str
    driver: str
    library: str
    our_check: str
    loaded: bool
    last_error: str

    @classmethod
    def from_fields(cls, fields: Fields, environment: Environment) -> RtxLoad:
        gpu = fields.child("gpu")
        name, driver, loaded = gpu.text("name"), gpu.text("driver"), fields.flag("deserialised")
        return cls(
            **read_fields(
                cls, fields, environment=environment, gpu=name, driver=driver, loaded=loaded
            )
        )


@dataclass(frozen=True)
class BuiltEngine:
    """The sidecar of an engine that was built on a GPU, and the file that it is."""

    file: Path
    sidecar: EngineSidecar
    gpu: str


@dataclass
class GpuResults:
    """Everything that was measured on a GPU.

    Attributes:
        parity: every comparison of a candidate on a GPU, with its file.
        masks: shares of equal pixels.
        benches: those with at least one row on a GPU.
        devices: of ``benchmarks/gpu/device_tier.py``.
        trainings: on a GPU.
        engines: built on a GPU.
        turns: engines that took turns with other backends.
        test_runs: of ``pytest -m gpu``.
        rtx_loads: engines that TensorRT for RTX was asked to load.
        passed_over: files that could not be read, each with the reason.
    """

    parity: list[tuple[ParityFile, Comparison]] = field(default_factory=list)
    masks: list[MaskShare] = field(default_factory=list)
    benches: list[Bench] = field(default_factory=list)
    devices: list[DeviceTier] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    engines: list[BuiltEngine] = field(default_factory=list)
    turns: list[Turns] = field(default_factory=list)
    test_runs: list[TestRun] = field(default_factory=list)
    rtx_loads: list[RtxLoad] = field(default_factory=list)
    passed_over: list[tuple[Path, str]] = field(default_factory=list)

    def add(self, file: Path) -> None:
        """Read one file; what was not measured on a GPU is left out.

        Raises:
            FcnDeployError: it is damaged, foreign, or of another schema.
        """
        content = read_json(file, _REPAIR)
        kind = content.get("kind")
        fields = Fields(content, file, _REPAIR)
        if kind in _SHOWN:
            self._add_results(read_files([file]))
        elif kind == TESTS:
            self.test_runs.append(TestRun.from_fields(fields, _header(fields, TESTS_SCHEMA)))
        elif kind == MASKS:
            share = MaskShare.from_fields(fields, _header(fields, MASKS_SCHEMA))
            self.masks += [share] if share.runner.on_gpu else []
        elif kind == TURNS:
            self.turns.append(Turns.from_fields(fields, _header(fields, TURNS_SCHEMA)))
        elif kind == RTX_LOAD:
            self.rtx_loads.append(RtxLoad.from_fields(fields, _header(fields, RTX_LOAD_SCHEMA)))
        elif kind is None and file.name.endswith(SIDECAR):
            sidecar = EngineSidecar.from_json(content)
            if sidecar.gpu_name is not None:
                self.engines.append(BuiltEngine(file, sidecar, sidecar.gpu_name))
        elif kind not in _OTHERS:
            raise ArtifactError(f"{file} is of no kind that is read", _REPAIR)

    def _add_results(self, results: Results) -> None:
        self.parity += [pair for pair in results.compared if pair[1].candidate.on_gpu]
        self.benches += [b for b in results.benches if any(row.runner.on_gpu for row in b.rows)]
        self.devices += results.devices
        self.trainings += [t for t in results.trainings if gpu_of(t.device) is not None]

    def rows_on_gpu(self) -> Iterator[tuple[Bench, BenchRow]]:
        """Yield every bench row that was measured on a GPU, with its file."""
        for bench in self.benches:
            yield from ((bench, row) for row in bench.rows if row.runner.on_gpu)


def read_gpu_results(root: Path) -> GpuResults:
    """Return what the result files below a folder say of GPUs."""
    results = GpuResults()
    for file in sorted(root.rglob("*.json")):
        try:
            results.add(file)
        except FcnDeployError as error:
            # An error of the sidecar begins with its verb, all others with the file's path.
            reason = error.message.replace(str(file), "").strip()
            results.passed_over.append((file, reason))
    return results


def gpu_of(device: str) -> str | None:
    """Return the GPU that a result's device names; empty for a GPU without a name, None for none.

    Args:
        device: e.g. ``cpu``, ``cuda`` or ``cuda:0 (NVIDIA H200)``.
    """
    found = re.fullmatch(r"cuda(?::\d+)?(?: \((.+)\))?", device)
    return None if found is None else found[1] or ""


def unique(words: Iterable[str]) -> list[str]:
    """Return words in their order, each once."""
    return [*dict.fromkeys(words)]


def _header(fields: Fields, schema: int) -> Environment:
    found = fields.values.get("schema")
    if found != schema or isinstance(found, bool):
        raise ArtifactError(
            f"{fields.file} has schema {found}, this version reads {schema}", fields.repair
        )
    return Environment.from_fields(fields, str(fields.file))
