"""Which labelled images a command takes: typed, or those of the training with its share."""

from pathlib import Path

import pytest

from fcn_deploy.commands.shared.runs import labelled_data
from fcn_deploy.core.errors import DataError, MissingStageError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.data.sources import DataSource
from tests.data import layouts
from tests.data.layouts import small_masks
from tests.result_files import metrics


@pytest.fixture
def trained(run: Run, tmp_path: Path) -> Path:
    """A folder without lists, from which the run learned with ``--split 0.3``."""
    folder = tmp_path / "d"
    layouts.images_and_masks(folder, small_masks())
    options = ["--data", str(folder), "--split", "0.3"]
    write_json(run.metrics, metrics(data_argument=str(folder), options=options))
    return folder


def test_the_share_of_the_training_is_taken(
    run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert labelled_data(run, None, None, "x") == DataSource(str(trained), 0.3)
    assert labelled_data(run, str(trained), None, "x").held_out == 0.3
    monkeypatch.chdir(trained.parent)
    assert labelled_data(run, "d", None, "x") == DataSource("d", 0.3)


def test_what_is_typed_comes_first(run: Run, trained: Path, tmp_path: Path) -> None:
    assert labelled_data(run, None, 0.1, "x") == DataSource(str(trained), 0.1)
    assert labelled_data(run, str(trained), 0.1, "x").held_out == 0.1
    other = tmp_path / "other"
    layouts.images_and_masks(other, small_masks())
    assert labelled_data(run, str(other), None, "x") == DataSource(str(other))
    assert labelled_data(run, "synthetic", None, "x") == DataSource("synthetic")


def test_without_a_training_the_data_is_to_be_typed(run: Run, tmp_path: Path) -> None:
    assert labelled_data(run, str(tmp_path), None, "x") == DataSource(str(tmp_path))
    with pytest.raises(MissingStageError, match="name it"):
        labelled_data(run, None, None, "name it")
    with pytest.raises(DataError, match="the built-in scenes have lists; drop --split"):
        DataSource("synthetic", 0.2).open("val")
