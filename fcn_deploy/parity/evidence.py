"""The picture, logits and runners on which a diagnosis tests causes of a difference."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.parity.batch_place import BatchPlaces
from fcn_deploy.parity.candidate import masks_and_logits
from fcn_deploy.parity.stream import StreamedMasks
from fcn_deploy.parity.tally import Tally
from fcn_deploy.results.parity_parts import Gate
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import Runner

#: Larger pictures are cut down to this (height, width) for the reference to be run many times.
_CUT = (384, 512)
CauseKind = Literal["channels", "shift", "classes", "normalisation", "bias"]
Image = NDArray[np.uint8]
Mask = NDArray[np.uint8]
Logits = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Cause:
    """What a difference comes from: undoing it makes the candidate match.

    Attributes:
        kind: of mistake.
        sentence: what the candidate does.
    """

    kind: CauseKind
    sentence: str


@dataclass(frozen=True)
class Tolerance:
    """Shares of a difference's RMS below which what is left of it counts as explained.

    Attributes:
        exactly: where the cause can be undone exactly.
        normalisation: where pixels are changed that stay whole numbers.
        half_pixel: where averages of two pixels stand for what lies between them; a misaligned
            transposed convolution also weighs its neighbours otherwise.
    """

    exactly: float
    normalisation: float
    half_pixel: float


ALONE = Tolerance(exactly=0.1, normalisation=0.25, half_pixel=0.5)
#: Nothing undoes rounding, so more of the difference is left.
BESIDE_ROUNDING = Tolerance(exactly=0.5, normalisation=0.5, half_pixel=0.5)


@dataclass(frozen=True)
class Evidence:
    """One picture and what both networks make of it."""

    image: Image
    mask: Mask  # [H, W]
    logits: Logits  # [C, H, W]
    candidate_mask: Mask
    candidate_logits: Logits

    @property
    def error(self) -> float:
        """RMS of the difference between the candidate's logits and the reference's."""
        return rms(self.candidate_logits - self.logits)


@dataclass(frozen=True)
class CandidateRun:
    """One candidate once all pictures have passed by: what it is judged by.

    Attributes:
        reference: float32, still open.
        candidate: still open.
        description: of the candidate, as it was opened.
        gate: the limits.
        tally: the counts.
        batches: its masks by place in each batch.
        stream: its masks in a stream.
        can_rerun: whether the runners take other pictures than they were compared on; recorded
            outputs do not, and tell neither exchanged channels nor a changed normalisation.
    """

    reference: Runner
    candidate: Runner
    description: RunnerDescription
    gate: Gate
    tally: Tally
    batches: tuple[BatchPlaces, ...]
    stream: StreamedMasks
    can_rerun: bool

    @property
    def allowed_error(self) -> float:
        """Greatest |Δlogit| that the gate allows."""
        return self.gate.max_relative_epsilon * self.tally.logit_scale


def evidence_of(reference: Runner, candidate: Runner, image: Image) -> Evidence:
    """Run both networks on a picture and return what they give."""
    masks, logits = masks_and_logits(reference, image[None])
    given_masks, given_logits = masks_and_logits(candidate, image[None])
    return Evidence(image, masks[0], logits[0], given_masks[0], given_logits[0])


def cut_down(reference: Runner, candidate: Runner, case: Evidence) -> Evidence:
    """Return the middle of a large picture, if the failure is to be seen there as well."""
    height, width = case.mask.shape
    rows, columns = min(height, _CUT[0]), min(width, _CUT[1])
    if (rows, columns) == (height, width):
        return case
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = np.ascontiguousarray(case.image[top : top + rows, left : left + columns])
    try:
        smaller = evidence_of(reference, candidate, middle)
    except FcnDeployError:  # an engine may have been built for the whole size alone
        return case
    return smaller if smaller.error >= case.error / 2 else case


def rms(values: Floats) -> float:
    """Return the root mean square of some values, 0 where there are none."""
    flat = np.ravel(values)
    return math.sqrt(float(np.dot(flat, flat)) / flat.size) if flat.size else 0.0


def triple_words(values: Iterable[float]) -> str:
    """Return three figures in brackets."""
    return "(" + ", ".join(f"{value:.3f}" for value in values) + ")"


def logits_on(reference: Runner, image: Image) -> Logits:
    """Return the reference's logits of a picture, float32 [C, H, W]."""
    _, logits = masks_and_logits(reference, np.ascontiguousarray(image)[None])
    first: Logits = logits[0]
    return first


def unexplained_error(case: Evidence, logits: Logits) -> float:
    """Return the share of the difference that is left once the reference gives ``logits``."""
    return rms(case.candidate_logits - logits) / case.error if case.error else math.inf
