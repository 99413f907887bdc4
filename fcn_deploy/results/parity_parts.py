"""The parts of a comparison: the gate and its checks, flips by class and place, scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fcn_deploy.results.fields import Fields


@dataclass(frozen=True)
class Gate:
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

    def to_json(self) -> dict[str, Any]:
        """Return the limits as JSON values."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: Fields) -> Gate:
        """Read back what :meth:`to_json` gave."""
        return cls(
            min_agreement=fields.number("min_agreement"),
            max_relative_epsilon=fields.number("max_relative_epsilon"),
            min_class_share=fields.number("min_class_share"),
            max_moved_share=fields.number("max_moved_share"),
            max_miou_change=fields.number("max_miou_change"),
            coarse=fields.flag("coarse"),
        )


@dataclass(frozen=True)
class Check:
    """One point of the gate.

    Attributes:
        name: short.
        passed: whether it holds.
        sentence: the figure, the limit and what it means.
    """

    name: str
    passed: bool
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Return the check as JSON values."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: Fields) -> Check:
        """Read back what :meth:`to_json` gave."""
        return cls(fields.text("name"), fields.flag("passed"), fields.text("sentence"))


@dataclass(frozen=True)
class BatchCheck:
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

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: Fields) -> BatchCheck:
        """Read back what :meth:`to_json` gave."""
        return cls(
            pictures=fields.non_negative_int("pictures"),
            pixels=fields.non_negative_int("pixels"),
            flips=fields.non_negative_int("flips"),
            widest_margin=fields.number("widest_margin"),
            epsilon=fields.number_or_none("epsilon"),
        )


@dataclass(frozen=True)
class StreamCheck:
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

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: Fields) -> StreamCheck:
        """Read back what :meth:`to_json` gave."""
        return cls(
            batches=fields.non_negative_int("batches"),
            pictures=fields.non_negative_int("pictures"),
            pixels=fields.non_negative_int("pixels"),
            flips=fields.non_negative_int("flips"),
            widest_margin=fields.number("widest_margin"),
            refused=fields.non_negative_int("refused"),
        )


@dataclass(frozen=True)
class Region:
    """Pixels of a kind (near a class edge, or not) and the flips among them."""

    pixels: int
    flips: int

    @property
    def share(self) -> float | None:
        """Flips per pixel, None where there are no pixels."""
        return self.flips / self.pixels if self.pixels else None

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {"pixels": self.pixels, "flips": self.flips}

    @classmethod
    def from_fields(cls, fields: Fields) -> Region:
        """Read back what :meth:`to_json` gave."""
        return cls(fields.non_negative_int("pixels"), fields.non_negative_int("flips"))


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
        return {f"from{unit}": self.low, f"to{unit}": self.high, **super().to_json()}

    @classmethod
    def from_fields(cls, fields: Fields, unit: str = "") -> Bucket:
        """Read back what :meth:`to_json` gave."""
        return cls(
            pixels=fields.non_negative_int("pixels"),
            flips=fields.non_negative_int("flips"),
            low=fields.number(f"from{unit}"),
            high=fields.number_or_none(f"to{unit}"),
        )


@dataclass(frozen=True)
class ClassFlips:
    """How often one class became another.

    Attributes:
        reference: index of the class that the reference gave.
        candidate: index of the one that the candidate gave.
        flips: pixels.
    """

    reference: int
    candidate: int
    flips: int

    def to_json(self) -> dict[str, Any]:
        """Return the pair as JSON values."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: Fields, num_classes: int) -> ClassFlips:
        """Read back what :meth:`to_json` gave."""
        return cls(
            fields.index("reference", num_classes),
            fields.index("candidate", num_classes),
            fields.non_negative_int("flips"),
        )


@dataclass(frozen=True)
class Flip:
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

    def to_json(self) -> dict[str, Any]:
        """Return the flip as JSON values."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: Fields, num_classes: int) -> Flip:
        """Read back what :meth:`to_json` gave."""
        return cls(
            picture=fields.text("picture"),
            row=fields.non_negative_int("row"),
            column=fields.non_negative_int("column"),
            reference_class=fields.index("reference_class", num_classes),
            candidate_class=fields.index("candidate_class", num_classes),
            margin=fields.number("margin"),
            boundary=fields.flag("boundary"),
        )


@dataclass(frozen=True)
class ClassScore:
    """IoU of a class, a share from 0 to 1; None where the class does not occur."""

    name: str
    reference_iou: float | None
    candidate_iou: float | None

    @property
    def change_points(self) -> float | None:
        """Change of the IoU, in points (hundredths)."""
        return _change_points(self.reference_iou, self.candidate_iou)

    def to_json(self) -> dict[str, Any]:
        """Return the scores as JSON values."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: Fields) -> ClassScore:
        """Read back what :meth:`to_json` gave."""
        return cls(
            fields.text("name"),
            fields.number_or_none("reference_iou"),
            fields.number_or_none("candidate_iou"),
        )


@dataclass(frozen=True)
class Scores:
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
        return {
            "reference_miou": self.reference_miou,
            "candidate_miou": self.candidate_miou,
            "reference_pixel_accuracy": self.reference_pixel_accuracy,
            "candidate_pixel_accuracy": self.candidate_pixel_accuracy,
            "classes": [entry.to_json() for entry in self.classes],
            "worst_class": {"name": self.worst_class, "change_points": self.worst_change_points},
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Scores:
        """Read back what :meth:`to_json` gave."""
        worst = fields.child("worst_class")
        return cls(
            reference_miou=fields.number_or_none("reference_miou"),
            candidate_miou=fields.number_or_none("candidate_miou"),
            reference_pixel_accuracy=fields.number_or_none("reference_pixel_accuracy"),
            candidate_pixel_accuracy=fields.number_or_none("candidate_pixel_accuracy"),
            classes=tuple(ClassScore.from_fields(entry) for entry in fields.children("classes")),
            worst_class=worst.text("name"),
            worst_change_points=worst.number("change_points"),
        )


def _change_points(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else 100 * (after - before)
