"""Comparison: what one candidate's masks are beside the reference's, and the file that holds it.

    compare ─▶ Comparison, … ─▶ parity_document ─▶ JSON ─▶ ParityFile ─▶ the report

`parity_parts` has what a comparison consists of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fcn_deploy.results.environment import Environment, machine_name, result_header
from fcn_deploy.results.fields import Fields, InlinePicture
from fcn_deploy.results.parity_parts import (
    BatchCheck,
    Bucket,
    Check,
    ClassFlips,
    Flip,
    Gate,
    Region,
    Scores,
    StreamCheck,
)
from fcn_deploy.results.runner import RunnerDescription

PARITY_SCHEMA = 4
#: What a comparison's picture is drawn as, in the order in which it is shown.
VIEWS = ("image", "reference", "candidate", "flips", "margin")
#: Masks are called the same where this share of all pixels agrees, which is what FP32 must keep.
SAME_MASKS = 0.9999


@dataclass(frozen=True)
class MarginScale:
    """How margins are drawn: colours from low to high, evenly spaced, as ``#rrggbb``."""

    low: float
    high: float
    colours: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the scale as JSON values."""
        return {"low": self.low, "high": self.high, "colours": list(self.colours)}

    @classmethod
    def from_fields(cls, fields: Fields) -> MarginScale:
        """Read back what :meth:`to_json` gave."""
        colours = fields.texts("colours")
        if not all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours):
            raise fields.wrong("colours", "a list of colours such as #2a788e")
        return cls(fields.number("low"), fields.number("high"), colours)


@dataclass(frozen=True)
class WorstPicture:
    """A picture with many flips, and what shows it.

    Attributes:
        name: of the picture.
        flips: pixels to which the candidate gives another class.
        pixels: in all.
        size: (height, width) of the picture itself; its views may be smaller.
        views: view → picture, one for each of ``VIEWS``.
        margin_scale: of the view ``margin``.
    """

    name: str
    flips: int
    pixels: int
    size: tuple[int, int]
    views: Mapping[str, InlinePicture]
    margin_scale: MarginScale

    def to_json(self) -> dict[str, Any]:
        """Return the picture as JSON values."""
        return {
            "name": self.name,
            "flips": self.flips,
            "pixels": self.pixels,
            "size": list(self.size),
            "views": {view: picture.uri for view, picture in self.views.items()},
            "margin_scale": self.margin_scale.to_json(),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> WorstPicture:
        """Read back what :meth:`to_json` gave."""
        views = fields.child("views")
        # They are stored in the file: it may come from elsewhere, and must not pull in other files.
        return cls(
            fields.text("name"),
            fields.non_negative_int("flips"),
            fields.non_negative_int("pixels"),
            fields.size("size"),
            {view: views.picture(view) for view in VIEWS},
            MarginScale.from_fields(fields.child("margin_scale")),
        )


@dataclass(frozen=True)
class ComparedPictures:
    """The pictures of a comparison.

    Attributes:
        source: where they come from.
        count: how many, not counting those of odd sizes.
        odd_sizes: (height, width) of the copies that were compared beside them.
        pixels: of them all.
        digest: ``sha256:…`` of them all, in order.
    """

    source: str
    count: int
    odd_sizes: tuple[tuple[int, int], ...]
    pixels: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        """Return the pictures as JSON values."""
        return asdict(self) | {"odd_sizes": [list(size) for size in self.odd_sizes]}

    @classmethod
    def from_fields(cls, fields: Fields) -> ComparedPictures:
        """Read back what :meth:`to_json` gave."""
        return cls(
            source=fields.text("source"),
            count=fields.non_negative_int("count"),
            odd_sizes=fields.sizes("odd_sizes"),
            pixels=fields.non_negative_int("pixels"),
            digest=fields.text("digest"),
        )


@dataclass(frozen=True)
class Comparison:
    """One candidate against the reference.

    Attributes:
        reference: the float32 runner.
        candidate: the runner in question.
        class_names: of the network.
        palette: red, green, blue per class.
        images: what was compared on.
        gate: the limits.
        epsilon: largest |Δlogit|; None where it is not finite.
        logit_scale: what ε is a share of: the largest difference between two logits of a pixel, in
            the reference.
        finite: whether all logits are.
        agreement: share of all pixels with the reference's class.
        flips: pixels to which the candidate gives another class.
        decided_pixels: those whose reference margin is beyond 2ε, at least.
        decided_flips: flips among them.
        widest_flip_margin: of the reference, among the flips; 0 where there is none.
        boundary: pixels near a class edge.
        interior: all others.
        scores: None where no picture is labelled.
        batches: whether a mask depends on the picture's place in a batch, batch by batch.
        stream: whether `predict`'s way to run gives the same masks; None where that was not tried:
            in results from before it was a point of the gate.
        checks: the gate's points, at least one.
        flip_list: flips with the widest margins.
        by_class: pairs of classes, most flips first.
        by_margin: by the reference's margin, in logits.
        by_distance: by the distance to the next class edge, in px.
        diagnosis: what a failure looks like, as sentences; empty where the gate passes.
        pictures: those with the largest share of flips, the worst first.
    """

    reference: RunnerDescription
    candidate: RunnerDescription
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    images: ComparedPictures
    gate: Gate
    epsilon: float | None
    logit_scale: float
    finite: bool
    agreement: float
    flips: int
    decided_pixels: int
    decided_flips: int
    widest_flip_margin: float
    boundary: Region
    interior: Region
    scores: Scores | None
    batches: tuple[BatchCheck, ...]
    stream: StreamCheck | None
    checks: tuple[Check, ...]
    flip_list: tuple[Flip, ...]
    by_class: tuple[ClassFlips, ...]
    by_margin: tuple[Bucket, ...]
    by_distance: tuple[Bucket, ...]
    diagnosis: tuple[str, ...]
    pictures: tuple[WorstPicture, ...]

    @property
    def passed(self) -> bool:
        """Whether every point of the gate holds."""
        return all(check.passed for check in self.checks)

    @property
    def is_labelled(self) -> bool:
        """Whether mean IoUs were compared: at least one pixel has a label."""
        return self.scores is not None and self.scores.reference_miou is not None

    @property
    def failed_checks(self) -> tuple[str, ...]:
        """Names of the points of the gate that do not hold."""
        return tuple(check.name for check in self.checks if not check.passed)

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return {
            "reference": self.reference.to_json(),
            "candidate": self.candidate.to_json(),
            "class_names": list(self.class_names),
            "palette": [list(colour) for colour in self.palette],
            "images": self.images.to_json(),
            "gate": self.gate.to_json(),
            "epsilon": self.epsilon,
            "logit_scale": self.logit_scale,
            "finite": self.finite,
            "agreement": self.agreement,
            "flips": self.flips,
            "decided_pixels": self.decided_pixels,
            "decided_flips": self.decided_flips,
            "widest_flip_margin": self.widest_flip_margin,
            "boundary": self.boundary.to_json(),
            "interior": self.interior.to_json(),
            "scores": None if self.scores is None else self.scores.to_json(),
            "batches": [batch.to_json() for batch in self.batches],
            "stream": None if self.stream is None else self.stream.to_json(),
            "checks": [check.to_json() for check in self.checks],
            "passed": self.passed,
            "flip_list": [flip.to_json() for flip in self.flip_list],
            "flip_list_complete": len(self.flip_list) == self.flips,
            "flips_by_class": [pair.to_json() for pair in self.by_class],
            "flips_by_margin": [bucket.to_json() for bucket in self.by_margin],
            "flips_by_distance": [bucket.to_json("_px") for bucket in self.by_distance],
            "diagnosis": list(self.diagnosis),
            "pictures": [picture.to_json() for picture in self.pictures],
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Comparison:
        """Read back what :meth:`to_json` gave.

        Raises:
            ArtifactError: a field is missing or damaged, or the checks say otherwise than
                ``passed``.
        """
        checks = tuple(Check.from_fields(entry) for entry in fields.children("checks"))
        if not checks:  # all() of nothing would pass
            raise fields.wrong("checks", "a list of at least one check")
        if fields.flag("passed") != all(check.passed for check in checks):
            raise fields.wrong("passed", "what its checks say")
        scores, stream = fields.child_or_none("scores"), fields.child_or_none("stream")
        class_names = fields.texts("class_names")
        count = len(class_names)
        return cls(
            reference=RunnerDescription.from_fields(fields.child("reference")),
            candidate=RunnerDescription.from_fields(fields.child("candidate")),
            class_names=class_names,
            palette=fields.colours("palette", count),
            images=ComparedPictures.from_fields(fields.child("images")),
            gate=Gate.from_fields(fields.child("gate")),
            epsilon=fields.number_or_none("epsilon"),
            logit_scale=fields.number("logit_scale"),
            finite=fields.flag("finite"),
            agreement=fields.number("agreement"),
            flips=fields.non_negative_int("flips"),
            decided_pixels=fields.non_negative_int("decided_pixels"),
            decided_flips=fields.non_negative_int("decided_flips"),
            widest_flip_margin=fields.number("widest_flip_margin"),
            boundary=Region.from_fields(fields.child("boundary")),
            interior=Region.from_fields(fields.child("interior")),
            scores=None if scores is None else Scores.from_fields(scores),
            batches=tuple(BatchCheck.from_fields(e) for e in fields.children("batches")),
            stream=None if stream is None else StreamCheck.from_fields(stream),
            checks=checks,
            flip_list=tuple(Flip.from_fields(e, count) for e in fields.children("flip_list")),
            by_class=tuple(
                ClassFlips.from_fields(entry, count) for entry in fields.children("flips_by_class")
            ),
            by_margin=tuple(Bucket.from_fields(e) for e in fields.children("flips_by_margin")),
            by_distance=tuple(
                Bucket.from_fields(entry, "_px") for entry in fields.children("flips_by_distance")
            ),
            diagnosis=fields.texts("diagnosis"),
            pictures=tuple(WorstPicture.from_fields(e) for e in fields.children("pictures")),
        )


@dataclass(frozen=True)
class ParityFile:
    """A result file of `parity`.

    Attributes:
        environment: where the candidates ran.
        reference_machine: where the reference ran, if that was another machine.
        arguments: of the command line, as they were typed: RUN, or two files of saved outputs;
            None where no command compared.
        options: the same of its options.
        notes: what is to be known of the comparison that no gate decides, as sentences.
        comparisons: one for each candidate.
    """

    environment: Environment
    reference_machine: str | None
    arguments: tuple[str, ...] | None
    options: tuple[str, ...] | None
    notes: tuple[str, ...]
    comparisons: tuple[Comparison, ...]

    @classmethod
    def from_fields(cls, fields: Fields, environment: Environment) -> ParityFile:
        """Read back what :func:`parity_document` gave."""
        elsewhere = fields.values.get("reference_machine") is not None
        return cls(
            environment=environment,
            reference_machine=(
                machine_name(fields.as_texts("reference_machine")) if elsewhere else None
            ),
            arguments=fields.texts_or_none("arguments"),
            options=fields.texts_or_none("options"),
            notes=fields.texts("notes") if "notes" in fields.values else (),
            comparisons=tuple(Comparison.from_fields(e) for e in fields.children("results")),
        )


def parity_document(
    comparisons: Sequence[Comparison],
    typed: Mapping[str, Sequence[str]] | None = None,
    recorded_on: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Return a result file's content: comparisons, what made them, and when.

    Args:
        comparisons: of one reference.
        typed: ``arguments`` and ``options`` of the command line, as they were typed; None where no
            command compared.
        recorded_on: where saved outputs were compared: ``machine`` and ``versions`` of the
            candidate's, ``reference_machine`` and ``reference_versions``.
        notes: what is to be known that no gate decides.
    """
    return {
        **result_header("parity", PARITY_SCHEMA),
        **(recorded_on or {}),
        **(typed or {"arguments": None, "options": None}),
        "notes": list(notes),
        "results": [comparison.to_json() for comparison in comparisons],
    }
