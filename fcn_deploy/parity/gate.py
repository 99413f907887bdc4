"""The gate of `parity`: its limits for each precision, and the checks a candidate must pass."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fcn_deploy.core.spec import Precision
from fcn_deploy.parity.diagnosis import PLACE_IN_BATCH
from fcn_deploy.parity.evidence import Cause
from fcn_deploy.parity.tally import EDGE_DISTANCE, Tally
from fcn_deploy.results.parity import SAME_MASKS
from fcn_deploy.results.parity_parts import BatchCheck, Check, Gate

_ONLY_ROUNDING = "only rounding"

#: The limits by the precision of the candidate's arithmetic.
GATES = {
    Precision.FP32: Gate(SAME_MASKS, 1e-3),
    # Pixels divided by 256 move logits by less than that: an ε of 0.004, an honest one of 0.001.
    Precision.FP16: Gate(0.995, 1e-2, coarse=True),
    # Eight bits of mantissa, or of all: what counts is what the labels say.
    Precision.BF16: Gate(0.98, 0.1, 0.5, coarse=True),
    # A trained fcn32s-resnet18 on CamVid (ONNX Runtime and OpenVINO, parity-int8.json below
    # benchmarks/results) agrees on 99.58 and 99.62 % of the pixels, its ε is 0.039 and 0.040 of the
    # largest |logit|, and its mIoU changes by 0.118 point at most.  The limits are 4.8, 3.7 and 4.2
    # times that: room for deeper bodies.
    Precision.INT8: Gate(0.98, 0.15, 0.5, coarse=True),
}


def only_rounding_check(cause: Cause | None, can_rerun: bool) -> Check:
    """Return the check that no known mistake hides beside the rounding."""
    if cause is not None:
        return Check(_ONLY_ROUNDING, False, cause.sentence)
    tested = "no exchanged channels, shift, classes or normalisation"
    if not can_rerun:
        tested = "no shift or classes (saved outputs tell neither channels nor normalisation)"
    return Check(_ONLY_ROUNDING, True, f"nothing larger than rounding: {tested}")


def gate_checks(tally: Tally, batch: BatchCheck, gate: Gate) -> Iterable[Check]:
    """Yield the points of the gate, each with its figure and its limit."""
    yield Check(
        "finite logits",
        tally.finite,
        "all logits are finite" if tally.finite else "some logits are NaN or infinite",
    )
    relative = tally.epsilon / tally.logit_scale if tally.logit_scale else math.inf
    yield Check(
        "logit error",
        relative <= gate.max_relative_epsilon,
        f"largest |Δlogit| ε = {tally.epsilon:.3g}, {relative:.2g} of the largest |logit|; "
        f"allowed {gate.max_relative_epsilon:g}",
    )
    decided, wrong = tally.margins.at_least(2 * tally.epsilon), tally.decided_flips()
    yield Check(
        "decided pixels",
        wrong == 0,
        f"{count_words(wrong)} among the {share_words(decided, tally.pixels)} of pixels whose "
        "margin exceeds 2ε; allowed 0",
    )
    agreement = 1 - tally.flips / tally.pixels
    yield Check(
        "all pixels",
        agreement >= gate.min_agreement,
        f"{share_words(tally.pixels - tally.flips, tally.pixels)} of {tally.pixels:,} pixels agree "
        f"({count_words(tally.flips)}, "
        f"{tally.boundary_flips} of them within {EDGE_DISTANCE} px of a class edge); "
        f"required {gate.min_agreement:.2%}",
    )
    if tally.reference_confusion is not None and tally.candidate_confusion is not None:
        before = tally.reference_confusion.mean_iou()
        change = 100 * (tally.candidate_confusion.mean_iou() - before)
        yield Check(
            "mIoU",
            # Where no pixel is labelled there is nothing to lose.
            math.isnan(before) or abs(change) <= gate.max_miou_change,
            f"mIoU {100 * before:.2f} → {100 * before + change:.2f} ({change:+.3f} points); "
            f"allowed ±{gate.max_miou_change:g}",
        )
    yield Check(
        PLACE_IN_BATCH,
        batch.flips == 0 or batch.widest_margin <= 2 * tally.epsilon,
        f"{batch.flips} pixels depend on the picture's place in a batch of {batch.pictures}; "
        "allowed only below 2ε",
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
