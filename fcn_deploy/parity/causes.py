"""Tests a difference for known mistakes: BGR, a shift, renamed or biased classes, normalisation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.parity.evidence import (
    Cause,
    Evidence,
    Logits,
    Tolerance,
    logits_on,
    rms,
    unexplained_error,
)
from fcn_deploy.parity.normalisation import changed_normalisation
from fcn_deploy.runners.base import Runner

#: Shifts are tried up to this far, in steps of half a pixel, in pixels.
FARTHEST_SHIFT = 2.0
#: Shifts and classes are compared in a window of at most so many pixels a side.
_WINDOW = 192


def candidate_causes(
    reference: Runner, case: Evidence, allowed: Tolerance, can_rerun: bool
) -> Iterator[Cause]:
    """Yield the causes that explain a difference, the most certain first."""
    if (
        can_rerun
        and unexplained_error(case, logits_on(reference, case.image[..., ::-1])) < allowed.exactly
    ):
        yield Cause(
            "channels",
            "the candidate matches the reference on pictures with red and blue exchanged: "
            "it reads BGR",
        )
    shift = _shift_of_logits(case, allowed)
    if shift is not None:
        yield Cause("shift", f"the candidate's masks lie {shift_words(shift)}")
    renamed = _renamed_classes(case, allowed)
    if renamed is not None:
        yield Cause("classes", permutation_words(renamed, reference.spec.class_names))
    if can_rerun:
        changed = changed_normalisation(reference, case, allowed)
        if changed is not None:
            yield Cause("normalisation", changed)


def _shift_of_logits(case: Evidence, allowed: Tolerance) -> tuple[float, float] | None:
    """Return the (down, right) in pixels by which the candidate's logits lie elsewhere."""
    reach = math.ceil(FARTHEST_SHIFT)
    rows, columns = window(case.mask.shape, reach)
    candidate = case.candidate_logits[:, rows, columns]
    plain = rms(candidate - case.logits[:, rows, columns])
    if candidate.size == 0 or plain == 0:
        return None

    def residual(shift: tuple[float, float]) -> float:
        return rms(candidate - _moved(case.logits, rows, columns, shift))

    best = min(shifts(0.5), key=residual)
    whole = all(part == round(part) for part in best)
    share = allowed.exactly if whole else allowed.half_pixel
    return best if residual(best) < share * plain else None


def window(shape: tuple[int, ...], margin: int) -> tuple[slice, slice]:
    """Return the rows and columns of the middle, ``margin`` or more from the border."""
    sizes = [max(0, min(_WINDOW, length - 2 * margin)) for length in shape]
    starts = [(length - size) // 2 for length, size in zip(shape, sizes, strict=True)]
    rows, columns = (slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
    return rows, columns


def shifts(step: float) -> list[tuple[float, float]]:
    """Return all shifts but none at all, nearest first."""
    count = round(FARTHEST_SHIFT / step)
    along = [step * index for index in range(-count, count + 1)]
    pairs = [pair for pair in itertools.product(along, along) if pair != (0, 0)]
    return sorted(pairs, key=lambda pair: (abs(pair[0]) + abs(pair[1]), pair))


def _moved(
    logits: Logits, rows: slice, columns: slice, shift: tuple[float, float]
) -> NDArray[np.float32]:
    """Return the window of ``logits`` moved by (down, right); half pixels are averages of two."""

    def parts(offset: float) -> tuple[int, ...]:
        low, high = math.floor(offset), math.ceil(offset)
        return (low,) if low == high else (low, high)

    at = list(itertools.product(parts(shift[0]), parts(shift[1])))
    windows = [
        logits[
            :,
            rows.start - down : rows.stop - down,
            columns.start - right : columns.stop - right,
        ]
        for down, right in at
    ]
    total = windows[0].astype(np.float32)
    for window in windows[1:]:
        total = total + window
    moved: NDArray[np.float32] = total / np.float32(len(windows))
    return moved


def shift_words(shift: tuple[float, float]) -> str:
    """Say where to a mask has moved, in pixels."""
    down, right = shift
    words = []
    if down:
        words.append(f"{_pixels(down)} {'down' if down > 0 else 'up'}")
    if right:
        words.append(f"{_pixels(right)} to the {'right' if right > 0 else 'left'}")
    farthest = max(abs(down), abs(right))
    if down != round(down) or right != round(right):
        cause = "a resize or a transposed convolution is aligned otherwise"
    else:
        cause = f"a crop or a padding is off by {'one' if farthest == 1 else 'two'}"
    return f"{' and '.join(words)}: {cause}"


def _pixels(length: float) -> str:
    return "half a pixel" if abs(length) == 0.5 else f"{abs(length):g} px"


def _renamed_classes(case: Evidence, allowed: Tolerance) -> list[int] | None:
    """Return the reference's class of each of the candidate's channels, if that explains it."""
    rows, columns = window(case.mask.shape, 0)
    count = len(case.logits)
    # Channels as rows of pixels: (C, pixels), in float64 for the squares below.
    before = case.logits[:, rows, columns].reshape(count, -1).astype(np.float64)
    after = case.candidate_logits[:, rows, columns].reshape(count, -1).astype(np.float64)
    squares = (after**2).sum(axis=1)[:, None] + (before**2).sum(axis=1)[None] - 2 * after @ before.T
    reference_class = squares.argmin(axis=1)  # of each of the candidate's channels
    if len(set(reference_class.tolist())) != count:
        return None
    if unexplained_error(case, case.logits[reference_class]) >= allowed.exactly:
        return None
    return [int(index) for index in reference_class]


def permutation_words(reference_class: Sequence[int], names: Sequence[str]) -> str:
    """Say which classes have changed places."""
    moved = [index for index, other in enumerate(reference_class) if index != other]
    pairs = [(i, reference_class[i]) for i in moved if i < reference_class[i]]
    if all(reference_class[other] == index for index, other in pairs) and 2 * len(pairs) == len(
        moved
    ):
        said = [f"classes {names[one]} and {names[other]} are exchanged" for one, other in pairs]
        return list_words(said)
    said = [f"{names[index]} is the reference's {names[reference_class[index]]}" for index in moved]
    return f"classes are permuted: the candidate's {list_words(said)}"


def class_bias(names: Sequence[str], case: Evidence, allowed: Tolerance) -> Cause | None:
    """Return the cause that some classes' logits are lower or higher everywhere, if that is it."""
    difference = case.candidate_logits - case.logits
    bias = np.median(difference.reshape(len(difference), -1), axis=1).astype(np.float32)
    if unexplained_error(case, case.logits + bias[:, None, None]) >= allowed.exactly:
        return None
    # A number that all of them share changes no mask.
    apart = bias - np.median(bias)
    worst = np.argsort(-np.abs(apart), kind="stable")
    told = [
        f"class {names[index]} are {abs(apart[index]):.3g} too {_side(apart[index])}"
        for index in worst
        if abs(apart[index]) >= 0.1 * np.abs(apart).max() and apart[index]
    ]
    if not told:
        return None
    return Cause(
        "bias",
        f"the candidate's logits of {list_words(told, most=3)} at every pixel: look at the bias of "
        "the last layer",
    )


def _side(value: float) -> str:
    return "high" if value > 0 else "low"


def list_words(words: Sequence[str], most: int = 5) -> str:
    """Return the first few words as a list, with the number of those left out."""
    more = f", and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
