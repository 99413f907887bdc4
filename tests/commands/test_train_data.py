"""``fcn-deploy train`` on data that is not whole: one line that names the file."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.command_line import FcnDeploy, refused
from tests.commands.quick_training import QUICK
from tests.conftest import WriteVocFolder


def _missing_image(root: Path) -> None:
    (root / "JPEGImages/train_1.jpg").unlink()


def _missing_mask(root: Path) -> None:
    (root / "SegmentationClass/train_1.png").unlink()


def _other_size(root: Path) -> None:
    Image.new("P", (10, 10)).save(root / "SegmentationClass/train_1.png")


def _value_beyond_classes(root: Path) -> None:
    path = root / "SegmentationClass/train_1.png"
    width, height = Image.open(path).size
    Image.new("L", (width, height), 100).save(path)


def _truncated_image(root: Path) -> None:
    path = root / "JPEGImages/train_1.jpg"
    path.write_bytes(path.read_bytes()[:700])


def _text_for_image(root: Path) -> None:
    (root / "JPEGImages/train_1.jpg").write_text("not a picture")


def _empty_list(root: Path) -> None:
    (root / "ImageSets/Segmentation/train.txt").write_text("\n")


def _no_list(root: Path) -> None:
    (root / "ImageSets/Segmentation/val.txt").unlink()


def _empty_folder(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_missing_image, ["train_1"]),
        (_missing_mask, ["train_1", "mask"]),
        (_other_size, ["train_1", "96×128", "10×10"]),
        (_value_beyond_classes, ["train_1.png", "class 100"]),
        (_truncated_image, ["train_1.jpg"]),
        (_text_for_image, ["train_1.jpg", "not a picture"]),
        (_empty_list, ["train.txt", "empty"]),
        (_no_list, ["val.txt"]),
        (_empty_folder, ["is empty", "JPEGImages"]),
    ],
)
def test_bad_data(
    fcn_deploy: FcnDeploy,
    voc_folder: WriteVocFolder,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    words: list[str],
) -> None:
    data = voc_folder(size=(96, 128))
    spoil(data)
    refused(fcn_deploy("train", "--data", data, *QUICK), *words)
    assert not (tmp_path / "runs/fcn/model.safetensors").exists()
