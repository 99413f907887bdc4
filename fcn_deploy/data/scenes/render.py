"""Synthetic scenes: textured shapes on textured ground, to train a network with no images at all.

    (seed, index) ──compose──▶ scene ──┬─ ground ──▶ [shadow ▶ shape] … ──▶ image
                               (relative) └─ [void band ▶ class] … ────────▶ mask

A scene is composed in relative coordinates (centres as fractions of height and width, lengths as
fractions of the shorter side) before any pixel exists, so one (seed, index) is the same picture at
every size. Shapes are signed distance fields: the distance in pixels gives the anti-aliased edge,
the void band, the shadow and the bevel alike.

What reaches the mask is additions, products, divisions and square roots of float64, one at a time.
IEEE 754 fixes their last bit, so masks are the same on every platform. Sines and powers, which it
does not fix, serve only to choose colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["SCENE_CLASS_NAMES", "draw_scene"]

Field = NDArray[np.float64]  # one value per pixel, [h, w] or broadcastable to it
Planes = NDArray[np.float32]  # RGB in 0..1, [3, h, w]: a channel is one contiguous plane
Shade = NDArray[np.floating[Any]]  # [h, w] in 0..1; float32, which numpy's stubs lose on the way
Colour = NDArray[np.float32]  # RGB in 0..1, [3]
Direction = tuple[float, float]  # (cosine, sine) of an angle
Pattern = Literal["noise", "stripes", "checks", "gradient", "speckle", "dots"]

PATTERNS: tuple[Pattern, ...] = ("noise", "stripes", "checks", "gradient", "speckle", "dots")
VOID = 255
LATTICE = 24  # knots per side of a noise texture, which then repeats

SHAPE_COUNT = (3, 8)
RADIUS = (0.15, 0.28)  # a stride-32 network does not see much less
SHADOW_REACH = 0.030  # how far the light throws a shadow
SHADOW_BLUR = 0.045
BEVEL = 0.040  # width of the lit rim


# -- what a scene is --------------------------------------------------------------------------


@dataclass(frozen=True)
class Texture:
    """A pattern between two colours; `period` is a fraction of the image's shorter side."""

    pattern: Pattern
    dark: Colour
    light: Colour
    period: float
    axis: Direction
    lattice: NDArray[np.float32]  # [LATTICE, LATTICE], the knots of the noise, 0..1


@dataclass(frozen=True)
class Shape:
    """One shape; `centre` (y, x) is a fraction of (height, width), `radius` of the shorter side."""

    class_index: int
    centre: tuple[float, float]
    radius: float
    rotation: Direction
    proportion: float  # 0..1, what varies within a class: a ring's width, a star's sharpness
    texture: Texture


@dataclass(frozen=True)
class Scene:
    """Ground, and shapes from back to front."""

    ground: Texture
    shapes: tuple[Shape, ...]
    light: Direction  # towards the light, (x, y) with y downwards


# -- the shapes: signed distances within the unit circle, negative inside -----------------------
#
# u and v are a pixel's coordinates in units of the shape's radius. No distance may grow faster
# than its argument: this is what makes the void band unbroken.


def _length(u: Field, v: Field) -> Field:
    # np.hypot is left to the platform's libm; this is not.
    return np.sqrt(u * u + v * v)


def _disc(u: Field, v: Field, proportion: float) -> Field:
    return _length(u, v) - (0.84 + 0.12 * proportion)


def _ring(u: Field, v: Field, proportion: float) -> Field:
    inner = 0.42 + 0.16 * proportion
    return np.abs(_length(u, v) - (1 + inner) / 2) - (1 - inner) / 2


def _box(u: Field, v: Field, proportion: float) -> Field:
    corner = 0.10 + 0.12 * proportion
    beyond_u, beyond_v = np.abs(u) - (0.74 - corner), np.abs(v) - (0.74 - corner)
    outside = _length(np.maximum(beyond_u, 0), np.maximum(beyond_v, 0))
    return outside + np.minimum(np.maximum(beyond_u, beyond_v), 0) - corner


def _triangle(u: Field, v: Field, proportion: float) -> Field:
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


def _star(u: Field, v: Field, proportion: float) -> Field:
    corner = 0.05
    tip, waist = 1 - corner, 0.46 + 0.12 * proportion
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


def _cross(u: Field, v: Field, proportion: float) -> Field:
    corner = 0.06
    reach, half_width = 0.92 - corner, 0.27 + 0.08 * proportion - corner
    u, v = np.abs(u), np.abs(v)
    u, v = np.maximum(u, v), np.minimum(u, v)  # onto one arm
    beyond_u, beyond_v = u - reach, v - half_width
    beyond = np.maximum(beyond_u, beyond_v)
    outside = _length(np.maximum(beyond_u, 0), np.maximum(beyond_v, 0))
    inside = _length(np.maximum(half_width - u, 0), np.maximum(-beyond, 0))
    return np.where(beyond > 0, outside, -inside) - corner


def _crescent(u: Field, v: Field, proportion: float) -> Field:
    bite, shift = 0.70 + 0.10 * proportion, 0.56
    # Where the two circles meet: the crescent's horns.
    horn_u = (1 - bite * bite + shift * shift) / (2 * shift)
    horn_v = math.sqrt(1 - horn_u * horn_u)
    v = np.abs(v)
    near_horn = shift * (u * horn_v - v * horn_u) > shift * shift * np.maximum(horn_v - v, 0)
    between = np.maximum(_length(u, v) - 1, bite - _length(u - shift, v))
    return np.where(near_horn, _length(u - horn_u, v - horn_v), between)


@dataclass(frozen=True)
class ShapeClass:
    """A class is a kind of shape. Its hue and pattern are leanings, from which many depart."""

    name: str
    distance: Callable[[Field, Field, float], Field]
    hue: float  # degrees
    pattern: Pattern


SHAPE_CLASSES = (
    ShapeClass("disc", _disc, 30, "gradient"),
    ShapeClass("ring", _ring, 80, "stripes"),
    ShapeClass("box", _box, 130, "checks"),
    ShapeClass("triangle", _triangle, 185, "speckle"),
    ShapeClass("star", _star, 235, "noise"),
    ShapeClass("cross", _cross, 285, "dots"),
    ShapeClass("crescent", _crescent, 340, "gradient"),
)

SCENE_CLASS_NAMES: tuple[str, ...] = ("background", *(kind.name for kind in SHAPE_CLASSES))


# -- composing: random choices, none of which knows the image's size ----------------------------


def _compose_scene(rng: np.random.Generator) -> Scene:
    ground_is_pale = rng.random() < 0.6
    ground = _random_ground(rng, ground_is_pale)
    # Large ones to the back, so that what lies in front does not hide the scene.
    count = int(rng.integers(SHAPE_COUNT[0], SHAPE_COUNT[1] + 1))
    radii = sorted((_between(rng, *RADIUS) for _ in range(count)), reverse=True)
    shapes: list[Shape] = []
    for radius in radii:
        shapes.append(_random_shape(rng, radius, shapes, ground_is_pale))
    light = (-0.6, -0.8) if rng.random() < 0.5 else (0.6, -0.8)
    return Scene(ground, tuple(shapes), light)


def _random_shape(
    rng: np.random.Generator, radius: float, placed: list[Shape], ground_is_pale: bool
) -> Shape:
    class_index = int(rng.integers(1, len(SCENE_CLASS_NAMES)))
    kind = SHAPE_CLASSES[class_index - 1]
    pattern = kind.pattern if rng.random() < 0.5 else PATTERNS[int(rng.integers(len(PATTERNS)))]
    hue = kind.hue + _between(rng, -65, 65) + _between(rng, -65, 65)  # peaks at the class's own
    lightness = _between(rng, 0.50, 0.66) if ground_is_pale else _between(rng, 0.62, 0.78)
    chroma = _between(rng, 0.07, 0.13)
    return Shape(
        class_index=class_index,
        centre=_free_centre(rng, radius, placed),
        radius=radius,
        rotation=_random_direction(rng),
        proportion=_between(rng, 0, 1),
        texture=_random_texture(
            rng, pattern, lightness, chroma, hue, contrast=_between(rng, 0.12, 0.20)
        ),
    )


def _random_ground(rng: np.random.Generator, pale: bool) -> Texture:
    return _random_texture(
        rng,
        pattern=PATTERNS[int(rng.integers(len(PATTERNS)))],
        lightness=_between(rng, 0.84, 0.90) if pale else _between(rng, 0.30, 0.42),
        chroma=_between(rng, 0.015, 0.045),
        hue=_between(rng, 0, 360),
        contrast=_between(rng, 0.05, 0.09),
    )


def _random_texture(
    rng: np.random.Generator,
    pattern: Pattern,
    lightness: float,
    chroma: float,
    hue: float,
    contrast: float,
) -> Texture:
    second_hue = hue + _between(rng, -35, 35)
    return Texture(
        pattern=pattern,
        dark=_srgb_from_oklch(lightness - contrast / 2, chroma, second_hue),
        light=_srgb_from_oklch(lightness + contrast / 2, chroma, hue),
        period=_between(rng, 0.06, 0.11),
        axis=_random_direction(rng),
        lattice=rng.random((LATTICE, LATTICE), dtype=np.float32),
    )


def _free_centre(
    rng: np.random.Generator, radius: float, placed: list[Shape]
) -> tuple[float, float]:
    """The candidate (y, x) that crowds the earlier shapes least."""
    aspect = 1.4  # of a usual picture: the true one must not change the scene

    def room(centre: tuple[float, float]) -> float:
        least = math.inf
        for other in placed:
            y, x = centre[0] - other.centre[0], aspect * (centre[1] - other.centre[1])
            least = min(least, math.sqrt(y * y + x * x) / (radius + other.radius))
        return least

    candidates = [(_between(rng, 0.14, 0.86), _between(rng, 0.14, 0.86)) for _ in range(5)]
    return max(candidates, key=room)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    # rng.uniform may be compiled to a fused multiply-add, with another last bit.
    return low + (high - low) * float(rng.random())


def _random_direction(rng: np.random.Generator) -> Direction:
    # The rational circle instead of sin and cos: the mask depends on this.
    t = _between(rng, -1, 1)
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


# -- drawing ------------------------------------------------------------------------------------


def draw_scene(
    seed: int, index: int, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw scene `index` of the series `seed`: 3 to 8 textured shapes on textured ground.

    Args:
        seed: names the series of scenes; not negative.
        index: the scene within the series; not negative. Scenes do not depend on one another.
        size: (height, width) in pixels, each at least 1.

    Returns:
        image: uint8 [H, W, 3], RGB.
        mask: uint8 [H, W], indices into `SCENE_CLASS_NAMES`. 255 is void: a band along the
            outline of every shape, as in VOC; 3 pixels wide at 320 x 480, never below 1 nor
            above 4. An image of a few pixels is all outline, hence all void.

    The same arguments give the same bits. Another size shows the same scene, scaled; a shape
    keeps its proportions where the aspect ratio changes.

    Raises:
        ValueError: a negative seed or index, or a size below 1.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got seed {seed}, index {index}")
    if min(size) < 1:
        raise ValueError(f"size (height, width) must be at least (1, 1), got {tuple(size)}")
    # A numpy integer would turn the float32 arithmetic of the image into float64.
    size = int(size[0]), int(size[1])

    scene = _compose_scene(np.random.default_rng([seed, index]))
    planes = _paint_ground(scene, size)
    mask = np.zeros(size, np.uint8)
    for shape in scene.shapes:
        placed = _place(shape, scene.light, size)
        _paint_shape(planes, placed)
        _label_shape(mask, placed)
    return _quantise(planes), mask


@dataclass(frozen=True)
class PlacedShape:
    """A shape on the pixel grid. Lengths are in pixels."""

    shape: Shape
    window: tuple[slice, slice]  # the part of the image that the shape and its shadow touch
    y: Field  # [h, 1], from the shape's centre
    x: Field  # [1, w]
    distance: Field  # [h, w], signed, negative inside
    shadow_distance: Field  # [h, w], to the same shape moved away from the light
    shorter_side: int


def _place(shape: Shape, light: Direction, size: tuple[int, int]) -> PlacedShape:
    shorter_side = min(size)
    centre_y, centre_x = shape.centre[0] * size[0], shape.centre[1] * size[1]
    margin = 3  # pixels, for the void band and the anti-aliased edge
    reach = (shape.radius + SHADOW_REACH + SHADOW_BLUR) * shorter_side + margin
    rows = slice(max(0, math.floor(centre_y - reach)), min(size[0], math.ceil(centre_y + reach)))
    columns = slice(max(0, math.floor(centre_x - reach)), min(size[1], math.ceil(centre_x + reach)))
    y = _pixel_centres(rows.start, rows.stop, centre_y)[:, None]
    x = _pixel_centres(columns.start, columns.stop, centre_x)[None, :]
    thrown = SHADOW_REACH * shorter_side
    return PlacedShape(
        shape=shape,
        window=(rows, columns),
        y=y,
        x=x,
        distance=_distance(shape, y, x, shorter_side),
        shadow_distance=_distance(
            shape, y + thrown * light[1], x + thrown * light[0], shorter_side
        ),
        shorter_side=shorter_side,
    )


def _pixel_centres(start: int, stop: int, origin: float) -> Field:
    return np.arange(start, stop, dtype=np.float64) + (0.5 - origin)


def _distance(shape: Shape, y: Field, x: Field, shorter_side: int) -> Field:
    """Signed distance in pixels, float64 [h, w], from offsets [h, 1] and [1, w] in pixels."""
    radius = shape.radius * shorter_side
    cosine, sine = shape.rotation[0] / radius, shape.rotation[1] / radius
    u, v = x * cosine + y * sine, y * cosine - x * sine
    return SHAPE_CLASSES[shape.class_index - 1].distance(u, v, shape.proportion) * radius


def _label_shape(mask: NDArray[np.uint8], placed: PlacedShape) -> None:
    # A distance changes by at most 1 from pixel to pixel, so a band of 1 pixel or more leaves no
    # two classes side by side.
    void_width = min(1 + placed.shorter_side / 160, 4.0)
    region = mask[placed.window]
    region[placed.distance <= void_width / 2] = VOID
    region[placed.distance < -void_width / 2] = placed.shape.class_index


def _paint_ground(scene: Scene, size: tuple[int, int]) -> Planes:
    height, width = size
    y = _pixel_centres(0, height, height / 2)[:, None]
    x = _pixel_centres(0, width, width / 2)[None, :]
    planes = _paint_texture(scene.ground, y, x, extent=max(size), shorter_side=min(size))
    towards_light = (scene.light[0] / width) * x + (scene.light[1] / height) * y
    planes *= (1 + 0.10 * towards_light).astype(np.float32)
    return planes


def _paint_shape(planes: Planes, placed: PlacedShape) -> None:
    region = planes[:, placed.window[0], placed.window[1]]
    region *= _shadow(placed)
    colour = _paint_texture(
        placed.shape.texture,
        placed.y,
        placed.x,
        extent=2 * placed.shape.radius * placed.shorter_side,
        shorter_side=placed.shorter_side,
    )
    colour *= _bevel(placed)
    colour -= region
    colour *= np.clip(0.5 - placed.distance, 0, 1).astype(np.float32)  # the pixel's coverage
    region += colour


def _shadow(placed: PlacedShape) -> Shade:
    """What the shape's shadow leaves of the light."""
    blur = SHADOW_BLUR * placed.shorter_side
    depth = _smoothstep(0.5 - placed.shadow_distance.astype(np.float32) / (2 * blur))
    return 1 - 0.34 * depth


def _bevel(placed: PlacedShape) -> Shade:
    """Light on the rim, about 1: how the distance changes along the light is how the rim faces."""
    distance = placed.distance.astype(np.float32)
    thrown = SHADOW_REACH * placed.shorter_side
    facing = (distance - placed.shadow_distance.astype(np.float32)) / thrown
    rim = _smoothstep(1 + distance / (BEVEL * placed.shorter_side))
    return 1 - 0.16 * facing * rim


def _smoothstep(ramp: Shade) -> Shade:
    ramp = np.clip(ramp, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _quantise(planes: Planes) -> NDArray[np.uint8]:
    levels = (np.clip(planes, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))


# -- textures: how much of the light colour each pixel takes, 0..1 -----------------------------


def _paint_texture(
    texture: Texture, y: Field, x: Field, extent: float, shorter_side: int
) -> Planes:
    """Colours, float32 [3, h, w], at offsets y [h, 1] and x [1, w] in pixels.

    `extent`, in pixels, is what a gradient spans.
    """
    blend = _blend(texture, y.astype(np.float32), x.astype(np.float32), extent, shorter_side)
    dark, light = texture.dark[:, None, None], texture.light[:, None, None]
    return blend.astype(np.float32) * (light - dark) + dark


def _blend(texture: Texture, y: Shade, x: Shade, extent: float, shorter_side: int) -> Shade:
    period = texture.period * shorter_side
    along = x * texture.axis[0] + y * texture.axis[1]
    across = y * texture.axis[0] - x * texture.axis[1]
    # The edge of a stripe is a pixel wide, softer where stripes are wide, half a period at most.
    sharpness = min(max(period / 2, 1.0), 6.0)
    match texture.pattern:
        case "gradient":
            return _smoothstep(along / extent + 0.5)
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
            return _sharpen(_noise(texture.lattice, 2 * y / period, 2 * x / period), 2 * sharpness)
        case "noise":
            coarse = _noise(texture.lattice, y / period, x / period)
            fine = _noise(texture.lattice.T, 3 * y / period, 3 * x / period)
            return np.clip(2.2 * coarse + 0.9 * fine - 1.05, 0, 1)


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
    return _interpolate_rows(rows.T, x[0]).T


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
