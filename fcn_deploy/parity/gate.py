"""The gate of `parity`: its limits for each precision, and the checks a candidate must pass."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from fcn_deploy.core.spec import Precision
from fcn_deploy.parity.diagnosis import EVERY_CLASS, PLACE_IN_BATCH, STREAM
from fcn_deploy.parity.evidence import CandidateRun, Cause
from fcn_deploy.parity.tally import EDGE_DISTANCE
from fcn_deploy.results.parity import SAME_MASKS
from fcn_deploy.results.parity_parts import Check, Gate
from fcn_deploy.results.runner import INT8X3_NAME, RunnerDescription

_ONLY_ROUNDING = "only rounding"
#: A class of fewer pixels is not judged by itself: a handful of undecided ones would decide.
JUDGED_PIXELS = 1000

#: The limits by the precision of the candidate's arithmetic.
GATES = {
    # Sums in another order move logits by up to 1.4e-6 of their spread; weights in half precision
    # by 5e-4, TF32 by 1e-3.
    Precision.FP32.value: Gate(SAME_MASKS, 1e-5, 0.999, 1e-4),
    # Its error is a share of a layer's largest activation, so one outlier can cost more than the
    # 5e-5 of an ordinary picture.
    INT8X3_NAME: Gate(SAME_MASKS, 1e-3, 0.99, 1e-4),
    # Pixels divided by 256 move logits by less than that: an ε of 0.004, an honest one of 0.001.
    Precision.FP16.value: Gate(0.995, 1e-2, 0.99, 1e-3, coarse=True),
    # Eight bits of mantissa, or of all: what counts is what the labels say.
    Precision.BF16.value: Gate(0.98, 0.1, 0.95, 1e-3, 0.5, coarse=True),
    # A trained fcn32s-resnet18 on CamVid (ONNX Runtime and OpenVINO, camvid-20-epochs below
    # benchmarks/results) agrees on 99.46 and 99.49 % of the pixels, its ε is at most 0.018 of the
    # largest spread, a class keeps 91.3 % at least, and its mIoU changes by 0.109 point at most:
    # the limits leave room for deeper bodies.
    Precision.INT8.value: Gate(0.98, 0.15, 0.90, 1e-3, 0.5, coarse=True),
}


def gate_of(candidate: RunnerDescription) -> Gate:
    """Return the limits for a candidate, by what it computes in."""
    return GATES[candidate.precision_name]


def only_rounding_check(cause: Cause | None, can_rerun: bool) -> Check:
    """Return the check that no known mistake hides beside the rounding."""
    if cause is not None:
        return Check(_ONLY_ROUNDING, False, cause.sentence)
    tested = "no exchanged channels, shift, classes or normalisation"
    if not can_rerun:
        tested = "no shift or classes (saved outputs tell neither channels nor normalisation)"
    return Check(_ONLY_ROUNDING, True, f"nothing larger than rounding: {tested}")


def gate_checks(run: CandidateRun) -> Iterator[Check]:
    """Yield the points of the gate, each with its figure and its limit."""
    tally, gate = run.tally, run.gate
    yield Check(
        "finite logits",
        tally.finite,
        "all logits are finite" if tally.finite else "some logits are NaN or infinite",
    )
    relative = tally.epsilon / tally.logit_scale if tally.logit_scale else math.inf
    yield Check(
        "logit error",
        relative <= gate.max_relative_epsilon,
        f"largest |Δlogit| ε = {tally.epsilon:.3g}, {relative:.2g} of the logits' largest spread; "
        f"allowed {gate.max_relative_epsilon:g}",
    )
    decided, wrong = tally.margins.at_least(2 * tally.epsilon), tally.decided_flips()
    yield Check(
        "decided pixels",
        wrong == 0,
        f"{count_words(wrong)} among the {share_words(decided, tally.pixels)} of pixels whose "
        "margin exceeds 2ε; allowed 0",
    )
    yield _all_pixels(run)
    yield _every_class(run)
    yield from _mean_iou(run)
    if run.batches:  # a network may take single pictures alone
        yield _place_in_batch(run)
    yield _stream(run)


def _all_pixels(run: CandidateRun) -> Check:
    """Check the share that agrees, of the pictures and of what was made of them apart.

    The extras have millions of pixels: beside a few small pictures they would decide alone.
    """
    tally, gate = run.tally, run.gate
    own, extra = tally.own_classes, tally.classes - tally.own_classes
    kept = all(
        np.trace(counts) >= gate.min_agreement * counts.sum()
        for counts in (own, extra)
        if counts.any()
    )
    return Check(
        "all pixels",
        kept,
        f"{share_words(tally.pixels - tally.flips, tally.pixels)} of {tally.pixels:,} pixels agree "
        f"({count_words(tally.flips)}, "
        f"{tally.boundary_flips} of them within {EDGE_DISTANCE} px of a class edge), of the "
        f"pictures alone {share_words(int(np.trace(own)), int(own.sum()))}; "
        f"required {gate.min_agreement:.2%}",
    )


def _every_class(run: CandidateRun) -> Check:
    """Check that no class loses, or is given, many pixels: a few per cent of all may be one."""
    names, limit = run.reference.spec.class_names, run.gate.min_class_share
    worst: tuple[float, str] | None = None
    for counts in (run.tally.own_classes, run.tally.classes):
        agreed, before, after = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
        for whole, words in ((before, "keep it"), (after, "given it are the reference's")):
            for index in np.flatnonzero(whole >= JUDGED_PIXELS):
                share = float(agreed[index] / whole[index])
                if worst is None or share < worst[0]:
                    said = share_words(int(agreed[index]), int(whole[index]))
                    pixels = f"{said} of the {int(whole[index]):,} pixels {words}"
                    worst = share, f"worst is class {names[index]}: {pixels}"
    if worst is None:
        return Check(EVERY_CLASS, True, f"no class has {JUDGED_PIXELS:,} pixels: none is judged")
    share, sentence = worst
    return Check(EVERY_CLASS, share >= limit, f"{sentence}; required {limit:.1%}")


def _mean_iou(run: CandidateRun) -> Iterator[Check]:
    tally, gate = run.tally, run.gate
    if tally.reference_confusion is None or tally.candidate_confusion is None:
        return
    before = tally.reference_confusion.mean_iou()
    change = 100 * (tally.candidate_confusion.mean_iou() - before)
    yield Check(
        "mIoU",
        # Where no pixel is labelled there is nothing to lose.
        math.isnan(before) or abs(change) <= gate.max_miou_change,
        f"mIoU {100 * before:.2f} → {100 * before + change:.2f} ({change:+.3f} points); "
        f"allowed ±{gate.max_miou_change:g}",
    )


def _place_in_batch(run: CandidateRun) -> Check:
    checks, tally, gate = [places.check for places in run.batches], run.tally, run.gate
    flips, pixels = sum(check.flips for check in checks), sum(check.pixels for check in checks)
    undecided = all(check.widest_margin <= 2 * tally.epsilon for check in checks if check.flips)
    few = all(check.flips <= gate.max_moved_share * check.pixels for check in checks)
    errors = [math.inf if check.epsilon is None else check.epsilon for check in checks]
    # NaN in a batch alone fails; NaN everywhere is told by a point of its own.
    near = max(errors) <= run.allowed_error or not tally.finite
    batches = " and ".join(str(check.pictures) for check in checks)
    return Check(
        PLACE_IN_BATCH,
        undecided and few and near,
        f"{flips:,} of {pixels:,} pixels depend on the picture's place in a batch of {batches}; "
        f"allowed {gate.max_moved_share:.2%}, below 2ε alone; logits move by {max(errors):.3g}, "
        f"allowed {run.allowed_error:.3g}",
    )


def _stream(run: CandidateRun) -> Check:
    check, gate = run.stream.check, run.gate
    said = (
        f"{count_words(check.flips)} among {check.pixels:,} pixels of {check.batches} batches, "
        "streamed as `predict` does, against a run of each"
    )
    if check.refused:
        said += f" ({check.refused} more are of shapes that it does not take)"
    if not run.description.on_gpu:
        return Check(STREAM, check.flips == 0, f"{said}; allowed 0")
    # There kernels are chosen by timing them, for each file that is built or opened anew.
    undecided = check.widest_margin <= 2 * run.tally.epsilon
    few = check.flips <= gate.max_moved_share * check.pixels
    return Check(
        STREAM,
        check.flips == 0 or (undecided and few),
        f"{said}; allowed {gate.max_moved_share:.2%}, below 2ε alone",
    )


def count_words(count: int) -> str:
    """Say a number of flips."""
    return "1 flip" if count == 1 else f"{count:,} flips"


def share_words(part: int, whole: int) -> str:
    """Return a percentage, rounded down, so that 100 % is said of all and of nothing less."""
    if part == whole:
        return "100 %"
    digits = 2
    while 10 ** (digits + 2) * (whole - part) < whole:  # until the missing part shows
        digits += 1
    return f"{math.floor(100 * 10**digits * part / whole) / 10**digits:.{digits}f} %"
