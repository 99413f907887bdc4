"""What a difference comes from: causes that are put to the test, none that is guessed.

A cause is named where undoing it makes the candidate match: the reference is run on pictures with
red and blue exchanged, moved by half pixels, its classes renamed, its normalisation changed.  A
cause explains a difference if what is left of it is a small part of it.  Where nothing explains
it, that is what is said.

    Tally ──find_cause──▶ Cause, or None ─┬─▶ the gate's point "only rounding"
                                          └─diagnose──▶ sentences, where the gate fails
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.metrics import edge_bands
from fcn_deploy.parity.tally import EDGE_DISTANCE, SMALLEST_TELLING, BatchCheck, Tally
from fcn_deploy.runners.base import Runner

#: A changed normalisation has six parameters, in grey levels: per channel what it adds to mid-grey,
#: then per channel how much more it adds to white; the two disturb each other least.
_MID_GREY = 127.5
#: Pixels divided by 256 instead of 255, in these parameters.
_BY_256 = np.full(6, _MID_GREY * (255 / 256 - 1))
#: Changes below so many grey levels drown where pixels become whole numbers again: there the
#: network's slopes say what they do.
_SMALL_CHANGE = 2.0
#: Changes of no more grey levels than this are a normalisation's constants, rounded.
_ROUNDED_CONSTANTS = 0.1
#: Shifts are tried up to this far, in steps of half a pixel, in pixels.
FARTHEST_SHIFT = 2.0
#: Shifts and classes are compared in a window of at most so many pixels a side.
_WINDOW = 192
#: Larger pictures are cut down to this (height, width) for the reference to be run many times.
_CUT = (384, 512)
#: A class that the reference gives this often and the candidate never is called lost.
_NOTICED_PIXELS = 64

#: The gate's point that a batch is checked by.
PLACE_IN_BATCH = "place in batch"

CauseKind = Literal["channels", "shift", "classes", "normalisation"]

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
class _Allowed:
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


_ALONE = _Allowed(exactly=0.1, normalisation=0.25, half_pixel=0.5)
#: Nothing undoes rounding, so more of the difference is left.
_BESIDE_ROUNDING = _Allowed(exactly=0.5, normalisation=0.5, half_pixel=0.5)


@dataclass(frozen=True)
class _Case:
    """One picture and what both networks make of it."""

    image: Image
    mask: Mask  # [H, W]
    logits: Logits  # [C, H, W]
    candidate_mask: Mask
    candidate_logits: Logits

    @property
    def error(self) -> float:
        return _rms(self.candidate_logits - self.logits)


def find_cause(
    reference: Runner,
    candidate: Runner,
    tally: Tally,
    *,
    beside_rounding: bool,
    can_rerun: bool,
) -> Cause | None:
    """Put causes of a difference of the logits to the test, on the picture with the largest.

    Args:
        reference: float32, still open.
        candidate: still open.
        tally: of the comparison.
        beside_rounding: whether the candidate also rounds, so that undoing the cause leaves that.
        can_rerun: whether the runners take other pictures than they were compared on; recorded
            outputs do not, and tell neither exchanged channels nor a changed normalisation.

    Returns:
        The cause, or None where none that is known explains the difference.
    """
    if not tally.finite or tally.least_alike is None:
        return None
    case = _case(reference, candidate, tally.least_alike.image)
    if can_rerun:
        case = _cut_down(reference, candidate, case)
    allowed = _BESIDE_ROUNDING if beside_rounding else _ALONE
    return next(_causes(reference, case, allowed, can_rerun), None)


def diagnose(
    reference: Runner,
    candidate: Runner,
    tally: Tally,
    batch: BatchCheck,
    *,
    cause: Cause | None,
    failed: Collection[str],
    allowed_error: float,
    can_rerun: bool,
) -> list[str]:
    """Say what the difference between candidate and reference looks like.

    Args:
        reference: float32, still open.
        candidate: still open.
        tally: of the comparison that failed.
        batch: its check of places in a batch.
        cause: what :func:`find_cause` found.
        failed: names of the gate's points that do not hold.
        allowed_error: greatest |Δlogit| that the gate allows.
        can_rerun: whether the runners take other pictures than they were compared on.

    Returns:
        Sentences, the surest first; at least one.
    """
    if not tally.finite:
        return list(_not_finite(tally))
    found = list(_other_normalisation(reference.spec, candidate.spec))
    if cause is not None and not (found and cause.kind == "normalisation"):
        found.append(cause.sentence)
    if PLACE_IN_BATCH in failed:
        found.append(_misplaced(batch))
    if cause is not None or set(failed) == {PLACE_IN_BATCH}:
        return found
    small = tally.epsilon <= allowed_error
    telling = (tally.most_flipped if small else None) or tally.least_alike
    if telling is None:
        return found or [_nothing_to_tell(tally)]
    case = _case(reference, candidate, telling.image)
    if small:
        found += _in_the_masks_alone(case, tally, reference.spec.class_names)
        return found or [_rounding(tally, allowed_error)]
    return found or [
        _unexplained(case, tally, max(allowed_error, 1e-30), can_rerun),
        *_lost(tally, reference.spec.class_names),
    ]


def _case(reference: Runner, candidate: Runner, image: Image) -> _Case:
    expected, given = reference.run(image[None]), candidate.run(image[None])
    assert expected.logits is not None  # the comparison needed them before
    assert given.logits is not None
    return _Case(image, expected.mask[0], expected.logits[0], given.mask[0], given.logits[0])


def _cut_down(reference: Runner, candidate: Runner, case: _Case) -> _Case:
    """Return the middle of a large picture, if the failure is to be seen there as well."""
    height, width = case.mask.shape
    rows, columns = min(height, _CUT[0]), min(width, _CUT[1])
    if (rows, columns) == (height, width):
        return case
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = np.ascontiguousarray(case.image[top : top + rows, left : left + columns])
    try:
        smaller = _case(reference, candidate, middle)
    except FcnDeployError:  # an engine may have been built for the whole size alone
        return case
    return smaller if smaller.error >= case.error / 2 else case


def _rms(values: Floats) -> float:
    flat = np.ravel(values)
    return math.sqrt(float(np.dot(flat, flat)) / flat.size) if flat.size else 0.0


# -- what needs no test -------------------------------------------------------------------------


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
            f"the candidate's file says mean {_triple(candidate.mean)} and std "
            f"{_triple(candidate.std)}, the reference's mean {_triple(reference.mean)} and std "
            f"{_triple(reference.std)}: export it again"
        )


def _triple(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in values) + ")"


def _misplaced(batch: BatchCheck) -> str:
    said = (
        f"masks depend on the picture's place in the batch ({batch.flips:,} pixels of "
        f"{batch.pictures} pictures)"
    )
    moved = [
        f"place {place} gets the mask of place {source}"
        for place, source in enumerate(batch.sources)
        if source not in (None, place)
    ]
    cause = f"{_listed(moved)}: " if moved else ""
    advice = "look for a layer that folds the batch axis, or takes statistics over it"
    return f"{said}; {cause}{advice}"


def _nothing_to_tell(tally: Tally) -> str:
    if tally.flips or tally.epsilon:
        return f"only pictures of less than {SMALLEST_TELLING} px differ: too small to say why"
    return "candidate and reference give the same figures: the gate asks for more than that"


# -- causes, each tested ------------------------------------------------------------------------


def _causes(reference: Runner, case: _Case, allowed: _Allowed, can_rerun: bool) -> Iterator[Cause]:
    if can_rerun and _left(case, _on(reference, case.image[..., ::-1])) < allowed.exactly:
        yield Cause(
            "channels",
            "the candidate matches the reference on pictures with red and blue exchanged: "
            "it reads BGR",
        )
    shift = _shift_of_logits(case, allowed)
    if shift is not None:
        yield Cause("shift", f"the candidate's masks lie {_where(shift)}")
    renamed = _renamed_classes(case, allowed)
    if renamed is not None:
        yield Cause("classes", _permutation(renamed, reference.spec.class_names))
    if can_rerun:
        changed = _changed_normalisation(reference, case, allowed)
        if changed is not None:
            yield Cause("normalisation", changed)


def _on(reference: Runner, image: Image) -> Logits:
    logits = reference.run(np.ascontiguousarray(image)[None]).logits
    assert logits is not None  # it gave some before
    first: Logits = logits[0]
    return first


def _left(case: _Case, logits: Logits) -> float:
    """Return the share of the difference that is left once the reference gives ``logits``."""
    return _rms(case.candidate_logits - logits) / case.error if case.error else math.inf


def _shift_of_logits(case: _Case, allowed: _Allowed) -> tuple[float, float] | None:
    """Return the (down, right) in pixels by which the candidate's logits lie elsewhere."""
    reach = math.ceil(FARTHEST_SHIFT)
    rows, columns = _window(case.mask.shape, reach)
    candidate = case.candidate_logits[:, rows, columns]
    plain = _rms(candidate - case.logits[:, rows, columns])
    if candidate.size == 0 or plain == 0:
        return None

    def left_over(shift: tuple[float, float]) -> float:
        return _rms(candidate - _moved(case.logits, rows, columns, shift))

    best = min(_shifts(0.5), key=left_over)
    whole = all(part == round(part) for part in best)
    share = allowed.exactly if whole else allowed.half_pixel
    return best if left_over(best) < share * plain else None


def _window(shape: tuple[int, ...], margin: int) -> tuple[slice, slice]:
    """Return the rows and columns of the middle, ``margin`` or more from the border."""
    sizes = [max(0, min(_WINDOW, length - 2 * margin)) for length in shape]
    starts = [(length - size) // 2 for length, size in zip(shape, sizes, strict=True)]
    rows, columns = (slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
    return rows, columns


def _shifts(step: float) -> list[tuple[float, float]]:
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


def _where(shift: tuple[float, float]) -> str:
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


def _renamed_classes(case: _Case, allowed: _Allowed) -> list[int] | None:
    """Return the reference's class of each of the candidate's channels, if that explains it."""
    rows, columns = _window(case.mask.shape, 0)
    count = len(case.logits)
    # Channels as rows of pixels: (C, pixels), in float64 for the squares below.
    before = case.logits[:, rows, columns].reshape(count, -1).astype(np.float64)
    after = case.candidate_logits[:, rows, columns].reshape(count, -1).astype(np.float64)
    squares = (after**2).sum(axis=1)[:, None] + (before**2).sum(axis=1)[None] - 2 * after @ before.T
    reference_class = squares.argmin(axis=1)  # of each of the candidate's channels
    if len(set(reference_class.tolist())) != count:
        return None
    if _left(case, case.logits[reference_class]) >= allowed.exactly:
        return None
    return [int(index) for index in reference_class]


def _permutation(reference_class: Sequence[int], names: Sequence[str]) -> str:
    moved = [index for index, other in enumerate(reference_class) if index != other]
    pairs = [(i, reference_class[i]) for i in moved if i < reference_class[i]]
    if all(reference_class[other] == index for index, other in pairs) and 2 * len(pairs) == len(
        moved
    ):
        said = [f"classes {names[one]} and {names[other]} are exchanged" for one, other in pairs]
        return _listed(said)
    said = [f"{names[index]} is the reference's {names[reference_class[index]]}" for index in moved]
    return f"classes are permuted: the candidate's {_listed(said)}"


def _listed(words: Sequence[str], most: int = 5) -> str:
    more = f", and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


#: What people do to pixels in [0, 1] instead of subtracting mean and dividing by std.
_NormalisationOf = Callable[[ModelSpec], tuple[Sequence[float], Sequence[float]]]
_NORMALISATIONS: tuple[tuple[str, _NormalisationOf], ...] = (
    (
        "the candidate scales pixels to [0, 1] and applies neither mean nor std",
        lambda _: ((0.0,) * 3, (1.0,) * 3),
    ),
    (
        "the candidate scales pixels to [-1, 1] instead of applying mean and std",
        lambda _: ((0.5,) * 3, (0.5,) * 3),
    ),
    ("the candidate subtracts mean but does not divide by std", lambda s: (s.mean, (1.0,) * 3)),
    ("the candidate divides by std but does not subtract mean", lambda s: ((0.0,) * 3, s.std)),
    (
        "the candidate applies mean and std in the order of BGR to pixels in that of RGB",
        lambda s: (s.mean[::-1], s.std[::-1]),
    ),
)


def _changed_normalisation(reference: Runner, case: _Case, allowed: _Allowed) -> str | None:
    """Test other normalisations, by changing pixels so that the reference's has that effect."""
    mean, std = np.array(reference.spec.mean), np.array(reference.spec.std)

    def left_over(statistics: _NormalisationOf) -> float:
        other_mean, other_std = (np.array(values) for values in statistics(reference.spec))
        # (x - m') / s' = (a x + b - m) / s
        factor = std / other_std
        image = _affine(case.image, factor, 255 * (mean - other_mean * factor))
        return _left(case, _on(reference, image))

    left, sentence = min((left_over(statistics), said) for said, statistics in _NORMALISATIONS)
    if left < allowed.normalisation:
        return sentence
    return _fitted_normalisation(reference, case, allowed)


def _affine(image: Image, factor: Floats, offset: Floats) -> Image:
    """Return ``factor`` · image + ``offset`` per channel, rounded and kept within 0..255."""
    changed: Image = (image * factor + offset).round().clip(0, 255).astype(np.uint8)
    return changed


def _factor_and_offset(parameters: Floats) -> tuple[Floats, Floats]:
    """Return what pixels, 0 to 255, are multiplied by, and what is added to them, per channel."""
    factor = 1 + parameters[3:] / _MID_GREY
    return factor, parameters[:3] + _MID_GREY * (1 - factor)


def _fitted_normalisation(reference: Runner, case: _Case, allowed: _Allowed) -> str | None:
    """Fit the change of pixels, factor and offset per channel, that explains the candidate.

    Gauss–Newton with differences over whole grey levels, as pixels are whole numbers.
    """

    def logits_at(parameters: Floats) -> Logits:
        return _on(reference, _affine(case.image, *_factor_and_offset(parameters)))

    step = 4.0  # grey levels
    found, logits, left = np.zeros(6), case.logits, case.error
    for _ in range(4):
        slopes = np.stack(  # (6, logits), from both sides: pixels at the end of their range stay
            [
                (logits_at(found + step * one) - logits_at(found - step * one)).ravel()
                for one in np.eye(6)
            ]
        ) / np.float32(2 * step)
        missing = (case.candidate_logits - logits).ravel()
        change, *_ = np.linalg.lstsq(slopes @ slopes.T, slopes @ missing, rcond=1e-6)
        if not found.any() and np.abs(change).max() < _SMALL_CHANGE:
            return _small_change(reference.spec, slopes, missing, change, allowed)
        # A network is far from linear: no further than it can be trusted.
        change *= min(1.0, 40.0 / max(1e-9, float(np.abs(change).max())))
        trial = logits_at(found + change)
        remaining = _rms(case.candidate_logits - trial)
        if remaining >= left:
            break
        found, logits, left = found + change, trial, remaining
    if left >= allowed.normalisation * case.error:
        return None
    return _other_statistics(reference.spec, found)


def _small_change(
    spec: ModelSpec,
    slopes: Floats,
    missing: Floats,
    change: Floats,
    allowed: _Allowed,
) -> str | None:
    """Judge a change of less than whole grey levels by the network's slopes.

    Args:
        spec: of the reference.
        slopes: of the logits by each of the six parameters, per grey level: (6, logits).
        missing: the candidate's logits less the reference's: (logits).
        change: the parameters that explain most of them.
        allowed: what may be left.
    """

    def left_over(parameters: Floats) -> float:
        return _rms(missing - parameters.astype(np.float32) @ slopes) / (_rms(missing) or math.inf)

    left = left_over(change)
    if left >= allowed.normalisation or np.abs(change).max() <= _ROUNDED_CONSTANTS:
        return None
    if left_over(_BY_256) < min(allowed.normalisation, left + 0.1):
        return "the candidate divides pixels by 256 instead of 255"
    return _other_statistics(spec, change)


def _other_statistics(spec: ModelSpec, parameters: Floats) -> str:
    factor, offset = _factor_and_offset(parameters)
    mean, std = np.array(spec.mean), np.array(spec.std)
    return (
        "the candidate's mean and std are others than the reference's: it gives what the "
        f"reference gives with mean {_triple((mean - offset / 255) / factor)} and std "
        f"{_triple(std / factor)} instead of mean {_triple(mean)} and std {_triple(std)}"
    )


# -- masks that are not what the logits say -----------------------------------------------------


def _in_the_masks_alone(case: _Case, tally: Tally, names: Sequence[str]) -> Iterator[str]:
    told = "though not in the logits: look at what comes after them"
    shift = _shift_of_masks(case)
    if shift is not None:
        yield f"the candidate's masks lie {_where(shift).partition(':')[0]}, {told}"
        return
    renamed = _renamed_masks(tally)
    if renamed is not None:
        yield f"{_permutation(renamed, names)} in the masks, {told}"
        return
    lost = list(_lost(tally, names))
    yield from lost
    wrong = tally.decided_flips()
    if wrong and not lost:
        yield (
            f"the logits agree, but the candidate's mask is not their argmax at {wrong:,} pixels: "
            "look at what comes after the logits"
        )


def _shift_of_masks(case: _Case) -> tuple[float, float] | None:
    rows, columns = _window(case.mask.shape, math.ceil(FARTHEST_SHIFT))
    candidate = case.candidate_mask[rows, columns]
    plain = np.count_nonzero(candidate != case.mask[rows, columns])

    def left_over(shift: tuple[float, float]) -> int:
        down, right = (int(part) for part in shift)
        moved = case.mask[
            rows.start - down : rows.stop - down, columns.start - right : columns.stop - right
        ]
        return int(np.count_nonzero(candidate != moved))

    best = min(_shifts(1.0), key=left_over)
    return best if left_over(best) < _ALONE.exactly * plain else None


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


# -- what is left -------------------------------------------------------------------------------


def _rounding(tally: Tally, allowed_error: float) -> str:
    small = f"errors are small (ε = {tally.epsilon:.3g}, allowed {allowed_error:.3g})"
    if not tally.flips:
        return f"{small} and no pixel flips: the gate asks for more than that"
    return (
        f"{small} and no decided pixel flips, but {tally.flips:,} undecided ones do, "
        f"{100 * tally.boundary_flips / tally.flips:.0f} % of them within {EDGE_DISTANCE} px of a "
        "class edge: rounding, where the network is close to a tie"
    )


def _unexplained(case: _Case, tally: Tally, allowed_error: float, can_rerun: bool) -> str:
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
