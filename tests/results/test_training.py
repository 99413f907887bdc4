"""A training as a value: what is written is what is read back."""

import json
from typing import Any

import pytest

from fcn_deploy.core.errors import ArtifactError, MissingStageError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.results.read import read_training
from fcn_deploy.results.training import Epoch, Training, best_of
from tests.result_files import metrics

HEADER = ("schema", "kind", "created", "machine", "versions")


def read(run: Run, document: dict[str, Any]) -> Training:
    write_json(run.metrics, document)
    return read_training(run, "train anew")


def test_what_is_read_is_written_again_without_a_change(run: Run) -> None:
    document = metrics()
    training = read(run, document)
    body = {name: value for name, value in document.items() if name not in HEADER}
    assert json.loads(json.dumps(training.to_json())) == body


def test_an_older_file_has_no_figure_on_crops(run: Run) -> None:
    document = metrics()
    for epoch in document["epochs"]:
        del epoch["val_crops_pixel_accuracy"]
    epochs = read(run, document).epochs
    assert [epoch.val_crops_pixel_accuracy for epoch in epochs] == [None] * 3


def test_the_recipe_is_told_as_text_without_what_is_not_set(run: Run) -> None:
    recipe = {"name": "scratch", "ema": None, "crop_size": [64, 96], "lr": 0.5}
    training = read(run, metrics(recipe=recipe))
    assert training.recipe == recipe
    assert training.recipe_texts == {"name": "scratch", "crop_size": "64×96", "lr": "0.5"}


def test_an_epoch_without_a_score_is_not_validated(run: Run) -> None:
    training = read(run, metrics())
    assert [epoch.validated for epoch in training.epochs] == [True, False, True]
    assert training.best is training.epochs[2]


def test_figures_that_are_missing_or_damaged_come_with_the_repair(run: Run) -> None:
    with pytest.raises(MissingStageError, match="name the data"):
        read_training(run, "name the data")
    write_json(run.metrics, metrics(data=[]))
    with pytest.raises(ArtifactError, match="data is not an object; name the data"):
        read_training(run, "name the data")


def epoch(number: int, miou: float | None) -> Epoch:
    return Epoch(number, 0.1, 1.0, 0.5, 0.5, miou, miou, (miou,), 1.0, 1.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("mious", "best"),
    [([0.1, 0.3, 0.2], 2), ([0.3, 0.3], 1), ([None, 0.1], 2), ([None, None], 2), ([0.0, None], 1)],
)
def test_the_best_epoch(mious: list[float | None], best: int) -> None:
    assert best_of([epoch(i, miou) for i, miou in enumerate(mious, start=1)]).epoch == best
