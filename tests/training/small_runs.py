"""Trainings of seconds on small scenes, and what is compared of them."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcn_deploy.core.run import Run
from fcn_deploy.data.dataset import Dataset, check_and_cache
from fcn_deploy.data.scenes.dataset import SceneDataset
from fcn_deploy.networks.checkpoint import load_checkpoint
from fcn_deploy.results.training import Epoch
from fcn_deploy.training.loop import train
from fcn_deploy.training.plan import TrainPlan
from fcn_deploy.training.recipes import RECIPES, Recipe

CPU = torch.device("cpu")
QUICK = dataclasses.replace(
    RECIPES["scratch"],
    epochs=2,
    batch_size=4,
    crop_size=(64, 96),
    validate_every=1,
    class_weights="none",
    ema=0.5,
)
#: What counts for nothing when two runs are compared.
SECONDS = ("seconds", "data_seconds", "compute_seconds", "examples_per_s")


def scenes(length: int = 8, size: tuple[int, int] = (80, 112), seed: int = 0) -> Dataset:
    return check_and_cache(SceneDataset(seed, length, size))


def run_training(
    folder: Path, recipe: Recipe = QUICK, *, length: int = 8, **options: Any
) -> list[Epoch]:
    """Train on small scenes; options of the plan and of `train` alike."""
    names = {entry.name for entry in dataclasses.fields(TrainPlan)}
    plan = TrainPlan(recipe, CPU, **{k: v for k, v in options.items() if k in names})
    rest = {k: v for k, v in options.items() if k not in names}
    return train(plan, scenes(length), scenes(3, seed=1), Run(folder), **rest)


def weights_of(path: Path) -> dict[str, Tensor]:
    return load_checkpoint(path).model.state_dict()


def assert_equal_weights(one: Path, other: Path) -> None:
    first, second = weights_of(one), weights_of(other)
    assert all(torch.equal(first[name], second[name]) for name in first | second)


def figures_of(epochs: list[Epoch]) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in epoch.to_json().items() if key not in SECONDS}
        for epoch in epochs
    ]
