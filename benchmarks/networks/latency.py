"""Times all networks that were exported in one interleaved run: ONNX Runtime, FP32: JSON.

    PYTHONPATH=benchmarks python -m networks.latency RUNS JSON [--images DIR] [--repeats 9]

One picture of 320×480 at a time, from host memory to the mask in host memory, by the clock and the
cases of ``fcn-deploy bench``; the networks take turns in an order drawn anew for each repeat.  In
JSON, kind "networks-latency", schema 1:

    size, threads, library, seconds, order_seed, source, load [before, after]
    networks [name, digest, repeats_ms [of each repeat]]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fcn_deploy.bench.inputs import make_inputs
from fcn_deploy.bench.measure import BenchPlan, measure_rows
from fcn_deploy.bench.scenarios import TimedLoop
from fcn_deploy.commands.shared.pictures import bench_pictures
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.machine.description import usable_cores
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.scenarios import HOST
from fcn_deploy.runners.base import Runner, open_runner
from networks.compared import COMPARED

LATENCY, LATENCY_SCHEMA = "networks-latency", 1
SIZE = (320, 480)
#: Each network is timed at least so long in each repeat.
SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Latency of all networks, interleaved.")
    parser.add_argument("runs", type=Path)
    parser.add_argument("json", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    asked = parser.parse_args(arguments)
    threads = usable_cores()
    runs = {
        row.name: run
        for row in COMPARED
        if (run := Run(asked.runs / row.name)).onnx(Precision.FP32).is_file()
    }
    with ExitStack() as stack:
        runners = {
            name: stack.enter_context(open_runner(run, "ort", threads=threads, device="cpu"))
            for name, run in runs.items()
        }
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_json(asked.json, timed(runners, folder, asked.images, asked.repeats, threads))


def timed(
    runners: dict[str, Runner], folder: Path, images: Path | None, repeats: int, threads: int
) -> dict[str, Any]:
    """Return the file's content."""
    pictures, source = bench_pictures(images)
    plan = BenchPlan(
        runners=tuple(runners.values()),
        inputs=(make_inputs(pictures, SIZE, folder),),
        scenario=TimedLoop(SECONDS),
        folder=folder,
        tiers=(HOST,),
        repeats=repeats,
        seconds=SECONDS,
        threads=threads,
        source=source,
    )
    before = os.getloadavg()[0]
    names = {runner.describe().file: name for name, runner in runners.items()}
    rows = measure_rows(plan, on_dropped=print)
    for row in rows:
        print(f"{names[row.runner.file]}: {row.median_ms:.1f} ms")
    return {
        **Environment.current().to_json(LATENCY, LATENCY_SCHEMA),
        "size": list(SIZE),
        "threads": threads,
        "library": rows[0].runner.library,
        "seconds": SECONDS,
        "order_seed": plan.order_seed,
        "load": [before, os.getloadavg()[0]],
        "networks": [
            {
                "name": names[row.runner.file],
                "digest": row.runner.digest,
                "repeats_ms": [row.by_repeat[number] for number in sorted(row.by_repeat)],
            }
            for row in rows
        ],
    }


if __name__ == "__main__":
    main()
