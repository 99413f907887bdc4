"""Evaluation: how good one backend's masks are by labels, and the file that holds several.

evaluate ─▶ Evaluation, … ─▶ EvaluationFile ─to_json─▶ JSON ─from_fields─▶ the report
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcn_deploy.results.environment import Environment
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.record import Positive, Record, as_json, read_fields
from fcn_deploy.results.runner import RunnerDescription

if TYPE_CHECKING:
    from typing_extensions import Self

EVALUATION_SCHEMA = 1
#: With fewer pictures an interval says little of others: every resample has nearly the same ones.
FEW_PICTURES = 10
#: What pictures were to the training of the network, as far as its run says.
ROLES = TRAINED_ON, CHOSE_EPOCH, UNUSED = ("trained on", "chose the epoch", "not used")


@dataclass(frozen=True)
class Interval(Record):
    """An interval of the bootstrap.

    Attributes:
        low: its lower end.
        high: its upper end.
    """

    low: float
    high: float

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read it back.

        Raises:
            ArtifactError: a field is missing or damaged, or the ends are in the wrong order.
        """
        interval = super().from_fields(fields)
        if interval.low > interval.high:
            raise fields.wrong("high", "at least `low`")
        return interval


@dataclass(frozen=True)
class Estimate(Record):
    """A score, or the difference of two, with its interval.

    Attributes:
        value: on the pictures themselves; None where nothing was counted.
        interval: None where no interval can be had, as from a single picture.
    """

    value: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Bootstrap(Record):
    """How the intervals were made.

    Attributes:
        resamples: how often the pictures were drawn, with repetition.
        seed: of the draws.
        level: share of the resamples whose score lies in an interval.
    """

    resamples: int
    seed: int
    level: Positive


@dataclass(frozen=True)
class EvaluatedPictures(Record):
    """The labelled pictures of an evaluation.

    Attributes:
        source: where they come from.
        split: name of the list.
        count: how many.
        labelled_pixels: those that are not void.
        digest: ``sha256:…`` of the images and their labels, in order.
        role: what they were to the training, one of ``ROLES``; None where the run does not say.
    """

    source: str
    split: str
    count: int
    labelled_pixels: int
    digest: str
    role: str | None

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read them back.

        Raises:
            ArtifactError: a field is missing or damaged.
        """
        pictures = super().from_fields(fields)
        if pictures.role not in (None, *ROLES):
            raise fields.wrong("role", f"one of {', '.join(ROLES)}")
        return pictures


@dataclass(frozen=True)
class EvaluatedClass(Record):
    """One class of an evaluation.

    Attributes:
        name: of the class.
        pixels: that are labelled so.
        pictures: with at least one such pixel.
        iou: intersection over union.
    """

    name: str
    pixels: int
    pictures: int
    iou: Estimate


@dataclass(frozen=True)
class Evaluation(Record):
    """How good the masks of one runner are; scores are shares, 0 to 1.

    Attributes:
        runner: whose masks.
        mean_iou: over the classes that occur.
        pixel_accuracy: share of the labelled pixels with the true class.
        mean_iou_change: to the first row of the file, on the same resamples; None for that row.
        pixel_accuracy_change: likewise.
        classes: in the network's order.
        confusion: pixels by true class (row) and predicted class (column).
    """

    runner: RunnerDescription
    mean_iou: Estimate
    pixel_accuracy: Estimate
    mean_iou_change: Estimate | None
    pixel_accuracy_change: Estimate | None
    classes: tuple[EvaluatedClass, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The network's classes, in order."""
        return tuple(entry.name for entry in self.classes)

    def confusion_shares(self) -> list[list[float | None]]:
        """Return the confusion matrix as shares of the true class's pixels; None without any."""
        return [
            [pixels / sum(row) if sum(row) else None for pixels in row] for row in self.confusion
        ]

    def most_confused(self, count: int) -> list[tuple[str, str, float]]:
        """Return the pairs with the most pixels: true class, predicted class, share of all pixels.

        At most ``count`` of them, those with none left out.
        """
        total = sum(map(sum, self.confusion))
        names = self.class_names
        pairs = [
            (pixels, names[true], names[predicted])
            for true, row in enumerate(self.confusion)
            for predicted, pixels in enumerate(row)
            if pixels and true != predicted
        ]
        pairs.sort(key=lambda pair: -pair[0])
        return [(true, predicted, pixels / total) for pixels, true, predicted in pairs[:count]]

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read it back.

        Raises:
            ArtifactError: a field is missing or damaged, or the matrix is not of the classes.
        """
        classes, rows = fields.items("classes"), fields.items("confusion")
        if not classes or [_length(row) for row in rows] != [len(classes)] * len(classes):
            raise fields.wrong("confusion", f"{len(classes)} rows of {len(classes)} whole numbers")
        return cls(**read_fields(cls, fields, confusion=tuple(map(tuple, rows))))


def _length(row: Any) -> int:
    """Return the length of a list of whole numbers from 0; -1 for anything else."""
    whole = isinstance(row, list) and all(type(v) is int and 0 <= v < 2**63 for v in row)
    return len(row) if whole else -1


@dataclass(frozen=True)
class EvaluationFile:
    """A result file of `evaluate`.

    Attributes:
        environment: where the backends ran.
        arguments: of the command line, as they were typed; None where no command evaluated.
        options: the same of its options.
        pictures: what was evaluated on.
        bootstrap: how the intervals were made.
        rows: one for each backend and precision, at least one; the others are held against the
            first.
    """

    environment: Environment
    arguments: tuple[str, ...] | None
    options: tuple[str, ...] | None
    pictures: EvaluatedPictures
    bootstrap: Bootstrap
    rows: tuple[Evaluation, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a result file's content."""
        return {
            **self.environment.to_json("evaluate", EVALUATION_SCHEMA),
            "arguments": as_json(self.arguments),
            "options": as_json(self.options),
            "pictures": self.pictures.to_json(),
            "bootstrap": self.bootstrap.to_json(),
            "results": as_json(self.rows),
        }

    @classmethod
    def from_fields(cls, fields: Fields, environment: Environment) -> EvaluationFile:
        """Read back what :meth:`to_json` gave.

        Raises:
            ArtifactError: a field is missing or damaged.
        """
        rows = tuple(Evaluation.from_fields(entry) for entry in fields.children("results"))
        if not rows or any(row.class_names != rows[0].class_names for row in rows):
            raise fields.wrong("results", "a list of at least one, all of the same classes")
        return cls(**read_fields(cls, fields, environment=environment, rows=rows))
