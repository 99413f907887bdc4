"""The same masks as annotation files of each format: regions as rectangles, which are exact."""

import base64
import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.errors import DataError
from fcn_deploy.data.convert.convert import convert, read_annotations
from fcn_deploy.data.masks import mask_to_colour, read_mask, voc_palette
from tests.data.layouts import Masks, write_image, write_values

NAMES = ("a", "b", "c", "d")
#: Left, top, right, bottom: the right and the bottom edge are not in it.
Box = tuple[int, int, int, int]


def boxes(region: NDArray[np.bool_]) -> Iterator[Box]:
    """Yield rectangles that cover a region once: runs of its rows, equal ones below each other."""
    open_runs: dict[tuple[int, int], int] = {}
    for y, row in enumerate([*region, np.zeros(region.shape[1], np.bool_)]):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        runs = {*zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)}
        for run in [run for run in open_runs if run not in runs]:
            yield run[0], open_runs.pop(run), run[1], y
        for run in runs:
            open_runs.setdefault(run, y)


def corners(box: Box) -> list[tuple[int, int]]:
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def regions(mask: NDArray[np.uint8]) -> Iterator[tuple[int, Box]]:
    for index in range(len(NAMES)):
        for box in boxes(mask == index):
            yield index, box


def flat(points: list[tuple[int, int]]) -> list[int]:
    return [one for point in points for one in point]


def run_lengths(region: NDArray[np.bool_], order: Literal["F", "C"] = "F") -> list[int]:
    """Return the counts of COCO, columns after one another, or of CVAT, rows: noughts first."""
    line = region.ravel(order=order).astype(np.int8)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], line])))
    return np.diff(np.concatenate([[0], edges, [line.size]])).tolist()


def write_coco(root: Path, masks: Masks, *, packed: bool = False) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, mask) in enumerate(masks.items()):
        write_image(root / "images" / f"{name}.jpg", number)
        height, width = mask.shape
        images.append({"id": number, "file_name": f"{name}.jpg", "height": height, "width": width})
        for index in range(len(NAMES)):
            region = mask == index
            segmentation: Any = [flat(corners(box)) for box in boxes(region)]
            if packed:
                segmentation = {"size": [height, width], "counts": run_lengths(region)}
            annotations.append(
                {"image_id": number, "category_id": index + 7, "segmentation": segmentation}
            )
    categories = [{"id": index + 7, "name": name} for index, name in enumerate(NAMES)]
    (root / "instances.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )


def write_labelme(root: Path, masks: Masks) -> None:
    for number, (name, mask) in enumerate(masks.items()):
        write_image(root / f"{name}.jpg", number)
        shapes: list[dict[str, Any]] = [
            {"label": NAMES[index], "shape_type": "polygon", "points": corners(box)}
            for index, box in regions(mask)
            if index
        ]
        # Below all others, and as labelme's own kind of mask.
        region = np.uint8((mask == 0) * 255)
        data = io.BytesIO()
        Image.fromarray(region).save(data, "PNG")
        height, width = mask.shape
        shapes.insert(
            0,
            {
                "label": NAMES[0],
                "shape_type": "mask",
                "points": [[0, 0], [width - 1, height - 1]],
                "mask": base64.b64encode(data.getvalue()).decode(),
            },
        )
        content = {"imagePath": f"{name}.jpg", "imageHeight": height, "imageWidth": width}
        (root / f"{name}.json").write_text(json.dumps({**content, "shapes": shapes}))


def write_yolo(root: Path, masks: Masks) -> None:
    for number, (name, mask) in enumerate(masks.items()):
        write_image(root / "images" / f"{name}.jpg", number)
        height, width = mask.shape
        lines = [
            " ".join(
                [str(index), *(repr(v) for x, y in corners(box) for v in (x / width, y / height))]
            )
            for index, box in regions(mask)
        ]
        labels = root / "labels" / f"{name}.txt"
        labels.parent.mkdir(exist_ok=True)
        labels.write_text("\n".join(lines) + "\n")
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(NAMES))
    (root / "data.yaml").write_text(f"names:\n{names}")


def packed_brush(values: NDArray[np.uint8]) -> list[int]:
    """Pack values as Label Studio does: runs of equal values, and single ones."""
    widths = (3, 4, 8, 16)
    bits = [f"{values.size:032b}", f"{7:05b}", *(f"{width - 1:04b}" for width in widths)]
    longest = range(0, values.size, 2 ** widths[-1])
    edges = sorted({*longest, *(np.flatnonzero(np.diff(values)) + 1).tolist(), values.size})
    for start, end in itertools.pairwise(edges):
        length = end - start
        if length == 1:
            bits.append(f"0{0:02b}{0:03b}{values[start]:08b}")
            continue
        place = next(i for i, width in enumerate(widths) if length <= 2**width)
        bits.append(f"1{place:02b}{length - 1:0{widths[place]}b}{values[start]:08b}")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[place : place + 8], 2) for place in range(0, len(text), 8)]


def write_label_studio(root: Path, masks: Masks) -> None:
    tasks = []
    for number, (name, mask) in enumerate(masks.items()):
        write_image(root / "images" / f"{name}.jpg", number)
        height, width = mask.shape
        common = {"original_width": width, "original_height": height}
        painted = np.zeros((*mask.shape, 4), np.uint8)
        painted[mask == 0] = 255
        brush = {"format": "rle", "rle": packed_brush(painted.ravel()), "brushlabels": [NAMES[0]]}
        results: list[dict[str, Any]] = [{"type": "brushlabels", "value": brush, **common}]
        for index, box in regions(mask):
            if index:
                points = [[x * 100 / width, y * 100 / height] for x, y in corners(box)]
                value = {"points": points, "polygonlabels": [NAMES[index]]}
                results.append({"type": "polygonlabels", "value": value, **common})
        tasks.append(
            {
                "data": {"image": f"/data/upload/1/0a1b2c3d-{name}.jpg"},
                "annotations": [
                    {"result": results, "was_cancelled": False},
                    {"result": [], "was_cancelled": True},
                ],
            }
        )
    (root / "export.json").write_text(json.dumps(tasks))


def write_supervisely(root: Path, masks: Masks) -> None:
    for number, (name, mask) in enumerate(masks.items()):
        write_image(root / "ds0" / "img" / f"{name}.jpg", number)
        objects: list[dict[str, Any]] = []
        for index in (0, 1):
            rows, columns = np.nonzero(mask == index)
            top, left = int(rows.min()), int(columns.min())
            part = np.uint8((mask == index)[top : rows.max() + 1, left : columns.max() + 1] * 255)
            data = io.BytesIO()
            Image.fromarray(part).save(data, "PNG")
            bitmap = {
                "data": base64.b64encode(zlib.compress(data.getvalue())).decode(),
                "origin": [left, top],
            }
            objects.append({"classTitle": NAMES[index], "geometryType": "bitmap", "bitmap": bitmap})
        for index, box in regions(mask):
            if index > 1:
                points = {"exterior": corners(box), "interior": []}
                objects.append(
                    {"classTitle": NAMES[index], "geometryType": "polygon", "points": points}
                )
        height, width = mask.shape
        file = root / "ds0" / "ann" / f"{name}.jpg.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(
            json.dumps({"size": {"height": height, "width": width}, "objects": objects})
        )
    classes = [{"title": name, "shape": "any", "color": "#00ff00"} for name in NAMES]
    (root / "meta.json").write_text(json.dumps({"classes": classes}))


def write_cvat(root: Path, masks: Masks) -> None:
    for number, (name, mask) in enumerate(masks.items()):
        write_image(root / "JPEGImages" / f"{name}.jpg", number)
        colours = mask_to_colour(mask, voc_palette(len(NAMES)))
        write_values(root / "SegmentationClass" / f"{name}.png", colours)
    rows = [
        f"{name}:{red},{green},{blue}::"
        for name, (red, green, blue) in zip(NAMES, voc_palette(len(NAMES)), strict=True)
    ]
    (root / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *rows]) + "\n")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("".join(f"{name}\n" for name in masks))


def write_cvat_xml(root: Path, masks: Masks) -> None:
    """The first class as masks, the second as boxes, the others as polygons."""
    rows = ["<?xml version='1.0' encoding='utf-8'?>", "<annotations><version>1.1</version>"]
    named = "".join(f"<label><name>{n}</name><color>#00ff00</color></label>" for n in NAMES)
    rows.append(f"<meta><task><labels>{named}</labels></task></meta>")
    for number, (name, mask) in enumerate(masks.items()):
        write_image(root / "images" / f"{name}.jpg", number)
        height, width = mask.shape
        rows.append(f'<image id="{number}" name="{name}.jpg" width="{width}" height="{height}">')
        runs = ", ".join(map(str, run_lengths(mask == 0, "C")))
        rows.append(
            f'<mask label="{NAMES[0]}" rle="{runs}" left="0" top="0" width="{width}" '
            f'height="{height}" z_order="0"/>'
        )
        for index, box in regions(mask):
            if index == 1:
                edges = 'xtl="{}" ytl="{}" xbr="{}" ybr="{}"'.format(*box)
                rows.append(f'<box label="{NAMES[1]}" {edges} z_order="1"/>')
            elif index > 1:
                points = ";".join(f"{x},{y}" for x, y in corners(box))
                rows.append(f'<polygon label="{NAMES[index]}" points="{points}" z_order="0"/>')
        rows.append("</image>")
    (root / "annotations.xml").write_text("\n".join([*rows, "</annotations>"]))


FORMATS: Mapping[str, Callable[[Path, Masks], None]] = {
    "coco": write_coco,
    "labelme": write_labelme,
    "cvat": write_cvat,
    "label-studio": write_label_studio,
    "yolo": write_yolo,
    "supervisely": write_supervisely,
}


def converted_mask(format_name: str, root: Path, target: Path) -> list[list[int]]:
    """Convert annotations of one picture; return its mask."""
    convert(read_annotations(format_name, root), target)
    (path,) = (target / "masks").rglob("*.png")
    return read_mask(path, voc_palette(4)).tolist()


def assert_written(target: Path, masks: Masks) -> None:
    """The converted folder holds these masks."""
    for name, mask in masks.items():
        path = target / "masks" / f"{name}.png"
        np.testing.assert_array_equal(read_mask(path, voc_palette(4)), mask)


def refusal(format_name: str, root: Path, target: Path) -> str:
    """Return the line that the conversion is refused with; nothing is left."""
    with pytest.raises(DataError) as caught:
        convert(read_annotations(format_name, root), target)
    assert caught.value.exit_code == 2
    assert caught.value.repair
    assert [path.name for path in target.parent.iterdir() if target.name in path.name] == []
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)
