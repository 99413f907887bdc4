"""Which plan the words after `train` lead to, and what is said of the data."""

from typing import Any

import pytest
import torch

from fcn_deploy.commands import train as train_command
from fcn_deploy.commands.train import train
from fcn_deploy.commands.train_options import settled, train_plan
from fcn_deploy.data.sources import DataSource
from fcn_deploy.training.plan import TrainPlan
from fcn_deploy.training.recipes import RECIPES
from tests.conftest import WriteVocFolder


def plan_of(*words: str) -> TrainPlan:
    typed: dict[str, Any] = train.make_context("train", list(words)).params
    with settled(typed) as options:
        return train_plan(options, torch.device("cpu"))


def test_the_keras_recipe_trains_a_resnet50_by_the_mean_over_the_batch() -> None:
    plan = plan_of("--recipe", "tutorial-keras")
    assert plan.architecture == "fcn32s-resnet50"
    assert plan.recipe.loss == "pixel-mean"
    recipe = plan.recipe
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay) == ("sgd", 1e-3, 1e-3)
    assert (recipe.epochs, recipe.batch_size, recipe.crop_size) == (5, 32, (320, 480))


@pytest.mark.parametrize("recipe", ["scratch", "tutorial"])
def test_other_recipes_train_the_default(recipe: str) -> None:
    assert plan_of("--recipe", recipe).architecture == "fcn32s-resnet18"


def test_what_is_typed_goes_before_the_recipe() -> None:
    typed = plan_of("--recipe", "tutorial-keras", "--arch", "fcn8s-resnet18", "--loss", "image-sum")
    assert typed.architecture == "fcn8s-resnet18"
    assert typed.recipe.loss == "image-sum"
    assert plan_of("--loss", "image-sum").recipe.loss == "image-sum"
    assert plan_of().recipe.loss == RECIPES["scratch"].loss == "pixel-mean"
    dilated = plan_of("--recipe", "tutorial-keras", "--output-stride", "16")
    assert dilated.architecture == "fcn32s-resnet50-os16"


@pytest.mark.parametrize("name", ["tutorial", "tutorial-keras", "scratch"])
def test_the_tutorial_s_counts_are_said_as_the_book_prints_them(
    voc_folder: WriteVocFolder, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = voc_folder(train=4, val=3, size=(64, 80))
    plan = plan_of("--recipe", name, "--crop-size", "64x64")
    train_command._open_training_data(DataSource(str(folder)), plan)
    said = " ".join(capsys.readouterr().out.split())
    assert "read 4 training and 3 validation examples of 8 classes" in said
    book = "at least as large: `read 4 examples` for training, `read 3 examples` for validation"
    assert (book in said) is (name != "scratch")
    plan = plan_of("--recipe", name, "--crop-size", "65x64")
    train_command._open_training_data(DataSource(str(folder)), plan)
    said = " ".join(capsys.readouterr().out.split())
    assert ("`read 0 examples` for validation on crops" in said) is (name != "scratch")
