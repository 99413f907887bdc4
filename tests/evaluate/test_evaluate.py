"""Scores of fake runners on made-up pictures, whose right answers are known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcn_deploy.core.errors import BackendError, DataError
from fcn_deploy.data import pipeline
from fcn_deploy.data.dataset import CachedDataset, Sample
from fcn_deploy.data.metrics import ConfusionMatrix
from fcn_deploy.evaluate.evaluate import evaluate
from fcn_deploy.parity.compare import compare
from fcn_deploy.parity.inputs import labelled_pictures
from fcn_deploy.results.evaluation import UNUSED, EvaluationFile
from fcn_deploy.results.fields import Fields
from fcn_deploy.runners.base import Outputs
from tests.candidates import as_candidate
from tests.evaluate.labelled import labelled
from tests.fakes import FAKE_SPEC, FakeRunner


def errs_in_class(index: int, image_count: int) -> FakeRunner:
    """A runner that calls a class ``background`` in every picture but the first."""
    seen = iter(range(image_count))

    def bug(images: Any, outputs: Outputs) -> Outputs:
        mask = outputs.mask.copy()
        for place in range(len(images)):
            if next(seen):
                mask[place][mask[place] == index] = 0
        return Outputs(mask)

    return FakeRunner(outputs=("mask",), bug=bug)


def test_a_faultless_runner_scores_one() -> None:
    result = evaluate([FakeRunner()], labelled(6), split="val", role=UNUSED)
    (row,) = result.rows
    assert (row.mean_iou.value, row.pixel_accuracy.value) == (1.0, 1.0)
    assert row.mean_iou.interval is not None
    assert (row.mean_iou.interval.low, row.mean_iou.interval.high) == (1.0, 1.0)
    assert row.mean_iou_change is None
    # Three pictures of 11×16 pixels beside the void, three of 8×20.
    assert result.pictures.labelled_pixels == 3 * (11 * 16 + 8 * 20)
    assert (result.pictures.count, result.pictures.role) == (6, UNUSED)
    assert row.classes[4].iou.value is None
    assert row.classes[4].iou.interval is None
    assert row.classes[4].pictures == 0


def test_the_scores_are_those_of_all_pixels_together() -> None:
    dataset = labelled(8)
    result = evaluate([errs_in_class(2, 8)], dataset, split="val")
    total = ConfusionMatrix.empty(FAKE_SPEC.num_classes)
    for index, sample in enumerate(dataset.samples):
        predicted = sample.mask.copy()
        predicted[0] = 0
        if index:
            predicted[predicted == 2] = 0
        total += ConfusionMatrix.of(sample.mask, predicted, FAKE_SPEC.num_classes)
    (row,) = result.rows
    assert row.confusion == tuple(map(tuple, total.counts.tolist()))
    assert row.mean_iou.value == total.mean_iou() < 1
    assert row.pixel_accuracy.value == total.pixel_accuracy() < 1
    assert [entry.iou.value for entry in row.classes[:4]] == total.iou()[:4].tolist()
    assert row.classes[2].pixels == int(total.counts[2].sum())
    assert row.classes[2].pictures == 8
    interval = row.classes[2].iou.interval
    assert interval is not None
    assert interval.low <= float(total.iou()[2]) <= interval.high
    assert row.most_confused(3) == [
        ("green", "background", int(total.counts[2, 0]) / int(total.counts.sum()))
    ]


def test_the_scores_are_those_of_parity() -> None:
    dataset = labelled(4)
    noisy = FakeRunner(noise=6.0)
    (row,) = evaluate([noisy], dataset, split="val").rows
    (comparison,) = compare(
        FakeRunner(), [as_candidate(noisy)], labelled_pictures(dataset, FAKE_SPEC)
    )
    assert comparison.scores is not None
    assert row.mean_iou.value == comparison.scores.candidate_miou < 1
    assert row.pixel_accuracy.value == comparison.scores.candidate_pixel_accuracy
    assert [entry.iou.value for entry in row.classes] == [
        entry.candidate_iou for entry in comparison.scores.classes
    ]


@pytest.mark.parametrize("batch_size", [2, 3, 50])
def test_batches_change_no_figure(batch_size: int) -> None:
    alone = evaluate([FakeRunner(noise=6.0)], labelled(7), split="val")
    runner = FakeRunner(noise=6.0)
    together = evaluate([runner], labelled(7), split="val", batch_size=batch_size)
    assert together.rows == alone.rows
    assert together.pictures == alone.pictures
    assert max(shape[0] for shape in runner.shapes) == min(batch_size, 4)


def test_differences_are_paired() -> None:
    """Two runners that err alike differ by nothing, though each one's interval is wide."""
    rows = evaluate(
        [errs_in_class(2, 12), errs_in_class(2, 12), FakeRunner()], labelled(12), split="val"
    ).rows
    assert rows[0].mean_iou.interval is not None
    assert rows[0].mean_iou.interval.high - rows[0].mean_iou.interval.low > 0.01
    same, better = rows[1].mean_iou_change, rows[2].mean_iou_change
    assert same is not None
    assert same.interval is not None
    assert (same.value, same.interval.low, same.interval.high) == (0.0, 0.0, 0.0)
    assert better is not None
    assert better.interval is not None
    assert better.value == 1.0 - (rows[0].mean_iou.value or 0)
    assert 0 < better.interval.low <= better.value <= better.interval.high
    assert rows[2].pixel_accuracy_change is not None


def test_samples_that_are_decoded_ahead_are_bounded_by_their_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded: list[int] = []

    class Noted(CachedDataset):
        def __getitem__(self, index: int) -> Sample:
            decoded.append(index)
            return super().__getitem__(index)

    samples = labelled(12)
    dataset = Noted(samples.class_names, samples.source, samples.samples)
    told: list[int] = []

    def on_picture() -> None:
        told.append(len(decoded) - len(told))

    unbounded = evaluate([FakeRunner()], samples, split="val")
    monkeypatch.setattr(pipeline, "HELD_BYTES", 1)
    bounded = evaluate([FakeRunner()], dataset, split="val", on_picture=on_picture)
    # The picture that is being scored, and one that was begun when it was taken.
    assert max(told) <= 2
    assert sorted(decoded) == list(range(12))
    assert (bounded.rows, bounded.pictures) == (unbounded.rows, unbounded.pictures)


def test_one_picture_has_no_interval() -> None:
    (row,) = evaluate([FakeRunner()], labelled(1), split="val").rows
    assert row.mean_iou.value == 1.0
    assert row.mean_iou.interval is None


def test_other_labels_have_another_digest() -> None:
    one, other = labelled(2), labelled(2)
    other.samples[1].mask[3, 3] = (other.samples[1].mask[3, 3] + 1) % 4
    digests = {
        evaluate([FakeRunner()], dataset, split="val").pictures.digest
        for dataset in (one, labelled(2), other)
    }
    assert len(digests) == 2


def test_void_alone_is_refused() -> None:
    dataset = labelled(2)
    for sample in dataset.samples:
        sample.mask[:] = 255
    with pytest.raises(DataError, match=r"no pixel of made up .val. is labelled"):
        evaluate([FakeRunner()], dataset, split="val")


def test_a_runner_that_fails_is_an_error() -> None:
    def breaks(_images: Any, _outputs: Outputs) -> Outputs:
        raise BackendError("out of memory", "use smaller pictures")

    with pytest.raises(BackendError, match="out of memory"):
        evaluate([FakeRunner(bug=breaks)], labelled(3), split="val")


def test_a_result_is_read_back_as_it_was_written() -> None:
    runners = [FakeRunner(), FakeRunner(backend="other", noise=6.0)]
    written = evaluate(runners, labelled(3), split="val")
    document = json.loads(json.dumps(written.to_json(), allow_nan=False))
    read = EvaluationFile.from_fields(Fields(document, Path("e.json"), ""), written.environment)
    assert read == written


def test_every_picture_is_told_once_for_each_runner() -> None:
    told: list[int] = []
    evaluate(
        [FakeRunner(), FakeRunner()], labelled(5), split="val", on_picture=lambda: told.append(1)
    )
    assert len(told) == 10


def test_confusion_as_shares_of_the_true_class() -> None:
    (row,) = evaluate([errs_in_class(2, 6)], labelled(6), split="val").rows
    shares = row.confusion_shares()
    assert shares[4] == [None] * 5
    for known in shares[:4]:
        assert np.isclose(sum(share or 0 for share in known), 1)
    assert (shares[2][0] or 0) > 0.5
