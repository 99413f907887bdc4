"""VOC folders as people have them: found, checked, counted; each defect is one clear error."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.errors import DataError
from fcn_deploy.data import dataset as dataset_room
from fcn_deploy.data.class_counts import ClassCounts, median_frequency
from fcn_deploy.data.dataset import (
    CachedDataset,
    check_and_cache,
    iterate,
    require_disjoint,
    size_range,
)
from fcn_deploy.data.masks import VOC_CLASS_NAMES
from fcn_deploy.data.scenes.dataset import SCENE_COUNTS, SCENE_SIZE, SceneDataset
from fcn_deploy.data.scenes.render import SCENE_CLASS_NAMES, draw_scene
from fcn_deploy.data.sources import open_dataset
from fcn_deploy.data.voc import VocDataset, find_voc_root
from tests.conftest import WriteVocFolder

OneLine = Callable[[Exception], str]


def image_of(root: Path, name: str) -> Path:
    return root / "JPEGImages" / f"{name}.jpg"


def mask_of(root: Path, name: str) -> Path:
    return root / "SegmentationClass" / f"{name}.png"


def list_of(root: Path, split: str = "train") -> Path:
    return root / "ImageSets" / "Segmentation" / f"{split}.txt"


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


@pytest.mark.parametrize("suffix", [".png", ".jpeg", ".JPG"])
def test_images_may_have_other_suffixes(voc_folder: WriteVocFolder, suffix: str) -> None:
    root = voc_folder()
    path = image_of(root, "train_0")
    image = Image.open(path).copy()
    path.unlink()
    image.save(path.with_suffix(suffix))
    assert VocDataset.open(root, "train")[0].image.shape == (48, 64, 3)


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


# -- sizes and drops ----------------------------------------------------------------------------


def mixed_sizes(root: Path) -> VocDataset:
    for name, (height, width) in (("train_0", (40, 200)), ("train_1", (320, 480))):
        image, mask = draw_scene(0, 0, (height, width))
        Image.fromarray(image).save(image_of(root, name))
        Image.fromarray(mask).save(mask_of(root, name))
    return VocDataset.open(root, "train")


def test_at_least_drops_what_is_smaller_than_the_crop(voc_folder: WriteVocFolder) -> None:
    train = mixed_sizes(voc_folder(train=3, size=(48, 64)))
    assert train.sizes() == [(40, 200), (320, 480), (48, 64)]
    assert train.at_least(1, 1).names == ("train_0", "train_1", "train_2")
    assert train.at_least(41, 1).names == ("train_1", "train_2")
    assert train.at_least(40, 65).names == ("train_0", "train_1")
    kept = train.at_least(320, 480)
    assert len(kept) == 1
    assert kept[0].image.shape == (320, 480, 3)
    assert len(train.at_least(321, 1)) == 0
    assert len(train) == 3


def test_a_cached_dataset_drops_alike(voc_folder: WriteVocFolder) -> None:
    train = mixed_sizes(voc_folder(train=3, size=(48, 64)))
    cached = check_and_cache(train)
    for crop in ((1, 1), (41, 1), (40, 65), (320, 480), (321, 1)):
        kept = cached.at_least(*crop)
        assert [s.name for s in iterate(kept)] == list(train.at_least(*crop).names)
        assert kept.sizes() == train.at_least(*crop).sizes()


def test_size_range_tells_smallest_most_frequent_and_largest(voc_folder: WriteVocFolder) -> None:
    sizes = size_range(mixed_sizes(voc_folder(train=4, size=(48, 64))))
    assert sizes.smallest == (48, 64)
    assert sizes.typical == (48, 64)
    assert sizes.largest == (320, 480)


# -- the built-in scenes ------------------------------------------------------------------------


def test_the_scenes_are_two_distinct_splits() -> None:
    train, val = open_dataset("synthetic", "train"), open_dataset("synthetic", "val")
    assert (len(train), len(val)) == (SCENE_COUNTS["train"], SCENE_COUNTS["val"])
    assert train.class_names == val.class_names == SCENE_CLASS_NAMES
    assert len(train.class_names) >= 6
    assert train[0].image.shape == (*SCENE_SIZE, 3)
    assert not np.array_equal(train[0].image, val[0].image)
    np.testing.assert_array_equal(train[5].mask, open_dataset("synthetic", "train")[5].mask)
    assert set(train.sizes()) == {SCENE_SIZE}
    assert "synthetic" in train.source


def test_scenes_end_and_are_dropped_as_one() -> None:
    scenes = SceneDataset(seed=3, length=2, size=(20, 30))
    assert [s.mask.shape for s in iterate(scenes)] == [(20, 30), (20, 30)]
    for beyond in (2, -1):
        with pytest.raises(IndexError):
            scenes[beyond]
    assert len(scenes.at_least(20, 30)) == 2
    assert len(scenes.at_least(21, 30)) == 0
    assert len(scenes.at_least(20, 31)) == 0


# -- decoding everything once -------------------------------------------------------------------


def test_check_and_cache_keeps_the_samples_in_memory(voc_folder: WriteVocFolder) -> None:
    root = voc_folder()
    train = VocDataset.open(root, "train")
    expected = list(iterate(train))
    ticks: list[int] = []
    cached = check_and_cache(train, lambda: ticks.append(1))
    assert len(ticks) == 3
    shutil.rmtree(root)
    assert isinstance(cached, CachedDataset)
    assert cached.class_names == train.class_names
    assert cached.source == train.source
    assert cached.sizes() == train.sizes()
    for sample, before in zip(iterate(cached), expected, strict=True):
        np.testing.assert_array_equal(sample.image, before.image)
        np.testing.assert_array_equal(sample.mask, before.mask)


def test_a_set_beyond_the_memory_limit_is_checked_but_not_kept(
    voc_folder: WriteVocFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_room, "CACHE_BYTES", 2 * 48 * 64 * 4)  # two of three samples
    train = VocDataset.open(voc_folder(), "train")
    ticks: list[int] = []
    assert check_and_cache(train, lambda: ticks.append(1)) is train
    assert len(ticks) == 3


# -- bad input: one line that names the file and a repair ----------------------------------------


def refused(folder: Path, one_line: OneLine) -> str:
    """Open and decode everything; return the text of the DataError that must come."""
    with pytest.raises(DataError) as caught:
        check_and_cache(open_dataset(folder, "train"))
    assert caught.value.exit_code == 2
    assert caught.value.repair
    return one_line(caught.value)


def test_no_data_folder(tmp_path: Path, one_line: OneLine) -> None:
    text = refused(tmp_path / "nowhere", one_line)
    assert str(tmp_path / "nowhere") in text
    assert "--data synthetic" in text


def test_an_empty_data_folder(tmp_path: Path, one_line: OneLine) -> None:
    text = refused(tmp_path, one_line)
    assert f"{tmp_path} is empty" in text
    assert "JPEGImages/" in text


def test_a_folder_of_something_else(tmp_path: Path, one_line: OneLine) -> None:
    (tmp_path / "cats").mkdir()
    text = refused(tmp_path, one_line)
    assert f"{tmp_path} is not in VOC layout" in text
    assert "SegmentationClass/" in text


def test_a_missing_list(voc_folder: WriteVocFolder, one_line: OneLine) -> None:
    root = voc_folder()
    list_of(root).unlink()
    assert str(list_of(root)) in refused(root, one_line)


@pytest.mark.parametrize("content", [b"", b"\n  \n", b"\xff\xfe\x00t"])
def test_an_empty_or_unreadable_list(
    voc_folder: WriteVocFolder, content: bytes, one_line: OneLine
) -> None:
    root = voc_folder()
    list_of(root).write_bytes(content)
    assert str(list_of(root)) in refused(root, one_line)


def test_a_name_twice_on_the_list(voc_folder: WriteVocFolder, one_line: OneLine) -> None:
    root = voc_folder()
    list_of(root).write_text("train_0\ntrain_1\ntrain_0\n")
    text = refused(root, one_line)
    assert "train_0 more than once" in text
    assert str(list_of(root)) in text


def test_a_list_that_names_a_missing_image(voc_folder: WriteVocFolder, one_line: OneLine) -> None:
    root = voc_folder()
    image_of(root, "train_1").unlink()
    text = refused(root, one_line)
    assert "train.txt names train_1" in text
    assert str(image_of(root, "train_1")) in text


def test_a_list_that_names_a_missing_mask(voc_folder: WriteVocFolder, one_line: OneLine) -> None:
    root = voc_folder()
    mask_of(root, "train_1").unlink()
    text = refused(root, one_line)
    assert "train.txt names train_1" in text
    assert str(mask_of(root, "train_1")) in text


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


def test_a_truncated_image_is_found_by_the_check(
    voc_folder: WriteVocFolder, one_line: OneLine
) -> None:
    root = voc_folder()
    path = image_of(root, "train_2")
    path.write_bytes(path.read_bytes()[:-200])
    assert str(path) in refused(root, one_line)


def test_a_truncated_mask(voc_folder: WriteVocFolder, one_line: OneLine) -> None:
    root = voc_folder()
    path = mask_of(root, "train_2")
    path.write_bytes(path.read_bytes()[:-60])
    assert str(path) in refused(root, one_line)


@pytest.mark.parametrize("which", [image_of, mask_of])
def test_a_file_that_is_no_picture(
    voc_folder: WriteVocFolder, which: Callable[[Path, str], Path], one_line: OneLine
) -> None:
    root = voc_folder()
    which(root, "train_1").write_text("not a picture at all")
    assert str(which(root, "train_1")) in refused(root, one_line)


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


def test_the_most_classes_that_leave_room_for_void(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(class_names=[f"class {index}" for index in range(255)])
    assert len(VocDataset.open(root, "train").class_names) == 255


# -- how often classes occur --------------------------------------------------------------------


@given(
    masks=st.lists(
        npst.arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, 3, 255])),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_median_frequency_by_its_definition(masks: list[NDArray[np.uint8]]) -> None:
    counts = ClassCounts.of(masks[0], 5)
    for mask in masks[1:]:
        counts = counts + ClassCounts.of(mask, 5)
    assert counts.void == sum(int((mask == 255).sum()) for mask in masks)
    frequency = {}
    for label in range(5):
        holding = [mask for mask in masks if (mask == label).any()]
        assert counts.images[label] == len(holding)
        pixels = sum(int((mask == label).sum()) for mask in holding)
        if holding:
            frequency[label] = pixels / sum(int((mask < 5).sum()) for mask in holding)
    middle = np.median(list(frequency.values())) if frequency else 0
    expected = [middle / frequency[label] if label in frequency else 1 for label in range(5)]
    weights = median_frequency(counts)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_a_sample_of_both_splits_is_refused(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(train=3, val=2)
    train_set, val_set = open_dataset(root, "train"), open_dataset(root, "val")
    require_disjoint(train_set, val_set)
    list_of(root, "val").write_text("val_0\ntrain_1\n")
    with pytest.raises(DataError, match="train_1 is both a training and a validation example"):
        require_disjoint(train_set, open_dataset(root, "val"))
