"""The report's section on scores against labels."""

from __future__ import annotations

import pytest

from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.evaluate.evaluate import evaluate
from fcn_deploy.results.evaluation import CHOSE_EPOCH, EvaluationFile
from fcn_deploy.results.format import estimate_words, points_words
from tests.evaluate.labelled import labelled
from tests.fakes import FakeRunner
from tests.report.parsed_page import page_of


@pytest.fixture(scope="module")
def result() -> EvaluationFile:
    runners = [FakeRunner(), FakeRunner(backend="noisy", noise=6.0)]
    return evaluate(runners, labelled(3), split="val", role=CHOSE_EPOCH)


def test_scores_changes_classes_and_confusion_are_shown(run: Run, result: EvaluationFile) -> None:
    write_json(run.evaluate_folder / "e.json", result.to_json())
    page = page_of(run)
    _, noisy = result.rows
    for words in (
        "How good are the masks?",
        "3 images of made up (val)",
        "these images chose the epoch",
        "with so few images they mean little",
        "noisy fp32",
        estimate_words(noisy.mean_iou),
        estimate_words(noisy.pixel_accuracy),
        points_words(noisy.mean_iou_change),
        *(estimate_words(entry.iou) for entry in noisy.classes),
        "Confusion matrix of noisy fp32",
    ):
        assert words in page.text, words
    shares = noisy.confusion_shares()
    assert shares[0][0] is not None
    assert f"{100 * shares[0][0]:.1f}" in page.text
    assert "#scores" in page.values("href")
    assert "older checkpoint" not in page.text


def test_an_older_checkpoint_is_said(run: Run, result: EvaluationFile) -> None:
    write_json(run.evaluate_folder / "e.json", result.to_json())
    run.checkpoint.write_bytes(b"trained again")
    assert "scored with an older checkpoint" in page_of(run).text


def test_names_are_text_and_no_markup(run: Run, result: EvaluationFile) -> None:
    nasty = "<b>sky</b>"
    document = result.to_json()
    document["pictures"]["source"] = nasty
    for row in document["results"]:
        row["classes"][0]["name"] = row["runner"]["backend"] = nasty
    write_json(run.evaluate_folder / "e.json", document)
    page = page_of(run)
    assert "b" not in page.tags
    assert nasty in page.text


def test_without_an_evaluation_there_is_no_section(full_run: Run) -> None:
    assert "#scores" not in page_of(full_run).values("href")
