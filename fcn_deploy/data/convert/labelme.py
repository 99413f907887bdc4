"""labelme: a JSON file beside each picture, with shapes in the order in which they were drawn."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from fcn_deploy.core.errors import DataError
from fcn_deploy.data.convert.annotations import (
    Annotations,
    ImageIndex,
    Picture,
    Region,
    damaged,
    json_objects,
    read_object,
    root_of,
    split_of_image,
    stem_of,
)
from fcn_deploy.data.convert.regions import polygon, rectangle, require_pycocotools

#: Shapes without an area: they are no regions.
_LINES = frozenset({"line", "linestrip", "point", "points"})
#: Formats of embedded pictures, as Pillow calls them → suffix of the file that is written.
_EMBEDDED = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "TIFF": ".tif"}
#: A circle is a polygon of so many corners.
_CORNERS = 72


def read_labelme(source: Path) -> Annotations:
    """Read the JSON files of labelme below a folder.

    Raises:
        DataError: there are none, one is damaged, or pycocotools is not installed.
    """
    require_pycocotools()
    files = json_objects(
        source,
        lambda content: isinstance(content, dict) and "shapes" in content,
        (f"no labelme files in {source}", "name the folder that holds the .json files"),
    )
    for one in files.values():
        one["imageData"] = bool(one.get("imageData"))  # read again where it is needed
    try:
        found = {str(shape["label"]) for one in files.values() for shape in one["shapes"]}
    except (KeyError, TypeError) as error:
        damaged(next(iter(files)), error)
    index = ImageIndex(root_of(source))

    def pictures() -> Iterator[Picture]:
        for path, content in files.items():
            image, embedded = _image(path, content, index)

            def regions(
                size: tuple[int, int], path: Path = path, shapes: Any = content["shapes"]
            ) -> Iterator[tuple[str, Region]]:
                return _regions(path, shapes, size)

            height, width = content.get("imageHeight"), content.get("imageWidth")
            yield Picture(
                stem_of(image, index.root),
                split_of_image(path, index.root),
                image,
                (int(height), int(width)) if height and width else None,
                regions,
                embedded,
            )

    return Annotations(_in_order(index.root, found), {}, len(files), pictures)


def _image(path: Path, content: dict[str, Any], index: ImageIndex) -> tuple[Path, bytes | None]:
    """Return an annotation's image; and its content, where only the annotation holds it."""
    called = str(content.get("imagePath") or f"{path.stem}.jpg")
    try:
        return index.find(called, path), None
    except DataError:
        if not content["imageData"]:
            raise
    try:
        data = base64.b64decode(read_object(path)["imageData"])
        with Image.open(io.BytesIO(data), formats=[*_EMBEDDED]) as image:  # noqa: TID251 - bytes
            suffix = _EMBEDDED[str(image.format)]
    except (KeyError, TypeError, ValueError, UnidentifiedImageError) as error:
        damaged(path, error)
    stem = PurePosixPath(called.replace("\\", "/")).stem
    return path.parent / f"{stem}{suffix}", data


def _in_order(root: Path, found: set[str]) -> tuple[str, ...]:
    """Return the labels in the order of labels.txt, where it lies there."""
    file = root / "labels.txt"
    lines = file.read_text(encoding="utf-8-sig").splitlines() if file.is_file() else []
    listed = [line.strip() for line in lines if line.strip()]
    return tuple(dict.fromkeys([*listed, *sorted(found)]))


def _regions(path: Path, shapes: Any, size: tuple[int, int]) -> Iterator[tuple[str, Region]]:
    for shape in shapes:
        kind = shape.get("shape_type") or "polygon"
        if kind in _LINES:
            continue
        try:
            yield str(shape["label"]), _region(kind, shape, size)
        except (KeyError, TypeError, ValueError, UnidentifiedImageError) as error:
            damaged(path, error)


def _region(kind: str, shape: Any, size: tuple[int, int]) -> Region:
    points = shape["points"]
    if kind == "polygon":
        return polygon(points, size)
    (left, top), (right, bottom) = points[0], points[1]
    if kind == "rectangle":
        return rectangle(
            min(left, right), min(top, bottom), max(left, right), max(top, bottom), size
        )
    if kind == "circle":  # its middle, and a point on it
        angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
        radius = float(np.hypot(right - left, bottom - top))
        ring = np.stack([left + radius * np.cos(angles), top + radius * np.sin(angles)], 1)
        return polygon(ring.tolist(), size)
    if kind == "mask":
        return pasted(base64.b64decode(shape["mask"]), round(left), round(top), size)
    raise ValueError(f"shape_type {kind}")


def pasted(png: bytes, left: int, top: int, size: tuple[int, int]) -> Region:
    """Return the pixels of a small mask, a PNG file, laid on a picture at its corner."""
    region = np.zeros(size, np.bool_)
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:  # noqa: TID251 - bytes, PNG alone
        alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else image.convert("L")
        stored = np.asarray(alpha) > 0
    if left < 0 or top < 0:
        stored = stored[max(0, -top) :, max(0, -left) :]
        left, top = max(0, left), max(0, top)
    part = region[top : top + stored.shape[0], left : left + stored.shape[1]]
    part |= stored[: part.shape[0], : part.shape[1]]
    return region
