"""Annotations of each format become the masks that they were made of, or one clear line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="polygons need the extra [convert]")
pytest.importorskip("yaml", reason="YOLO's data.yaml needs the extra [convert]")

from fcn_deploy.commands import data_convert
from fcn_deploy.core.errors import DataError
from fcn_deploy.data.check import check
from fcn_deploy.data.convert.convert import READERS, convert, read_annotations
from fcn_deploy.data.convert.label_studio import unpacked_brush
from fcn_deploy.data.dataset import iterate
from fcn_deploy.data.masks import read_mask, voc_palette
from fcn_deploy.data.sources import open_dataset
from tests.command_line import FcnDeploy
from tests.data import annotation_files
from tests.data.annotation_files import (
    FORMATS,
    NAMES,
    assert_written,
    converted_mask,
    packed_brush,
    refusal,
)
from tests.data.layouts import SIZE, small_masks, write_image

#: pycocotools and numpy 2 disagree on a keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def made(tmp_path: Path, format_name: str) -> Path:
    root = tmp_path / format_name
    root.mkdir()
    FORMATS[format_name](root, small_masks())
    return root


def test_the_command_offers_every_reader() -> None:
    assert {*data_convert.FORMATS} == {*READERS} == {*FORMATS}


@pytest.mark.parametrize("format_name", FORMATS)
def test_there_and_back_the_masks_are_the_same(
    fcn_deploy: FcnDeploy, tmp_path: Path, format_name: str
) -> None:
    source = made(tmp_path, format_name)
    done = fcn_deploy(
        "data", "convert", format_name, source, "--out", "new", "--unlabelled", "void"
    )
    assert done.code == 0, done.err
    assert "wrote new: 10 all; 4 classes (a, b, c, d)" in done.out
    found = {}
    for split in ("train", "val"):
        dataset = open_dataset(tmp_path / "new", split)
        assert dataset.class_names == NAMES
        found |= {sample.name: sample.mask for sample in iterate(dataset)}
    for name, mask in small_masks().items():
        np.testing.assert_array_equal(found[name], mask)
    assert check(tmp_path / "new").faults == ()
    again = fcn_deploy("data", "convert", format_name, source, "--out", "new")
    assert again.code == 2
    assert "new is not empty; name a new folder" in again.err


def test_run_lengths_of_coco(tmp_path: Path) -> None:
    annotation_files.write_coco(tmp_path / "s", small_masks(), packed=True)
    convert(read_annotations("coco", tmp_path / "s"), tmp_path / "new", "void")
    assert_written(tmp_path / "new", small_masks())


# -- what lies on top, and what nobody has drawn ----------------------------------------


def coco(root: Path, annotations: list[dict[str, Any]], **changes: Any) -> Path:
    """Write a COCO file of one picture a.jpg and the categories thing (1) and other (2)."""
    write_image(root / "a.jpg")
    content = {
        "images": [{"id": 5, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"image_id": 5, "category_id": 1, **one} for one in annotations],
        "categories": [{"id": 1, "name": "thing"}, {"id": 2, "name": "other"}],
    }
    (root / "a.json").write_text(json.dumps({**content, **changes}))
    return root


def square(left: int, top: int, side: int) -> list[list[int]]:
    return [annotation_files.flat(annotation_files.corners((left, top, left + side, top + side)))]


def test_of_coco_smaller_regions_lie_on_top_and_crowds_below(tmp_path: Path) -> None:
    root = coco(
        tmp_path / "s",
        [
            {"segmentation": square(1, 1, 1)},
            {"segmentation": square(0, 0, 2), "category_id": 2},
            {"segmentation": {"size": [*SIZE], "counts": [0, 6, 42]}, "iscrowd": 1},
        ],
    )
    mask = converted_mask("coco", root, tmp_path / "new")
    assert [row[:3] for row in mask[:3]] == [[2, 2, 0], [2, 1, 0], [1, 0, 0]]


def test_of_labelme_later_shapes_lie_on_top(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write_image(root / "a.jpg")
    shapes = [
        {"label": "a", "shape_type": "rectangle", "points": [[2, 2], [0, 0]]},
        {"label": "b", "points": [[0, 0], [4, 0], [4, 1], [0, 1]]},
        {"label": "way", "shape_type": "linestrip", "points": [[0, 0], [4, 0]]},
        {"label": "b", "shape_type": "circle", "points": [[6, 4], [6, 5]]},
    ]
    (root / "a.json").write_text(json.dumps({"imagePath": "..\\s\\a.jpg", "shapes": shapes}))
    mask = converted_mask("labelme", root, tmp_path / "new")
    assert [row[:5] for row in mask[:3]] == [[2, 2, 2, 2, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert mask[4][6] == mask[3][5] == 2


def test_a_picture_s_own_name_puts_it_into_no_list(tmp_path: Path) -> None:
    root = tmp_path / "s"
    for name in ("train_station", "b"):
        write_image(root / f"{name}.jpg")
        shapes = [{"label": "a", "points": [[0, 0], [4, 0], [4, 1], [0, 1]]}]
        content = {"imagePath": f"{name}.jpg", "shapes": shapes}
        (root / f"{name}.json").write_text(json.dumps(content))
    assert convert(read_annotations("labelme", root), tmp_path / "new").pictures == {"all": 2}


def test_void_labels_are_no_class(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write_image(root / "a.jpg")
    shapes = [
        {"label": "__ignore__", "points": [[0, 0], [2, 0], [2, 2], [0, 2]]},
        {"label": "b", "points": [[4, 0], [8, 0], [8, 6], [4, 6]]},
    ]
    (root / "a.json").write_text(json.dumps({"imagePath": "a.jpg", "shapes": shapes}))
    assert converted_mask("labelme", root, tmp_path / "new")[0] == [255, 255, 0, 0, 1, 1, 1, 1]


def test_holes_of_supervisely(tmp_path: Path) -> None:
    root = made(tmp_path, "supervisely")
    file = next((root / "ds0" / "ann").iterdir())
    content = json.loads(file.read_text())
    points = {
        "exterior": [[0, 0], [4, 0], [4, 4], [0, 4]],
        "interior": [[[1, 1], [3, 1], [3, 3], [1, 3]]],
    }
    content["objects"] = [{"classTitle": "b", "geometryType": "polygon", "points": points}]
    file.write_text(json.dumps(content))
    convert(read_annotations("supervisely", root), tmp_path / "new")
    mask = read_mask(tmp_path / "new" / "masks" / f"{Path(file.stem).stem}.png", voc_palette(5))
    assert [row[:5] for row in mask[:3].tolist()] == [
        [2, 2, 2, 2, 0],
        [2, 0, 0, 2, 0],
        [2, 0, 0, 2, 0],
    ]


def test_brush_strokes_of_all_widths() -> None:
    values = np.zeros((30, 40, 4), np.uint8)
    values[3:9, 5:20] = 255
    values[12, 7] = 1
    large = np.full((300, 300, 4), 255, np.uint8)  # longer than one run may be
    assert unpacked_brush(packed_brush(large.ravel()), (300, 300)).all()
    np.testing.assert_array_equal(
        unpacked_brush(packed_brush(values.ravel()), (30, 40)), values[..., 3] > 0
    )
    with pytest.raises(ValueError, match="end early"):
        unpacked_brush(packed_brush(values.ravel())[:-3], (30, 40))
    with pytest.raises(ValueError, match="brush strokes of 1200 pixels, not 4"):
        unpacked_brush(packed_brush(values.ravel()), (2, 2))


# -- lists ----------------------------------------------------------------------------------------


def test_lists_of_yolo_are_kept(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_image(tmp_path / "s" / split / "images" / "a.jpg", len(split))
        (tmp_path / "s" / split / "labels").mkdir()
        (tmp_path / "s" / split / "labels" / "a.txt").write_text("1 0 0 1 0 1 1 0 1\n\n")
    (tmp_path / "s" / "data.yaml").write_text("names: [a, b]\n")
    done = convert(read_annotations("yolo", tmp_path / "s"), tmp_path / "new")
    assert done.pictures == {"train": 1, "val": 1}
    assert done.class_names == ("background", "a", "b")
    assert open_dataset(tmp_path / "new", "val")[0].mask.tolist() == [[2] * SIZE[1]] * SIZE[0]


def test_lists_of_coco_are_those_of_its_files(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        coco(tmp_path / "s" / split, [{"segmentation": square(0, 0, 3)}])
        annotations = tmp_path / "s" / "annotations"
        annotations.mkdir(exist_ok=True)
        (tmp_path / "s" / split / "a.json").rename(annotations / f"instances_{split}.json")
    done = convert(read_annotations("coco", tmp_path / "s"), tmp_path / "new")
    assert done.pictures == {"train": 1, "val": 1}
    assert (tmp_path / "new" / "images" / "val" / "a.jpg").is_file()


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_folder_of_something_else(tmp_path: Path, format_name: str) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.json").write_text('{"a": 1}')
    assert str(tmp_path / "s") in refusal(format_name, tmp_path / "s", tmp_path / "new")
    assert "no such file" in refusal(format_name, tmp_path / "t", tmp_path / "new")


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_missing_image(tmp_path: Path, format_name: str) -> None:
    root = made(tmp_path, format_name)
    for path in root.rglob("a3.jpg"):
        path.unlink()
    if format_name == "yolo":  # it lists images, not labels
        assert len([*read_annotations("yolo", root).pictures()]) == 9
        return
    assert "a3" in refusal(format_name, root, tmp_path / "new")


@pytest.mark.parametrize("format_name", ["coco", "labelme", "label-studio", "supervisely"])
def test_an_image_of_another_size(tmp_path: Path, format_name: str) -> None:
    root = made(tmp_path, format_name)
    for path in root.rglob("*.json"):
        text = path.read_text()
        for word in ("height", "imageHeight", "original_height"):
            text = text.replace(f'"{word}": {SIZE[0]}', f'"{word}": 99')
        path.write_text(text)
    assert "6×8, but was annotated at 99×8" in refusal(format_name, root, tmp_path / "new")


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ({"segmentation": "x"}, "is not as its format has it"),
        ({}, "no 'segmentation'"),
        ({"segmentation": [], "category_id": 9}, "no 9"),
        ({"segmentation": {"size": [3, 3], "counts": [9]}}, "run lengths of"),
    ],
)
def test_damaged_annotations_of_coco(
    tmp_path: Path, annotation: dict[str, Any], words: str
) -> None:
    root = coco(tmp_path / "s", [annotation])
    text = refusal("coco", root, tmp_path / "new")
    assert words in text
    assert str(root / "a.json") in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.5 0.5 0.2 0.2", "a0.txt:1 is a box, not a polygon"),
        ("7 0 0 1 0 1 1", "class 7 has no name"),
        ("0 0 0 1 0 1", "x y pairs"),
        ("0 0 0 900 0 900 700", "x y pairs from 0 to 1"),
        ("road 0 0 1 0 1 1", "is not as its format has it"),
    ],
)
def test_damaged_labels_of_yolo(tmp_path: Path, line: str, words: str) -> None:
    root = made(tmp_path, "yolo")
    (root / "labels" / "a0.txt").write_text(line + "\n")
    assert words in refusal("yolo", root, tmp_path / "new")


def test_one_label_without_background_is_refused(tmp_path: Path) -> None:
    root = coco(tmp_path / "s", [], categories=[{"id": 1, "name": "thing"}])
    annotations = read_annotations("coco", root)
    with pytest.raises(DataError, match=r"have 0 labels|have 1 labels"):
        convert(annotations, tmp_path / "new", "void")
    assert not (tmp_path / "new").exists()
