"""CVAT's XML, embedded pictures of labelme, rotated rectangles: read, or one clear line."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocotools", reason="polygons need the extra [convert]")

from fcn_deploy.data.convert.convert import convert, read_annotations
from fcn_deploy.data.masks import read_mask, voc_palette
from tests.data.annotation_files import (
    NAMES,
    assert_written,
    converted_mask,
    refusal,
    write_cvat_xml,
)
from tests.data.layouts import SIZE, small_masks, write_image

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def cvat(root: Path, shapes: str, size: tuple[int, int] = SIZE, before: str = "") -> Path:
    """Write an annotations.xml of one picture a.jpg and the labels b and c."""
    write_image(root / "a.jpg")
    labels = "".join(f"<label><name>{name}</name></label>" for name in "bc")
    (root / "annotations.xml").write_text(
        f"{before}<annotations><meta><job><labels>{labels}</labels></job></meta>"
        f'<image name="a.jpg" height="{size[0]}" width="{size[1]}">{shapes}</image></annotations>'
    )
    return root


@pytest.mark.parametrize("named", ["folder", "file"])
def test_there_and_back_by_cvats_xml_the_masks_are_the_same(tmp_path: Path, named: str) -> None:
    write_cvat_xml(tmp_path / "s", small_masks())
    source = tmp_path / "s" if named == "folder" else tmp_path / "s" / "annotations.xml"
    done = convert(read_annotations("cvat", source), tmp_path / "new", "void")
    assert done.class_names == NAMES
    assert_written(tmp_path / "new", small_masks())


def test_of_cvats_xml_the_larger_z_order_lies_on_top(tmp_path: Path) -> None:
    root = cvat(
        tmp_path / "s",
        '<box label="c" xtl="0" ytl="0" xbr="2" ybr="2" z_order="2"/>'
        '<polygon label="b" points="0,0;4,0;4,4;0,4" z_order="1"/>'
        '<polyline label="b" points="0,5;8,5" z_order="9"/>'
        '<mask label="c" rle="1, 2, 1" left="6" top="4" width="2" height="2" z_order="1"/>'
        '<ellipse label="b" cx="6" cy="1" rx="1.2" ry="1.2"/>',
    )
    mask = np.array(converted_mask("cvat", root, tmp_path / "new"))
    assert mask[:2, :2].tolist() == [[2, 2], [2, 2]]
    assert mask[2:4, :4].tolist() == [[1] * 4] * 2
    assert mask[4:, 6:].tolist() == [[0, 2], [2, 0]]
    assert mask[5, :6].tolist() == [0] * 6
    assert mask[:2, 5:7].tolist() == [[1, 1], [1, 1]]


def test_rectangles_may_be_rotated(tmp_path: Path) -> None:
    # A quarter turn: around its middle in CVAT, around its corner in Label Studio.
    box = '<box label="b" xtl="2" ytl="2" xbr="6" ybr="4" rotation="90"/>'
    found = converted_mask("cvat", cvat(tmp_path / "s", box), tmp_path / "new")
    expected = np.zeros(SIZE, int)
    expected[1:5, 3:5] = 1
    assert found == expected.tolist()
    height, width = SIZE
    value = {"x": 100 * 4 / width, "y": 0, "width": 100 * 3 / width, "height": 100 * 2 / height}
    value |= {"rotation": 90, "rectanglelabels": ["b"]}
    result = {"type": "rectanglelabels", "value": value}
    task = {"data": {"image": "a.jpg"}, "annotations": [{"result": [result]}]}
    write_image(tmp_path / "t" / "a.jpg")
    (tmp_path / "t" / "export.json").write_text(json.dumps([task]))
    (tmp_path / "other").mkdir()
    expected = np.zeros(SIZE, int)
    expected[0:3, 2:4] = 1
    found = converted_mask("label-studio", tmp_path / "t", tmp_path / "other" / "new")
    assert found == expected.tolist()


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("shapes", "before", "words"),
    [
        ("", BOMB, "declares a document type"),
        ("", '<!DOCTYPE a SYSTEM "file:///etc/hostname">', "declares a document type"),
        ("<box", "", "cannot read"),
        ('<box label="b" xtl="0"/>', "", "no 'ytl'"),
        ('<polygon label="b" points="0,0;x"/>', "", "is not as its format has it"),
        ('<mask label="b" rle="9" left="0" top="0" width="2" height="2"/>', "", "a mask of 9"),
        ('<mask label="b" rle="4" left="7" top="0" width="2" height="2"/>', "", "at 0, 7"),
        ('<box label="b" xtl="0" ytl="0" xbr="a" ybr="1"/>', "", "could not convert"),
    ],
)
def test_damaged_xml_is_one_line(tmp_path: Path, shapes: str, before: str, words: str) -> None:
    root = cvat(tmp_path / "s", shapes, before=before)
    text = refusal("cvat", root, tmp_path / "new")
    assert words in text
    assert str(root / "annotations.xml") in text


def test_videos_and_other_sizes_are_refused(tmp_path: Path) -> None:
    root = cvat(tmp_path / "s", "", (99, 8))
    assert "6×8, but was annotated at 99×8" in refusal("cvat", root, tmp_path / "new")
    (root / "annotations.xml").write_text("<annotations><track/></annotations>")
    assert "tracks of a video" in refusal("cvat", root, tmp_path / "new")
    (root / "annotations.xml").write_text("<html/>")
    assert "begins with <html>" in refusal("cvat", root, tmp_path / "new")


def labelme(root: Path, data: str | None) -> Path:
    shapes = [{"label": "b", "points": [[0, 0], [2, 0], [2, 2], [0, 2]]}]
    content = {"imagePath": "..\\far\\photo.bmp", "imageData": data, "shapes": shapes}
    root.mkdir()
    (root / "a.json").write_text(json.dumps(content))
    return root


def test_a_picture_that_only_labelmes_file_holds_is_written(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    stored = io.BytesIO()
    Image.fromarray(picture).save(stored, "PNG")
    root = labelme(tmp_path / "s", base64.b64encode(stored.getvalue()).decode())
    convert(read_annotations("labelme", root), tmp_path / "new")
    with Image.open(tmp_path / "new" / "images" / "photo.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
    mask = read_mask(tmp_path / "new" / "masks" / "photo.png", voc_palette(2))
    assert mask[:3, :3].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "names the image"),
        (base64.b64encode(b"no picture").decode(), "is not as its format has it"),
        ("a", "is not as its format has it"),
    ],
)
def test_a_picture_that_nobody_holds_is_refused(
    tmp_path: Path, data: str | None, words: str
) -> None:
    root = labelme(tmp_path / "s", data)
    text = refusal("labelme", root, tmp_path / "new")
    assert words in text
    assert str(root / "a.json") in text
