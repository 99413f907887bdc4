from __future__ import annotations

import dataclasses
import gc
import json
import math
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fcn_deploy.core.errors import (
    ArtifactError,
    CheckpointError,
    DataError,
    InputError,
    MissingStageError,
    TrainingError,
    TrainingStoppedError,
)
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import IGNORE_INDEX
from fcn_deploy.data.class_counts import class_counts, median_frequency
from fcn_deploy.data.dataset import Dataset, check_and_cache
from fcn_deploy.data.metrics import ConfusionMatrix
from fcn_deploy.data.scenes.dataset import SceneDataset
from fcn_deploy.data.voc import VocDataset
from fcn_deploy.networks.architectures import build_model
from fcn_deploy.networks.checkpoint import load_checkpoint, save_checkpoint
from fcn_deploy.training.loop import train
from fcn_deploy.training.loss import first_not_finite, segmentation_loss
from fcn_deploy.training.plan import Progress, TrainPlan
from fcn_deploy.training.recipes import RECIPES, Recipe
from fcn_deploy.training.run_files import Epoch, TrainingFiles, best_of
from fcn_deploy.training.train_state import load_state
from tests.conftest import WriteVocFolder

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
    return train(
        plan, scenes(length), scenes(3, seed=1), Run(folder), data_argument="synthetic", **rest
    )


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


def test_a_run_holds_checkpoints_figures_and_previews(tmp_path: Path) -> None:
    seen: list[Progress] = []
    epochs = run_training(tmp_path, dropped=2, on_batch=seen.append)
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
    metrics = json.loads((tmp_path / "metrics.json").read_text())
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
    assert json.loads((tmp_path / "metrics.json").read_text())["best_epoch"] == best + 1


def epoch(number: int, miou: float) -> Epoch:
    return Epoch(number, 0.1, 1.0, 0.5, 0.5, miou, miou, [miou], 1.0, 1.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("mious", "best"),
    [([0.1, 0.3, 0.2], 2), ([0.3, 0.3], 1), ([math.nan, 0.1], 2), ([math.nan], 1)],
)
def test_the_best_epoch(mious: list[float], best: int) -> None:
    assert best_of([epoch(i, miou) for i, miou in enumerate(mious, start=1)]).epoch == best


def test_only_some_epochs_are_validated(tmp_path: Path) -> None:
    recipe = dataclasses.replace(QUICK, epochs=3, validate_every=2)
    epochs = run_training(tmp_path, recipe)
    assert [epoch.validated for epoch in epochs] == [False, True, True]
    assert (
        json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["val_iou"]
        == [None] * 8
    )


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


# -- the same again -----------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_training(tmp_path / name)
    run_training(tmp_path / "c", seed=1)
    a, b, c = (weights_of(tmp_path / n / "last.safetensors")["score.weight"] for n in "abc")
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(a, c)


RESUMED: dict[str, tuple[Recipe, dict[str, Any]]] = {
    "adamw, one-cycle, average": (QUICK, {}),
    "sgd, poly, clipped, thawed": (
        dataclasses.replace(
            QUICK, optimizer="sgd", schedule="poly", ema=None, clip_norm=0.1, lr=1e-2
        ),
        {"freeze_epochs": 1},
    ),
}


@pytest.mark.parametrize(
    ("name", "stop", "workers"),
    [
        ("adamw, one-cycle, average", 1, 2),
        ("adamw, one-cycle, average", 2, 0),
        ("sgd, poly, clipped, thawed", 3, 0),
    ],
)
def test_a_resumed_run_ends_as_an_undisturbed_one(
    tmp_path: Path, name: str, stop: int, workers: int
) -> None:
    recipe, options = RESUMED[name]
    whole = run_training(tmp_path / "whole", recipe, **options)
    run = Run(tmp_path / "stopped")
    batches = iter(range(1, 100))

    def ask_for_an_end(_: Progress) -> None:
        if next(batches) == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingStoppedError, match="--resume"):
        run_training(
            run.root, recipe,
            on_batch=ask_for_an_end, workers=workers, arguments={"lr": 0.5}, **options,
        )  # fmt: skip
    gc.collect()
    assert multiprocessing.active_children() == []  # which load data
    state = load_state(run.state)
    assert state.arguments == {"lr": 0.5}
    resumed = run_training(run.root, recipe, state=state, workers=workers, **options)
    assert multiprocessing.active_children() == []
    assert figures_of(resumed) == figures_of(whole)
    for file in ("last.safetensors", "model.safetensors"):
        assert_equal_weights(run.root / file, tmp_path / "whole" / file)
    assert not run.state.exists()


def test_a_state_is_there_before_the_first_batch_and_gone_after_the_last(tmp_path: Path) -> None:
    run = Run(tmp_path)
    found: list[bool] = []
    run_training(
        run.root,
        dataclasses.replace(QUICK, epochs=1),
        on_batch=lambda _: found.append(run.state.exists()),
    )
    assert found == [True, True]
    assert not run.state.exists()


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    def stop(_: Progress) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingStoppedError):
        run_training(tmp_path, on_batch=stop)
    state = load_state(Run(tmp_path).state)
    with pytest.raises(CheckpointError, match="another network or recipe"):
        run_training(tmp_path, architecture="fcn32s-resnet34", state=state)
    for name, other, words in (
        ("processes", 2, "with 2 processes, not 1; start as many"),
        ("device", "cuda", "on cuda, not on cpu; add --device cuda"),
        ("amp", "bf16", "with --amp bf16, not off; add --amp bf16"),
        ("data", "…", "with other names in the data's lists"),
        ("batches", 7, "with 7 batches in an epoch, not 2"),
    ):
        begun = dataclasses.replace(state, setting={**state.setting, name: other})
        with pytest.raises(InputError, match=f"the run was begun {words}"):
            run_training(tmp_path, state=begun)


def test_files_that_a_kill_kept_from_being_written_are_written_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, honest = Run(tmp_path), TrainingFiles.write

    def killed_in_the_second_epoch(
        files: Any, network: Any, spec: Any, epochs: Any, *_: Any
    ) -> None:
        if len(epochs) == 2:
            raise KeyboardInterrupt
        honest(files, network, spec, epochs, *_)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingFiles, "write", killed_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            run_training(run.root)
    state = load_state(run.state)
    assert len(state.epochs) == 2
    epochs = run_training(run.root, state=state)
    assert len(epochs) == 2  # nothing was left to learn
    assert len(run.epoch_lines.read_text().splitlines()) == 2
    assert run.preview_of(2).exists()
    learned = state.learner["average"]["module.score.weight"]
    assert torch.equal(weights_of(run.last_checkpoint)["score.weight"], learned)
    assert not run.state.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\x80\x04N."])
def test_a_damaged_state_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"state\.pt is damaged"):
        load_state(path)


def test_nothing_to_resume_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingStageError, match="nothing to resume"):
        load_state(tmp_path / "state.pt")


def test_curves_beyond_the_place_of_a_resumed_run_are_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("tensorboardX")
    asked: list[int | None] = []
    monkeypatch.setattr(
        library, "SummaryWriter", lambda _, *, purge_step: asked.append(purge_step) or Mock()
    )
    for done in (0, 3):
        TrainingFiles(Run(tmp_path), {}, tensorboard=True, done=done).close()
    assert asked == [None, 4]


# -- learning -----------------------------------------------------------------------------------


def test_training_learns(tmp_path: Path) -> None:
    epochs = run_training(tmp_path, dataclasses.replace(QUICK, epochs=6), length=16)
    assert epochs[-1].loss < 0.8 * epochs[0].loss
    assert epochs[-1].train_pixel_accuracy > 0.5


def test_training_learns_in_bfloat16(tmp_path: Path) -> None:
    epochs = run_training(tmp_path, dataclasses.replace(QUICK, epochs=4), length=16, amp="bf16")
    assert epochs[-1].loss < 0.9 * epochs[0].loss
    assert weights_of(tmp_path / "model.safetensors")["score.weight"].dtype == torch.float32


@pytest.mark.parametrize("schedule", ["constant", "one-cycle", "poly"])
def test_the_learning_rate_follows_its_schedule(tmp_path: Path, schedule: str) -> None:
    recipe = dataclasses.replace(QUICK, schedule=schedule, epochs=4)  # type: ignore[arg-type]
    rates = [epoch.lr for epoch in run_training(tmp_path, recipe, length=4)]
    if schedule == "constant":
        assert rates == [recipe.lr] * 4
    elif schedule == "poly":
        assert rates == pytest.approx([recipe.lr * (1 - i / 4) ** 0.9 for i in range(4)])
    else:
        assert rates[0] == pytest.approx(recipe.lr / 25)
        assert max(rates) > 10 * rates[0]


def test_the_average_of_the_weights_is_kept_not_the_weights(tmp_path: Path) -> None:
    recipe = dataclasses.replace(QUICK, epochs=1)
    run_training(tmp_path / "plain", dataclasses.replace(recipe, ema=None))
    run_training(tmp_path / "average", dataclasses.replace(recipe, ema=0.99))
    plain, average = (
        weights_of(tmp_path / name / "last.safetensors") for name in ("plain", "average")
    )
    assert not torch.equal(plain["score.weight"], average["score.weight"])
    # One step later than its start, so between it and the weights.
    torch.testing.assert_close(plain["score.weight"], average["score.weight"], atol=0.02, rtol=0)


def test_gradients_are_cut_down(tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        RECIPES["tutorial"], epochs=1, batch_size=4, crop_size=(64, 96), lr=1.0, weight_decay=0.0
    )
    torch.manual_seed(0)
    start = build_model("fcn32s-resnet18", 8).state_dict()
    run_training(tmp_path, dataclasses.replace(recipe, clip_norm=1e-6), length=4)
    after = weights_of(tmp_path / "last.safetensors")
    names = [name for name, _ in build_model("fcn32s-resnet18", 8).named_parameters()]
    moved = sum(float((after[name] - start[name]).square().sum()) for name in names)
    assert 0 < moved < 1e-11  # one step of at most 1e-6


def test_a_frozen_backbone_keeps_every_value_of_the_body(tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = build_model("fcn32s-resnet18", 8)
    run_training(tmp_path, dataclasses.replace(QUICK, epochs=1), freeze_epochs=1)
    trained = weights_of(tmp_path / "model.safetensors")
    for name, value in start.state_dict().items():
        if name.startswith("body."):
            assert torch.equal(trained[name], value), name
    assert not torch.equal(trained["score.weight"], start.state_dict()["score.weight"])


def test_a_backbone_thaws_after_its_epochs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = build_model("fcn32s-resnet18", 8).state_dict()["body.conv1.weight"]
    kept: list[Tensor] = []
    run_training(
        tmp_path,
        dataclasses.replace(QUICK, ema=None),
        freeze_epochs=1,
        on_epoch=lambda _: kept.append(
            weights_of(tmp_path / "last.safetensors")["body.conv1.weight"]
        ),
    )
    assert torch.equal(kept[0], start)
    assert not torch.equal(kept[1], start)


def test_starting_from_a_checkpoint_of_ours(tmp_path: Path) -> None:
    run_training(tmp_path / "first")
    first = tmp_path / "first" / "model.safetensors"
    recipe = dataclasses.replace(RECIPES["tutorial"], epochs=1, batch_size=4, crop_size=(64, 64))
    run_training(tmp_path / "second", dataclasses.replace(recipe, lr=1e-12), weights=first)
    before = load_checkpoint(first).model.get_parameter("score.weight")
    after = load_checkpoint(tmp_path / "second" / "model.safetensors").model
    torch.testing.assert_close(before, after.get_parameter("score.weight"), atol=1e-6, rtol=0)


def test_a_checkpoint_of_other_classes_or_architecture_is_refused(tmp_path: Path) -> None:
    run_training(tmp_path, dataclasses.replace(QUICK, epochs=1))
    path = tmp_path / "model.safetensors"
    spec = load_checkpoint(path).spec
    renamed = dataclasses.replace(spec, class_names=("ground", *spec.class_names[1:]))
    save_checkpoint(tmp_path / "renamed.safetensors", build_model(spec.architecture, 8), renamed)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"architecture": "fcn32s-resnet34", "weights": path}, "is a fcn32s-resnet18"),
        ({"weights": tmp_path / "renamed.safetensors"}, "knows 8 classes"),
    ]
    for options, words in cases:
        with pytest.raises(CheckpointError, match=words):
            run_training(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


# -- what goes wrong ----------------------------------------------------------------------------


def test_a_loss_beyond_numbers_stops_and_keeps_the_last_whole_epoch(tmp_path: Path) -> None:
    run_training(tmp_path, dataclasses.replace(QUICK, epochs=1))
    before = (tmp_path / "model.safetensors").read_bytes()
    wild = dataclasses.replace(RECIPES["tutorial"], lr=1e30, batch_size=4, crop_size=(64, 96))
    with pytest.raises(TrainingError, match=r"epoch 1, batch 2: .*lower --lr"):
        run_training(tmp_path, wild)
    assert (tmp_path / "model.safetensors").read_bytes() == before


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
    from fcn_deploy.training import trainer as module

    losses: list[Tensor] = []

    def steep_in_the_second_epoch(logits: Tensor, *arguments: Any) -> Tensor:
        loss = segmentation_loss(logits, *arguments)
        losses.append(loss)
        return loss if len(losses) == 1 else loss + (logits.sum() * 0).sqrt()

    monkeypatch.setattr(module, "segmentation_loss", steep_in_the_second_epoch)
    words = r"the gradient became nan in epoch 2, batch 1: that of .*\.weight is not finite; "
    with pytest.raises(TrainingError, match=words + r".*last\.safetensors holds epoch 1: train on"):
        run_training(tmp_path, length=4)
    assert weights_of(tmp_path / "last.safetensors")["score.weight"].isfinite().all()


def test_where_the_numbers_end_is_named() -> None:
    torch.manual_seed(0)
    network = build_model("fcn32s-resnet18", 3).eval()
    images = torch.randn(1, 3, 64, 64)
    assert first_not_finite(network, images) is None
    with torch.no_grad():
        network.get_parameter("body.layer2.0.conv1.weight").fill_(3e38)
    found = first_not_finite(network, images)
    assert found == "body.layer2.0.conv1 is the first layer that gives NaN or infinity"
    with torch.no_grad():
        network.get_parameter("score.bias").fill_(math.nan)
    assert first_not_finite(network, images) == "the weights score.bias are no longer finite"


def test_no_images_and_small_crops_are_explained(tmp_path: Path) -> None:
    empty = scenes().at_least(500, 500)
    with pytest.raises(DataError, match="smaller --crop-size"):
        train(TrainPlan(QUICK, CPU), empty, scenes(), Run(tmp_path), data_argument="synthetic")
    small = dataclasses.replace(QUICK, crop_size=(32, 32))
    with pytest.raises(InputError, match="at least 64x64"):
        run_training(tmp_path, small)


def test_sets_with_different_classes_are_refused(
    tmp_path: Path, voc_folder: WriteVocFolder
) -> None:
    other = VocDataset.open(voc_folder(class_names=None), "val")
    with pytest.raises(DataError, match="different classes"):
        train(TrainPlan(QUICK, CPU), scenes(), other, Run(tmp_path), data_argument="synthetic")


# -- the loss -----------------------------------------------------------------------------------


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
    weights = torch.tensor([0.5, 1.0, 4.0])
    torch.testing.assert_close(
        segmentation_loss(logits, masks, "pixel-mean", weights),
        F.cross_entropy(logits, masks.long(), weights, ignore_index=IGNORE_INDEX),
    )
    void = torch.full_like(masks, IGNORE_INDEX)
    for given in (None, weights):
        assert segmentation_loss(logits, void, "pixel-mean", given) == 0
    tutorial = F.cross_entropy(logits, masks.long() % 3, reduction="none").mean(1).mean(1).sum()
    torch.testing.assert_close(segmentation_loss(logits, masks % 3, "image-sum"), tutorial)


def test_rare_classes_weigh_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fcn_deploy.training import trainer as module

    used: list[Tensor] = []

    def seen(logits: Tensor, masks: Tensor, kind: Any, weights: Tensor, world: Any) -> Tensor:
        used.append(weights)
        return segmentation_loss(logits, masks, kind, weights, world)

    monkeypatch.setattr(module, "segmentation_loss", seen)
    weighed = dataclasses.replace(QUICK, epochs=1, class_weights="median-frequency")
    run_training(tmp_path, weighed, length=4)
    assert np.array_equal(used[0], median_frequency(class_counts(scenes(4))))
    assert used[0].max() > 2 * used[0].min()


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
