"""VOC folders as people have them: found and checked; each defect is one clear error."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.core.errors import DataError
from fcn_deploy.data.dataset import check_and_cache, iterate
from fcn_deploy.data.masks import VOC_CLASS_NAMES
from fcn_deploy.data.scenes.render import SCENE_CLASS_NAMES, draw_scene
from fcn_deploy.data.sources import open_dataset
from fcn_deploy.data.voc import VocDataset, find_voc_root
from tests.conftest import WriteVocFolder
from tests.data.voc_files import image_of, list_of, mask_of

OneLine = Callable[[Exception], str]


# -- the layout ---------------------------------------------------------------------------------


def test_samples_are_the_files_in_the_lists_order(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(train=3, val=2)
    list_of(root).write_text("train_2\n\n  train_0  \r\ntrain_1")
    train = open_dataset(root, "train")
    assert len(train) == 3
    assert [sample.name for sample in iterate(train)] == ["train_2", "train_0", "train_1"]
    image, mask = draw_scene(0, 2, (48, 64))
    sample = train[0]
    assert sample.image.dtype == sample.mask.dtype == np.uint8
    np.testing.assert_array_equal(sample.mask, mask)
    assert np.abs(sample.image.astype(int) - image).mean() < 8  # JPEG
    assert [s.name for s in iterate(open_dataset(str(root), "val"))] == ["val_0", "val_1"]
    assert str(root) in train.source
    assert "train" in train.source


@pytest.mark.parametrize("above", ["", "VOC2012", "VOCdevkit/VOC2012", "VOCdevkit/VOC2007"])
def test_the_layout_is_found_below_the_folder(voc_folder: WriteVocFolder, above: str) -> None:
    folder = voc_folder(inside=above)
    assert find_voc_root(folder) == folder / above
    assert len(VocDataset.open(folder, "train")) == 3


def test_voc2012_comes_before_other_years(voc_folder: WriteVocFolder) -> None:
    folder = voc_folder(inside="VOCdevkit/VOC2012")
    shutil.copytree(folder / "VOCdevkit/VOC2012", folder / "VOCdevkit/VOC2007")
    assert find_voc_root(folder) == folder / "VOCdevkit/VOC2012"


def test_without_classes_txt_the_classes_are_vocs(voc_folder: WriteVocFolder) -> None:
    assert VocDataset.open(voc_folder(class_names=None), "train").class_names == VOC_CLASS_NAMES


def test_classes_txt_names_the_classes(voc_folder: WriteVocFolder) -> None:
    root = voc_folder()
    (root / "classes.txt").write_bytes("  sky \r\n\r\nStraße\r\n".encode() + b"tree\n" * 1)
    assert VocDataset.open(root, "train").class_names == ("sky", "Straße", "tree")


@pytest.mark.parametrize("name", ["classes.txt", "ImageSets/Segmentation/train.txt"])
def test_notepads_byte_order_mark_is_no_part_of_a_name(
    voc_folder: WriteVocFolder, name: str
) -> None:
    root = voc_folder()
    (root / name).write_bytes(b"\xef\xbb\xbf" + (root / name).read_bytes())
    train = VocDataset.open(root, "train")
    assert train.names[0] == "train_0"
    assert train.class_names == SCENE_CLASS_NAMES


def test_an_exif_rotated_image_matches_its_upright_mask(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(size=(48, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(image_of(root, "train_0")) as image:
        sideways = image.transpose(Image.Transpose.ROTATE_90)
    sideways.save(image_of(root, "train_0"), exif=exif)
    train = VocDataset.open(root, "train")
    assert train.sizes()[0] == (48, 64)
    assert train[0].image.shape == (48, 64, 3)


def test_grey_and_sixteen_bit_images_are_read(voc_folder: WriteVocFolder) -> None:
    root = voc_folder()
    for name, dtype in (("train_0", np.uint8), ("train_1", np.uint16)):
        image_of(root, name).unlink()
        Image.fromarray(np.full((48, 64), 200, dtype)).save(root / "JPEGImages" / f"{name}.png")
    assert all(s.image.shape == (48, 64, 3) for s in iterate(VocDataset.open(root, "train")))


def test_the_most_classes_that_leave_room_for_void(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(class_names=[f"class {index}" for index in range(255)])
    assert len(VocDataset.open(root, "train").class_names) == 255


# -- bad input: one line that names the file and a repair ---------------------------------------


def refused(folder: Path, one_line: OneLine) -> str:
    """Open and decode everything; return the text of the DataError that must come."""
    with pytest.raises(DataError) as caught:
        check_and_cache(open_dataset(folder, "train"))
    assert caught.value.exit_code == 2
    assert caught.value.repair
    return one_line(caught.value)


def test_a_folder_that_is_none_empty_or_of_something_else(
    tmp_path: Path, one_line: OneLine
) -> None:
    text = refused(tmp_path / "nowhere", one_line)
    assert str(tmp_path / "nowhere") in text
    assert "give `synthetic`" in text
    text = refused(tmp_path, one_line)
    assert f"{tmp_path} is empty" in text
    assert "JPEGImages/" in text
    (tmp_path / "cats").mkdir()
    text = refused(tmp_path, one_line)
    assert f"{tmp_path} is in no known layout: it holds cats/" in text
    assert "SegmentationClass/" in text


@pytest.mark.parametrize("content", [b"", b"\n  \n", b"\xff\xfe\x00t", None])
def test_an_empty_unreadable_or_missing_list(
    voc_folder: WriteVocFolder, content: bytes | None, one_line: OneLine
) -> None:
    root = voc_folder()
    if content is None:
        list_of(root).unlink()
    else:
        list_of(root).write_bytes(content)
    assert str(list_of(root)) in refused(root, one_line)


def test_a_name_twice_on_the_list(voc_folder: WriteVocFolder, one_line: OneLine) -> None:
    root = voc_folder()
    list_of(root).write_text("train_0\ntrain_1\ntrain_0\n")
    text = refused(root, one_line)
    assert "train_0 more than once" in text
    assert str(list_of(root)) in text


@pytest.mark.parametrize("which", [image_of, mask_of])
def test_a_list_that_names_a_missing_file(
    voc_folder: WriteVocFolder, which: Callable[[Path, str], Path], one_line: OneLine
) -> None:
    root = voc_folder()
    which(root, "train_1").unlink()
    text = refused(root, one_line)
    assert "train.txt names train_1" in text
    assert str(which(root, "train_1")) in text


def test_an_image_and_a_mask_of_different_sizes(
    voc_folder: WriteVocFolder, one_line: OneLine
) -> None:
    root = voc_folder(size=(48, 64))
    Image.new("L", (48, 64)).save(mask_of(root, "train_1"))  # height and width swapped
    text = refused(root, one_line)
    assert f"{image_of(root, 'train_1')} is 48×64" in text
    assert f"{mask_of(root, 'train_1')} is 64×48" in text


def test_a_mask_value_beyond_the_classes(voc_folder: WriteVocFolder, one_line: OneLine) -> None:
    root = voc_folder(class_names=["ground", "shape"])
    mask = np.zeros((48, 64), np.uint8)
    for name in ("train_0", "train_1", "train_2"):
        mask[3, 4] = 9 if name == "train_2" else 255
        Image.fromarray(mask).save(mask_of(root, name))
    text = refused(root, one_line)
    assert str(mask_of(root, "train_2")) in text
    assert "class 9" in text
    assert "2 classes" in text


@pytest.mark.parametrize("which", [image_of, mask_of])
def test_a_file_that_is_truncated_or_no_picture(
    voc_folder: WriteVocFolder, which: Callable[[Path, str], Path], one_line: OneLine
) -> None:
    root = voc_folder()
    path = which(root, "train_2")
    for content in (path.read_bytes()[:-60], b"not a picture at all"):
        path.write_bytes(content)
        assert str(path) in refused(root, one_line)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "0 classes"),
        (b"only\n", "1 classes"),
        ("\n".join(map(str, range(256))).encode(), "256 classes"),
        (b"sky\nroad\nsky\n", "twice"),
        (b"sky\n\xff\n", "UTF-8"),
    ],
    ids=["empty", "one", "too many", "twice", "latin-1"],
)
def test_a_bad_class_list(
    voc_folder: WriteVocFolder, content: bytes, complaint: str, one_line: OneLine
) -> None:
    root = voc_folder()
    (root / "classes.txt").write_bytes(content)
    text = refused(root, one_line)
    assert str(root / "classes.txt") in text
    assert complaint in text
