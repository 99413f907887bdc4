"""A training run from its first epoch to its files, and the data it refuses."""

import dataclasses
import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

from fcn_deploy.core.errors import DataError, InputError
from fcn_deploy.core.files import read_json
from fcn_deploy.core.run import Run
from fcn_deploy.data.metrics import ConfusionMatrix
from fcn_deploy.data.scenes.dataset import SceneDataset
from fcn_deploy.data.voc import VocDataset
from fcn_deploy.networks.checkpoint import load_checkpoint
from fcn_deploy.results.training import best_of
from fcn_deploy.training.loop import train
from fcn_deploy.training.plan import Progress, Provenance, TrainPlan
from tests.conftest import WriteVocFolder
from tests.training.small_runs import CPU, QUICK, run_training, scenes, weights_of

# -- what a run leaves --------------------------------------------------------------------------


def test_a_run_holds_checkpoints_figures_and_previews(tmp_path: Path) -> None:
    seen: list[Progress] = []
    epochs = run_training(tmp_path, provenance=Provenance(dropped=2), on_batch=seen.append)
    assert [p.batch for p in seen] == [1, 2, 1, 2]
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        "epoch-001.png",
        "epoch-002.png",
        "last.safetensors",
        "metrics.json",
        "metrics.jsonl",
        "model.safetensors",
        "preview.png",
    ]
    metrics = read_json(tmp_path / "metrics.json", "")
    assert metrics["data"]["train"] == {
        "source": "built-in synthetic scenes (seed 0)",
        "read": 10,
        "dropped": 2,
    }
    assert len(metrics["epochs"]) == 2
    assert metrics["epochs"][1]["val_mean_iou"] == epochs[1].val_mean_iou
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == metrics["epochs"]
    checkpoint = load_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.spec.class_names == SceneDataset.open("train").class_names
    assert checkpoint.spec.image_sizes.typical == (80, 112)


@pytest.mark.slow
def test_the_kept_model_is_that_of_the_best_epoch(tmp_path: Path) -> None:
    kept: list[dict[str, Tensor]] = []
    # The last epochs learn at a rate at which nothing is left of what was known.
    recipe = dataclasses.replace(QUICK, epochs=4, schedule="constant", ema=None)
    epochs = run_training(
        tmp_path, recipe, on_epoch=lambda _: kept.append(weights_of(tmp_path / "last.safetensors"))
    )
    best = max(range(4), key=lambda index: epochs[index].val_mean_iou)
    model = weights_of(tmp_path / "model.safetensors")
    assert torch.equal(model["score.weight"], kept[best]["score.weight"])
    assert read_json(tmp_path / "metrics.json", "")["best_epoch"] == best + 1


@pytest.mark.slow
def test_only_some_epochs_are_validated(tmp_path: Path) -> None:
    recipe = dataclasses.replace(QUICK, epochs=3, validate_every=2)
    epochs = run_training(tmp_path, recipe)
    assert [epoch.validated for epoch in epochs] == [False, True, True]
    assert (
        json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["val_iou"]
        == [None] * 8
    )


@pytest.mark.slow
def test_it_stops_early_when_nothing_gets_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fcn_deploy.training import loop, trainer

    def scored(right: int) -> ConfusionMatrix:
        counts = np.zeros((8, 8), np.int64)
        counts[0, :2] = right, 10 - right
        return ConfusionMatrix(counts)

    for name in ("TrainingFiles", "save_state", "draw_preview"):  # only the course is looked at
        for module in (loop, trainer):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, Mock())
    results = iter([scored(2), scored(5), scored(4), scored(3), scored(9)])
    monkeypatch.setattr(trainer, "evaluate", lambda *_: next(results))
    recipe = dataclasses.replace(QUICK, epochs=5)
    epochs = run_training(tmp_path / "each", recipe, length=4, patience=2)
    assert len(epochs) == 4
    assert best_of(epochs).epoch == 2

    # Only the second, the fourth, … can be better.
    results = iter([scored(2), scored(5), scored(4), scored(9)])
    recipe = dataclasses.replace(QUICK, epochs=8, validate_every=2)
    epochs = run_training(tmp_path / "second", recipe, length=4, patience=1)
    assert len(epochs) == 6
    assert best_of(epochs).epoch == 4


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_training(tmp_path / name)
    run_training(tmp_path / "c", seed=1)
    a, b, c = (weights_of(tmp_path / n / "last.safetensors")["score.weight"] for n in "abc")
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(a, c)


# -- learning -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_learns(tmp_path: Path) -> None:
    epochs = run_training(tmp_path, dataclasses.replace(QUICK, epochs=6), length=16)
    assert epochs[-1].loss < 0.8 * epochs[0].loss
    assert epochs[-1].train_mean_iou > 1.2 * epochs[0].train_mean_iou


@pytest.mark.slow
def test_training_learns_in_bfloat16(tmp_path: Path) -> None:
    epochs = run_training(tmp_path, dataclasses.replace(QUICK, epochs=4), length=16, amp="bf16")
    assert epochs[-1].loss < 0.9 * epochs[0].loss
    assert weights_of(tmp_path / "model.safetensors")["score.weight"].dtype == torch.float32


# -- what goes wrong ----------------------------------------------------------------------------


def test_no_images_and_small_crops_are_explained(tmp_path: Path) -> None:
    empty = scenes().at_least(500, 500)
    with pytest.raises(DataError, match="smaller --crop-size"):
        train(TrainPlan(QUICK, CPU), empty, scenes(), Run(tmp_path))
    small = dataclasses.replace(QUICK, crop_size=(32, 32))
    with pytest.raises(InputError, match="at least 64x64"):
        run_training(tmp_path, small)


def test_sets_with_different_classes_are_refused(
    tmp_path: Path, voc_folder: WriteVocFolder
) -> None:
    other = VocDataset.open(voc_folder(class_names=None), "val")
    with pytest.raises(DataError, match="different classes"):
        train(TrainPlan(QUICK, CPU), scenes(), other, Run(tmp_path))
