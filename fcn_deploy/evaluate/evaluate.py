"""How good the masks of runners are by labels: confusion matrices, scores and their intervals.

    samples ─decoded ahead─▶ batches of one size ─▶ runner.stream ─▶ counts of each picture ─┐
                                                                   Evaluation ◀─ resamples ◀─┘

Every runner streams masks alone, as `predict` does, and all of them are scored: also of pictures
whose logits are not finite, to which `predict` gives no mask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import DataError
from fcn_deploy.data.dataset import Dataset, Sample
from fcn_deploy.data.images import image_content
from fcn_deploy.data.metrics import ClassTotals, ConfusionMatrix
from fcn_deploy.data.pipeline import (
    Picture,
    Reserve,
    batches_of_one_size,
    loaded_ahead,
    picture_threads,
)
from fcn_deploy.evaluate.bootstrap import Resamples
from fcn_deploy.evaluate.pictures import require_same_classes
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.evaluation import (
    Estimate,
    EvaluatedClass,
    EvaluatedPictures,
    Evaluation,
    EvaluationFile,
)
from fcn_deploy.results.fields import finite_or_none
from fcn_deploy.runners.base import Runner, stream_by_key

#: Threads that decode; with so few, what lies in memory stays small on any machine.
_DECODERS = 4
#: Bytes of a pixel while a sample is decoded: 3 of the image and, of a mask stored as colours, what
#: Pillow holds and what it takes to look them up.
_DECODING_BYTES = 32


def evaluate(
    runners: Sequence[Runner],
    dataset: Dataset,
    *,
    split: str,
    role: str | None = None,
    batch_size: int = 1,
    seed: int = 0,
    on_picture: Callable[[], None] = lambda: None,
) -> EvaluationFile:
    """Score runners on labelled pictures, each of all pictures in turn.

    Args:
        runners: at least one; the others are held against the first.
        dataset: of the classes of the network.
        split: name of the list, for the record.
        role: what the pictures were to the training, see ``results.evaluation.ROLES``.
        batch_size: most pictures of one size to segment at once.
        seed: of the bootstrap.
        on_picture: called after each picture of each runner.

    Returns:
        What a result file holds, without the words of a command line.

    Raises:
        DataError: no pixel is labelled, the classes differ, or a file is broken.
        BackendError: a runner cannot segment a picture.
    """
    for runner in runners:
        require_same_classes(dataset, runner.spec)
    counts = [_counted(runner, dataset, batch_size, on_picture) for runner in runners]
    first = counts[0]
    labelled = int(first.confusion.counts.sum())
    if not labelled:
        raise DataError(
            f"no pixel of {dataset.source} is labelled: all are void",
            "see `fcn-deploy data check`, or name another list with --split",
        )
    resamples = Resamples(len(dataset), seed=seed)
    scored = [_Scored.of(one, resamples) for one in counts]
    rows = [
        _row(runner, one, scored[0], resamples) for runner, one in zip(runners, scored, strict=True)
    ]
    return EvaluationFile(
        environment=Environment.current(),
        arguments=None,
        options=None,
        pictures=EvaluatedPictures(
            dataset.source, split, len(dataset), labelled, first.digest, role
        ),
        bootstrap=resamples.settings,
        rows=tuple(rows),
    )


@dataclass(frozen=True)
class _Counts:
    """What one runner's masks give.

    Attributes:
        confusion: of all pictures.
        pictures: of each one, in order.
        digest: ``sha256:…`` of images and labels.
    """

    confusion: ConfusionMatrix
    pictures: tuple[ClassTotals, ...]
    digest: str


def _counted(
    runner: Runner, dataset: Dataset, batch_size: int, on_picture: Callable[[], None]
) -> _Counts:
    digest = hashlib.sha256()
    truths: dict[int, NDArray[np.uint8]] = {}

    def pictures() -> Iterator[Picture]:
        for place, sample in enumerate(_decoded_ahead(dataset, batch_size)):
            digest.update(image_content(sample.image))
            digest.update(sample.mask.tobytes())
            truths[place] = sample.mask
            yield Picture(place, sample.image)

    batches = batches_of_one_size(pictures(), batch_size)
    num_classes = runner.spec.num_classes
    confusion = ConfusionMatrix.empty(num_classes)
    totals: dict[int, ClassTotals] = {}
    for places, outputs in stream_by_key(runner, ((b.places, b.images) for b in batches)):
        for place, mask in zip(places, outputs.mask, strict=True):
            one = ConfusionMatrix.of(truths.pop(place), mask, num_classes)
            confusion += one
            totals[place] = one.totals()
            on_picture()
    in_order = tuple(totals[place] for place in range(len(dataset)))
    return _Counts(confusion, in_order, f"sha256:{digest.hexdigest()}")


def _decoded_ahead(dataset: Dataset, batch_size: int) -> Iterator[Sample]:
    """Decode samples before they are asked for, and deliver them in order."""
    sizes = dataset.sizes()

    def decode(index: int, reserve: Reserve) -> Sample:
        height, width = sizes[index]
        reserve(height * width * _DECODING_BYTES)
        return dataset[index]

    with picture_threads(_DECODERS) as pool:
        yield from loaded_ahead(range(len(dataset)), decode, pool, batch_size + _DECODERS)


@dataclass(frozen=True)
class _Scored:
    """A runner's counts with the scores of every resample.

    Attributes:
        counts: of the pictures themselves.
        iou: float64 [R, C].
        mean_iou: float64 [R].
        pixel_accuracy: float64 [R].
    """

    counts: _Counts
    iou: NDArray[np.float64]
    mean_iou: NDArray[np.float64]
    pixel_accuracy: NDArray[np.float64]

    @classmethod
    def of(cls, counts: _Counts, resamples: Resamples) -> _Scored:
        totals = resamples.totals(counts.pictures)
        return cls(counts, totals.iou(), totals.mean_iou(), totals.pixel_accuracy())


def _row(runner: Runner, scored: _Scored, first: _Scored, resamples: Resamples) -> Evaluation:
    """Return a row, held against the first one unless it is that."""
    confusion, base = scored.counts.confusion, first.counts.confusion

    def estimate(value: float, scores: NDArray[np.float64]) -> Estimate:
        return Estimate(finite_or_none(value), resamples.interval(scores))

    def change(value: float, scores: NDArray[np.float64]) -> Estimate | None:
        return None if scored is first else estimate(value, scores)

    return Evaluation(
        runner=runner.describe(),
        mean_iou=estimate(confusion.mean_iou(), scored.mean_iou),
        pixel_accuracy=estimate(confusion.pixel_accuracy(), scored.pixel_accuracy),
        mean_iou_change=change(
            confusion.mean_iou() - base.mean_iou(), scored.mean_iou - first.mean_iou
        ),
        pixel_accuracy_change=change(
            confusion.pixel_accuracy() - base.pixel_accuracy(),
            scored.pixel_accuracy - first.pixel_accuracy,
        ),
        classes=tuple(
            EvaluatedClass(
                name=name,
                pixels=int(confusion.counts[index].sum()),
                pictures=sum(bool(one.labelled[index]) for one in scored.counts.pictures),
                iou=estimate(float(iou), scored.iou[:, index]),
            )
            for index, (name, iou) in enumerate(
                zip(runner.spec.class_names, confusion.iou(), strict=True)
            )
        ),
        confusion=tuple(tuple(row) for row in confusion.counts.tolist()),
    )
