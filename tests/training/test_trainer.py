"""What a step of training changes, what it starts from, and where it stops."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fcn_deploy.core.errors import CheckpointError, TrainingError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.class_counts import class_counts, median_frequency
from fcn_deploy.networks.architectures import build_model
from fcn_deploy.networks.checkpoint import load_checkpoint, save_checkpoint
from fcn_deploy.training import trainer
from fcn_deploy.training.loss import segmentation_loss
from fcn_deploy.training.recipes import RECIPES
from fcn_deploy.training.train_state import load_state
from tests.training.small_runs import QUICK, run_training, scenes, weights_of

# -- steps --------------------------------------------------------------------------------------


@pytest.fixture
def start() -> nn.Module:
    """The network as a training begins with it."""
    torch.manual_seed(0)
    return build_model("fcn32s-resnet18", 8)


@pytest.mark.slow
def test_gradients_are_cut_down(tmp_path: Path, start: nn.Module) -> None:
    recipe = dataclasses.replace(
        RECIPES["tutorial"], epochs=1, batch_size=4, crop_size=(64, 96), lr=1.0, weight_decay=0.0
    )
    run_training(tmp_path, dataclasses.replace(recipe, clip_norm=1e-6), length=4)
    after = weights_of(tmp_path / "last.safetensors")
    moved = sum(float((after[n] - p).square().sum()) for n, p in start.named_parameters())
    assert 0 < moved < 1e-11  # one step of at most 1e-6


def test_a_frozen_backbone_keeps_every_value_of_the_body(tmp_path: Path, start: nn.Module) -> None:
    run_training(tmp_path, dataclasses.replace(QUICK, epochs=1), freeze_epochs=1)
    trained = weights_of(tmp_path / "model.safetensors")
    for name, value in start.state_dict().items():
        if name.startswith("body."):
            assert torch.equal(trained[name], value), name
    assert not torch.equal(trained["score.weight"], start.state_dict()["score.weight"])


@pytest.mark.slow
def test_a_backbone_thaws_after_its_epochs(tmp_path: Path, start: nn.Module) -> None:
    kept: list[Tensor] = []
    run_training(
        tmp_path,
        dataclasses.replace(QUICK, ema=None),
        freeze_epochs=1,
        on_epoch=lambda _: kept.append(
            weights_of(tmp_path / "last.safetensors")["body.conv1.weight"]
        ),
    )
    first = start.get_parameter("body.conv1.weight")
    assert torch.equal(kept[0], first)
    assert not torch.equal(kept[1], first)


@pytest.mark.slow
def test_rare_classes_weigh_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    used: list[Tensor] = []

    def seen(logits: Tensor, masks: Tensor, kind: Any, weights: Tensor, world: Any) -> Tensor:
        used.append(weights)
        return segmentation_loss(logits, masks, kind, weights, world)

    monkeypatch.setattr(trainer, "segmentation_loss", seen)
    weighed = dataclasses.replace(QUICK, epochs=1, class_weights="median-frequency")
    run_training(tmp_path, weighed, length=4)
    assert np.array_equal(used[0], median_frequency(class_counts(scenes(4))))
    assert used[0].max() > 2 * used[0].min()


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traced as ever, but not translated, which takes a compiler and a minute.
    traced: list[Any] = []
    compiled = torch.compile

    def by_eager(network: Any) -> Any:
        traced.append(network)
        return compiled(network, backend="eager")

    monkeypatch.setattr(torch, "compile", by_eager)
    run_training(tmp_path / "plain", length=4, freeze_epochs=1)
    run_training(tmp_path / "compiled", length=4, freeze_epochs=1, compiled=True)
    assert len(traced) == 2  # anew where the body thaws
    plain, same = (weights_of(tmp_path / n / "last.safetensors") for n in ("plain", "compiled"))
    for name, weights in plain.items():
        torch.testing.assert_close(same[name], weights, msg=name)


# -- the weights to start from ------------------------------------------------------------------


@pytest.mark.slow
def test_starting_from_a_checkpoint_of_ours(tmp_path: Path) -> None:
    run_training(tmp_path / "first")
    first = tmp_path / "first" / "model.safetensors"
    recipe = dataclasses.replace(RECIPES["tutorial"], epochs=1, batch_size=4, crop_size=(64, 64))
    run_training(tmp_path / "second", dataclasses.replace(recipe, lr=1e-12), weights=first)
    before = load_checkpoint(first).model.get_parameter("score.weight")
    after = load_checkpoint(tmp_path / "second" / "model.safetensors").model
    torch.testing.assert_close(before, after.get_parameter("score.weight"), atol=1e-6, rtol=0)


def test_a_checkpoint_with_another_body_is_refused(
    tmp_path: Path, start: nn.Module, tiny_spec: ModelSpec
) -> None:
    save_checkpoint(tmp_path / "model.safetensors", start, tiny_spec)
    options = {"architecture": "fcn32s-resnet34", "weights": tmp_path / "model.safetensors"}
    with pytest.raises(CheckpointError, match="is a fcn32s-resnet18"):
        run_training(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


# -- numbers that are not finite ----------------------------------------------------------------


@pytest.mark.slow
def test_a_loss_beyond_numbers_stops_and_keeps_the_last_whole_epoch(tmp_path: Path) -> None:
    run_training(tmp_path, dataclasses.replace(QUICK, epochs=1))
    before = (tmp_path / "model.safetensors").read_bytes()
    wild = dataclasses.replace(RECIPES["tutorial"], lr=1e30, batch_size=4, crop_size=(64, 96))
    with pytest.raises(TrainingError, match=r"epoch 1, batch 2: .*lower --lr"):
        run_training(tmp_path, wild)
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_weights_that_the_last_batch_of_an_epoch_spoiled_are_not_written(tmp_path: Path) -> None:
    run = Run(tmp_path)
    recipe = dataclasses.replace(QUICK, schedule="constant", epochs=1, ema=None)
    run_training(run.root, recipe, length=4)
    before = run.checkpoint.read_bytes()
    wild = dataclasses.replace(recipe, lr=1e30)
    with pytest.raises(TrainingError, match=r"spoiled in epoch 1, batch 1: .*; train anew with a"):
        run_training(run.root, wild, length=4)
    assert run.checkpoint.read_bytes() == before
    assert not run.last_checkpoint.exists()
    saved = load_state(run.state).learner["network"]
    assert all(tensor.abs().max() < 1e3 for tensor in saved.values())


def test_a_gradient_beyond_numbers_is_not_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    losses: list[Tensor] = []

    def steep_in_the_second_epoch(logits: Tensor, *arguments: Any) -> Tensor:
        loss = segmentation_loss(logits, *arguments)
        losses.append(loss)
        return loss if len(losses) == 1 else loss + (logits.sum() * 0).sqrt()

    monkeypatch.setattr(trainer, "segmentation_loss", steep_in_the_second_epoch)
    words = r"the gradient became nan in epoch 2, batch 1: that of .*\.weight is not finite; "
    with pytest.raises(TrainingError, match=words + r".*last\.safetensors holds epoch 1: train on"):
        run_training(tmp_path, length=4)
    assert weights_of(tmp_path / "last.safetensors")["score.weight"].isfinite().all()
