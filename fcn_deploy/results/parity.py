"""Comparison: what one candidate's masks are beside the reference's, and the file that holds it.

    compare ─▶ Comparison, … ─▶ parity_document ─▶ JSON ─▶ ParityFile ─▶ the report

`parity_parts` has what a comparison consists of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from fcn_deploy.results.record import Record, as_json, read_field, read_fields
from fcn_deploy.results.runner import RunnerDescription

if TYPE_CHECKING:
    from typing_extensions import Self

PARITY_SCHEMA = 4
#: What a comparison's picture is drawn as, in the order in which it is shown.
VIEWS = ("image", "reference", "candidate", "flips", "margin")
#: Masks are called the same where this share of all pixels agrees, which is what FP32 must keep.
SAME_MASKS = 0.9999


@dataclass(frozen=True)
class MarginScale(Record):
    """How margins are drawn: colours from low to high, evenly spaced, as ``#rrggbb``."""

    low: float
    high: float
    colours: tuple[str, ...]

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read back what :meth:`to_json` gave."""
        scale = super().from_fields(fields)
        if not all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in scale.colours):
            raise fields.wrong("colours", "a list of colours such as #2a788e")
        return scale


@dataclass(frozen=True)
class WorstPicture(Record):
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
        views = {view: picture.uri for view, picture in self.views.items()}
        return super().to_json() | {"views": views}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read back what :meth:`to_json` gave."""
        views = fields.child("views")
        # They are stored in the file: it may come from elsewhere, and must not pull in other files.
        return cls(**read_fields(cls, fields, views={view: views.picture(view) for view in VIEWS}))


@dataclass(frozen=True)
class ComparedPictures(Record):
    """The pictures of a comparison.

    Attributes:
        source: where they come from.
        count: how many, not counting those of odd sizes.
        odd_sizes: (height, width) of the copies that were compared beside them.
        pixels: of them all.
        digest: ``sha256:…`` of them all, in order, without what was made of them.
    """

    source: str
    count: int
    odd_sizes: tuple[tuple[int, int], ...]
    pixels: int
    digest: str


@dataclass(frozen=True)
class Comparison(Record):
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
        values = super().to_json()
        del values["by_class"], values["by_margin"], values["by_distance"]
        return {
            **values,
            "passed": self.passed,
            "flip_list_complete": len(self.flip_list) == self.flips,
            "flips_by_class": as_json(self.by_class),
            "flips_by_margin": as_json(self.by_margin),
            "flips_by_distance": [bucket.to_json("_px") for bucket in self.by_distance],
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
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
        count = len(fields.texts("class_names"))
        by_distance = fields.children("flips_by_distance")
        read = read_fields(
            cls,
            fields,
            palette=fields.colours("palette", count),
            checks=checks,
            flip_list=tuple(Flip.of_classes(e, count) for e in fields.children("flip_list")),
            by_class=tuple(
                ClassFlips.of_classes(entry, count) for entry in fields.children("flips_by_class")
            ),
            by_margin=read_field(tuple[Bucket, ...], fields, "flips_by_margin"),
            by_distance=tuple(Bucket.from_fields(entry, "_px") for entry in by_distance),
        )
        return cls(**read)


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
        read = read_fields(
            cls,
            fields,
            environment=environment,
            reference_machine=(
                machine_name(fields.as_texts("reference_machine")) if elsewhere else None
            ),
            notes=fields.texts("notes") if "notes" in fields.values else (),
            comparisons=read_field(tuple[Comparison, ...], fields, "results"),
        )
        return cls(**read)


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
