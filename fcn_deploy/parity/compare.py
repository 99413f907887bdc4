"""Are the masks the same?  Compares candidate runners with the float32 reference, in one pass.

    pictures ─┬─▶ reference ─┬─▶ Tally (errors, flips, counts) ─┬─▶ checks ─▶ Comparison
              ├─▶ candidate ─┘                                  │     └ failed ─▶ diagnosis
              └─▶ candidate …, each with a Tally of its own     │
    extras ─────▶ batches, and the stream of the candidate as it ships

ε is the largest |Δlogit|.  A pixel whose reference margin exceeds 2ε is decided: no candidate
whose logits are within ε may flip it.  That alone proves little, as a broken candidate only makes
ε large and leaves no pixel decided; so ε itself is bounded, relative to the logits' spread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.dataset import NamedImage
from fcn_deploy.parity.batch_place import BatchPlaceTest
from fcn_deploy.parity.candidate import (
    Candidate,
    ReferenceLogits,
    masks_and_logits,
    passing_over_too_large,
)
from fcn_deploy.parity.diagnosis import NOT_IN_LOGITS, diagnose, find_cause
from fcn_deploy.parity.evidence import CandidateRun
from fcn_deploy.parity.gate import gate_checks, gate_of, only_rounding_check
from fcn_deploy.parity.inputs import FIRST_PICTURES, Pictures, within_memory
from fcn_deploy.parity.recording import Recording, require_comparable
from fcn_deploy.parity.stream import StreamTest
from fcn_deploy.parity.tally import ReferenceOutput, Tally
from fcn_deploy.parity.worst_pictures import rendered
from fcn_deploy.results.fields import finite_or_none
from fcn_deploy.results.parity import ComparedPictures, Comparison, parity_document
from fcn_deploy.results.parity_parts import Check, ClassScore, Gate, Region, Scores
from fcn_deploy.runners.base import Runner

#: Bytes that the pictures of one result file may take, shared among its comparisons.
PICTURE_BUDGET = 2_300_000


def compare(
    reference: Runner,
    candidates: Sequence[Candidate],
    pictures: Pictures,
    *,
    gate: Gate | None = None,
    can_rerun: bool = True,
    on_picture: Callable[[], None] = lambda: None,
) -> tuple[Comparison, ...]:
    """Compare candidates with the reference, picture by picture.

    Each picture is decoded once and given to the reference once, however many candidates there
    are.  Only where a candidate is diagnosed the reference is asked again, for that candidate.

    Args:
        reference: float32, opened for ``mask`` and ``logits``.
        candidates: each opened for ``mask`` and ``logits``, with what opens it as it ships.
        pictures: any sizes; the first ones are also made into extras.
        gate: the limits; by default those of each candidate's precision.
        can_rerun: whether the runners take other pictures than these as well, so that causes of a
            failure can be put to the test; recorded ones do not.
        on_picture: called after each picture.

    Returns:
        One comparison for each candidate, in their order.

    Raises:
        InputError: there are no pictures, or the networks' classes differ.
        BackendError: a candidate fails, in a run or in its stream.
    """
    spec = reference.spec
    if any(candidate.runner.spec.class_names != spec.class_names for candidate in candidates):
        raise InputError("the candidate has other classes than the reference", "export it again")
    tallies = [Tally(spec.num_classes) for _ in candidates]
    first = _ask_about_all(reference, candidates, tallies, pictures, on_picture)
    extras = pictures.extras(first)
    if can_rerun:  # recorded are those that the network takes, and no others
        extras = extras.taken_by(spec.input_shape)
    for picture in extras.odd_sizes:
        _add(reference, candidates, tallies, picture, is_extra=True)
    asked_large = _ask_about_large(reference, candidates, tallies, extras.large)
    logits = ReferenceLogits(reference)
    batches = BatchPlaceTest(logits, extras.batches)
    budget = PICTURE_BUDGET // max(1, len(candidates))
    comparisons = []
    for candidate, tally, large in zip(candidates, tallies, asked_large, strict=True):
        description = candidate.runner.describe()
        # In this order: the stream is compared with what the batches gave.
        places = batches.places_of(candidate)
        stream = StreamTest(logits, extras.stream(with_large=large)).masks_of(candidate)
        limits = gate or gate_of(description)
        run = CandidateRun(
            reference, candidate.runner, description, limits, tally, places, stream, can_rerun
        )
        comparisons.append(_comparison(run, pictures, extras.alone(with_large=large), budget))
    return tuple(comparisons)


def _ask_about_all(
    reference: Runner,
    candidates: Sequence[Candidate],
    tallies: Sequence[Tally],
    pictures: Pictures,
    on_picture: Callable[[], None],
) -> list[NamedImage]:
    """Compare on all pictures; return the first ones, of which the extras are made."""
    first: list[NamedImage] = []
    for picture in pictures:
        _add(reference, candidates, tallies, picture)
        if len(first) < FIRST_PICTURES:
            first.append(picture)
        on_picture()
    if not first:
        raise InputError("no pictures to compare on", "name a folder of pictures with --images")
    return first


def _ask_about_large(
    reference: Runner,
    candidates: Sequence[Candidate],
    tallies: Sequence[Tally],
    large: NamedImage | None,
) -> list[bool]:
    """Compare on the large picture; return which candidates took it."""
    asked = [False] * len(candidates)
    if large is None or not within_memory(large, reference.spec):
        return asked
    with passing_over_too_large():
        expected = _expected(reference, large)
        for index, (candidate, tally) in enumerate(zip(candidates, tallies, strict=True)):
            with passing_over_too_large():
                _add_given(candidate, tally, expected, is_extra=True)
                asked[index] = True
    return asked


def compare_recordings(reference: Recording, candidate: Recording) -> Comparison:
    """Compare what two runners gave, each on a machine of its own.

    Raises:
        InputError: the reference is not float32, or the two are of different checkpoints or
            pictures.
        ArtifactError: a file is missing or damaged.
    """
    require_comparable(reference, candidate)
    with reference.runner() as one, candidate.runner() as other:
        recorded = Candidate(other, candidate.shipped)
        (comparison,) = compare(one, [recorded], reference.pictures(), can_rerun=False)
    return comparison


def _add(
    reference: Runner,
    candidates: Sequence[Candidate],
    tallies: Sequence[Tally],
    picture: NamedImage,
    *,
    is_extra: bool = False,
) -> None:
    expected = _expected(reference, picture)
    for candidate, tally in zip(candidates, tallies, strict=True):
        _add_given(candidate, tally, expected, is_extra=is_extra)


def _add_given(
    candidate: Candidate, tally: Tally, expected: ReferenceOutput, *, is_extra: bool
) -> None:
    # The extras are streamed later on, and what they give alone is what the stream must give.
    masks, logits = candidate.run((expected.picture,), remember=is_extra)
    tally.add(expected, masks[0], logits[0], is_extra=is_extra)


def _expected(reference: Runner, picture: NamedImage) -> ReferenceOutput:
    masks, logits = masks_and_logits(reference, picture.image[None])
    return ReferenceOutput.of(picture, masks[0], logits[0])


def _judged(run: CandidateRun) -> tuple[tuple[Check, ...], tuple[str, ...]]:
    """Return the gate's points, and what a failure looks like."""
    checks = tuple(gate_checks(run))
    failed = {check.name for check in checks if not check.passed}
    in_logits = failed - NOT_IN_LOGITS
    cause = find_cause(run, with_bias=bool(in_logits)) if run.gate.coarse or in_logits else None
    if run.gate.coarse:
        checks += (only_rounding_check(cause, run.can_rerun),)
    if all(check.passed for check in checks):
        return checks, ()
    return checks, tuple(diagnose(run, cause, failed))


def _comparison(
    run: CandidateRun, pictures: Pictures, extras: Sequence[NamedImage], budget: int
) -> Comparison:
    """Judge a candidate.

    Args:
        run: the candidate.
        pictures: that it was compared on.
        extras: of odd sizes, and the large one, that it was compared on besides.
        budget: bytes that its worst pictures may take.
    """
    tally, spec = run.tally, run.reference.spec
    checks, diagnosis = _judged(run)
    sizes = tuple(picture.image.shape[:2] for picture in extras)
    return Comparison(
        reference=run.reference.describe(),
        candidate=run.description,
        class_names=spec.class_names,
        palette=spec.palette,
        images=ComparedPictures(
            pictures.source, tally.pictures - len(sizes), sizes, tally.pixels, tally.digest
        ),
        gate=run.gate,
        epsilon=finite_or_none(tally.epsilon),
        logit_scale=tally.logit_scale,
        finite=tally.finite,
        agreement=1 - tally.flips / tally.pixels,
        flips=tally.flips,
        decided_pixels=tally.margins.at_least(2 * tally.epsilon),
        decided_flips=tally.decided_flips(),
        widest_flip_margin=tally.widest_flip_margin,
        boundary=Region(tally.boundary_pixels, tally.boundary_flips),
        interior=Region(tally.pixels - tally.boundary_pixels, tally.flips - tally.boundary_flips),
        scores=_scores(tally, spec),
        batches=tuple(places.check for places in run.batches),
        stream=run.stream.check,
        checks=checks,
        flip_list=tally.widest_flips(),
        by_class=tally.flips_by_class(),
        by_margin=tally.flips_by_margin(),
        by_distance=tally.flips_by_distance(),
        diagnosis=diagnosis,
        pictures=rendered(tally.worst_candidates(), spec.palette, budget),
    )


def _scores(tally: Tally, spec: ModelSpec) -> Scores | None:
    before, after = tally.reference_confusion, tally.candidate_confusion
    if before is None or after is None:
        return None
    # NaN: a class that does not occur has lost nothing.
    changes = np.nan_to_num(after.iou() - before.iou())
    worst = int(np.argmin(changes))
    return Scores(
        reference_miou=finite_or_none(before.mean_iou()),
        candidate_miou=finite_or_none(after.mean_iou()),
        reference_pixel_accuracy=finite_or_none(before.pixel_accuracy()),
        candidate_pixel_accuracy=finite_or_none(after.pixel_accuracy()),
        classes=tuple(
            ClassScore(name, finite_or_none(b), finite_or_none(a))
            for name, b, a in zip(spec.class_names, before.iou(), after.iou(), strict=True)
        ),
        worst_class=spec.class_names[worst],
        worst_change_points=100 * float(changes[worst]),
    )


def save(
    comparisons: Sequence[Comparison],
    target: Path,
    *,
    recordings: tuple[Recording, Recording] | None = None,
    typed: Mapping[str, Sequence[str]] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write comparisons as one JSON file, whole or not at all.

    Args:
        comparisons: of one reference.
        target: the file.
        recordings: reference and candidate, where they were compared instead of live runners; the
            file then names their machines instead of this one.
        typed: ``arguments`` and ``options`` of the command line, as they were typed; None where no
            command compared.
        notes: what is to be known that no gate decides.

    Raises:
        ArtifactError: the place cannot be written; what was there before stays.
    """
    recorded_on = None
    if recordings is not None:
        reference, candidate = recordings
        recorded_on = {
            "machine": candidate.machine,
            "versions": candidate.versions,
            "reference_machine": reference.machine,
            "reference_versions": reference.versions,
        }
    write_json(target, parity_document(comparisons, typed, recorded_on, notes))
