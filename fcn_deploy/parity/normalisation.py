"""Tests whether a difference comes from a wrong mean, scale or channel order of the input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.parity.evidence import (
    Evidence,
    Floats,
    Image,
    Logits,
    Tolerance,
    logits_on,
    rms,
    triple_words,
    unexplained_error,
)
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


def changed_normalisation(reference: Runner, case: Evidence, allowed: Tolerance) -> str | None:
    """Test other normalisations, by changing pixels so that the reference's has that effect."""
    mean, std = np.array(reference.spec.mean), np.array(reference.spec.std)

    def residual(statistics: _NormalisationOf) -> float:
        other_mean, other_std = (np.array(values) for values in statistics(reference.spec))
        # (x - m') / s' = (a x + b - m) / s
        factor = std / other_std
        image = _affine(case.image, factor, 255 * (mean - other_mean * factor))
        return unexplained_error(case, logits_on(reference, image))

    left, sentence = min((residual(statistics), said) for said, statistics in _NORMALISATIONS)
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


def _fitted_normalisation(reference: Runner, case: Evidence, allowed: Tolerance) -> str | None:
    """Fit the change of pixels, factor and offset per channel, that explains the candidate.

    Gauss–Newton with differences over whole grey levels, as pixels are whole numbers.
    """

    def logits_at(parameters: Floats) -> Logits:
        return logits_on(reference, _affine(case.image, *_factor_and_offset(parameters)))

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
        remaining = rms(case.candidate_logits - trial)
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
    allowed: Tolerance,
) -> str | None:
    """Judge a change of less than whole grey levels by the network's slopes.

    Args:
        spec: of the reference.
        slopes: of the logits by each of the six parameters, per grey level: (6, logits).
        missing: the candidate's logits less the reference's: (logits).
        change: the parameters that explain most of them.
        allowed: what may be left.
    """

    def residual(parameters: Floats) -> float:
        return rms(missing - parameters.astype(np.float32) @ slopes) / (rms(missing) or math.inf)

    left = residual(change)
    if left >= allowed.normalisation or np.abs(change).max() <= _ROUNDED_CONSTANTS:
        return None
    if residual(_BY_256) < min(allowed.normalisation, left + 0.1):
        return "the candidate divides pixels by 256 instead of 255"
    return _other_statistics(spec, change)


def _other_statistics(spec: ModelSpec, parameters: Floats) -> str:
    factor, offset = _factor_and_offset(parameters)
    mean, std = np.array(spec.mean), np.array(spec.std)
    return (
        "the candidate's mean and std are others than the reference's: it gives what the "
        f"reference gives with mean {triple_words((mean - offset / 255) / factor)} and std "
        f"{triple_words(std / factor)} instead of mean {triple_words(mean)} and std "
        f"{triple_words(std)}"
    )
