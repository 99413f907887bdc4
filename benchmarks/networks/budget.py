"""How many epochs of each network fit into the time that all are given: JSON.

    PYTHONPATH=benchmarks python -m networks.budget CAMVID JSON [--rounds 6] [NAME...]

Every network makes steps of `train`'s own loop, data included, at half and at full size; all take
turns, so that a machine that slows down slows down for all.  Validation is not counted.  In JSON,
kind "training-budget", schema 1:

    seconds, threads, recipe, crop, batch, half_size, steps_per_epoch
    networks [name, architecture, half_size_s [of each round], full_size_s [of each round], epochs]

``epochs`` is as many as fit by the medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fcn_deploy.core.code_trust import trusting_code
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.dataset import Dataset, check_and_cache, size_range
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.data.sources import DataSource
from fcn_deploy.machine.description import usable_cores
from fcn_deploy.results.environment import Environment
from fcn_deploy.training.distributed import World
from fcn_deploy.training.plan import Progress, TrainPlan
from fcn_deploy.training.recipes import RECIPES
from fcn_deploy.training.trainer import Trainer
from networks.compared import BATCH, COMPARED, CROP, HALF_SIZE, SECONDS, Compared, find

BUDGET, BUDGET_SCHEMA = "training-budget", 1
#: Rounds before those that count: oneDNN makes its kernels in the first.
WARM_UP = 2


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Epochs that fit into the same time.")
    parser.add_argument("data", type=Path)
    parser.add_argument("json", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rounds", type=int, default=6)
    asked = parser.parse_intermixed_args(arguments)
    rows = [find(name) for name in asked.names] or list(COMPARED)
    torch.set_num_threads(usable_cores())
    source = DataSource(str(asked.data))
    train_set = check_and_cache(source.open(source.training_list), lambda: None, least_classes=2)
    with trusting_code():
        steps = {
            (row.name, share): training(row, share, train_set)
            for row in rows
            for share in (1.0, 0.0)
        }
        seconds = timed(steps, asked.rounds)
    per_epoch = -(-len(train_set) // BATCH)
    document = {
        **Environment.current().to_json(BUDGET, BUDGET_SCHEMA),
        "seconds": SECONDS,
        "threads": torch.get_num_threads(),
        "recipe": "scratch",
        "crop": list(CROP),
        "batch": BATCH,
        "half_size": HALF_SIZE,
        "steps_per_epoch": per_epoch,
        "networks": [
            network(row, seconds[row.name, 1.0], seconds[row.name, 0.0], per_epoch) for row in rows
        ],
    }
    write_json(asked.json, document)


def training(row: Compared, half_size: float, train_set: Dataset) -> Iterator[Progress]:
    """Yield after every training step, all of them at half size or none."""
    recipe = replace(
        RECIPES["scratch"], crop_size=CROP, batch_size=BATCH, half_size=half_size, epochs=1000
    )
    plan = TrainPlan(recipe, torch.device("cpu"), row.architecture)
    spec = ModelSpec(
        architecture=row.architecture,
        class_names=train_set.class_names,
        palette=voc_palette(len(train_set.class_names)),
        image_sizes=size_range(train_set),
    )
    run = Run(Path("unwritten"))
    trainer = Trainer(plan, spec, train_set, train_set, World(), run, lambda: False)
    return trainer.learn()


def timed(
    steps: dict[tuple[str, float], Iterator[Progress]], rounds: int
) -> dict[tuple[str, float], list[float]]:
    """Return the seconds of each step."""
    seconds: dict[tuple[str, float], list[float]] = {key: [] for key in steps}
    for number in range(WARM_UP + rounds):
        for key, step in steps.items():
            begun = time.perf_counter()
            next(step)
            if number >= WARM_UP:
                seconds[key].append(time.perf_counter() - begun)
    return seconds


def network(
    row: Compared, half: Sequence[float], full: Sequence[float], per_epoch: int
) -> dict[str, Any]:
    """Return a network's entry in the file."""
    step = HALF_SIZE * statistics.median(half) + (1 - HALF_SIZE) * statistics.median(full)
    epochs = int(SECONDS / (step * per_epoch))
    print(
        f"{row.name}: {statistics.median(half):.3f} s a step at half size, "
        f"{statistics.median(full):.3f} s at full size: {epochs} epochs"
    )
    return {
        "name": row.name,
        "architecture": row.architecture,
        "half_size_s": [round(value, 4) for value in half],
        "full_size_s": [round(value, 4) for value in full],
        "epochs": epochs,
    }


if __name__ == "__main__":
    main()
