"""Puts what was measured of the networks into one small file, from which the page is made.

    PYTHONPATH=benchmarks python -m networks.record RUNS LATENCY JSON BUDGET...

RUNS holds the runs of ``networks.train``, LATENCY and BUDGET are files of ``networks.latency`` and
``networks.budget``.  Of several budgets with the same network the first one counts; a later one is
of networks that were added, and shares one with the first, by whose steps in both the time is
scaled, since the machine may be slower now.  Networks whose training is not finished are left out.
In JSON, kind
"networks", schema 1:

    budget {seconds, threads, recipe, crop, batch, half_size, steps_per_epoch, created [of each]}
    pictures {split, count}, bootstrap {resamples, level}
    latency {size, threads, library, order_seed, load, created}
    networks [name, architecture, family, half_size_s, full_size_s, epochs,
              fitting_epochs, seed,
              parameters, gmacs, mean_iou {value, interval}, pixel_accuracy {value, interval},
              iou {class: share}, timed_untrained, repeats_ms]

``timed_untrained``: the file that was timed had other weights, e.g. random ones, and takes as long.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fcn_deploy.core.code_trust import trusting_code
from fcn_deploy.core.errors import DataError
from fcn_deploy.core.files import file_digest, read_json, write_bytes
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.networks.checkpoint import load_checkpoint
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.read import read_files, read_training
from networks.compared import COMPARED, Compared
from networks.schema import NETWORKS, NETWORKS_SCHEMA
from networks.train import SCORES


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Record the networks that were measured.")
    parser.add_argument("runs", type=Path)
    parser.add_argument("latency", type=Path)
    parser.add_argument("json", type=Path)
    parser.add_argument("budgets", type=Path, nargs="+")
    asked = parser.parse_args(arguments)
    budgets = [
        read_json(file, repair="make it by python -m networks.budget") for file in asked.budgets
    ]
    latency = read_json(asked.latency, repair="make it by python -m networks.latency")
    planned = all_planned(budgets)
    times = {row["name"]: row for row in latency["networks"]}
    rows = [
        row
        for row in COMPARED
        if row.name in planned and row.name in times and finished(Run(asked.runs / row.name))
    ]
    if not rows:
        raise DataError(f"no network in {asked.runs} is finished and measured", "train one first")
    scores = read_files([asked.runs / row.name / SCORES for row in rows]).evaluations
    with trusting_code():
        networks = [
            network(row, Run(asked.runs / row.name), planned[row.name], times[row.name])
            for row in rows
        ]
    document = {
        **replace(Environment.current(), created=latency["created"]).to_json(
            NETWORKS, NETWORKS_SCHEMA
        ),
        "budget": {**conditions(budgets), "created": [budget["created"] for budget in budgets]},
        "pictures": {"split": scores[0].pictures.split, "count": scores[0].pictures.count},
        "bootstrap": scores[0].bootstrap.to_json(),
        "latency": {
            name: latency[name]
            for name in ("size", "threads", "library", "order_seed", "load", "created")
        },
        "networks": networks,
    }
    # As most recorded files: seven digits, no line breaks.
    text = json.dumps(seven_digits(document), ensure_ascii=False, separators=(",", ":"))
    write_bytes(asked.json, f"{text}\n".encode())


def all_planned(budgets: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return name → entry of all budgets, with the epochs that fit at the first one's speed.

    Raises:
        DataError: a later budget shares no network with the first.
    """
    first = {row["name"]: row for row in budgets[0]["networks"]}
    planned = dict(first)
    for budget in budgets[1:]:
        shared = [row for row in budget["networks"] if row["name"] in first]
        if not shared:
            raise DataError("a later budget shares no network with the first", "measure one in it")
        scale = statistics.mean(
            mean_step(first[row["name"]], budget) / mean_step(row, budget) for row in shared
        )
        for row in budget["networks"]:
            seconds = scale * mean_step(row, budget) * budget["steps_per_epoch"]
            planned.setdefault(row["name"], {**row, "epochs": int(budget["seconds"] / seconds)})
    return planned


def mean_step(row: dict[str, Any], budget: dict[str, Any]) -> float:
    """Return the seconds of a step, by the medians at half and at full size."""
    half, full = (statistics.median(row[name]) for name in ("half_size_s", "full_size_s"))
    share: float = budget["half_size"]
    step: float = share * half + (1 - share) * full
    return step


def seven_digits(value: Any) -> Any:
    """Return JSON values with seven digits of each number."""
    if isinstance(value, dict):
        return {key: seven_digits(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [seven_digits(entry) for entry in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def conditions(budgets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return under what all budgets were made.

    Raises:
        DataError: they were made under different conditions.
    """
    names = ("seconds", "threads", "recipe", "crop", "batch", "half_size", "steps_per_epoch")
    found = [{name: budget[name] for name in names} for budget in budgets]
    if any(one != found[0] for one in found):
        raise DataError("the budgets were made under different conditions", "make them anew")
    return found[0]


def finished(run: Run) -> bool:
    """Say whether a run is trained to its end, exported and evaluated."""
    return not run.state.exists() and (run.root / SCORES).exists()


def network(
    row: Compared, run: Run, planned: dict[str, Any], times: dict[str, Any]
) -> dict[str, Any]:
    """Return a network's entry in the file.

    Raises:
        DataError: its parts do not belong together.
    """
    training = read_training(run, "train it anew")
    (score,) = read_files([run.root / SCORES]).evaluations[0].rows
    exported = file_digest(run.onnx(Precision.FP32))
    if not len(training.epochs) == training.recipe["epochs"] <= planned["epochs"]:
        raise DataError(f"{run.root} was trained for longer than its budget", "train it anew")
    if exported != score.runner.digest:
        raise DataError(f"{run.root} was exported after it was scored", "score it anew")
    model = load_checkpoint(run.checkpoint).model
    return {
        "name": row.name,
        "architecture": row.architecture,
        "family": row.family,
        "half_size_s": planned["half_size_s"],
        "full_size_s": planned["full_size_s"],
        "epochs": len(training.epochs),
        "fitting_epochs": planned["epochs"],
        "seed": training.seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gmacs": round(multiplications(model, (320, 480)) / 1e9, 3),
        "mean_iou": score.mean_iou.to_json(),
        "pixel_accuracy": score.pixel_accuracy.to_json(),
        "iou": {entry.name: entry.iou.value for entry in score.classes},
        "timed_untrained": times["digest"] != exported,
        "repeats_ms": times["repeats_ms"],
    }


def multiplications(model: nn.Module, size: tuple[int, int]) -> int:
    """Return how often a network multiplies and adds for one picture, in its matrix products."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(torch.zeros(1, 3, *size))
    return int(counter.get_total_flops()) // 2


if __name__ == "__main__":
    main()
