"""Labelled folders as people have them: each layout gives the same masks, or one clear line."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fcn_deploy.core.errors import DataError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.data.check import check
from fcn_deploy.data.dataset import check_and_cache, iterate, require_disjoint
from fcn_deploy.data.known_classes import camvid_classes, cityscapes_classes, segnet_classes
from fcn_deploy.data.pair_layout import in_validation
from fcn_deploy.data.recognise import find_layout
from fcn_deploy.data.sources import DataSource, open_dataset
from fcn_deploy.evaluate.pictures import open_split, role_of
from fcn_deploy.results.evaluation import CHOSE_EPOCH, TRAINED_ON
from fcn_deploy.tensorrt.profiles import picture_sizes
from tests.command_line import FcnDeploy
from tests.conftest import WriteVocFolder
from tests.data import layouts
from tests.data.layouts import KNOWN, LAYOUTS, SIZE, small_masks, write_image, write_values
from tests.result_files import metrics

OneLine = Callable[[DataError], str]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_gives_the_same_masks(tmp_path: Path, kind: str) -> None:
    masks = small_masks()
    LAYOUTS[kind](tmp_path / "d", masks)
    found = {}
    sets = [open_dataset(tmp_path / "d", split) for split in ("train", "val")]
    require_disjoint(sets[0], sets[1])
    for dataset in sets:
        for sample in iterate(check_and_cache(dataset)):
            assert sample.image.shape == (*SIZE, 3)
            found[sample.name.rpartition("/")[2].rpartition("_")[2]] = sample.mask
    assert {*found} == {*masks}
    for name, mask in masks.items():
        np.testing.assert_array_equal(found[name], mask)
    assert sets[0].class_names == KNOWN.get(kind, sets[0].class_names)
    assert check(tmp_path / "d").faults == ()
    assert picture_sizes(tmp_path / "d") == {SIZE: len(masks)}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_what_was_recognised_is_one_line(tmp_path: Path, kind: str) -> None:
    LAYOUTS[kind](tmp_path / "d", small_masks())
    first = DataSource(str(tmp_path / "d")).notices()[0]
    assert first.startswith(f"{tmp_path / 'd'} is read as ")
    assert "train, " in first
    assert " val" in first
    assert "\n" not in first


def test_a_folder_in_voc_layout_is_read_as_ever(voc_folder: WriteVocFolder) -> None:
    root = voc_folder()
    assert DataSource(str(root)).notices() == ()
    with pytest.raises(DataError, match=r"--split 0.3, but .* of its own for val; drop --split"):
        open_dataset(root, "val", 0.3)


def test_a_folder_in_voc_layout_without_lists_takes_a_share(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(train=12, val=8)
    listed = {*open_dataset(root, "train").names, *open_dataset(root, "val").names}
    shutil.rmtree(root / "ImageSets")
    for share in (None, 0.5):
        found = {split: {*open_dataset(root, split, share).names} for split in ("train", "val")}
        assert found["train"] | found["val"] == listed
        assert found["val"] == {name for name in listed if in_validation(name, share or 0.2)}
    (first, *_) = DataSource(str(root)).notices()
    assert "is read as VOC without lists (JPEGImages/ and SegmentationClass/)" in first
    assert check(root, held_out=0.5).faults == ()
    (root / "classes.txt").unlink()
    assert "VOC" in DataSource(str(root)).notices()[1]


# -- a share of the names -------------------------------------------------------------------------


def test_a_name_stays_where_it_is_whatever_comes_and_goes(tmp_path: Path) -> None:
    masks = small_masks(40)
    layouts.images_and_masks(tmp_path / "d", masks)
    before = {
        split: {*open_dataset(tmp_path / "d", split, 0.3).names} for split in ("train", "val")
    }
    assert before["train"] | before["val"] == {*masks}
    assert before["val"] == {name for name in masks if in_validation(name, 0.3)}
    for name in list(masks)[::2]:
        (tmp_path / "d" / "images" / f"{name}.jpg").unlink()
    for split, names in before.items():
        assert {*open_dataset(tmp_path / "d", split, 0.3).names} == names - {*list(masks)[::2]}
    assert in_validation("stra\u00dfe \u00fc", 0.5) == in_validation("stra\u00dfe u\u0308", 0.5)
    assert in_validation("\udcff", 1)  # a name that is no UTF-8


def test_the_share_is_met_and_a_larger_one_keeps_the_smaller() -> None:
    names = [f"frame_{index:05d}" for index in range(2000)]
    held = {share: {n for n in names if in_validation(n, share)} for share in (0.1, 0.2, 0.5)}
    for share, kept in held.items():
        assert abs(len(kept) / len(names) - share) < 0.03
    assert held[0.1] < held[0.2] < held[0.5]


def test_without_val_the_share_is_of_train(tmp_path: Path) -> None:
    root = tmp_path / "d"
    layouts.split_below(root, small_masks(20))
    for folder in ("images", "masks"):
        (root / folder / "val").rename(root / folder / "test")
    layout = find_layout(root)
    assert layout.lists() == ("train", "val", "test")
    assert "no val/, so 20% of the images of train/" in str(layout.notice)
    assert {*layout.lines("val")} == {f"a{i}" for i in range(10) if in_validation(f"a{i}", 0.2)}
    assert layout.lines("test")[0] == "test/a10"


def test_a_share_that_holds_nothing_is_refused(tmp_path: Path, one_line: OneLine) -> None:
    layouts.images_and_masks(tmp_path / "d", small_masks(2))
    with pytest.raises(DataError, match=r"none of the 2 images .* falls in val") as caught:
        open_dataset(tmp_path / "d", "val", 0.001)
    assert "give another share" in one_line(caught.value)


def test_the_training_knows_its_share(tmp_path: Path, run: Run) -> None:
    root = tmp_path / "d"
    layouts.images_and_masks(root, small_masks(20))
    sets = {split: open_dataset(root, split, 0.5) for split in ("train", "val")}
    data = {
        split: {"source": one.source, "read": len(one), "dropped": 0} for split, one in sets.items()
    }
    write_json(run.metrics, metrics(data=data))
    for split, role in (("train", TRAINED_ON), ("val", CHOSE_EPOCH)):
        assert role_of(open_split(str(root), split, 0.5), run, "sha256:kept") == role
        assert role_of(open_split(str(root), split, 0.3), run, "sha256:kept") is None


# -- folders that do not fit -----------------------------------------------------------------------


def refused(folder: Path, one_line: OneLine) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(folder, "train")
    assert caught.value.exit_code == 2
    return one_line(caught.value)


def test_what_was_found_and_what_is_expected(tmp_path: Path, one_line: OneLine) -> None:
    write_image(tmp_path / "pictures" / "a.jpg")
    write_image(tmp_path / "truth" / "a.png")
    (tmp_path / "notes.md").write_text("x")
    text = refused(tmp_path, one_line)
    assert "is in no known layout: it holds notes.md, pictures/, truth/" in text
    assert "expected images/ and masks/" in text


def test_two_layouts_in_one_folder_are_refused(tmp_path: Path, one_line: OneLine) -> None:
    layouts.images_and_masks(tmp_path, small_masks())
    layouts.images_and_masks(tmp_path, small_masks(), "labels")
    text = refused(tmp_path, one_line)
    assert "can be read as images/ and masks/ and as images/ and labels/" in text
    assert "move all but one" in text


@pytest.mark.parametrize(
    ("file", "format_name"), [("labels/a.txt", "yolo"), ("annotations/a.json", "coco")]
)
def test_polygons_are_sent_to_the_converter(
    tmp_path: Path, one_line: OneLine, file: str, format_name: str
) -> None:
    write_image(tmp_path / "images" / "a.jpg")
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text("{}")
    assert f"fcn-deploy data convert {format_name} {tmp_path} --out NEW" in refused(
        tmp_path, one_line
    )


@pytest.mark.parametrize("suffix", [".jpg", ".npy"])
def test_masks_in_other_files_are_named(tmp_path: Path, one_line: OneLine, suffix: str) -> None:
    layouts.images_and_masks(tmp_path, small_masks())
    for path in (tmp_path / "masks").iterdir():
        path.rename(path.with_suffix(suffix))
    text = refused(tmp_path, one_line)
    assert f"{tmp_path / 'masks'} holds no masks but {suffix} files; save masks as PNG" in text


def test_images_beside_the_lists_are_noted(tmp_path: Path) -> None:
    layouts.split_below(tmp_path, small_masks())
    write_image(tmp_path / "images" / "stray.jpg", 99)
    assert len(open_dataset(tmp_path, "train")) == 5
    (note,) = [note for note in check(tmp_path).notes if "in no list" in note]
    assert note.endswith("are in no list: stray.jpg")


def test_images_without_masks_are_counted(tmp_path: Path, one_line: OneLine) -> None:
    layouts.images_and_masks(tmp_path, small_masks(20))
    train = open_dataset(tmp_path, "train")
    for name in train.names[:2]:
        (tmp_path / "masks" / f"{name}.png").unlink()
    write_values(tmp_path / "masks" / "spare.png", np.zeros(SIZE, np.uint8))
    text = refused(tmp_path, one_line)
    assert f"no mask for {tmp_path / 'images' / train.names[0]}.jpg" in text
    assert "(2 images of train have none)" in text
    report = check(tmp_path)
    assert [fault.kind for fault in report.faults] == ["missing mask"] * 2
    assert "1 masks have no image: spare.png" in report.notes


def test_two_images_of_one_name_are_refused(tmp_path: Path, one_line: OneLine) -> None:
    layouts.images_and_masks(tmp_path, small_masks())
    train = open_dataset(tmp_path, "train")
    write_image(tmp_path / "images" / f"{train.names[0]}.png")
    assert f"two images called {train.names[0]}; rename" in refused(tmp_path, one_line)


def test_a_folder_without_classes_is_not_taken_for_voc(tmp_path: Path, one_line: OneLine) -> None:
    layouts.images_and_masks(tmp_path, small_masks())
    (tmp_path / "classes.txt").unlink()
    text = refused(tmp_path, one_line)
    assert f"`fcn-deploy data check {tmp_path} --write-classes`" in text


def test_a_test_list_without_masks_hinders_nothing(tmp_path: Path, one_line: OneLine) -> None:
    layouts.split_above(tmp_path, small_masks())
    write_image(tmp_path / "test" / "images" / "z.jpg")
    assert len(open_dataset(tmp_path, "train")) == 5
    with pytest.raises(DataError, match="no picture of the list test has a mask"):
        open_split(str(tmp_path), "test")
    with pytest.raises(DataError, match=r"no list night in .*; choose --split of train, val, test"):
        open_split(str(tmp_path), "night")


def test_a_folder_in_a_folder_is_found(tmp_path: Path) -> None:
    layouts.images_and_masks(tmp_path / "unpacked" / "d", small_masks())
    assert open_dataset(tmp_path / "unpacked", "train").source.startswith(
        str(tmp_path / "unpacked" / "d")
    )


def test_camvids_own_list_of_colours_is_read(tmp_path: Path) -> None:
    classes = camvid_classes()
    colours = classes.names, classes.palette
    layouts.camvid(tmp_path, small_masks())
    rows = [f"{r} {g} {b}\t\t{n}" for n, (r, g, b) in zip(*colours, strict=True)]
    (tmp_path / "label_colors.txt").write_text("\n".join([*rows, "0 0 0\t\tVoid"]) + "\n")
    read = find_layout(tmp_path).classes()
    assert (read.names, read.palette, read.void_colours) == (
        classes.names, classes.palette, classes.void_colours,
    )  # fmt: skip
    rows = [f"{n},{r},{g},{b}" for n, (r, g, b) in zip(*colours, strict=True)]
    (tmp_path / "label_colors.txt").unlink()
    (tmp_path / "class_dict.csv").write_text("\n".join(["name,r,g,b", *rows, "Void,0,0,0"]))
    assert find_layout(tmp_path).classes().palette == classes.palette
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nroad,1,2\nsky,3,4,5\n")
    with pytest.raises(DataError, match=r"class_dict.csv names the colour '1,2'; write name,red"):
        find_layout(tmp_path).classes()


def test_the_known_classes_differ_in_name_and_colour() -> None:
    for classes in (cityscapes_classes(True), camvid_classes(), segnet_classes()):
        assert len({*classes.names}) == len({*classes.palette}) == len(classes.names)


# -- the command line ------------------------------------------------------------


def test_check_says_what_was_recognised(fcn_deploy: FcnDeploy, tmp_path: Path) -> None:
    layouts.images_and_masks(tmp_path / "d", small_masks())
    done = fcn_deploy("data", "check", "d", "--split", "0.4")
    assert done.code == 0
    assert "d is read as images/ and masks/: " in done.out
    assert "40% of the images by a hash of their names are val" in " ".join(done.out.split())
    wrong = fcn_deploy("data", "check", "d", "--split", "40")
    assert wrong.code == 2
    assert "write a number between 0 and 1" in wrong.err
    assert fcn_deploy("data", "check", "synthetic", "--split", "0.2").code == 2
