"""Label Studio: a JSON export, with polygons, rectangles and brush strokes.

Brush strokes are packed in bits in a way of their own.  Label Studio's library unpacks them, but
needs OpenCV, pandas and twenty more packages: the forty lines are here instead.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import DataError
from fcn_deploy.data.convert.annotations import (
    Annotations,
    ImageIndex,
    Picture,
    Region,
    damaged,
    json_files,
    read_object,
    root_of,
    split_of_image,
    stem_of,
)
from fcn_deploy.data.convert.regions import polygon, require_pycocotools, rotated

#: Coordinates are per cent of the picture.
_WHOLE = 100
#: What uploads get before their names.
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
_KINDS = ("polygonlabels", "brushlabels", "rectanglelabels")


def read_label_studio(source: Path) -> Annotations:
    """Read exports of Label Studio ("JSON", not "JSON-MIN").

    Raises:
        DataError: there is none, it is damaged, or pycocotools is not installed.
    """
    require_pycocotools()
    tasks = [(path, task) for path in json_files(source) for task in _tasks(read_object(path))]
    if not tasks:
        raise DataError(
            f"no export of Label Studio in {source}", 'export as "JSON" and name that file'
        )
    try:
        labels = sorted({_label(one) for _, task in tasks for one in _results(task)})
    except (KeyError, TypeError, IndexError) as error:
        damaged(tasks[0][0], error)
    index = ImageIndex(root_of(source))

    def pictures() -> Iterator[Picture]:
        for path, task in tasks:
            yield _picture(path, task, index)

    return Annotations(tuple(labels), {}, len(tasks), pictures)


def _tasks(content: Any) -> list[dict[str, Any]]:
    if not isinstance(content, list):
        return []
    return [
        one for one in content if isinstance(one, dict) and "annotations" in one and "data" in one
    ]


def _results(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the regions of a task's last annotation that was not cancelled."""
    done = [one for one in task["annotations"] if not one.get("was_cancelled")]
    if not done:
        return []
    return [one for one in done[-1]["result"] if one["type"] in _KINDS]


def _label(result: dict[str, Any]) -> str:
    return str(result["value"][result["type"]][0])


def _picture(path: Path, task: dict[str, Any], index: ImageIndex) -> Picture:
    places = [value for value in task["data"].values() if isinstance(value, str)]
    if not places:
        raise DataError(f"a task of {path} names no image", "export the annotations anew")
    place = urlsplit(places[0])
    query = unquote(place.query.partition("d=")[2])  # /data/local-files/?d=FOLDER/NAME
    called = PurePosixPath(query or unquote(place.path)).as_posix()
    name = PurePosixPath(called).name
    image = index.find(called, path, _UPLOADED.sub("", name))
    try:
        results = _results(task)
        first = results[0] if results else {}
        height, width = first.get("original_height"), first.get("original_width")
    except (KeyError, TypeError) as error:
        damaged(path, error)

    def regions(size: tuple[int, int]) -> Iterator[tuple[str, Region]]:
        for result in results:
            try:
                yield _label(result), _region(result, size)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                damaged(path, error)

    return Picture(
        stem_of(image, index.root),
        split_of_image(image, index.root),
        image,
        (int(height), int(width)) if height and width else None,
        regions,
    )


def _region(result: dict[str, Any], size: tuple[int, int]) -> Region:
    height, width = size
    value = result["value"]
    if result["type"] == "brushlabels":
        return unpacked_brush(value["rle"], size)
    if result["type"] == "polygonlabels":
        points = [(x * width / _WHOLE, y * height / _WHOLE) for x, y in value["points"]]
        return polygon(points, size)
    left, top = value["x"] * width / _WHOLE, value["y"] * height / _WHOLE
    right, bottom = left + value["width"] * width / _WHOLE, top + value["height"] * height / _WHOLE
    ring = [(left, top), (right, top), (right, bottom), (left, bottom)]
    # In pixels, which are square, and around the corner that x and y name.
    return polygon(rotated(ring, (left, top), float(value.get("rotation") or 0)), size)


class _Bits:
    """Reads numbers of some bits one after another, the highest bit first."""

    def __init__(self, packed: Sequence[int]) -> None:
        self._bits = np.unpackbits(np.array(packed, np.uint8))
        self._place = 0

    def read(self, count: int) -> int:
        bits = self._bits[self._place : self._place + count]
        if len(bits) < count:
            raise ValueError("brush strokes that end early")
        self._place += count
        number = 0
        for bit in bits.tolist():
            number = number << 1 | bit
        return number


def unpacked_brush(packed: Sequence[int], size: tuple[int, int]) -> Region:
    """Return the pixels of Label Studio's brush strokes.

    The bits are: 32 how many values; 5 their width less 1; four times 4 a run's width less 1; then
    runs: 1 whether all values of the run are equal, 2 which of the four widths, its length less 1,
    and one value or all of them.  Values are RGBA: the last of four says whether it is painted.

    Raises:
        ValueError: they end early, or are of another size.
    """
    bits = _Bits(packed)
    count, width = bits.read(32), bits.read(5) + 1
    if count != size[0] * size[1] * 4:
        raise ValueError(f"brush strokes of {count // 4} pixels, not {size[0] * size[1]}")
    run_widths = [bits.read(4) + 1 for _ in range(4)]
    values: NDArray[np.uint8] = np.zeros(count, np.uint8)
    place = 0
    while place < count:
        equal = bits.read(1)
        end = place + bits.read(run_widths[bits.read(2)]) + 1
        if equal:
            values[place:end] = bits.read(width)
        else:
            values[place:end] = [bits.read(width) for _ in range(place, end)]
        place = end
    return values.reshape(*size, 4)[..., 3] > 0
