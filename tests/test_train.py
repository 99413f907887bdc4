from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fcn_deploy.artifacts import Run
from fcn_deploy.checkpoint import load_checkpoint, save_checkpoint
from fcn_deploy.dataset import Dataset, SceneDataset, VocDataset, check_and_cache
from fcn_deploy.errors import CheckpointError, DataError, InputError, TrainingError
from fcn_deploy.networks import build_model
from fcn_deploy.spec import IGNORE_INDEX
from fcn_deploy.train import (
    RECIPES,
    Epoch,
    Progress,
    Recipe,
    TrainPlan,
    segmentation_loss,
    train,
    training_transform,
)

CPU = torch.device("cpu")
QUICK = dataclasses.replace(RECIPES["scratch"], epochs=2, batch_size=4, crop_size=(64, 96))


def scenes(length: int = 8, size: tuple[int, int] = (80, 112), seed: int = 0) -> Dataset:
    return check_and_cache(SceneDataset(seed, length, size))


def run_training(
    folder: Path, recipe: Recipe = QUICK, *, length: int = 8, seed: int = 0
) -> list[Epoch]:
    plan = TrainPlan(recipe, CPU, seed=seed)
    return train(
        plan, scenes(length), scenes(3, seed=1), Run(folder), data_argument="synthetic", dropped=2
    )


def test_a_run_holds_checkpoint_figures_and_preview(tmp_path: Path) -> None:
    seen: list[Progress] = []
    plan = TrainPlan(QUICK, CPU)
    epochs = train(
        plan,
        scenes(),
        scenes(3, seed=1),
        Run(tmp_path),
        data_argument="synthetic",
        dropped=2,
        on_batch=seen.append,
    )
    assert [p.batch for p in seen] == [1, 2, 1, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "metrics.json",
        "model.safetensors",
        "preview.png",
    ]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["data"]["train"] == {
        "source": "built-in synthetic scenes (seed 0)",
        "read": 10,
        "dropped": 2,
    }
    assert len(metrics["epochs"]) == 2
    assert metrics["epochs"][1]["val_mean_iou"] == epochs[1].val_mean_iou
    checkpoint = load_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.spec.class_names == SceneDataset.open("train").class_names
    assert checkpoint.spec.image_sizes.typical == (80, 112)


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_training(tmp_path / name)
    run_training(tmp_path / "c", seed=1)
    a, b, c = (load_checkpoint(tmp_path / n / "model.safetensors").model for n in "abc")
    weights = [dict(m.named_parameters())["score.weight"] for m in (a, b, c)]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    assert not torch.equal(weights[0], weights[2])


def test_training_learns(tmp_path: Path) -> None:
    epochs = run_training(tmp_path, dataclasses.replace(QUICK, epochs=6), length=16)
    assert epochs[-1].loss < 0.8 * epochs[0].loss
    assert epochs[-1].train_pixel_accuracy > 0.5


def test_frozen_backbone_keeps_every_value_of_the_body(tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = build_model("fcn32s-resnet18", 8)
    plan = TrainPlan(dataclasses.replace(QUICK, epochs=1), CPU, freeze_backbone=True)
    train(plan, scenes(), scenes(2, seed=1), Run(tmp_path), data_argument="synthetic")
    trained = load_checkpoint(tmp_path / "model.safetensors").model.state_dict()
    for name, value in start.state_dict().items():
        if name.startswith("body."):
            assert torch.equal(trained[name], value), name
    assert not torch.equal(trained["score.weight"], start.state_dict()["score.weight"])


def test_starting_from_a_checkpoint_of_ours(tmp_path: Path) -> None:
    run_training(tmp_path / "first")
    first = tmp_path / "first" / "model.safetensors"
    recipe = dataclasses.replace(RECIPES["tutorial"], epochs=1, batch_size=4, crop_size=(64, 64))
    plan = TrainPlan(dataclasses.replace(recipe, lr=1e-12), CPU, weights=first)
    train(plan, scenes(4), scenes(2, seed=1), Run(tmp_path / "second"), data_argument="synthetic")
    before = load_checkpoint(first).model.get_parameter("score.weight")
    after = load_checkpoint(tmp_path / "second" / "model.safetensors").model
    torch.testing.assert_close(before, after.get_parameter("score.weight"), atol=1e-6, rtol=0)


def test_a_checkpoint_of_other_classes_or_architecture_is_refused(tmp_path: Path) -> None:
    run_training(tmp_path, dataclasses.replace(QUICK, epochs=1))
    path = tmp_path / "model.safetensors"
    spec = load_checkpoint(path).spec
    renamed = dataclasses.replace(spec, class_names=("ground", *spec.class_names[1:]))
    save_checkpoint(tmp_path / "renamed.safetensors", build_model(spec.architecture, 8), renamed)
    cases = [
        (TrainPlan(QUICK, CPU, "fcn32s-resnet34", path), "is a fcn32s-resnet18"),
        (TrainPlan(QUICK, CPU, weights=tmp_path / "renamed.safetensors"), "knows 8 classes"),
    ]
    for plan, words in cases:
        with pytest.raises(CheckpointError, match=words):
            train(plan, scenes(), scenes(2), Run(tmp_path / "new"), data_argument="synthetic")
    assert not (tmp_path / "new").exists()


def test_a_loss_beyond_numbers_stops_and_keeps_the_last_whole_epoch(tmp_path: Path) -> None:
    run_training(tmp_path, dataclasses.replace(QUICK, epochs=1))
    before = (tmp_path / "model.safetensors").read_bytes()
    wild = dataclasses.replace(RECIPES["tutorial"], lr=1e30, batch_size=4, crop_size=(64, 96))
    with pytest.raises(TrainingError, match="lower --lr"):
        run_training(tmp_path, wild)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_no_images_and_small_crops_are_explained(tmp_path: Path) -> None:
    empty = scenes().at_least(500, 500)
    with pytest.raises(DataError, match="smaller --crop-size"):
        train(TrainPlan(QUICK, CPU), empty, scenes(), Run(tmp_path), data_argument="synthetic")
    small = dataclasses.replace(QUICK, crop_size=(32, 32))
    with pytest.raises(InputError, match="at least 64x64"):
        run_training(tmp_path, small)


def test_sets_with_different_classes_are_refused(tmp_path: Path, voc_folder: object) -> None:
    other = VocDataset.open(voc_folder(class_names=None), "val")  # type: ignore[operator]
    with pytest.raises(DataError, match="different classes"):
        train(TrainPlan(QUICK, CPU), scenes(), other, Run(tmp_path), data_argument="synthetic")


def test_loss_ignores_void_and_matches_its_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 7, generator=generator)
    masks = torch.randint(0, 3, (2, 5, 7), generator=generator, dtype=torch.uint8)
    masks[0, :2] = IGNORE_INDEX
    labelled = masks != IGNORE_INDEX
    per_pixel = -torch.log_softmax(logits, 1).gather(1, (masks.long() % 255)[:, None])[:, 0]
    per_pixel = per_pixel * labelled
    torch.testing.assert_close(
        segmentation_loss(logits, masks, "pixel-mean"), per_pixel.sum() / labelled.sum()
    )
    torch.testing.assert_close(
        segmentation_loss(logits, masks, "image-sum"), per_pixel.mean((1, 2)).sum()
    )
    void = torch.full_like(masks, IGNORE_INDEX)
    assert segmentation_loss(logits, void, "pixel-mean") == 0
    tutorial = F.cross_entropy(logits, masks.long() % 3, reduction="none").mean(1).mean(1).sum()
    torch.testing.assert_close(segmentation_loss(logits, masks % 3, "image-sum"), tutorial)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_crops_keep_image_and_mask_together(name: str) -> None:
    from torchvision import tv_tensors

    recipe = dataclasses.replace(RECIPES[name], crop_size=(64, 96))
    transform = training_transform(recipe)
    image, mask = torch.zeros(3, 80, 112, dtype=torch.uint8), torch.zeros(80, 112)
    image[:, 20:60, 30:80], mask[20:60, 30:80] = 255, 1
    torch.manual_seed(0)
    for _ in range(10):
        seen, label = transform(tv_tensors.Image(image), tv_tensors.Mask(mask.to(torch.uint8)))
        assert seen.shape == (3, 64, 96)
        assert label.shape == (64, 96)
        values = set(np.unique(label.numpy()).tolist())
        assert values <= {0, 1, IGNORE_INDEX}
        bright = (seen[0] > 127) & (label != IGNORE_INDEX)
        # antialiasing and nearest-neighbour labels may differ along the edge
        assert (bright == (label == 1))[label != IGNORE_INDEX].float().mean() > 0.93
        assert (label == 1).any()
