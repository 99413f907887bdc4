"""The device tier of one engine, and its memory over 1,000 runs of recurring shapes.

    python device_tier.py RUN PRECISION JSON

The device tier is compute alone, between two events on the compute stream.  Written after every
shape, so that a run that is cut off leaves what it had measured.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import numpy as np

from fcn_deploy import gpu
from fcn_deploy.artifacts import Run, write_json
from fcn_deploy.errors import FcnDeployError
from fcn_deploy.machine import describe_machine, describe_versions, utc_now
from fcn_deploy.runners.base import open_runner
from fcn_deploy.spec import Precision

SHAPES = ((1, 320, 480), (8, 320, 480), (32, 320, 480), (64, 320, 480), (1, 1024, 2048))
WARM_UP_RUNS, RUNS, REPEATS = 20, 100, 5
LEAK_RUNS, LEAK_MARKS = 1000, (10, 100, 1000)
#: More shapes than graphs are kept, each often enough in a row to be recorded and launched.
LEAK_SHAPES, LEAK_IN_A_ROW = 20, 3
NUM_INPUTS = 4


def main() -> None:
    run, precision = Run.from_argument(sys.argv[1]), Precision(sys.argv[2])
    target = Path(sys.argv[3])
    generator = np.random.default_rng(0)
    document = {
        "schema": 1,
        "at": utc_now(),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "gpu": vars(gpu.describe_gpu()),
        "rows": [],
    }
    before = gpu.memory_in_use()
    with open_runner(run, "trt", precision=precision) as runner:
        document["runner"] = runner.describe().to_json()
        document["memory_after_open_mib"] = (gpu.memory_in_use() - before) >> 20
        for shape in SHAPES:
            try:
                row = _measure(runner, shape, generator)
            except FcnDeployError as error:
                row = {"error": str(error)}
            row |= {"tier": "device", "batch": shape[0], "size": list(shape[1:]),
                    "memory_mib": (gpu.memory_in_use() - before) >> 20}  # fmt: skip
            document["rows"].append(row)
            write_json(target, document)
            print(row)
        document["leak"] = _leak(runner, generator)
        write_json(target, document)
        print(document["leak"])


def _measure(runner, shape, generator):  # type: ignore[no-untyped-def]
    inputs = [
        generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
        for _ in range(NUM_INPUTS if shape[0] < 32 else 2)
    ]
    for index in range(WARM_UP_RUNS):
        runner.device_seconds(inputs[index % len(inputs)])
    repeats = [
        statistics.median(
            runner.device_seconds(inputs[index % len(inputs)]) * 1000 for index in range(RUNS)
        )
        for _ in range(REPEATS)
    ]
    median = statistics.median(repeats)
    return {"repeats_ms": repeats, "median_ms": median, "images_per_s": shape[0] / median * 1000}


def _leak(runner, generator):  # type: ignore[no-untyped-def]
    runner.run(np.zeros((8, 320, 480, 3), np.uint8))
    shapes = generator.integers((1, 16, 16), (9, 321, 481), size=(LEAK_SHAPES, 3))
    used = {}
    for index in range(LEAK_RUNS):
        if index % LEAK_IN_A_ROW == 0:
            images = np.zeros((*generator.choice(shapes), 3), np.uint8)
        runner.run(images)
        if index + 1 in LEAK_MARKS:
            used[str(index + 1)] = gpu.memory_in_use() >> 20
    return {
        "runs": LEAK_RUNS,
        "shapes": LEAK_SHAPES,
        "runs_in_a_row": LEAK_IN_A_ROW,
        "memory_in_use_mib_after": used,
    }


if __name__ == "__main__":
    main()
