"""Surfaces of the built-in scenes: what colour, texture and light make of a shape or the ground.

    kind of surface ──random_surface──▶ Surface ──paint_surface──▶ pixels ──illuminate──▶ image

A class has a hue, a texture and a contrast that most of its shapes show, as sky, road and trees do
in a photograph. Around these everything varies: hue, lightness, chroma and contrast, the texture's
scale and direction, the light's side, strength and colour, the camera's grain; and a few shapes
wear the texture of another class. Two classes share a hue and differ in texture, so that neither
colour nor texture alone gives a class away, and both together nearly do.

Sines and powers, whose last bit differs from platform to platform, choose colours only. What a mask
depends on as well, `between` and `random_direction`, does without.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Direction",
    "Field",
    "Light",
    "Planes",
    "Shade",
    "Surface",
    "SurfaceKind",
    "between",
    "illuminate",
    "paint_surface",
    "random_direction",
    "random_ground",
    "random_light",
    "random_surface",
    "smoothstep",
]

Field = NDArray[np.float64]  # one value per pixel, [h, w] or broadcastable to it
Planes = NDArray[np.float32]  # RGB in 0..1, [3, h, w]: a channel is one contiguous plane
Shade = NDArray[np.floating[Any]]  # [h, w] in 0..1; float32, which numpy's stubs lose on the way
Colour = NDArray[np.float32]  # RGB in 0..1, [3]
Direction = tuple[float, float]  # (cosine, sine) of an angle
Pattern = Literal["gradient", "stripes", "checks", "speckle", "noise", "dots", "waves"]

PATTERNS: tuple[Pattern, ...] = (
    "gradient",
    "stripes",
    "checks",
    "speckle",
    "noise",
    "dots",
    "waves",
)
OWN_PATTERN = 0.94  # share of the shapes with the texture of their class, the least
LATTICE = 24  # knots per side of a noise texture, which then repeats


# -- random choices, none of which knows the image's size ---------------------------------------


@dataclass(frozen=True)
class SurfaceKind:
    """What most surfaces of a class have in common."""

    hue: float  # degrees
    pattern: Pattern
    contrast: float  # between the pattern's two colours, in lightness from 0 to 1


@dataclass(frozen=True)
class Surface:
    """A pattern between two colours; `period` is a fraction of the image's shorter side."""

    pattern: Pattern
    dark: Colour
    light: Colour
    period: float
    axis: Direction
    lattice: NDArray[np.float32]  # [LATTICE, LATTICE], the knots of the noise, 0..1


@dataclass(frozen=True)
class Light:
    """Where the light of a scene comes from and what it does to colours."""

    direction: Direction  # towards the light, (x, y) with y downwards
    gain: Colour  # of each channel: how bright, how warm
    falloff: float  # what is lost from the light's side to the other, a share
    grain: float  # of the camera: the width of the noise, 1 is from black to white


def random_surface(rng: np.random.Generator, kind: SurfaceKind, ground_is_pale: bool) -> Surface:
    """Draw a shape's surface, which stands out from its ground."""
    own = rng.random() < OWN_PATTERN
    lightness = between(rng, 0.46, 0.66) if ground_is_pale else between(rng, 0.58, 0.78)
    return _random_surface(
        rng,
        pattern=kind.pattern if own else _random_pattern(rng),
        hue=kind.hue + between(rng, -18, 18) + between(rng, -18, 18),  # peaks at the class's own
        lightness=lightness,
        chroma=between(rng, 0.09, 0.15),
        contrast=kind.contrast * between(rng, 0.75, 1.25),
    )


def random_ground(rng: np.random.Generator, pale: bool) -> Surface:
    """Draw the ground's surface: nearly grey, of any texture, with little contrast."""
    return _random_surface(
        rng,
        pattern=_random_pattern(rng),
        hue=between(rng, 0, 360),
        lightness=between(rng, 0.82, 0.90) if pale else between(rng, 0.28, 0.42),
        chroma=between(rng, 0.005, 0.030),
        contrast=between(rng, 0.05, 0.10),
    )


def random_light(rng: np.random.Generator) -> Light:
    """Draw the light: from above left or right, dim or bright, warm or cool."""
    exposure, warmth = between(rng, 0.86, 1.08), between(rng, -0.06, 0.06)
    return Light(
        direction=(-0.6, -0.8) if rng.random() < 0.5 else (0.6, -0.8),
        gain=np.array([exposure * (1 + warmth), exposure, exposure * (1 - warmth)], np.float32),
        falloff=between(rng, 0.05, 0.30),
        grain=between(rng, 0.01, 0.05),
    )


def _random_pattern(rng: np.random.Generator) -> Pattern:
    return PATTERNS[int(rng.integers(len(PATTERNS)))]


def _random_surface(
    rng: np.random.Generator,
    pattern: Pattern,
    hue: float,
    lightness: float,
    chroma: float,
    contrast: float,
) -> Surface:
    second_hue = hue + between(rng, -20, 20)
    return Surface(
        pattern=pattern,
        dark=_srgb_from_oklch(lightness - contrast / 2, chroma, second_hue),
        light=_srgb_from_oklch(lightness + contrast / 2, chroma, hue),
        period=between(rng, 0.06, 0.11),
        axis=random_direction(rng),
        lattice=rng.random((LATTICE, LATTICE), dtype=np.float32),
    )


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number evenly from low to high, with the same bits on every platform."""
    # rng.uniform may be compiled to a fused multiply-add, with another last bit.
    return low + (high - low) * float(rng.random())


def random_direction(rng: np.random.Generator) -> Direction:
    """Draw a direction, with the same bits on every platform."""
    # The rational circle instead of sin and cos: masks depend on this.
    t = between(rng, -1, 1)
    sign = 1.0 if rng.random() < 0.5 else -1.0
    return sign * (1 - t * t) / (1 + t * t), sign * 2 * t / (1 + t * t)


def _srgb_from_oklch(lightness: float, chroma: float, hue: float) -> Colour:
    """OKLCh: equal steps look equally large, so random colours of like chroma go together."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    return np.array([_srgb_gamma(min(max(value, 0.0), 1.0)) for value in linear], np.float32)


def _srgb_gamma(linear: float) -> float:
    if linear <= 0.0031308:
        return 12.92 * linear
    return float(1.055 * linear ** (1 / 2.4) - 0.055)


# -- light --------------------------------------------------------------------------------------


def illuminate(planes: Planes, light: Light, rng: np.random.Generator) -> None:
    """Light the painted picture, in place: falloff, colour of the light and the camera's grain."""
    height, width = planes.shape[1:]
    y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height - 0.5
    x = (np.arange(width, dtype=np.float32)[None, :] + 0.5) / width - 0.5
    towards = light.direction[0] * x + light.direction[1] * y  # -0.7 to 0.7
    planes *= (1 + light.falloff * (towards - 0.5)) * light.gain[:, None, None]
    planes += light.grain * (rng.random((height, width), dtype=np.float32) - 0.5)


# -- textures: how much of the light colour each pixel takes, 0..1 ------------------------------


def paint_surface(surface: Surface, y: Field, x: Field, extent: float, shorter_side: int) -> Planes:
    """Return colours, float32 [3, h, w], at offsets y [h, 1] and x [1, w] in pixels.

    `extent`, in pixels, is what a gradient spans.
    """
    blend = _blend(surface, y.astype(np.float32), x.astype(np.float32), extent, shorter_side)
    dark, light = surface.dark[:, None, None], surface.light[:, None, None]
    return blend.astype(np.float32) * (light - dark) + dark


def _blend(surface: Surface, y: Shade, x: Shade, extent: float, shorter_side: int) -> Shade:
    period = surface.period * shorter_side
    along = x * surface.axis[0] + y * surface.axis[1]
    across = y * surface.axis[0] - x * surface.axis[1]
    # The edge of a stripe is a pixel wide, softer where stripes are wide, half a period at most.
    sharpness = min(max(period / 2, 1.0), 6.0)
    match surface.pattern:
        case "gradient":
            return smoothstep(along / extent + 0.5)
        case "stripes":
            return _sharpen(_zigzag(along / period), sharpness)
        case "checks":
            first = _sharpen(_zigzag(along / (2 * period)), sharpness)
            second = _sharpen(_zigzag(across / (2 * period)), sharpness)
            return first + second - 2 * first * second
        case "dots":
            # Distance from the nearest dot's centre, in periods; a dot's radius is 0.32.
            from_centre = np.sqrt(_zigzag(along / period) ** 2 + _zigzag(across / period) ** 2) / 2
            return _sharpen(0.82 - from_centre, 2 * sharpness)
        case "speckle":
            return _sharpen(_noise(surface.lattice, 2 * y / period, 2 * x / period), 2 * sharpness)
        case "noise":
            coarse = _noise(surface.lattice, y / period, x / period)
            fine = _noise(surface.lattice.T, 3 * y / period, 3 * x / period)
            return np.clip(2.2 * coarse + 0.9 * fine - 1.05, 0, 1)
        case "waves":
            # Stripes bent by noise, as the grain of wood.
            bend = 3 * _noise(surface.lattice, 0.7 * y / period, 0.7 * x / period)
            return smoothstep(_zigzag(along / period + bend))


def smoothstep(ramp: Shade) -> Shade:
    """Rise from 0 at 0 to 1 at 1, flat on either side."""
    ramp = np.clip(ramp, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _zigzag(phase: Shade) -> Shade:
    """1 at whole phases, 0 midway, straight between: a wave without a sine."""
    wave: Shade = np.abs(2 * (phase - np.floor(phase)) - 1)
    return wave


def _sharpen(blend: Shade, sharpness: float) -> Shade:
    sharp: Shade = np.clip((blend - 0.5) * sharpness + 0.5, 0, 1)
    return sharp


def _noise(lattice: Shade, y: Shade, x: Shade) -> Shade:
    """A cubic B-spline over the lattice's knots, at y [h, 1] and x [1, w] in knots."""
    rows = _interpolate_rows(lattice, y[:, 0])  # [h, LATTICE]
    noise: Shade = _interpolate_rows(rows.T, x[0]).T
    return noise


def _interpolate_rows(knots: Shade, at: Shade) -> Shade:
    floor = np.floor(at)
    first = floor.astype(np.int64)
    t = (at - floor)[:, None]
    t2, t3 = t * t, t * t * t
    weights = (1 - 3 * t + 3 * t2 - t3, 4 - 6 * t2 + 3 * t3, 1 + 3 * (t + t2 - t3), t3)
    rows = weights[0] * knots[first % LATTICE]
    for step in (1, 2, 3):
        rows = rows + weights[step] * knots[(first + step) % LATTICE]
    return rows / 6
