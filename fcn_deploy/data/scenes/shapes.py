"""Signed distances to the outlines of the shapes: negative inside, in units of the radius."""

import math

import numpy as np

from fcn_deploy.data.scenes.surfaces import Field


def _length(u: Field, v: Field) -> Field:
    # np.hypot is left to the platform's libm; this is not.
    return np.sqrt(u * u + v * v)


def disc(u: Field, v: Field, proportion: float) -> Field:
    """Return the distance to a disc; ``proportion``, 0 to 1, varies its form."""
    return _length(u, v) - (0.84 + 0.12 * proportion)


def ring(u: Field, v: Field, proportion: float) -> Field:
    """Return the distance to a ring; ``proportion``, 0 to 1, varies its form."""
    inner = 0.36 + 0.12 * proportion
    return np.abs(_length(u, v) - (1 + inner) / 2) - (1 - inner) / 2


def box(u: Field, v: Field, proportion: float) -> Field:
    """Return the distance to a rounded square; ``proportion``, 0 to 1, varies its form."""
    corner = 0.10 + 0.12 * proportion
    beyond_u, beyond_v = np.abs(u) - (0.74 - corner), np.abs(v) - (0.74 - corner)
    outside = _length(np.maximum(beyond_u, 0), np.maximum(beyond_v, 0))
    return outside + np.minimum(np.maximum(beyond_u, beyond_v), 0) - corner


def triangle(u: Field, v: Field, proportion: float) -> Field:
    """Return the distance to a rounded triangle; ``proportion``, 0 to 1, varies its form."""
    corner = 0.06 + 0.06 * proportion
    half_edge = (1 - corner) * math.sqrt(3) / 2
    slope = math.sqrt(3)
    u = np.abs(u) - half_edge
    v = v + half_edge / slope
    # Fold the plane so that only the base edge is left to measure.
    folded = u + slope * v > 0
    u, v = np.where(folded, (u - slope * v) / 2, u), np.where(folded, (-slope * u - v) / 2, v)
    u = u - np.clip(u, -2 * half_edge, 0)
    return -_length(u, v) * np.sign(v) - corner


# cos and sin of 36 degrees, from square roots.
_COS_36 = (1 + math.sqrt(5)) / 4
_SIN_36 = math.sqrt(10 - 2 * math.sqrt(5)) / 4


def star(u: Field, v: Field, proportion: float) -> Field:
    """Return the distance to a star of five tips; ``proportion``, 0 to 1, varies its form."""
    corner = 0.05
    tip, waist = 1 - corner, 0.50 + 0.12 * proportion
    u = np.abs(u)
    # Two mirrors fold the five points onto the one that points up the v axis.
    for mirror_u, mirror_v in ((_COS_36, -_SIN_36), (-_COS_36, -_SIN_36)):
        beyond = 2 * np.maximum(mirror_u * u + mirror_v * v, 0)
        u, v = u - beyond * mirror_u, v - beyond * mirror_v
    u, v = np.abs(u), v - tip
    edge_u, edge_v = waist * _SIN_36, waist * _COS_36 - 1
    along = np.clip((u * edge_u + v * edge_v) / (edge_u * edge_u + edge_v * edge_v), 0, tip)
    side = np.sign(v * edge_u - u * edge_v)
    return _length(u - edge_u * along, v - edge_v * along) * side - corner


def cross(u: Field, v: Field, proportion: float) -> Field:
    """Return the distance to a cross; ``proportion``, 0 to 1, varies its form."""
    corner = 0.06
    reach, half_width = 0.92 - corner, 0.31 + 0.08 * proportion - corner
    u, v = np.abs(u), np.abs(v)
    u, v = np.maximum(u, v), np.minimum(u, v)  # onto one arm
    beyond_u, beyond_v = u - reach, v - half_width
    beyond = np.maximum(beyond_u, beyond_v)
    outside = _length(np.maximum(beyond_u, 0), np.maximum(beyond_v, 0))
    inside = _length(np.maximum(half_width - u, 0), np.maximum(-beyond, 0))
    return np.where(beyond > 0, outside, -inside) - corner


def crescent(u: Field, v: Field, proportion: float) -> Field:
    """Return the distance to a crescent; ``proportion``, 0 to 1, varies its form."""
    bite, shift = 0.62 + 0.10 * proportion, 0.60
    # Where the two circles meet: the crescent's horns.
    horn_u = (1 - bite * bite + shift * shift) / (2 * shift)
    horn_v = math.sqrt(1 - horn_u * horn_u)
    v = np.abs(v)
    near_horn = shift * (u * horn_v - v * horn_u) > shift * shift * np.maximum(horn_v - v, 0)
    inner = np.maximum(_length(u, v) - 1, bite - _length(u - shift, v))
    return np.where(near_horn, _length(u - horn_u, v - horn_v), inner)
