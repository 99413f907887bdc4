"""classes.json: which values of a mask mean which class; and how it is written from the masks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.errors import DataError, LabelError
from fcn_deploy.data.check import check
from fcn_deploy.data.class_json import class_json
from fcn_deploy.data.class_list import class_list_of
from fcn_deploy.data.dataset import check_and_cache, iterate
from fcn_deploy.data.masks import mask_to_colour, mask_to_image, voc_palette
from fcn_deploy.data.sources import open_dataset
from tests.command_line import FcnDeploy
from tests.data import layouts
from tests.data.layouts import SIZE, small_masks

OneLine = Callable[[DataError], str]


def written(folder: Path, content: Any) -> Path:
    file = folder / "classes.json"
    file.write_text(json.dumps(content))
    return file


def read(folder: Path, content: Any, stored: NDArray[Any]) -> list[list[int]]:
    """Return a stored mask as classes by a classes.json."""
    classes = class_list_of(written(folder, content))
    Image.fromarray(stored).save(folder / "mask.png")
    return classes.read_mask(folder / "mask.png").tolist()


def named(*values: list[int] | None) -> list[dict[str, Any]]:
    return [
        {"name": f"c{i}"} | ({} if one is None else {"values": one}) for i, one in enumerate(values)
    ]


# -- what the values mean -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "stored", "expected"),
    [
        ({"classes": named([0], [255])}, [0, 255], [0, 1]),
        ({"classes": named([0], [7, 8], [26])}, [0, 7, 8, 26, 255], [0, 1, 1, 2, 255]),
        ({"classes": named([1], [2]), "void": {"values": [0]}}, [0, 1, 2, 255], [255, 0, 1, 255]),
        ({"classes": named([3], [5]), "others": "void"}, [3, 4, 5, 200], [0, 255, 1, 255]),
        ({"classes": named(None, None), "reduce_zero_label": True}, [0, 1, 2], [255, 0, 1]),
        ({"classes": named(None, None), "void": {"values": [11]}}, [0, 1, 11], [0, 1, 255]),
        ({"classes": named(None, None)}, [0, 1, 255], [0, 1, 255]),
    ],
)
def test_values_become_classes(
    tmp_path: Path, content: Any, stored: list[int], expected: list[int]
) -> None:
    values = np.array([stored], np.uint8)
    assert read(tmp_path, content, values) == [expected]
    if max(stored) > 1:  # the same in 16 bits, and as three equal channels
        assert read(tmp_path, content, values.astype(np.uint16)) == [expected]
        if "values" in str(content):
            assert read(tmp_path, content, np.stack([values] * 3, 2)) == [expected]


def test_ids_of_16_bits(tmp_path: Path) -> None:
    content = {"classes": named([1000, 1001], [65535])}
    stored = np.array([[1000, 1001, 65535]], np.uint16)
    assert read(tmp_path, content, stored) == [[0, 0, 1]]
    with pytest.raises(LabelError, match=r"mask.png: holds value 7, which means no class; give it"):
        read(tmp_path, content, np.array([[1000, 7]], np.uint16))


def test_a_palettes_colours_do_not_hinder_a_map(tmp_path: Path) -> None:
    palette = [*voc_palette(4)]
    content = {"classes": named([2], [3])}
    classes = class_list_of(written(tmp_path, content))
    image = mask_to_image(np.array([[2, 3, 255]], np.uint8), palette)
    image.save(tmp_path / "mask.png")
    assert classes.read_mask(tmp_path / "mask.png").tolist() == [[0, 1, 255]]


def test_one_bit_masks_are_0_and_1(tmp_path: Path) -> None:
    content = {"classes": named([0], [1])}
    assert read(tmp_path, content, np.array([[False, True]])) == [[0, 1]]


def test_colours_and_voids_colours(tmp_path: Path) -> None:
    content = {
        "classes": [{"name": "a", "colour": [9, 8, 7]}, {"name": "b", "color": [1, 2, 3]}],
        "void": {"colours": [[0, 0, 0]]},
    }
    stored = np.array([[[9, 8, 7], [1, 2, 3], [0, 0, 0]]], np.uint8)
    assert read(tmp_path, content, stored) == [[0, 1, 255]]
    classes = class_list_of(tmp_path / "classes.json")
    again = class_json(classes.names, classes.palette, classes.values, classes.void_colours)
    assert read(tmp_path, again, stored) == [[0, 1, 255]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1], "not a result|no list"),
        ({}, "has no list `classes`"),
        ({"classes": [{"name": "a"}, {"title": "b"}]}, "class 1 has no name"),
        ({"classes": named([0], None)}, "gives values to c0 but not to c1; give every class"),
        ({"classes": named([0], [0])}, "gives value 0 to two classes"),
        ({"classes": named([0], [70000])}, r"values of c1 are \[70000\]"),
        ({"classes": named([0], [True])}, r"values of c1 are \[True\]"),
        ({"classes": named([0], [1]), "reduce_zero_label": True}, "values and reduce_zero_label"),
        ({"classes": named(None, None), "others": "skip"}, "`others` is 'skip'"),
        ({"classes": named(None, None), "viod": {}}, "unknown entry viod; known: classes"),
        ({"classes": [{"name": "a", "colour": [1, 2]}, {"name": "b"}]}, "the colour of a is"),
        ({"classes": [{"name": "a"}, {"name": "a"}]}, "lists a class twice"),
        ({"classes": [{"name": "a"}]}, "lists 1 classes"),
    ],
)
def test_what_contradicts_itself_is_one_line(
    tmp_path: Path, one_line: OneLine, content: Any, words: str
) -> None:
    file = written(tmp_path, content)
    with pytest.raises(DataError, match=words) as caught:
        class_list_of(file)
    assert caught.value.exit_code == 2
    assert str(file) in one_line(caught.value)


def test_a_file_that_is_no_json_is_one_line(tmp_path: Path, one_line: OneLine) -> None:
    (tmp_path / "classes.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON") as caught:
        class_list_of(tmp_path / "classes.json")
    assert "docs/data.md" in one_line(caught.value)


# -- written from what the masks hold -------------------------------------------------------------


def folder_of(root: Path, stored: Callable[[NDArray[np.uint8]], NDArray[Any]]) -> Path:
    """Write images/ and masks/ that hold another form of the same labels, and no classes."""
    masks = small_masks()
    layouts.write_pairs(
        masks, lambda n: root / "images" / f"{n}.jpg", lambda n: root / "masks" / f"{n}.png", stored
    )
    return root


def mapped(values: list[int], kind: type = np.uint8) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    table = np.zeros(256, kind)
    table[:4], table[255] = values[:4], values[4]
    return lambda mask: table[mask]


GAPS = mapped([0, 7, 8, 26, 255])
IDS = mapped([0, 300, 1000, 60000, 255], np.uint16)


def in_colours(mask: NDArray[np.uint8]) -> NDArray[Any]:
    return mask_to_colour(mask, voc_palette(4))


@pytest.mark.parametrize(
    ("stored", "names"),
    [
        (lambda mask: mask, ["class 0", "class 1", "class 2", "class 3"]),
        (GAPS, ["class 0", "class 7", "class 8", "class 26"]),
        (IDS, ["class 0", "class 300", "class 1000", "class 60000"]),
        (in_colours, ["colour 0,0,0", "colour 0,128,0", "colour 128,0,0", "colour 128,128,0"]),
    ],
)
def test_classes_are_written_from_the_masks(
    fcn_deploy: FcnDeploy,
    tmp_path: Path,
    stored: Callable[[NDArray[np.uint8]], NDArray[Any]],
    names: list[str],
) -> None:
    root = folder_of(tmp_path / "d", stored)
    assert fcn_deploy("data", "check", "d").code == 1  # no classes
    done = fcn_deploy("data", "check", "d", "--write-classes")
    assert done.code == 0, done.out
    assert "wrote d/classes.json: 4 classes" in done.out
    dataset = check_and_cache(open_dataset(root, "train"))
    assert list(dataset.class_names) == names
    order = [0, 2, 1, 3] if stored is in_colours else [0, 1, 2, 3]
    expected = small_masks()
    table = np.full(256, 255, np.uint8)
    table[order] = range(4)
    for sample in iterate(dataset):
        np.testing.assert_array_equal(sample.mask, table[expected[sample.name]])
    again = fcn_deploy("data", "check", "d", "--write-classes")
    assert again.code == 2
    assert "is there already; remove it" in again.err


def test_masks_of_0_and_255_are_two_classes(fcn_deploy: FcnDeploy, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "d", mapped([0, 255, 0, 255, 0]))
    assert fcn_deploy("data", "check", "d", "--write-classes").code == 0
    train = open_dataset(root, "train")
    assert train.class_names == ("background", "object")
    for sample in iterate(train):
        np.testing.assert_array_equal(sample.mask, np.isin(small_masks()[sample.name], [1, 3]))


def test_names_of_another_list_are_kept(fcn_deploy: FcnDeploy, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "d", GAPS)
    (root / "classes.txt").write_text("sky\nroad\ncar\ntree\n")
    assert check(root).faults
    assert fcn_deploy("data", "check", "d", "--write-classes").code == 0
    content = json.loads((root / "classes.json").read_text())
    assert [(one["name"], one["values"]) for one in content["classes"]] == [
        ("sky", [0]), ("road", [7]), ("car", [8]), ("tree", [26]),
    ]  # fmt: skip


def test_known_classes_are_written_as_they_are(fcn_deploy: FcnDeploy, tmp_path: Path) -> None:
    layouts.cityscapes_ids(tmp_path / "d", small_masks())
    before = [sample.mask for sample in iterate(open_dataset(tmp_path / "d", "val"))]
    assert fcn_deploy("data", "check", "d", "--write-classes").code == 0
    after = [sample.mask for sample in iterate(open_dataset(tmp_path / "d", "val"))]
    np.testing.assert_array_equal(before, after)
    assert json.loads((tmp_path / "d" / "classes.json").read_text())["others"] == "void"


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (lambda mask: np.full(SIZE, 3, np.uint8), "the masks hold 1 values beside void"),
        (lambda mask: np.uint16(np.arange(48) * mask.sum() % 60000).reshape(SIZE), "more than 255"),
    ],
)
def test_too_few_or_too_many_classes_are_refused(
    fcn_deploy: FcnDeploy,
    tmp_path: Path,
    stored: Callable[[NDArray[np.uint8]], NDArray[Any]],
    words: str,
) -> None:
    root = folder_of(tmp_path / "d", stored)
    done = fcn_deploy("data", "check", "d", "--write-classes")
    assert done.code == 2
    assert words in done.err
    assert len(done.err.splitlines()) == 1
    assert not (root / "classes.json").exists()


def test_values_beside_colours_are_refused(fcn_deploy: FcnDeploy, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "d", in_colours)
    layouts.write_values(root / "masks" / "a0.png", small_masks()["a0"])
    done = fcn_deploy("data", "check", "d", "--write-classes")
    assert done.code == 2
    assert "a0.png holds values" in done.err
    assert "save all masks alike" in done.err
