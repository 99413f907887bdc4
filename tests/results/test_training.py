"""A training as a value: what is written is what is read back."""

import json
from pathlib import Path

import pytest

from fcn_deploy.core.errors import ArtifactError, MissingStageError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.results.read import read_training
from fcn_deploy.results.training import Epoch, best_of
from tests.result_files import metrics

HEADER = ("schema", "kind", "created", "machine", "versions")


def test_what_is_read_is_written_again_without_a_change(tmp_path: Path) -> None:
    document, run = metrics(), Run(tmp_path)
    write_json(run.metrics, document)
    training = read_training(run, "train anew")
    body = {name: value for name, value in document.items() if name not in HEADER}
    assert json.loads(json.dumps(training.to_json())) == body


def test_an_older_file_has_no_figure_on_crops(tmp_path: Path) -> None:
    document, run = metrics(), Run(tmp_path)
    for epoch in document["epochs"]:
        del epoch["val_crops_pixel_accuracy"]
    write_json(run.metrics, document)
    epochs = read_training(run, "train anew").epochs
    assert [epoch.val_crops_pixel_accuracy for epoch in epochs] == [None] * 3


def test_the_recipe_is_told_as_text_without_what_is_not_set(tmp_path: Path) -> None:
    run, recipe = Run(tmp_path), {"name": "scratch", "ema": None, "crop_size": [64, 96], "lr": 0.5}
    write_json(run.metrics, metrics(recipe=recipe))
    training = read_training(run, "train anew")
    assert training.recipe == recipe
    assert training.recipe_texts == {"name": "scratch", "crop_size": "64×96", "lr": "0.5"}


def test_an_epoch_without_a_score_is_not_validated(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write_json(run.metrics, metrics())
    training = read_training(run, "train anew")
    assert [epoch.validated for epoch in training.epochs] == [True, False, True]
    assert training.best is training.epochs[2]


def test_figures_that_are_missing_or_damaged_come_with_the_repair(tmp_path: Path) -> None:
    run = Run(tmp_path)
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
