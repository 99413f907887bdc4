"""What a difference comes from: causes that are put to the test, none that is guessed.

A cause is named where undoing it makes the candidate match: the reference is run on pictures with
red and blue exchanged, moved by half pixels, its classes renamed, its normalisation changed.  A
cause explains a difference if what is left of it is a small part of it.  Where nothing explains
it, that is what is said.

    CandidateRun ──find_cause──▶ Cause, or None ─┬─▶ the gate's point "only rounding"
                                                 └─diagnose──▶ sentences, where the gate fails
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.metrics import edge_bands
from fcn_deploy.parity.causes import (
    FARTHEST_SHIFT,
    candidate_causes,
    class_bias,
    list_words,
    permutation_words,
    shift_words,
    shifts,
    window,
)
from fcn_deploy.parity.evidence import (
    ALONE,
    BESIDE_ROUNDING,
    CandidateRun,
    Cause,
    Evidence,
    cut_down,
    evidence_of,
    triple_words,
)
from fcn_deploy.parity.stream import StreamedMasks
from fcn_deploy.parity.tally import EDGE_DISTANCE, SMALLEST_TELLING, Tally

#: A class that the reference gives this often and the candidate never is called lost.
_NOTICED_PIXELS = 64
#: The gate's points that are failed for reasons of their own.
PLACE_IN_BATCH, STREAM, EVERY_CLASS = "place in batch", "stream", "every class"
#: Those of them that the logits of single pictures say nothing about.
NOT_IN_LOGITS = frozenset({PLACE_IN_BATCH, STREAM})


def find_cause(run: CandidateRun, *, with_bias: bool) -> Cause | None:
    """Put causes of a difference of the logits to the test, on the picture with the largest.

    Args:
        run: the candidate.
        with_bias: whether a bias of a class is looked for.  Rounding, of weights above all, gives
            each class a little of it, so that alone it is no mistake.

    Returns:
        The cause, or None where none that is known explains the difference.
    """
    reference, candidate = run.reference, run.candidate
    if not run.tally.finite or run.tally.least_alike is None:
        return None
    case = evidence_of(reference, candidate, run.tally.least_alike.image)
    if run.can_rerun:
        case = cut_down(reference, candidate, case)
    # Where a gate is coarse the candidate also rounds, and undoing the cause leaves that.
    allowed = BESIDE_ROUNDING if run.gate.coarse else ALONE
    known = candidate_causes(reference, case, allowed, run.can_rerun)
    biased = class_bias(reference.spec.class_names, case, allowed) if with_bias else None
    return next(known, biased)


def diagnose(run: CandidateRun, cause: Cause | None, failed: Collection[str]) -> list[str]:
    """Say what the difference between candidate and reference looks like.

    Args:
        run: of a candidate that does not pass.
        cause: what :func:`find_cause` found.
        failed: names of the gate's points that do not hold.

    Returns:
        Sentences, the surest first; at least one.
    """
    tally, spec = run.tally, run.reference.spec
    if not tally.finite:
        return list(_not_finite(tally))
    found = list(_other_normalisation(spec, run.candidate.spec))
    if cause is not None and not (found and cause.kind == "normalisation"):
        found.append(cause.sentence)
    if PLACE_IN_BATCH in failed:
        found += _misplaced(run)
    if STREAM in failed:
        found.append(_misplaced_in_stream(run.stream))
    if cause is not None or NOT_IN_LOGITS.issuperset(failed):
        return found
    small = tally.epsilon <= run.allowed_error
    telling = (tally.most_flipped if small else None) or tally.least_alike
    if telling is None:
        return found or [_nothing_to_tell(tally)]
    case = evidence_of(run.reference, run.candidate, telling.image)
    if small:
        found += _in_the_masks_alone(case, tally, spec.class_names)
        return found or [_rounding(tally, run.allowed_error)]
    return found or [
        _unexplained(case, tally, max(run.allowed_error, 1e-30), run.can_rerun),
        *_lost(tally, spec.class_names),
    ]


def _not_finite(tally: Tally) -> Iterator[str]:
    if tally.reference_broken:
        yield (
            f"the reference's own logits are NaN or infinite in {tally.reference_broken} of "
            f"{tally.pictures} pictures: look at the checkpoint's weights"
        )
    if tally.candidate_broken:
        yield (
            f"the candidate's logits are NaN or infinite in {tally.candidate_broken} of "
            f"{tally.pictures} pictures: run `fcn-deploy parity --bisect` to find the layer"
        )


def _other_normalisation(reference: ModelSpec, candidate: ModelSpec) -> Iterator[str]:
    if (candidate.mean, candidate.std) != (reference.mean, reference.std):
        yield (
            f"the candidate's file says mean {triple_words(candidate.mean)} and std "
            f"{triple_words(candidate.std)}, the reference's mean {triple_words(reference.mean)} "
            f"and std {triple_words(reference.std)}: export it again"
        )


def _misplaced(run: CandidateRun) -> Iterator[str]:
    advice = "look for a layer that folds the batch axis, or takes statistics over it"
    for batch in run.batches:
        if not batch.check.flips:
            continue
        said = (
            f"masks depend on the picture's place in the batch ({batch.check.flips:,} pixels of "
            f"{batch.check.pictures} pictures)"
        )
        moved = [
            f"place {place} gets the mask of place {source}"
            for place, source in enumerate(batch.sources)
            if source not in (None, place)
        ]
        cause = f"{list_words(moved)}: " if moved else ""
        yield f"{said}; {cause}{advice}"
        return  # what is wrong with a second batch is the same
    yield f"the logits of pictures in a batch are others than those of the same alone; {advice}"


def _misplaced_in_stream(stream: StreamedMasks) -> str:
    check = stream.check
    said = (
        f"the stream gives other masks than single runs ({check.flips:,} pixels of "
        f"{check.batches} batches)"
    )
    moved = [f"batch {place} gets the masks of batch {where}" for place, where in stream.misplaced]
    cause = f"{list_words(moved)}: " if moved else ""
    return f"{said}; {cause}look at what the stream opens, and at buffers that are used again"


def _nothing_to_tell(tally: Tally) -> str:
    if tally.flips or tally.epsilon:
        return f"only pictures of less than {SMALLEST_TELLING} px differ: too small to say why"
    return "candidate and reference give the same figures: the gate asks for more than that"


def _in_the_masks_alone(case: Evidence, tally: Tally, names: Sequence[str]) -> Iterator[str]:
    told = "though not in the logits: look at what comes after them"
    shift = _shift_of_masks(case)
    if shift is not None:
        yield f"the candidate's masks lie {shift_words(shift).partition(':')[0]}, {told}"
        return
    renamed = _renamed_masks(tally)
    if renamed is not None:
        yield f"{permutation_words(renamed, names)} in the masks, {told}"
        return
    lost = list(_lost(tally, names))
    yield from lost
    wrong = tally.decided_flips()
    if wrong and not lost:
        yield (
            f"the logits agree, but the candidate's mask is not their argmax at {wrong:,} pixels: "
            "look at what comes after the logits"
        )


def _shift_of_masks(case: Evidence) -> tuple[float, float] | None:
    rows, columns = window(case.mask.shape, math.ceil(FARTHEST_SHIFT))
    candidate = case.candidate_mask[rows, columns]
    plain = np.count_nonzero(candidate != case.mask[rows, columns])

    def residual(shift: tuple[float, float]) -> int:
        down, right = (int(part) for part in shift)
        moved = case.mask[
            rows.start - down : rows.stop - down, columns.start - right : columns.stop - right
        ]
        return int(np.count_nonzero(candidate != moved))

    best = min(shifts(1.0), key=residual)
    return best if residual(best) < ALONE.exactly * plain else None


def _renamed_masks(tally: Tally) -> list[int] | None:
    """Return the reference's class of each of the candidate's, if that restores agreement."""
    given = tally.classes.sum(axis=0)
    reference_class = np.where(
        given > 0, tally.classes.argmax(axis=0), np.arange(tally.num_classes)
    )
    if len(set(reference_class.tolist())) != tally.num_classes:
        return None
    restored = int(tally.classes[reference_class, np.arange(tally.num_classes)].sum())
    agreed = int(np.trace(tally.classes))
    if restored < 0.99 * tally.pixels or restored <= agreed:
        return None
    return [int(index) for index in reference_class]


def _lost(tally: Tally, names: Sequence[str]) -> Iterator[str]:
    before, after = tally.classes.sum(axis=1), tally.classes.sum(axis=0)
    for index, name in enumerate(names):
        if before[index] >= _NOTICED_PIXELS and after[index] == 0:
            instead = int(tally.classes[index].argmax())
            yield (
                f"the candidate never gives class {name}, which the reference gives to "
                f"{int(before[index]):,} pixels; most of them are {names[instead]} instead"
            )


def _rounding(tally: Tally, allowed_error: float) -> str:
    small = f"errors are small (ε = {tally.epsilon:.3g}, allowed {allowed_error:.3g})"
    if not tally.flips:
        return f"{small} and no pixel flips: the gate asks for more than that"
    return (
        f"{small} and no decided pixel flips, but {tally.flips:,} undecided ones do, "
        f"{100 * tally.boundary_flips / tally.flips:.0f} % of them within {EDGE_DISTANCE} px of a "
        "class edge: rounding, where the network is close to a tie"
    )


def _unexplained(case: Evidence, tally: Tally, allowed_error: float, can_rerun: bool) -> str:
    interior = ~edge_bands(case.mask, (EDGE_DISTANCE,))[0]
    error = np.abs(case.candidate_logits - case.logits).max(axis=0)
    inside = float(error[interior].max(initial=0.0))
    if inside > allowed_error:
        times = f"{_times(inside / allowed_error)} the allowance in the interior of regions too"
    else:
        times = f"{_times(tally.epsilon / allowed_error)} the allowance, near class edges alone"
    tried = "exchanged channels, a shift" if can_rerun else "a shift"
    advice = "look at mean and std, or the weights"
    if not can_rerun:
        advice += " (saved outputs cannot tell whether channels are exchanged)"
    return (
        f"the logits differ by {times}, and neither {tried} nor exchanged classes explain it: "
        f"{advice}"
    )


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}×" if ratio >= 10 else f"{ratio:.1f}×"
