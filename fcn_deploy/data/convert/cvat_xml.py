"""CVAT's export "CVAT for images": one XML file with the shapes of all pictures.

Python's own parser reads it, and refuses a file that declares a document type: only there can
entities be made that grow without end or name other files.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
from PIL import ImageColor

from fcn_deploy.core.errors import DataError
from fcn_deploy.data.class_json import Colour
from fcn_deploy.data.convert.annotations import (
    Annotations,
    ImageIndex,
    Picture,
    Region,
    damaged,
    root_of,
    split_of,
    split_of_image,
    stem_of,
)
from fcn_deploy.data.convert.regions import polygon, require_pycocotools, rotated

#: An ellipse is a polygon of so many corners.
_CORNERS = 72
#: Shapes with an area; lines, points, cuboids and skeletons are no regions.
_AREAS = frozenset({"polygon", "box", "ellipse", "mask"})


def read_cvat_xml(file: Path) -> Annotations:
    """Read an ``annotations.xml``, with the images anywhere below its folder.

    Raises:
        DataError: it is damaged, of a video, or pycocotools is not installed.
    """
    require_pycocotools()
    root = _parsed(file)
    if root.tag != "annotations":
        raise DataError(f"{file} begins with <{root.tag}>", 'export from CVAT as "CVAT for images"')
    if root.find("track") is not None:
        raise DataError(
            f"{file} holds the tracks of a video", 'export the task as "CVAT for images" instead'
        )
    images, index = root.findall("image"), ImageIndex(root_of(file))
    labels, colours = _labels(root)
    drawn = {one.get("label", "") for image in images for one in image if one.tag in _AREAS}

    def pictures() -> Iterator[Picture]:
        for image in images:
            yield _picture(file, image, index)

    known = tuple(dict.fromkeys([*labels, *sorted(drawn)]))
    return Annotations(known, colours, len(images), pictures)


def _parsed(file: Path) -> Element:
    builder = TreeBuilder()
    parser = expat.ParserCreate()

    def refuse(*_: object) -> NoReturn:
        raise DataError(f"{file} declares a document type", "CVAT writes none: export it anew")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(file.read_bytes(), True)
    except (expat.ExpatError, OSError) as error:
        raise DataError(f"cannot read {file} ({error})", "export the annotations anew") from error
    return builder.close()


def _labels(root: Element) -> tuple[list[str], dict[str, Colour]]:
    """Return the labels that the task has, and the colours of those that have one."""
    names: list[str] = []
    colours: dict[str, Colour] = {}
    for row in (row for rows in root.iter("labels") for row in rows.findall("label")):
        name, colour = row.findtext("name"), row.findtext("color")
        if not name:
            continue
        names.append(name)
        if colour and colour.startswith("#") and len(colour) == len("#rrggbb"):
            try:
                red, green, blue = ImageColor.getrgb(colour)[:3]
            except ValueError:  # then it has the colour that every class gets
                continue
            colours[name] = (red, green, blue)
    return names, colours


def _picture(file: Path, image: Element, index: ImageIndex) -> Picture:
    try:
        called, size = image.attrib["name"], (_whole(image, "height"), _whole(image, "width"))
        # Shapes of one height lie as they were drawn.
        shapes = sorted(
            (one for one in image if one.tag in _AREAS), key=lambda one: int(one.get("z_order", 0))
        )
    except (KeyError, ValueError) as error:
        damaged(file, error)
    path = index.find(called, file)

    def regions(size: tuple[int, int]) -> Iterator[tuple[str, Region]]:
        for shape in shapes:
            try:
                yield shape.attrib["label"], _region(shape, size)
            except (KeyError, ValueError) as error:
                damaged(file, error)

    subset = image.get("subset")
    split = None if subset is None else split_of(index.root / subset, index.root)
    return Picture(
        stem_of(path, index.root), split or split_of_image(path, index.root), path, size, regions
    )


def _region(shape: Element, size: tuple[int, int]) -> Region:
    if shape.tag == "mask":
        return _mask(shape, size)
    if shape.tag == "polygon":
        rows = (row.split(",") for row in shape.attrib["points"].split(";"))
        return polygon([(float(x), float(y)) for x, y in rows], size)
    if shape.tag == "ellipse":
        middle = _number(shape, "cx"), _number(shape, "cy")
        steps = [2 * math.pi * step / _CORNERS for step in range(_CORNERS)]
        across, down = _number(shape, "rx"), _number(shape, "ry")
        ring = [
            (middle[0] + across * math.cos(step), middle[1] + down * math.sin(step))
            for step in steps
        ]
    else:
        left, top, right, bottom = (_number(shape, name) for name in ("xtl", "ytl", "xbr", "ybr"))
        middle = (left + right) / 2, (top + bottom) / 2
        ring = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return polygon(rotated(ring, middle, float(shape.get("rotation", 0))), size)


def _mask(shape: Element, size: tuple[int, int]) -> Region:
    """Return the pixels of run lengths, row by row, the first of what is not in it."""
    left, top = _whole(shape, "left"), _whole(shape, "top")
    height, width = _whole(shape, "height"), _whole(shape, "width")
    runs = [int(run) for run in shape.attrib["rle"].split(",")]
    inside = 0 <= left <= left + width <= size[1] and 0 <= top <= top + height <= size[0]
    if not inside or min(runs) < 0 or sum(runs) != height * width:
        raise ValueError(f"a mask of {sum(runs)} pixels for {height}×{width} at {top}, {left}")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    region = np.zeros(size, np.bool_)
    region[top : top + height, left : left + width] = values.reshape(height, width)
    return region


def _number(shape: Element, name: str) -> float:
    return float(shape.attrib[name])


def _whole(shape: Element, name: str) -> int:
    return int(shape.attrib[name])
