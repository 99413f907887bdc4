"""Trains, exports and evaluates the networks, as long as the budget of each says.

    PYTHONPATH=benchmarks python -m networks.train CAMVID RUNS BUDGET [NAME...]

Each network becomes the run RUNS/NAME by the commands of ``fcn-deploy``, from random weights, seed
0, by the recipe ``scratch``.  A training that was killed goes on; what is finished stays.  Only the
last epoch is validated, so no epoch is chosen by the pictures that are scored.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fcn_deploy.core.code_trust import TRUST_CODE
from fcn_deploy.core.files import read_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from networks.compared import BATCH, CROP, find

#: Of a run: what `evaluate` writes.
SCORES = "evaluate/val.json"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train, export and evaluate the networks.")
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("budget", type=Path)
    parser.add_argument("names", nargs="*")
    asked = parser.parse_intermixed_args(arguments)
    budget = read_json(asked.budget, repair="make it by python -m networks.budget")
    epochs = {row["name"]: row["epochs"] for row in budget["networks"]}
    for name in asked.names or epochs:
        make_run(name, epochs[name], asked.data, Run(asked.runs / name))


def make_run(name: str, epochs: int, data: Path, run: Run) -> None:
    """Make a run, or what is missing of it."""
    if run.state.exists() or not run.checkpoint.exists():
        fcn_deploy(
            "train", "--data", data, "--arch", find(name).architecture, "--weights", "none",
            "--recipe", "scratch", "--crop-size", "x".join(map(str, CROP)), "--batch-size", BATCH,
            "--epochs", epochs, "--validate-every", epochs, "--out", run.root, "--resume",
        )  # fmt: skip
    if not run.onnx(Precision.FP32).exists():
        fcn_deploy("export", run.root)
    if not (scores := run.root / SCORES).exists():
        fcn_deploy(
            "evaluate", run.root, "--data", data, "--split", "val", "--backend", "ort",
            "--json", scores,
        )  # fmt: skip


def fcn_deploy(*words: object) -> None:
    """Run a command; networks from Python are ones that this folder names."""
    subprocess.run(
        [sys.executable, "-m", "fcn_deploy", *map(str, words)],
        check=True,
        env={**os.environ, TRUST_CODE: "1"},
    )


if __name__ == "__main__":
    main()
