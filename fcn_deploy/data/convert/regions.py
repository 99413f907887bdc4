"""Polygons and run lengths as regions, through pycocotools: its rule decides on border pixels."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.extras import require_extra
from fcn_deploy.data.convert.annotations import Region

Points = Sequence[Sequence[float]]
#: A polygon has three points at least.
_FEWEST = 3


def require_pycocotools() -> None:
    """Refuse to begin without pycocotools.

    Raises:
        MissingExtraError: it is not installed.
    """
    require_extra("converting polygons", "convert", "pycocotools.mask")


def polygon(points: Points, size: tuple[int, int], holes: Iterable[Points] = ()) -> Region:
    """Return the pixels of a polygon, without those of its holes.

    Args:
        points: (x, y) in pixels; fewer than three have no pixels.
        size: (height, width).
        holes: polygons that are cut out.
    """
    region = _ring(points, size)
    for hole in holes:
        region &= ~_ring(hole, size)
    return region


def _ring(points: Points, size: tuple[int, int]) -> Region:
    return unpacked(packed([[float(one) for point in points for one in point]], size)[0])


def packed(given: Any, size: tuple[int, int]) -> tuple[Any, int]:
    """Return COCO's ``segmentation``, polygons or run lengths, packed, and its pixels.

    Raises:
        ValueError: it is none of these, or of another size.
    """
    from pycocotools import mask as masks

    if isinstance(given, dict):
        if tuple(given["size"]) != size:
            raise ValueError(f"run lengths of {given['size']} for an image of {list(size)}")
        if not isinstance(given["counts"], list):
            return given, int(masks.area(given))
    elif not isinstance(given, list):
        raise ValueError(f"a segmentation that is {given!r}")
    else:
        given = [ring for ring in given if len(ring) >= 2 * _FEWEST]
    found = masks.frPyObjects(given or [[0.0] * 2 * _FEWEST], *size)
    if isinstance(found, list):
        found = masks.merge(found)
    return found, int(masks.area(found))


def unpacked(found: Any) -> Region:
    """Return the pixels of what :func:`packed` gave."""
    from pycocotools import mask as masks

    region: NDArray[np.bool_] = masks.decode(found).astype(np.bool_)
    return region


def rectangle(
    left: float, top: float, right: float, bottom: float, size: tuple[int, int]
) -> Region:
    """Return the pixels of a rectangle."""
    return polygon([(left, top), (right, top), (right, bottom), (left, bottom)], size)


def rotated(points: Points, around: Sequence[float], degrees: float) -> Points:
    """Return points turned clockwise, as the picture is seen."""
    if not degrees:
        return points
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x0, y0 = around
    return [
        (
            x0 + (x - x0) * cosine - (y - y0) * sine,
            y0 + (x - x0) * sine + (y - y0) * cosine,
        )
        for x, y in points
    ]
