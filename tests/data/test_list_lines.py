"""What people write into lists: each line that is no plain name is told what it should be."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from fcn_deploy.core.errors import DataError, ListError
from fcn_deploy.data.check import check
from fcn_deploy.data.sources import open_dataset
from fcn_deploy.data.voc import VocLayout
from tests.conftest import WriteVocFolder
from tests.data.voc_files import image_of, list_of, mask_of


@pytest.mark.parametrize(
    "line",
    [
        "train_0.jpg",
        "train_0.JPG",
        "/JPEGImages/train_0.jpg /SegmentationClass/train_0.png",
        "JPEGImages/train_0",
        "train_0 1",
        "train_0\t1",
        "train_0, 1",
        "train_0.jpg,train_0.png",
        "seq\\train_0",
        "./train_0",
        '"train_0"',
        "/home/somebody/data/JPEGImages/train_0.jpg",
    ],
)
def test_a_line_that_holds_more_than_a_name_says_the_name(
    voc_folder: WriteVocFolder, line: str
) -> None:
    root = voc_folder()
    list_of(root).write_text(f"{line}\ntrain_1\ntrain_2\n")
    (fault,) = check(root).faults
    assert fault.kind == "line of a list"
    assert fault.words == f"train.txt: {line!r} is not a name, train_0 is"
    assert fault.repair == "write the name alone: no suffix, no folder, no second column"
    with pytest.raises(ListError, match="write the name alone"):
        open_dataset(root, "train")


def test_names_in_sub_folders_stay_names(voc_folder: WriteVocFolder) -> None:
    root = voc_folder()
    for path in (image_of(root, "train_0"), mask_of(root, "train_0")):
        (path.parent / "a").mkdir()
        path.rename(path.parent / "a" / path.name)
    list_of(root).write_text("a/train_0\ntrain_1\ntrain_2\n")
    report = check(root)
    assert report.faults == ()
    assert not [note for note in report.notes if "no list" in note]
    list_of(root).write_text("a\\train_0\ntrain_1\ntrain_2\n")
    assert "a/train_0 is" in check(root).faults[0].words


@pytest.mark.parametrize("absolute", [True, False])
def test_names_stay_inside_the_folder(
    voc_folder: WriteVocFolder, tmp_path: Path, absolute: bool
) -> None:
    root = voc_folder()
    outside = tmp_path / "out"
    outside.mkdir()
    shutil.copy(image_of(root, "train_0"), outside / "x.jpg")
    shutil.copy(mask_of(root, "train_0"), outside / "x.png")
    name = f"{outside}/x" if absolute else "../../out/x"
    list_of(root).write_text(f"train_1\ntrain_2\n{name}\n")
    (fault,) = check(root).faults
    assert fault.kind == "line of a list"
    assert f"{name} leads out of" in fault.words
    layout = VocLayout(root)
    for find in (layout.image, layout.mask):
        with pytest.raises(ListError, match="stay inside"):
            find(name, "train")


def test_a_name_too_long_for_a_file_is_a_missing_image(voc_folder: WriteVocFolder) -> None:
    root = voc_folder()
    list_of(root).write_text(f"train_1\n{'x' * 300}\n")
    assert {fault.kind for fault in check(root).faults} == {"missing image", "missing mask"}


@pytest.mark.parametrize("suffix", [".PNG", ".Png"])
def test_the_suffix_of_a_mask_may_be_in_any_case(voc_folder: WriteVocFolder, suffix: str) -> None:
    root = voc_folder()
    for path in sorted((root / "SegmentationClass").iterdir()):
        path.rename(path.with_suffix(suffix))
    assert check(root).faults == ()
    assert open_dataset(root, "train").mask(0).shape == (48, 64)


@pytest.mark.parametrize("suffix", [".png", ".jpeg", ".JPG", ".webp", ".bmp", ".TIF", ".Jpg"])
def test_images_may_have_any_suffix_that_predict_takes(
    voc_folder: WriteVocFolder, suffix: str
) -> None:
    root = voc_folder()
    path = image_of(root, "train_0")
    image = Image.open(path).copy()
    path.unlink()
    image.save(path.with_suffix(suffix))
    assert VocLayout(root).image("train_0", "train") == path.with_suffix(suffix)
    assert open_dataset(root, "train")[0].image.shape == (48, 64, 3)


def test_a_mask_of_another_format_is_named(voc_folder: WriteVocFolder) -> None:
    root = voc_folder()
    mask_of(root, "train_0").rename(mask_of(root, "train_0").with_suffix(".npy"))
    with pytest.raises(DataError, match=r"save .*train_0\.npy as PNG"):
        open_dataset(root, "train")


# -- lists that training does not take ----------------------------------------------------------


def notes_on_lists(root: Path) -> list[str]:
    report = check(root)
    assert report.faults == ()
    return [note for note in report.notes if note.startswith("list ")]


def test_a_list_that_is_not_learned_from_is_named_with_what_it_shares(
    voc_folder: WriteVocFolder,
) -> None:
    root = voc_folder(train=2, val=2)
    names = list_of(root, "train").read_text() + list_of(root, "val").read_text()
    list_of(root, "train_aug").write_text(names)
    assert notes_on_lists(root) == [
        "list train_aug.txt: `train` takes train.txt instead; 2 of its 4 images are in val.txt too"
    ]


def test_a_test_list_is_named_for_what_it_shares_alone(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(train=3, val=1)
    list_of(root, "train").write_text("train_0\ntrain_1\n")
    list_of(root, "trainval").write_text("train_0\ntrain_1\nval_0\n")
    list_of(root, "test").write_text("train_2\n")
    assert notes_on_lists(root) == []
    shutil.copy(image_of(root, "train_0"), image_of(root, "train_2"))  # the same pixels
    assert notes_on_lists(root) == ["list test.txt: 1 of its 1 images are in train.txt too"]


def test_hidden_files_are_no_lists(voc_folder: WriteVocFolder) -> None:
    root = voc_folder()
    (list_of(root).parent / "._train.txt").write_bytes(b"\xff")
    (root / "JPEGImages" / "._train_0.jpg").write_bytes(b"x")
    assert check(root).faults == ()
    assert not [note for note in check(root).notes if "no list" in note]
