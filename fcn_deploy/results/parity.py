"""Check, Scores, Region, WorstPicture, Comparison, SAME_MASKS."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fcn_deploy.results.environment import Environment, machine_name
from fcn_deploy.results.fields import Fields, InlinePicture, typed
from fcn_deploy.results.runner import RunnerDescription

#: What a comparison's picture is drawn as, in the order in which it is shown.
VIEWS = ("image", "reference", "candidate", "flips", "margin")


@dataclass(frozen=True)
class Check:
    """One point of the parity gate."""

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Region:
    """Pixels of a kind (near a class edge, or not) and the flips among them."""

    pixels: int
    flips: int

    @property
    def share(self) -> float | None:
        """Flips per pixel, None where there are no pixels."""
        return self.flips / self.pixels if self.pixels else None


@dataclass(frozen=True)
class Scores:
    """Scores against the labels, before (reference) and after (candidate); shares, 0 to 1."""

    reference_miou: float | None
    candidate_miou: float | None
    worst_class: str
    worst_change_points: float
    classes: tuple[tuple[str, float | None, float | None], ...]

    @property
    def miou_change_points(self) -> float | None:
        """Change of the mean IoU, in points (hundredths)."""
        if self.reference_miou is None or self.candidate_miou is None:
            return None
        return 100 * (self.candidate_miou - self.reference_miou)


@dataclass(frozen=True)
class ClassFlips:
    """How often one class became another.

    Attributes:
        reference: index of the class that the reference gave.
        candidate: index of the one that the candidate gave.
    """

    reference: int
    candidate: int
    flips: int


@dataclass(frozen=True)
class Bucket(Region):
    """Pixels between two bounds, and the flips among them.

    Attributes:
        low: of the margin (in logits) or distance (in px).
        high: the same; None where nothing bounds it.
    """

    low: float
    high: float | None


@dataclass(frozen=True)
class MarginScale:
    """How margins are drawn: colours from low to high, evenly spaced, as ``#rrggbb``."""

    low: float
    high: float
    colours: tuple[str, ...]


@dataclass(frozen=True)
class WorstPicture:
    """A picture with many flips, and what shows it: view → picture."""

    name: str
    flips: int
    pixels: int
    views: Mapping[str, InlinePicture]
    margin_scale: MarginScale | None


@dataclass(frozen=True)
class Comparison:
    """One candidate against the reference, out of a parity file.

    Attributes:
        reference_machine: where the reference ran, if that was another machine.
        palette: red, green, blue per class.
        epsilon: largest |Δlogit|; None where it is not finite.
        by_class: pairs of classes, most flips first.
        by_margin: by the reference's margin, in logits.
        by_distance: by the distance to the next class edge, in px.
        diagnosis: what a failure looks like, as sentences.
        arguments: of the command line, as they were typed: RUN, or two files of saved outputs;
            None where the file does not say.
        options: the same of its options.
    """

    environment: Environment
    reference: RunnerDescription
    candidate: RunnerDescription
    reference_machine: str | None
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    source: str
    count: int
    pixels: int
    images_digest: str
    epsilon: float | None
    agreement: float
    flips: int
    widest_flip_margin: float | None
    boundary: Region
    interior: Region
    scores: Scores | None
    checks: tuple[Check, ...]
    passed: bool
    by_class: tuple[ClassFlips, ...]
    by_margin: tuple[Bucket, ...]
    by_distance: tuple[Bucket, ...]
    diagnosis: tuple[str, ...]
    pictures: tuple[WorstPicture, ...]
    arguments: tuple[str, ...] | None
    options: tuple[str, ...] | None

    @property
    def is_labelled(self) -> bool:
        """Whether mean IoUs were compared: at least one pixel has a label."""
        return self.scores is not None and self.scores.reference_miou is not None

    @property
    def failed_checks(self) -> tuple[str, ...]:
        """Names of the points of the gate that do not hold."""
        return tuple(check.name for check in self.checks if not check.passed)


#: Masks are called the same where this share of all pixels agrees, which is what FP32 must keep.
SAME_MASKS = 0.9999


def comparison_from_fields(fields: Fields, environment: Environment, whole: Fields) -> Comparison:
    """Read the JSON of a comparison back."""
    images = fields.child("images")
    checks = tuple(
        Check(entry.text("name"), entry.flag("passed"), entry.text("sentence"))
        for entry in fields.children("checks")
    )
    if not checks:  # all() of nothing would pass
        raise fields.wrong("checks", "a list of at least one check")
    scores = fields.child_or_none("scores")
    class_names = fields.texts("class_names")
    return Comparison(
        environment=environment,
        reference=RunnerDescription.from_fields(fields.child("reference")),
        candidate=RunnerDescription.from_fields(fields.child("candidate")),
        reference_machine=reference_machine_from_fields(whole),
        class_names=class_names,
        palette=fields.colours("palette", len(class_names)),
        source=images.text("source"),
        count=images.whole("count"),
        pixels=images.whole("pixels"),
        images_digest=images.text("digest"),
        epsilon=fields.number_or_none("epsilon"),
        agreement=fields.number("agreement"),
        flips=fields.whole("flips"),
        widest_flip_margin=fields.number_or_none("widest_flip_margin"),
        boundary=region_from_fields(fields.child("boundary")),
        interior=region_from_fields(fields.child("interior")),
        scores=None if scores is None else scores_from_fields(scores),
        checks=checks,
        passed=fields.flag("passed") and all(check.passed for check in checks),
        by_class=tuple(
            class_flips_from_fields(entry, len(class_names))
            for entry in fields.children("flips_by_class")
        ),
        by_margin=tuple(
            bucket_from_fields(entry, "from", "to") for entry in fields.children("flips_by_margin")
        ),
        by_distance=tuple(
            bucket_from_fields(entry, "from_px", "to_px")
            for entry in fields.children("flips_by_distance")
        ),
        diagnosis=fields.texts("diagnosis"),
        pictures=tuple(worst_picture_from_fields(entry) for entry in fields.children("pictures")),
        arguments=typed(whole, "arguments"),
        options=typed(whole, "options"),
    )


def reference_machine_from_fields(fields: Fields) -> str | None:
    """Return where the reference ran, if the file says that it was another machine."""
    if fields.values.get("reference_machine") is None:
        return None
    return machine_name(fields.as_texts("reference_machine"))


def class_flips_from_fields(fields: Fields, num_classes: int) -> ClassFlips:
    """Read the JSON of a class flips back."""
    return ClassFlips(
        fields.index("reference", num_classes),
        fields.index("candidate", num_classes),
        fields.whole("flips"),
    )


def bucket_from_fields(fields: Fields, low: str, high: str) -> Bucket:
    """Read the JSON of a bucket back."""
    return Bucket(
        pixels=fields.whole("pixels"),
        flips=fields.whole("flips"),
        low=fields.number(low),
        high=fields.number_or_none(high),
    )


def region_from_fields(fields: Fields) -> Region:
    """Read the JSON of a region back."""
    return Region(fields.whole("pixels"), fields.whole("flips"))


def scores_from_fields(fields: Fields) -> Scores:
    """Read the JSON of a scores back."""
    worst = fields.child("worst_class")
    return Scores(
        reference_miou=fields.number_or_none("reference_miou"),
        candidate_miou=fields.number_or_none("candidate_miou"),
        worst_class=worst.text("name"),
        worst_change_points=worst.number("change_points"),
        classes=tuple(
            (
                entry.text("name"),
                entry.number_or_none("reference_iou"),
                entry.number_or_none("candidate_iou"),
            )
            for entry in fields.children("classes")
        ),
    )


def worst_picture_from_fields(fields: Fields) -> WorstPicture:
    """Read the JSON of a worst picture back."""
    views = fields.child("views")
    scale = fields.child_or_none("margin_scale")
    # They ride inside the file: it may come from elsewhere, and must not pull in other files.
    return WorstPicture(
        fields.text("name"),
        fields.whole("flips"),
        fields.whole("pixels"),
        {view: views.picture(view) for view in VIEWS},
        None if scale is None else margin_scale_from_fields(scale),
    )


def margin_scale_from_fields(fields: Fields) -> MarginScale:
    """Read the JSON of a margin scale back."""
    colours = fields.texts("colours")
    if not all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours):
        raise fields.wrong("colours", "a list of colours such as #2a788e")
    return MarginScale(fields.number("low"), fields.number("high"), colours)
