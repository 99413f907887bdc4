"""Supervisely: a project with meta.json, and DATASET/ann/NAME.json beside DATASET/img/NAME."""

import base64
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import UnidentifiedImageError

from fcn_deploy.core.errors import DataError
from fcn_deploy.data.class_json import Colour
from fcn_deploy.data.convert.annotations import (
    Annotations,
    Picture,
    Region,
    damaged,
    read_object,
    split_of_image,
)
from fcn_deploy.data.convert.labelme import pasted
from fcn_deploy.data.convert.regions import polygon, rectangle, require_pycocotools

#: Geometry without an area.
_LINES = frozenset({"line", "point", "graph"})


def read_supervisely(source: Path) -> Annotations:
    """Read a project of Supervisely.

    Raises:
        DataError: it is none, it is damaged, or pycocotools is not installed.
    """
    require_pycocotools()
    meta = source / "meta.json"
    if not meta.is_file():
        raise DataError(f"no {meta}", "name the folder of a Supervisely project, which has one")
    files = sorted(source.glob("*/ann/*.json"))
    if not files:
        raise DataError(
            f"no annotations in {source}/*/ann", "download the project with annotations"
        )
    labels: dict[str, Colour | None] = {}
    try:
        for entry in read_object(meta)["classes"]:
            labels[str(entry["title"])] = _colour(entry.get("color"))
    except (KeyError, TypeError, ValueError) as error:
        damaged(meta, error)
    datasets = {path.parent.parent.name for path in files}

    def pictures() -> Iterator[Picture]:
        for path in files:
            yield _picture(path, source, several=len(datasets) > 1)

    colours = {label: colour for label, colour in labels.items() if colour is not None}
    return Annotations(tuple(labels), colours, len(files), pictures)


def _colour(text: Any) -> Colour | None:
    if not isinstance(text, str) or not text.startswith("#") or len(text) != 7:
        return None
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _picture(path: Path, root: Path, *, several: bool) -> Picture:
    folder = path.parent.parent
    image = folder / "img" / path.stem  # NAME.jpg.json
    if not image.is_file():
        raise DataError(f"no {image} for {path}", "download the project with its images")
    content = read_object(path)
    split = split_of_image(path, root)
    try:
        size = int(content["size"]["height"]), int(content["size"]["width"])
        objects = content["objects"]
    except (KeyError, TypeError, ValueError) as error:
        damaged(path, error)

    def regions(size: tuple[int, int]) -> Iterator[tuple[str, Region]]:
        for one in objects:
            try:
                kind = one["geometryType"]
                if kind not in _LINES:
                    yield str(one["classTitle"]), _region(kind, one, size)
            except (KeyError, TypeError, ValueError, zlib.error, UnidentifiedImageError) as error:
                damaged(path, error)

    prefix = f"{folder.name}/" if several and split is None else ""
    return Picture(prefix + Path(path.stem).stem, split, image, size, regions)


def _region(kind: str, one: Any, size: tuple[int, int]) -> Region:
    if kind == "bitmap":
        left, top = one["bitmap"]["origin"]
        png = zlib.decompress(base64.b64decode(one["bitmap"]["data"]))
        return pasted(png, int(left), int(top), size)
    exterior = one["points"]["exterior"]
    if kind == "rectangle":
        (left, top), (right, bottom) = exterior
        # Both corners are pixels of it.
        return rectangle(left, top, right + 1, bottom + 1, size)
    if kind == "polygon":
        return polygon(exterior, size, one["points"].get("interior", []))
    raise ValueError(f"geometryType {kind}")
