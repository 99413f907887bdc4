"""Result files for the tests of whoever reads them: documents that the package itself wrote."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fcn_deploy.bench.rows import percentiles, timing
from fcn_deploy.core.files import read_json, write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.data.dataset import Sample
from fcn_deploy.data.masks import mask_to_colour
from fcn_deploy.data.scenes.dataset import SceneDataset
from fcn_deploy.machine.description import describe_machine, describe_versions, utc_now
from fcn_deploy.parity import compare
from fcn_deploy.parity.inputs import Pictures
from fcn_deploy.results import bench as bench_results
from fcn_deploy.results import bisect, scenarios
from fcn_deploy.results.bench import Bench, BenchRow, LoadGenVerdict
from fcn_deploy.results.bisect import BisectedModel, Bisection, Layer
from fcn_deploy.results.conditions import ColdStart, Conditions, Sensor
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.ranking import with_ratios
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.workload import LOADGEN, LOOP
from tests.candidates import as_candidate
from tests.fakes import FAKE_SPEC, FakeRunner

#: How files name the pictures that nobody has to bring along.
SCENES_SOURCE = SceneDataset.open("val").source


class AddParity(Protocol):
    """Gives a run one of the parity results; see the fixture ``add_parity``."""

    def __call__(
        self, run: Run, name: str, typed: Mapping[str, Sequence[str]] | None = None
    ) -> None: ...


@contextmanager
def editing(file: Path) -> Iterator[dict[str, Any]]:
    """Give the document of a file, which is written back as it is after the block."""
    document = read_json(file, "")
    yield document
    write_json(file, document)


def as_failed(document: dict[str, Any]) -> dict[str, Any]:
    """Return a parity document whose only result does not pass the gate."""
    (result,) = document["results"]
    checks = [{**check, "passed": False} for check in result["checks"]]
    return {**document, "results": [{**result, "passed": False, "checks": checks}]}


def metrics(epochs: int = 3, **changes: Any) -> dict[str, Any]:
    """Return a document as `train` writes it."""
    names = FAKE_SPEC.class_names
    entries = [
        {
            "epoch": number,
            "lr": 1e-3,
            "loss": 2.0 / number,
            "train_pixel_accuracy": 0.5 + 0.1 * number,
            "train_mean_iou": 0.2 + 0.1 * number,
            "val_pixel_accuracy": 0.4 + 0.1 * number,
            "val_mean_iou": None if number == 2 else 0.1 + 0.1 * number,
            "val_iou": [0.9, 0.5, 0.25, 0.125, None][: len(names)],
            "examples_per_s": 12.0,
            "data_seconds": 0.5,
            "compute_seconds": 2.0,
            "seconds": 3.0,
            "val_crops_pixel_accuracy": 0.375 if number == 1 else None,
        }
        for number in range(1, epochs + 1)
    ]
    return {
        "schema": 2,
        "kind": "train",
        "created": utc_now(),
        "checkpoint_digest": "sha256:kept",
        "architecture": "fcn32s-resnet18",
        "weights": None,
        "options": ["--data", "my data", "--epochs", "3"],
        "processes": 1,
        "freeze_epochs": None,
        "best_epoch": epochs,
        "seed": 3,
        "device": "cpu",
        "amp": "off",
        "compiled": False,
        "sync_batch_norm": False,
        "deterministic": False,
        "patience": None,
        "data_argument": "my data",
        "recipe": {"name": "scratch", "lr": 0.002, "epochs": epochs, "crop_size": [64, 96]},
        "class_names": list(names),
        "data": {
            "train": {"source": "my data (train)", "read": 1464, "dropped": 350},
            "val": {"source": "my data (val)", "read": 1449, "dropped": 0},
        },
        "epochs": entries,
        "machine": describe_machine(),
        "versions": describe_versions(),
        **changes,
    }


def pictures() -> Pictures:
    generator = np.random.default_rng(0)
    found = []
    for index in range(2):
        coarse = generator.integers(0, FAKE_SPEC.num_classes, (6, 8), dtype=np.uint8)
        mask = np.repeat(np.repeat(coarse, 12, axis=0), 12, axis=1)
        image = mask_to_colour(mask, FAKE_SPEC.palette)
        found.append(Sample(f"picture {index}", image, mask))
    return Pictures("my <val> images", len(found), found.__getitem__)


def swap_red_and_blue(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(images[..., ::-1])


CANDIDATES = {
    "ort": FakeRunner(backend="ort", noise=1e-5),
    "ort16": FakeRunner(backend="ort", precision=Precision.FP16),
    "swapped": FakeRunner(backend="swapped", see=swap_red_and_blue),
}


def write_parity_results(folder: Path) -> None:
    """Compare every candidate with the reference, each into a file of its own with pictures."""
    for name, candidate in CANDIDATES.items():
        reference = FakeRunner(backend="torch")
        compared = compare.compare(reference, [as_candidate(candidate)], pictures())
        compare.save(compared, folder / f"{name}.json")


def bare_row(
    runner: RunnerDescription,
    repeats: Sequence[float],
    *,
    scenario: str = scenarios.SINGLE_STREAM,
    tier: str = scenarios.HOST,
    batch_size: int = 1,
    **rest: Any,
) -> BenchRow:
    """Return a row of some repeats with neither latencies nor stages, without a ratio yet."""
    fields = {"size": (24, 32), "inputs_digest": "sha256:in", "queries": 30, "latency_ms": {}}
    return BenchRow(
        runner=runner,
        scenario=scenario,
        tier=tier,
        batch_size=batch_size,
        **timing(dict(enumerate(repeats)), scenario, batch_size),
        **(fields | rest),
    )


def measured_bench(*rows: BenchRow, **changes: Any) -> Bench:
    """Return a bench of this machine; each row gets its ratio to the baseline among them."""
    by_loadgen = any(row.loadgen is not None for row in rows)
    fields: dict[str, Any] = {
        "environment": Environment.current(),
        "options": (),
        "source": "made up",
        "distinct_inputs": 8,
        "clock": LOADGEN if by_loadgen else LOOP,
        "clock_version": "6.0" if by_loadgen else None,
        "clock_reason": None,
        "seconds": 0.5,
        "conditions": Conditions(threads=1),
        "cold_starts": (),
        "rows": with_ratios(rows),
    }
    return Bench(**(fields | changes))


def row(
    runner: RunnerDescription,
    *repeats: float,
    tier: str = scenarios.END_TO_END,
    queries: int = 30,
    batch_size: int = 1,
    scenario: str = scenarios.SINGLE_STREAM,
    loadgen: LoadGenVerdict | None = None,
    energy: float | None = None,
) -> BenchRow:
    """Return a row whose latencies spread around the first repeat.

    Each repeat comes twice: three would be too few for a verdict, and the interval of six is from
    the smallest ratio to the largest.
    """
    spread = np.linspace(0.9, 1.2, 101) ** 2
    latencies = [float(repeats[0] * factor) for factor in np.repeat(spread, 7)[:queries]]
    staged = tier == scenarios.END_TO_END and scenario == scenarios.SINGLE_STREAM
    shares = dict(zip(bench_results.ALL_STAGES, (0.2, 0.05, 0.6, 0.1, 0.15), strict=True))
    return bare_row(
        runner,
        2 * repeats,
        scenario=scenario,
        tier=tier,
        batch_size=batch_size,
        size=(320, 480),
        queries=queries,
        latency_ms={} if scenario == scenarios.OFFLINE else percentiles(latencies),
        cdf_ms=tuple(float(repeats[0] * factor) for factor in spread) if queries >= 64 else None,
        stages_ms={stage: share * repeats[0] for stage, share in shares.items()}
        if staged
        else None,
        wall_ms=1.11 * repeats[0] if staged else None,
        loadgen=loadgen,
        energy_j_per_image=energy,
    )


def verdict(*problems: str, target_p99_ms: float | None = None) -> LoadGenVerdict:
    """Return LoadGen's verdict; without a problem it is valid."""
    settings = bench_results.Settings(min_seconds=0.5, min_queries=64, distinct_samples=8)
    return LoadGenVerdict(not problems, None, target_p99_ms, problems, settings)


def described(
    backend: str, precision: Precision = Precision.FP32, device: str = "cpu"
) -> RunnerDescription:
    return FakeRunner(backend=backend, precision=precision, threads=2, device=device).describe()


def sensor(clock_mhz: int, *reasons: str) -> Sensor:
    return Sensor("NVIDIA H200", clock_mhz, 3201, 41, 95.5, reasons)


def cold_start(runner: RunnerDescription, **changes: Any) -> ColdStart:
    """Return what a backend costs before its first figure."""
    start = ColdStart(
        runner=runner,
        size=(320, 480),
        largest=(4, 320, 480),
        cold_start_ms=812.0,
        open_ms=433.0,
        first_run_ms=61.0,
        peak_rss_mib=312.0,
    )
    return replace(start, **changes)


def bench_document(
    *rows: BenchRow,
    warnings: Sequence[str] = (),
    gpus: Sequence[Sensor] = (),
    **changes: Any,
) -> dict[str, Any]:
    conditions = Conditions(
        threads=2,
        load_before=0.1,
        load_after=1.25,
        steal_share=0.0012,
        others_share=0.0034,
        gpu_before=tuple(gpus),
        gpu_after=tuple(gpus),
        warnings=tuple(warnings),
    )
    bench = measured_bench(*rows, source=SCENES_SOURCE, conditions=conditions, **changes)
    # Through JSON and back, so that a test may change it without changing the rows.
    document: dict[str, Any] = json.loads(json.dumps(bench.to_json()))
    return document


def add_bench(run: Run, *rows: BenchRow, name: str = "b", **changes: Any) -> None:
    """Put a bench file into a run."""
    write_json(run.bench_folder / f"{name}.json", bench_document(*rows, **changes))


BASELINE = row(described("baseline"), 40.0, 41.0, 42.0, queries=90)
FAST = row(described("ort"), 20.0, 20.5, 20.0, queries=90)
LEVEL = row(described("ort", Precision.FP16), 41.0, 40.0, 43.0)
SLOW = row(described("torch"), 80.0, 85.0, 82.0)


def rich_bench_document() -> dict[str, Any]:
    """Return a document with everything that a bench file may hold."""
    runners = [described("baseline"), described("ort"), described("trt", device="cuda:0 (H200)")]
    seconds = dict(zip(runners, (40.0, 20.0, 2.5), strict=True))
    rows = [
        row(
            runner, *(ms * size**0.8 * factor for factor in (1, 1.04, 0.99)),
            tier=tier, batch_size=size, queries=700, loadgen=verdict(),
            energy=0.8 if runner.backend == "trt" else None,
        )
        for tier in (scenarios.END_TO_END, scenarios.HOST)
        for size in (1, 4, 16)
        for runner, ms in seconds.items()
    ]  # fmt: skip
    rows += [
        row(
            runner,
            ms,
            ms * 1.1,
            ms,
            tier=scenarios.HOST,
            scenario=scenarios.OFFLINE,
            queries=700,
        )
        for runner, ms in seconds.items()
    ]
    problems = {"baseline": ["it had too few queries"]}
    rows += [
        row(
            runner, ms, ms * 1.1, ms, tier=scenarios.HOST, scenario=scenarios.SERVER,
            queries=700,
            loadgen=verdict(*problems.get(runner.backend, ()), target_p99_ms=100.0),
        )
        for runner, ms in seconds.items()
    ]  # fmt: skip
    starts = [cold_start(runner) for runner in runners[:2]]
    starts.append(cold_start(runners[2], device_memory_mib=640.0, build_seconds=41.0))
    return bench_document(
        *rows,
        warnings=["other work ran on this machine; read the ratios only"],
        cold_starts=starts,
        gpus=[sensor(1980), sensor(1785, "power cap")],
    )


def bisect_document(layers: int = 40, first: int = 25) -> dict[str, Any]:
    """Return a document as `bisect` writes it; layers from number ``first`` are beyond."""
    made = []
    for number in range(1, layers + 1):
        error = 0.0 if number == 1 else 1e-7 * 1.1**number
        if number >= first:
            error = 3e-2
        made.append(
            Layer(
                f"/backbone/layer{number}/conv", "Conv", f"t{number}", (1, 64, 40, 60),
                2.5, 4 * error, 2.5 * error, error, True, error > 1e-4,
            )
        )  # fmt: skip
    bisection = Bisection(
        BisectedModel("model.onnx", "sha256:reference", "fp32"),
        BisectedModel("model.fp16.onnx", "sha256:candidate", "fp16"),
        "scenes",
        4,
        1e-4,
        tuple(made),
    )
    document: dict[str, Any] = json.loads(json.dumps(bisect.bisect_document(bisection)))
    return document
