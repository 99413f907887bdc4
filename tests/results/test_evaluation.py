"""An evaluation as a file: what is damaged in it is named with its place and repair."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from fcn_deploy.core.errors import ArtifactError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.evaluate.evaluate import evaluate
from fcn_deploy.results.evaluation import Estimate, EvaluationFile, Interval
from fcn_deploy.results.format import estimate_words, points_words
from fcn_deploy.results.read import read_files, read_results
from tests.evaluate.labelled import labelled
from tests.fakes import FakeRunner


@pytest.fixture(scope="module")
def written() -> EvaluationFile:
    runners = [FakeRunner(), FakeRunner(backend="noisy", noise=6.0)]
    return evaluate(runners, labelled(3), split="val")


@pytest.fixture
def document(written: EvaluationFile) -> dict[str, Any]:
    content: dict[str, Any] = copy.deepcopy(json.loads(json.dumps(written.to_json())))
    return content


def test_a_run_and_a_lone_file_give_what_was_written(
    run: Run, written: EvaluationFile, document: dict[str, Any]
) -> None:
    file = run.evaluate_folder / "e.json"
    write_json(file, document)
    for results in (read_results(run), read_files([file])):
        (found,) = results.evaluations
        assert found.rows == written.rows
        assert found.pictures == written.pictures
        assert [runner.backend for runner in results.runners] == ["fake", "noisy"]
        assert len(results.environments) == 1


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("results", 0, "confusion", 1), [1, 2], "confusion is not 5 rows of 5 whole numbers"),
        (("results", 0, "confusion", 1, 0), -1, "confusion is not 5 rows of 5 whole numbers"),
        (("results", 1, "classes", 0, "name"), "sky", "results is not a list of at least one"),
        (("results",), [], "results is not a list of at least one"),
        (("results", 0, "mean_iou", "value"), "high", "mean_iou.value is not a number"),
        (("results", 0, "mean_iou", "interval"), {"low": 1, "high": 0}, "high is not at least"),
        (("pictures", "role"), "secret", "role is not one of trained on, chose the epoch, not"),
        (("bootstrap", "level"), 0, "level is not a number above 0"),
        (("schema",), 2, "has schema 2, this version reads 1"),
    ],
)
def test_what_is_damaged_is_named(
    run: Run, document: dict[str, Any], place: tuple[Any, ...], value: Any, said: str
) -> None:
    inner: Any = document
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    document["options"] = ["--split", "test set"]
    write_json(run.evaluate_folder / "e.json", document)
    with pytest.raises(ArtifactError) as error:
        read_results(run)
    assert said in str(error.value)
    assert f"run `fcn-deploy evaluate {run.root} --split 'test set'` again" in str(error.value)


def test_a_file_without_a_field_is_damaged(run: Run, document: dict[str, Any]) -> None:
    file = Path(run.evaluate_folder / "e.json")
    for name in ("pictures", "bootstrap", "results", "arguments"):
        write_json(file, {key: value for key, value in document.items() if key != name})
        with pytest.raises(ArtifactError, match=f"{name} is missing"):
            read_results(run)


def test_estimates_as_words() -> None:
    interval = Interval(0.5, 0.625)
    assert estimate_words(Estimate(0.5872, interval)) == "58.72% [50.00–62.50]"
    assert estimate_words(Estimate(0.5872, None)) == "58.72%"
    assert estimate_words(Estimate(None, None)) == "n/a"
    change = Estimate(-0.0012, Interval(-0.002, 0.0001))
    assert points_words(change) == "-0.120 [-0.200 to +0.010]"
    assert points_words(Estimate(-0.0012, None)) == "-0.120"
    assert points_words(None) == ""
