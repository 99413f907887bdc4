"""Labels that look right and are not: void for an object, a sorted palette, EXIF, other classes."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.errors import DataError, PaletteError
from fcn_deploy.data.check import check
from fcn_deploy.data.dataset import check_and_cache
from fcn_deploy.data.masks import mask_to_colour, read_mask, voc_palette
from fcn_deploy.data.sources import DataSource, open_dataset
from tests.command_line import FcnDeploy
from tests.conftest import WriteVocFolder
from tests.data.small_masks import MASK, VOC
from tests.data.voc_files import image_of, list_of, mask_of

ORIENTATION = 0x0112


def masks_of(root: Path) -> list[Path]:
    return sorted((root / "SegmentationClass").iterdir())


def rewrite(path: Path, mask: NDArray[np.uint8]) -> None:
    Image.fromarray(mask).save(path)


def kinds(root: Path) -> set[str]:
    return {fault.kind for fault in check(root).faults}


# -- void for an object -------------------------------------------------------------------------


def test_an_object_saved_as_255_is_named_and_not_trained_on(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(class_names=["background", "thing"])
    for path in masks_of(root):
        mask = np.array(Image.open(path))
        rewrite(path, np.uint8((mask % 255 > 0) * 255))
    (fault,) = check(root).faults
    assert fault.kind == "one class alone"
    assert "hold no class but background" in fault.words
    assert "save it as that class's index, e.g. 1 for thing" in fault.repair
    train = open_dataset(root, "train")
    with pytest.raises(DataError, match="hold no class but background"):
        check_and_cache(train, least_classes=2)
    check_and_cache(open_dataset(root, "val"))  # a short list may hold one class alone


def test_a_void_border_beside_all_classes_is_no_fault(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(class_names=["background", "thing"])
    for path in masks_of(root):
        mask = np.zeros((48, 64), np.uint8)
        mask[5:25, 5:25] = 255
        mask[7:23, 7:23] = 1
        rewrite(path, mask)
    report = check(root)
    assert report.faults == ()
    assert report.notes == ()
    rewrite(mask_of(root, "train_0"), np.uint8(np.eye(48, 64) * 255))
    (note,) = check(root).notes
    assert "1 masks hold one class and 255 alone" in note
    assert "train_0.png" in note


def test_labels_of_one_class_without_void_are_named(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(class_names=["background", "thing"])
    for path in masks_of(root):
        rewrite(path, np.zeros((48, 64), np.uint8))
    (fault,) = check(root).faults
    assert fault.kind == "one class alone"
    assert "e.g. thing with index 1" in fault.repair


@pytest.mark.parametrize("split", ["train", "val"])
def test_nothing_labelled_is_refused_before_training(
    voc_folder: WriteVocFolder, fcn_deploy: FcnDeploy, tmp_path: Path, split: str
) -> None:
    root = voc_folder(size=(64, 96))
    for path in masks_of(root):
        if path.name.startswith(split):
            rewrite(path, np.full((64, 96), 255, np.uint8))
    done = fcn_deploy("train", "--data", root, "--crop-size", "64x96", "--out", "run")
    assert done.code == 2
    assert f"nothing is labelled in {root} ({split})" in done.err
    assert not (tmp_path / "run" / "model.safetensors").exists()


# -- palettes -----------------------------------------------------------------------------------


def sorted_anew(mask: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(mask_to_colour(mask, VOC)).quantize(16, dither=Image.Dither.NONE)


def test_a_palette_sorted_by_a_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    sorted_anew(MASK).save(path)
    assert not np.array_equal(np.array(Image.open(path)), MASK)
    with pytest.raises(PaletteError, match=r"mask.png: index \d+ has the colour of") as caught:
        read_mask(path, VOC)
    assert "save it as RGB" in str(caught.value)
    Image.open(path).convert("RGB").save(path)  # as it advises
    np.testing.assert_array_equal(read_mask(path, VOC), MASK)


#: Road, sidewalk and building of Cityscapes; sky, building, pole and tree of CamVid.
CITYSCAPES = [(128, 64, 128), (244, 35, 232), (70, 70, 70)]
CAMVID = [(128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 128, 0), (60, 40, 222)]


@pytest.mark.parametrize(
    "palette",
    [
        CITYSCAPES,
        CAMVID,
        [(0, 0, 0), (255, 255, 255), (255, 0, 0)],
        [*voc_palette(4)],
        [*voc_palette(4), (0, 0, 0), (0, 0, 0)],  # filled up with black
        [(0, 0, 0)] * 4,
    ],
    ids=["Cityscapes", "CamVid", "own", "VOC", "filled up", "black"],
)
def test_palettes_in_the_order_of_the_indices_are_taken(
    tmp_path: Path, palette: list[tuple[int, int, int]]
) -> None:
    mask = np.array([[0, 1], [2, 0]], np.uint8)
    image = Image.fromarray(mask)
    image.putpalette([channel for colour in palette for channel in colour])
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", voc_palette(12)), mask)


def test_the_check_names_sorted_palettes(voc_folder: WriteVocFolder) -> None:
    root = voc_folder()
    for path in masks_of(root):
        sorted_anew(np.array(Image.open(path))).save(path)
    assert kinds(root) == {"palette out of order"}


def test_three_equal_channels_are_called_so(tmp_path: Path) -> None:
    Image.fromarray(np.stack([MASK % 3] * 3, 2)).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match="three channels are equal"):
        read_mask(tmp_path / "mask.png", VOC)


# -- EXIF ---------------------------------------------------------------------------------------


def turn(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.open(path).save(path, exif=exif)


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_images_turned_upside_down_by_exif_are_a_note(
    voc_folder: WriteVocFolder, orientation: int
) -> None:
    root = voc_folder()
    turn(image_of(root, "train_1"), orientation)
    report = check(root)
    assert report.faults == ()
    (note,) = (note for note in report.notes if "EXIF" in note)
    assert "1 images" in note
    assert "train_1.jpg" in note


def test_an_image_on_its_side_names_exif_and_both_ways_out(voc_folder: WriteVocFolder) -> None:
    root = voc_folder()
    turn(image_of(root, "train_1"), 6)
    (fault,) = check(root).faults
    assert fault.kind == "different sizes"
    assert "EXIF orientation 6 turns the image by 90°" in fault.words
    assert "turn the mask by 90° too" in fault.repair
    assert "exiftool -Orientation=" in fault.repair
    with pytest.raises(DataError, match="EXIF orientation 6"):
        open_dataset(root, "train")


def test_a_mask_that_exif_turns_like_its_image_is_no_note(voc_folder: WriteVocFolder) -> None:
    root = voc_folder()
    turn(image_of(root, "train_1"), 3)
    turn(mask_of(root, "train_1"), 3)
    report = check(root)
    assert report.faults == ()
    assert not [note for note in report.notes if "EXIF" in note]


# -- which classes are meant --------------------------------------------------------------------


def test_vocs_classes_are_taken_aloud(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(class_names=None)
    notice = "no classes.txt: the 21 classes of PASCAL VOC are meant"
    assert DataSource(str(root)).notices() == (notice,)
    assert notice in check(root).notes
    assert DataSource("synthetic").notices() == ()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("class_names.txt", "_background_\nroad\ntree\n"),
        ("labels.txt", "__ignore__\n_background_\nroad\ntree\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\n_background_:::\nroad:::\ntree:::\n"),
    ],
)
def test_class_files_of_other_tools_are_read_aloud(
    voc_folder: WriteVocFolder, file: str, content: str
) -> None:
    root = voc_folder(class_names=None)
    (root / file).write_text(content)
    assert open_dataset(root, "train").class_names == ("_background_", "road", "tree")
    (notice,) = DataSource(str(root)).notices()
    assert f"the 3 classes of {root / file} are taken (_background_, road, tree)" in notice
    (root / "classes.txt").write_text("ground\nroad\n")
    assert open_dataset(root, "train").class_names == ("ground", "road")
    assert DataSource(str(root)).notices() == ()


def test_a_labelmaps_colours_are_those_of_the_masks(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(class_names=None)
    colours = ((0, 0, 0), (250, 50, 83), (51, 221, 255))
    lines = [f"{n}:{r},{g},{b}::" for n, (r, g, b) in zip("abc", colours, strict=True)]
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(lines))
    indices = np.arange(48 * 64).reshape(48, 64) % 3
    for path in masks_of(root):
        Image.fromarray(np.array(colours, np.uint8)[indices]).save(path)
    report = check(root)
    assert report.faults == ()
    assert report.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(open_dataset(root, "train").mask(0), indices)


@pytest.mark.parametrize("colour", ["1,2", "1,2,256", "red"])
def test_a_labelmap_with_a_colour_that_is_none(voc_folder: WriteVocFolder, colour: str) -> None:
    root = voc_folder(class_names=None)
    (root / "labelmap.txt").write_text(f"a:0,0,0::\nb:{colour}::\n")
    assert kinds(root) == {"classes"}
    with pytest.raises(DataError, match=f"colour '{colour}'"):
        open_dataset(root, "train")


def test_unreadable_classes_are_the_only_fault(
    voc_folder: WriteVocFolder, fcn_deploy: FcnDeploy
) -> None:
    root = voc_folder()
    (root / "classes.txt").write_text("road\n")
    (fault,) = check(root).faults
    assert fault.kind == "classes"
    done = fcn_deploy("data", "check", root)
    assert "faults: 1, in 1 files" in done.out
    assert "classes, by labelled pixels" not in done.out
    assert "aeroplane" not in done.out


# -- many equal faults --------------------------------------------------------------------------


def test_many_equal_faults_are_one_line_and_no_class_is_missed_in_vain(
    voc_folder: WriteVocFolder, fcn_deploy: FcnDeploy
) -> None:
    root = voc_folder(train=4, val=2, class_names=None)
    for path in masks_of(root):
        Image.fromarray(np.stack([np.array(Image.open(path)) % 21 * 20] * 3, 2)).save(path)
    done = fcn_deploy("data", "check", root, "--json", "faults.json")
    lines = done.out.splitlines()
    (line,) = (line for line in lines if line.startswith("unreadable mask"))
    assert "5 more like it: train_1.png, train_2.png, train_3.png, …" in line
    assert "faults: 6, in 6 files" in lines
    assert "occurs in no image" not in done.out
    assert "classes in no image" not in done.out
    assert Path("faults.json").read_text().count('"unreadable mask"') == 6


def test_absent_classes_are_one_note(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(class_names=[f"class {index}" for index in range(12)])
    list_of(root, "val").write_text("val_0\n")
    notes = [note for note in check(root).notes if "in no image" in note]
    assert len(notes) == 1
    assert "of 12)" in notes[0]
