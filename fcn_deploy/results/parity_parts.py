"""The parts of a comparison: the gate and its checks, flips by class and place, scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcn_deploy.results.fields import Fields
from fcn_deploy.results.record import Record, read_fields

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Gate(Record):
    """What a candidate must keep to pass.

    Attributes:
        min_agreement: share of all pixels with the reference's class.
        max_relative_epsilon: largest |Δlogit| over the largest spread of the reference's logits.
        min_class_share: of the pixels of each class, share that keeps it; the same of the pixels
            to which the candidate gives it.
        max_moved_share: of a batch's pixels, share that may depend on the place in the batch.
        max_miou_change: of the mean IoU, in points (hundredths), either way.
        coarse: whether it allows so much that a systematic error could hide in it; then causes are
            put to the test though all limits are kept, and what is larger than rounding fails.
    """

    min_agreement: float
    max_relative_epsilon: float
    min_class_share: float
    max_moved_share: float
    max_miou_change: float = 0.1
    coarse: bool = False


@dataclass(frozen=True)
class Check(Record):
    """One point of the gate.

    Attributes:
        name: short.
        passed: whether it holds.
        sentence: the figure, the limit and what it means.
    """

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class BatchCheck(Record):
    """Whether what a picture gets depends on its place in a batch.

    Attributes:
        pictures: in the batch.
        pixels: of them all.
        flips: pixels whose class differs between alone and in the batch.
        widest_margin: of the reference, among those flips.
        epsilon: largest |Δlogit| between alone and in the batch; None where it is not finite, or
            was not told: in results from before it was a part of the gate.
    """

    pictures: int
    pixels: int
    flips: int
    widest_margin: float
    epsilon: float | None


@dataclass(frozen=True)
class StreamCheck(Record):
    """Whether a stream of batches, as `predict` runs it, gives the masks that were compared.

    Attributes:
        batches: streamed one after the other.
        pictures: in them.
        pixels: of them all.
        flips: pixels to which the stream gives another class than a run of that batch alone.
        widest_margin: of the reference, among those flips.
        refused: further batches, of shapes that the candidate does not take.
    """

    batches: int
    pictures: int
    pixels: int
    flips: int
    widest_margin: float
    refused: int = 0


@dataclass(frozen=True)
class Region(Record):
    """Pixels of a kind (near a class edge, or not) and the flips among them."""

    pixels: int
    flips: int

    @property
    def share(self) -> float | None:
        """Flips per pixel, None where there are no pixels."""
        return self.flips / self.pixels if self.pixels else None


@dataclass(frozen=True)
class Bucket(Region):
    """Pixels between two bounds, and the flips among them.

    Attributes:
        low: of the margin (in logits) or distance (in px).
        high: the same; None where nothing bounds it.
    """

    low: float
    high: float | None

    def to_json(self, unit: str = "") -> dict[str, Any]:
        """Return the bucket as JSON values.

        Args:
            unit: what the names of the two bounds end with, e.g. ``_px``.
        """
        counts = {"pixels": self.pixels, "flips": self.flips}
        return {f"from{unit}": self.low, f"to{unit}": self.high, **counts}

    @classmethod
    def from_fields(cls, fields: Fields, unit: str = "") -> Self:
        """Read back what :meth:`to_json` gave."""
        low, high = fields.number(f"from{unit}"), fields.number_or_none(f"to{unit}")
        return cls(**read_fields(cls, fields, low=low, high=high))


@dataclass(frozen=True)
class ClassFlips(Record):
    """How often one class became another.

    Attributes:
        reference: index of the class that the reference gave.
        candidate: index of the one that the candidate gave.
        flips: pixels.
    """

    reference: int
    candidate: int
    flips: int

    @classmethod
    def of_classes(cls, fields: Fields, num_classes: int) -> Self:
        """Read the pair back, of a network of so many classes."""
        for name in ("reference", "candidate"):
            fields.index(name, num_classes)
        return cls.from_fields(fields)


@dataclass(frozen=True)
class Flip(Record):
    """A pixel to which the candidate gives another class.

    Attributes:
        picture: name of the picture.
        row: from the top, in pixels.
        column: from the left, in pixels.
        reference_class: index.
        candidate_class: index.
        margin: top-1 minus top-2 logit of the reference.
        boundary: whether it lies near a class edge.
    """

    picture: str
    row: int
    column: int
    reference_class: int
    candidate_class: int
    margin: float
    boundary: bool

    @classmethod
    def of_classes(cls, fields: Fields, num_classes: int) -> Self:
        """Read the flip back, of a network of so many classes."""
        for name in ("reference_class", "candidate_class"):
            fields.index(name, num_classes)
        return cls.from_fields(fields)


@dataclass(frozen=True)
class ClassScore(Record):
    """IoU of a class, a share from 0 to 1; None where the class does not occur."""

    name: str
    reference_iou: float | None
    candidate_iou: float | None

    @property
    def change_points(self) -> float | None:
        """Change of the IoU, in points (hundredths)."""
        return _change_points(self.reference_iou, self.candidate_iou)


@dataclass(frozen=True)
class Scores(Record):
    """Scores against the labels, before (reference) and after (candidate); shares, 0 to 1.

    Attributes:
        reference_miou: None where no pixel has a label, as the three that follow.
        candidate_miou: see above.
        reference_pixel_accuracy: see above.
        candidate_pixel_accuracy: see above.
        classes: in the network's order.
        worst_class: name of the class that lost most.
        worst_change_points: of its IoU, in points (hundredths).
    """

    reference_miou: float | None
    candidate_miou: float | None
    reference_pixel_accuracy: float | None
    candidate_pixel_accuracy: float | None
    classes: tuple[ClassScore, ...]
    worst_class: str
    worst_change_points: float

    @property
    def miou_change_points(self) -> float | None:
        """Change of the mean IoU, in points (hundredths)."""
        return _change_points(self.reference_miou, self.candidate_miou)

    def to_json(self) -> dict[str, Any]:
        """Return the scores as JSON values."""
        values = super().to_json()
        worst = {"name": self.worst_class, "change_points": values.pop("worst_change_points")}
        return {**values, "worst_class": worst}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read back what :meth:`to_json` gave."""
        worst = fields.child("worst_class")
        name, change = worst.text("name"), worst.number("change_points")
        return cls(**read_fields(cls, fields, worst_class=name, worst_change_points=change))


def _change_points(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else 100 * (after - before)
