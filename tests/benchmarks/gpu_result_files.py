"""Result files as a GPU would leave them, made up, for the tests of the pages that show them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from fcn_deploy.core.files import read_json, write_json
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.bench import BenchRow
from fcn_deploy.results.conditions import Conditions, Sensor
from fcn_deploy.results.device import BatchTiming, DeviceRow, DeviceTier
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.runner import RunnerDescription
from tests.result_files import described, measured_bench, row

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
H100_GATE = RESULTS / "nvidia-h100" / "parity-ort-cuda-fp16.json"
H200, L4 = "NVIDIA H200", "NVIDIA L4"
DAY, DAY_AFTER = "2026-12-01T10:00:00+00:00", "2026-12-02T10:00:00+00:00"
NETWORK = "sha256:network"
LIBRARIES = {
    "trt": "TensorRT 8.6.0",
    "torch": "PyTorch 2.11.0",
    "torch-graphs": "PyTorch 2.11.0, CUDA graphs",
    "torch-compile": "PyTorch 2.11.0, torch.compile",
    "ort-cuda": "ONNX Runtime 1.31.1",
    "baseline-cuda": "ONNX Runtime 1.31.1, plain export",
}


def on_gpu(
    backend: str, precision: Precision = Precision.FP16, gpu: str = H200
) -> RunnerDescription:
    runner = described(backend, precision, f"cuda:0 ({gpu})")
    return replace(runner, library=LIBRARIES[backend], checkpoint_digest=NETWORK)


def environment(created: str = DAY) -> Environment:
    return Environment("", created, {"cpu": "A CPU", "cores": 16}, {"torch": "2.11.0"})


def write_gate(
    path: Path,
    runner: RunnerDescription,
    *,
    created: str = DAY,
    failed: bool = False,
    **changes: Any,
) -> Path:
    """Write the gate of a runner: that of the H100 with another candidate."""
    document = read_json(H100_GATE, repair="")
    (compared,) = document["results"]
    compared["candidate"] = json.loads(json.dumps(runner.to_json()))
    if failed:
        compared["checks"][0]["passed"] = compared["passed"] = False
    write_json(path, document | {"created": created} | changes)
    return path


def write_bench(
    path: Path, *rows: BenchRow, created: str = DAY, sensors: tuple[Sensor, ...] = (), **more: Any
) -> Path:
    conditions = Conditions(threads=16, gpu_before=sensors, gpu_after=sensors)
    bench = measured_bench(*rows, environment=environment(created), conditions=conditions, **more)
    write_json(path, bench.to_json())
    return path


def gpu_row(
    backend: str, *repeats_ms: float, precision: Precision = Precision.FP16, **more: Any
) -> BenchRow:
    """Return a row of three repeats, which are equal where one is given."""
    if backend.startswith("baseline"):
        precision = Precision.FP32
    repeats = repeats_ms if len(repeats_ms) > 1 else 3 * repeats_ms
    return row(on_gpu(backend, precision), *repeats, **more)


def timing(ms: float, images: int, **figures: float) -> BatchTiming:
    return BatchTiming.of_repeats([ms / 1000] * 3, images).with_figures(**figures)


def device_row(batch_size: int, ms: float, *, of_floor: float = 0.74) -> DeviceRow:
    """Return all that is measured of a shape; launches in a row take ``ms``."""
    timings = {
        "launches": timing(ms, batch_size),
        "device": timing(1.2 * ms, batch_size),
        "bus": timing(0.9 * ms, batch_size, in_gb_per_s=50.0, out_gb_per_s=48.0),
        "pinned": timing(ms / of_floor, batch_size, of_floor=of_floor),
        "pinned, 2 contexts": timing(0.9 * ms / of_floor, batch_size, of_floor=of_floor),
        "host": timing(3 * ms, batch_size),
    }
    layers = (("conv1 + relu", 0.6 * ms), ("a|b `c`", 0.5 * ms))
    return DeviceRow(batch_size, (320, 480), timings, layers, memory_mib=300 + batch_size)


def device_tier(*rows: DeviceRow, created: str = DAY, **changes: Any) -> DeviceTier:
    gpu = {"name": H200, "compute_capability": "sm90", "driver": "13.0", "memory_mib": 143771}
    tier = DeviceTier(environment(created), on_gpu("trt"), rows, gpu, 212)
    return replace(tier, **changes)


def write_device(path: Path, *rows: DeviceRow, **changes: Any) -> Path:
    write_json(path, device_tier(*rows, **changes).to_json())
    return path
