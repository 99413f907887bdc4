"""``fcn-deploy train`` on data that is not whole: one line that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.command_line import FcnDeploy, refused
from tests.commands.quick_training import QUICK
from tests.conftest import WriteVocFolder
from tests.data.pictures import encoded

IMAGE, MASK = "JPEGImages/train_1.jpg", "SegmentationClass/train_1.png"
TRAIN, VAL = "ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/val.txt"


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (IMAGE, None, ["train_1"]),
        (MASK, None, ["train_1", "mask"]),
        (MASK, encoded("PNG", Image.new("P", (10, 10))), ["train_1", "96×128", "10×10"]),
        (MASK, encoded("PNG", Image.new("L", (128, 96), 100)), ["train_1.png", "class 100"]),
        (IMAGE, encoded("JPEG", Image.new("RGB", (128, 96)))[:700], ["train_1.jpg"]),
        (IMAGE, b"not a picture", ["train_1.jpg", "not a picture"]),
        (TRAIN, b"\n", ["train.txt", "empty"]),
        (VAL, None, ["val.txt"]),
    ],
)
def test_bad_data(
    fcn_deploy: FcnDeploy,
    voc_folder: WriteVocFolder,
    file: str,
    content: bytes | None,
    words: list[str],
) -> None:
    spoiled = voc_folder(size=(96, 128)) / file
    spoiled.unlink()
    if content is not None:
        spoiled.write_bytes(content)
    refused(fcn_deploy("train", "--data", "data", *QUICK), *words)
    assert not Path("runs").exists()


def test_an_empty_folder(fcn_deploy: FcnDeploy) -> None:
    Path("data").mkdir()
    refused(fcn_deploy("train", "--data", "data", *QUICK), "is empty", "JPEGImages")
