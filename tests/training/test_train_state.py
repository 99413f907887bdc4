"""The state that a stopped run resumes from, its learning rate, and the average of its weights."""

import dataclasses
import gc
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fcn_deploy.core.errors import (
    ArtifactError,
    CheckpointError,
    InputError,
    MissingStageError,
    TrainingStoppedError,
)
from fcn_deploy.core.run import Run
from fcn_deploy.training.plan import Progress, Provenance
from fcn_deploy.training.recipes import RECIPES, Recipe, Schedule
from fcn_deploy.training.run_files import TrainingFiles
from fcn_deploy.training.train_state import TrainState, load_state
from tests.training.small_runs import (
    QUICK,
    assert_equal_weights,
    figures_of,
    run_training,
    weights_of,
)

# -- resuming -----------------------------------------------------------------------------------


RESUMED: dict[str, tuple[Recipe, dict[str, Any]]] = {
    "adamw, one-cycle, average": (QUICK, {}),
    "sgd, poly, clipped, thawed": (
        dataclasses.replace(
            QUICK, optimizer="sgd", schedule="poly", ema=None, clip_norm=0.1, lr=1e-2
        ),
        {"freeze_epochs": 1},
    ),
}


@pytest.mark.slow
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
    provenance = Provenance({"lr": 0.5}, ("--lr", "0.5"))

    def ask_for_an_end(_: Progress) -> None:
        if next(batches) == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingStoppedError, match="--resume"):
        run_training(
            run.root, recipe,
            on_batch=ask_for_an_end, workers=workers, provenance=provenance, **options,
        )  # fmt: skip
    gc.collect()
    assert multiprocessing.active_children() == []  # which load data
    state = load_state(run.state)
    assert (state.arguments, state.options) == ({"lr": 0.5}, ("--lr", "0.5"))
    saved = torch.load(run.state, weights_only=True)
    assert (saved["schema"], saved["arguments"]) == (2, {"lr": 0.5, "words": ["--lr", "0.5"]})
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


@pytest.mark.slow
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


@pytest.mark.slow
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


# -- learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param("constant", marks=pytest.mark.slow),
        "one-cycle",
        pytest.param("poly", marks=pytest.mark.slow),
    ],
)
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


def one_weight(recipe: Recipe, steps: int = 50) -> TrainState:
    """Return the training state of a network of a single weight, 2."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 2)
    return TrainState(network, recipe, steps)


def momenta(state: TrainState, steps: int) -> set[float]:
    """Learn from a constant gradient of 1; return the momenta that the optimizer had."""
    found = set()
    for _ in range(steps):
        (group,) = state.optimizer.param_groups
        found.add(group["momentum"] if "momentum" in group else group["betas"][0])
        state.step(state.backward(state.network(torch.ones(1, 1)).sum()))
    return found


@pytest.mark.parametrize("schedule", ["constant", "one-cycle", "poly"])
def test_sgd_has_no_momentum_under_any_schedule(schedule: Schedule) -> None:
    recipe = dataclasses.replace(RECIPES["tutorial"], schedule=schedule, weight_decay=0.0)
    state = one_weight(recipe)
    assert momenta(state, 49) == {0}
    # Without momentum a step is the gradient of 1 times the learning rate, and nothing else.
    before, lr = state.network.weight.item(), state.lr
    momenta(state, 1)
    assert before - state.network.weight.item() == pytest.approx(lr, abs=1e-7)


def test_adamw_keeps_the_cycle_of_its_first_moment() -> None:
    found = momenta(one_weight(dataclasses.replace(QUICK, ema=None)), 50)
    assert (min(found), max(found)) == (pytest.approx(0.85), pytest.approx(0.95))


def test_a_step_of_the_keras_recipe_is_that_of_keras() -> None:
    """Keras first shrinks the weight by lr times decay, then subtracts lr times the gradient."""
    recipe = dataclasses.replace(RECIPES["tutorial-keras"], lr=0.1, weight_decay=0.25)
    state = one_weight(recipe)
    expected = 2.0
    for _ in range(5):
        expected -= expected * 0.25 * 0.1
        expected -= 0.1 * 1.0
        momenta(state, 1)
        assert state.network.weight.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
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
