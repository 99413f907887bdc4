"""`data check` names every planted fault, with its file and its repair, and nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.core.errors import DataError
from fcn_deploy.data.check import Fault, check, check_scenes, count_samples
from fcn_deploy.data.masks import voc_palette, write_mask
from fcn_deploy.data.scenes.render import SCENE_CLASS_NAMES, draw_scene
from tests.command_line import FcnDeploy
from tests.conftest import WriteVocFolder
from tests.data.voc_files import image_of, list_of, mask_of

CAMVID = Path(__file__).parents[3] / "shared" / "camvid"
Plant = Callable[[Path], None]


def first_names(root: Path, count: int) -> list[str]:
    return list_of(root, "train").read_text().split()[:count]


def broken_copies(root: Path) -> dict[str, tuple[str, str]]:
    """Plant one fault of each kind: kind → (a word of its sentence, a word of its repair)."""
    names = first_names(root, 10)
    expected: dict[str, tuple[str, str]] = {}
    image_of(root, names[0]).unlink()
    expected["missing image"] = (names[0], "add the image")
    mask_of(root, names[1]).unlink()
    expected["missing mask"] = (names[1], "add the mask")
    path = image_of(root, names[2])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    expected["unreadable image"] = (path.name, "")
    mask = np.array(Image.open(mask_of(root, names[3])))
    mask[0, 0] = 200
    write_mask(mask_of(root, names[3]), mask, voc_palette())
    expected["mask out of range"] = ("class 200", "classes.txt")
    write_mask(mask_of(root, names[4]), np.zeros((5, 6), np.uint8), voc_palette())
    expected["different sizes"] = ("is 5×6", "same size")
    write_mask(mask_of(root, names[5]), np.full_like(mask, 255), voc_palette())
    expected["nothing labelled"] = (names[5], "off the list")
    lines = list_of(root, "train").read_text()
    list_of(root, "train").write_text(f"{lines}{names[6]}\n")
    expected["listed twice"] = (f"names {names[6]} 2 times", "one line")
    # The same pixels under another name, in the other list.
    copied = image_of(root, names[7])
    shutil.copy(copied, copied.with_stem("copied"))
    shutil.copy(mask_of(root, names[7]), mask_of(root, "copied"))
    list_of(root, "val").write_text(list_of(root, "val").read_text() + "copied\n")
    expected["train and val overlap"] = (f"{names[7]} of train is copied of val", "off one")
    return expected


def assert_found(faults: tuple[Fault, ...], expected: dict[str, tuple[str, str]]) -> None:
    assert sorted(fault.kind for fault in faults) == sorted(expected)
    for fault in faults:
        word, repair = expected[fault.kind]
        assert word in fault.words, fault
        assert repair in fault.repair, fault
        assert "\n" not in str(fault)


def test_every_planted_fault_is_found_and_nothing_else(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(train=10, val=3)
    assert check(root).faults == ()
    expected = broken_copies(root)
    report = check(root)
    assert_found(report.faults, expected)
    train, val = report.splits
    # Six of the ten are not to be read; the last was listed twice.
    assert (train.name, train.samples, train.readable) == ("train", 11, 4)
    assert (val.name, val.samples, val.readable) == ("val", 4, 4)
    assert report.class_names == SCENE_CLASS_NAMES


@pytest.mark.skipif(not CAMVID.is_dir(), reason="CamVid is not here")
def test_faults_in_a_copy_of_camvid(tmp_path: Path) -> None:
    root = tmp_path / "camvid"
    for split, count in (("train", 12), ("val", 4)):
        names = list_of(CAMVID, split).read_text().split()[:count]
        for name in names:
            for source in (image_of(CAMVID, name), mask_of(CAMVID, name)):
                target = root / source.relative_to(CAMVID)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        list_of(root, split).parent.mkdir(parents=True, exist_ok=True)
        list_of(root, split).write_text("".join(f"{name}\n" for name in names))
    shutil.copy(CAMVID / "classes.txt", root)
    assert check(root).faults == ()
    expected = broken_copies(root)
    assert_found(check(root).faults, expected)


@pytest.mark.parametrize(
    ("plant", "kind", "words"),
    [
        (lambda root: list_of(root, "val").write_text(""), "empty list", "val.txt is empty"),
        (lambda root: list_of(root, "val").unlink(), "missing list", "val.txt"),
        (
            lambda root: list_of(root, "val").write_text("val_0\ntrain_1\n"),
            "train and val overlap",
            "train_1 is in train and in val",
        ),
        (lambda root: (root / "classes.txt").write_text("one\n"), "classes", "lists 1 classes"),
        (
            lambda root: list_of(root, "val").write_bytes(b"\xff\xfe\x00"),
            "unreadable list",
            "val.txt",
        ),
        (
            lambda root: Image.new("RGB", (64, 48), (1, 2, 3)).save(mask_of(root, "val_0")),
            "unreadable mask",
            "colour (1, 2, 3)",
        ),
    ],
)
def test_faults_of_lists_classes_and_colours(
    voc_folder: WriteVocFolder, plant: Plant, kind: str, words: str
) -> None:
    root = voc_folder()
    plant(root)
    (fault,) = check(root).faults
    assert fault.kind == kind
    assert words in fault.words


def test_masks_of_the_augmented_list_are_looked_at_too(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(train=3, val=1)
    list_of(root, "trainaug").write_text("train_0\ntrain_1\ntrain_2\n")
    void = np.full((48, 64), 255, np.uint8)
    write_mask(root / "SegmentationClassAug" / "train_0.png", void, voc_palette())
    shutil.copy(mask_of(root, "train_1"), root / "SegmentationClassAug")
    image_of(root, "train_1").unlink()
    found = {(fault.kind, fault.file) for fault in check(root).faults}
    assert found == {
        ("nothing labelled", str(root / "SegmentationClassAug" / "train_0.png")),
        ("missing mask", str(root / "SegmentationClassAug" / "train_2.png")),
        ("missing image", str(root / "JPEGImages" / "train_1")),
    }
    assert len(check(root).faults) == 3  # the image, too, is missing once


def test_a_name_in_both_lists_is_an_overlap_without_its_image(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(train=2, val=1)
    list_of(root, "val").write_text("val_0\ntrain_1\n")
    image_of(root, "train_1").unlink()
    faults = check(root).faults
    assert sorted(fault.kind for fault in faults) == ["missing image", "train and val overlap"]


def test_what_no_list_names_is_a_note(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(train=2, val=1)
    Image.new("RGB", (8, 8)).save(root / "JPEGImages" / "extra.jpg")
    report = check(root)
    assert report.faults == ()
    assert "1 files of JPEGImages are in no list" in report.notes


def test_a_list_of_all_is_no_overlap_and_nothing_counts_twice(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(train=2, val=1)
    alone = check(root)
    list_of(root, "trainval").write_text("train_0\ntrain_1\nval_0\n")
    report = check(root)
    assert report.faults == ()
    assert [split.name for split in report.splits] == ["train", "val", "trainval"]
    assert report.counts.pixels.tolist() == alone.counts.pixels.tolist()


def test_classes_are_counted(voc_folder: WriteVocFolder) -> None:
    report = check(voc_folder(train=2, val=1))
    masks = [draw_scene(0, 0, (48, 64))[1], draw_scene(0, 1, (48, 64))[1]]
    masks.append(draw_scene(1, 0, (48, 64))[1])
    for index in range(len(SCENE_CLASS_NAMES)):
        assert report.counts.pixels[index] == sum(int((mask == index).sum()) for mask in masks)
        assert report.counts.images[index] == sum((mask == index).any() for mask in masks)


def test_no_data_set_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data folder"):
        check(tmp_path / "nowhere")
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(DataError, match="no lists"):
        count_samples(tmp_path)


def test_the_command(fcn_deploy: FcnDeploy, voc_folder: WriteVocFolder, tmp_path: Path) -> None:
    root = voc_folder(train=2, val=1)
    whole = fcn_deploy("data", "check", root)
    assert whole.code == 0
    assert whole.out.splitlines()[-1] == "no faults"
    mask_of(root, "train_1").unlink()
    broken = fcn_deploy("data", "check", root, "--json", tmp_path / "check.json")
    assert broken.code == 1
    assert "faults: 1, in 1 files" in broken.out
    assert "missing mask: train.txt names train_1" in broken.out
    document = json.loads((tmp_path / "check.json").read_text())
    assert document["kind"] == "data-check"
    assert [fault["kind"] for fault in document["faults"]] == ["missing mask"]
    assert document["splits"][0]["sizes"] == [[48, 64, 1]]
    assert fcn_deploy("data", "check", "nowhere").code == 2


def test_the_scenes_have_no_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    from fcn_deploy.data.scenes import dataset

    monkeypatch.setattr(dataset, "SCENE_COUNTS", {"train": 2, "val": 1})
    report = check_scenes()
    assert report.faults == ()
    assert [split.samples for split in report.splits] == [2, 1]
