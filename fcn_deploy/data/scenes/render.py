"""Synthetic scenes: textured shapes on textured ground, to train a network with no images at all.

    (seed, index) ──compose──▶ scene ──┬─ ground ──▶ [shadow ▶ shape] … ──▶ light ──▶ image
                               (relative) └─ [void band ▶ class] … ──────────────────▶ mask

A scene is composed in relative coordinates (centres as fractions of height and width, lengths as
fractions of the shorter side) before any pixel exists, so one (seed, index) is the same picture at
every size. Shapes are signed distance fields: the distance in pixels gives the anti-aliased edge,
the void band, the shadow and the bevel alike.

What reaches the mask is additions, products, divisions and square roots of float64, one at a time.
IEEE 754 fixes their last bit, so masks are the same on every platform. What it does not fix, sines
and powers, serves colours alone: see :mod:`fcn_deploy.data.scenes.surfaces`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.spec import IGNORE_INDEX
from fcn_deploy.data.scenes.shapes import box, crescent, cross, disc, ring, star, triangle
from fcn_deploy.data.scenes.surfaces import (
    Direction,
    Field,
    Light,
    Planes,
    Shade,
    Surface,
    SurfaceKind,
    between,
    illuminate,
    paint_surface,
    random_direction,
    random_ground,
    random_light,
    random_surface,
    smoothstep,
)

SHAPE_COUNT = (3, 5)
RADIUS = (0.22, 0.38)  # at 320 x 480 four to eight cells of a stride-32 network across
SHADOW_REACH = 0.030  # how far the light throws a shadow
SHADOW_BLUR = 0.045
BEVEL = 0.040  # width of the lit rim


@dataclass(frozen=True)
class Shape:
    """One shape; `centre` (y, x) is a fraction of (height, width), `radius` of the shorter side."""

    class_index: int
    centre: tuple[float, float]
    radius: float
    rotation: Direction
    proportion: float  # 0..1, what varies within a class: a ring's width, a star's sharpness
    surface: Surface


@dataclass(frozen=True)
class Scene:
    """Ground, and shapes from back to front."""

    ground: Surface
    shapes: tuple[Shape, ...]
    light: Light


@dataclass(frozen=True)
class ShapeClass:
    """A class is a kind of shape and the surface that most shapes of the kind have."""

    name: str
    distance: Callable[[Field, Field, float], Field]
    surface: SurfaceKind


# Two classes share a hue, one smooth and one with a strong texture: it takes both to part them.
SHAPE_CLASSES = (
    ShapeClass("disc", disc, SurfaceKind(45, "gradient", 0.08)),
    ShapeClass("ring", ring, SurfaceKind(45, "stripes", 0.32)),
    ShapeClass("box", box, SurfaceKind(140, "checks", 0.32)),
    ShapeClass("triangle", triangle, SurfaceKind(140, "noise", 0.08)),
    ShapeClass("star", star, SurfaceKind(250, "speckle", 0.08)),
    ShapeClass("cross", cross, SurfaceKind(250, "dots", 0.32)),
    ShapeClass("crescent", crescent, SurfaceKind(335, "waves", 0.24)),
)
SCENE_CLASS_NAMES: tuple[str, ...] = ("background", *(kind.name for kind in SHAPE_CLASSES))


def _compose_scene(rng: np.random.Generator) -> Scene:
    ground_is_pale = rng.random() < 0.6
    ground = random_ground(rng, ground_is_pale)
    # Large ones to the back, so that what lies in front does not hide the scene.
    count = int(rng.integers(SHAPE_COUNT[0], SHAPE_COUNT[1] + 1))
    radii = sorted((between(rng, *RADIUS) for _ in range(count)), reverse=True)
    shapes: list[Shape] = []
    for radius in radii:
        shapes.append(_random_shape(rng, radius, shapes, ground_is_pale))
    return Scene(ground, tuple(shapes), random_light(rng))


def _random_shape(
    rng: np.random.Generator, radius: float, placed: list[Shape], ground_is_pale: bool
) -> Shape:
    class_index = int(rng.integers(1, len(SCENE_CLASS_NAMES)))
    return Shape(
        class_index=class_index,
        centre=_free_centre(rng, radius, placed),
        radius=radius,
        rotation=random_direction(rng),
        proportion=between(rng, 0, 1),
        surface=random_surface(rng, SHAPE_CLASSES[class_index - 1].surface, ground_is_pale),
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

    candidates = [(between(rng, 0.14, 0.86), between(rng, 0.14, 0.86)) for _ in range(5)]
    return max(candidates, key=room)


def draw_scene(
    seed: int, index: int, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw scene `index` of the series `seed`: 3 to 5 textured shapes on textured ground.

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

    rng = np.random.default_rng([seed, index])
    scene = _compose_scene(rng)
    planes = _paint_ground(scene.ground, size)
    mask = np.zeros(size, np.uint8)
    for shape in scene.shapes:
        placed = _place(shape, scene.light.direction, size)
        _paint_shape(planes, placed)
        _label_shape(mask, placed)
    illuminate(planes, scene.light, rng)
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
    region[placed.distance <= void_width / 2] = IGNORE_INDEX
    region[placed.distance < -void_width / 2] = placed.shape.class_index


def _paint_ground(ground: Surface, size: tuple[int, int]) -> Planes:
    y = _pixel_centres(0, size[0], size[0] / 2)[:, None]
    x = _pixel_centres(0, size[1], size[1] / 2)[None, :]
    return paint_surface(ground, y, x, extent=max(size), shorter_side=min(size))


def _paint_shape(planes: Planes, placed: PlacedShape) -> None:
    region = planes[:, placed.window[0], placed.window[1]]
    region *= _shadow(placed)
    colour = paint_surface(
        placed.shape.surface,
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
    depth = smoothstep(0.5 - placed.shadow_distance.astype(np.float32) / (2 * blur))
    return 1 - 0.34 * depth


def _bevel(placed: PlacedShape) -> Shade:
    """Light on the rim, about 1: how the distance changes along the light is how the rim faces."""
    distance = placed.distance.astype(np.float32)
    thrown = SHADOW_REACH * placed.shorter_side
    facing = (distance - placed.shadow_distance.astype(np.float32)) / thrown
    rim = smoothstep(1 + distance / (BEVEL * placed.shorter_side))
    return 1 - 0.16 * facing * rim


def _quantise(planes: Planes) -> NDArray[np.uint8]:
    levels = (np.clip(planes, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))
