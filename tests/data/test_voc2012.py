import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcn_deploy.core.errors import DataError
from fcn_deploy.data import voc2012
from fcn_deploy.data.masks import voc_palette, write_mask
from fcn_deploy.data.sources import open_dataset
from fcn_deploy.data.voc2012 import find_voc2012
from tests.conftest import WriteVocFolder


@pytest.fixture(autouse=True)
def small_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voc2012, "LISTS", {"train": 3, "val": 2})


def test_it_is_found_where_torchvision_puts_it(voc_folder: WriteVocFolder) -> None:
    folder = voc_folder(inside="VOCdevkit/VOC2012", class_names=None)
    assert find_voc2012(folder) == folder / "VOCdevkit" / "VOC2012"


@pytest.mark.parametrize("inside", [".", "VOCdevkit/VOC2007"])
def test_other_data_is_not_taken_for_it(voc_folder: WriteVocFolder, inside: str) -> None:
    with pytest.raises(DataError, match="no VOC 2012"):
        find_voc2012(voc_folder(inside=inside))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("JPEGImages/val_1.jpg", "val_1"),
        ("SegmentationClass/train_0.png", "train_0"),
        ("ImageSets/Segmentation/val.txt", "no list"),
    ],
)
def test_what_was_unpacked_in_part_is_refused(
    voc_folder: WriteVocFolder, file: str, words: str
) -> None:
    folder = voc_folder(inside="VOCdevkit/VOC2012")
    (folder / "VOCdevkit" / "VOC2012" / file).unlink()
    for download in (False, True):
        with pytest.raises(DataError, match=f"is not whole: .*{words}.*--download"):
            find_voc2012(folder, download=download)


def test_a_short_list_is_refused(
    voc_folder: WriteVocFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voc2012, "LISTS", {"train": 1464, "val": 1449})
    with pytest.raises(DataError, match=r"train.txt has 3 names, not 1464"):
        find_voc2012(voc_folder(inside="VOCdevkit/VOC2012"))


def test_without_it_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--download"):
        find_voc2012(tmp_path / "data")


def test_it_is_fetched_through_torchvision(
    tmp_path: Path, voc_folder: WriteVocFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    made = voc_folder(inside="VOCdevkit/VOC2012", class_names=None)
    asked: list[dict[str, Any]] = []

    def fetch(root: str, **options: Any) -> None:
        asked.append(options)
        shutil.copytree(made, root)

    monkeypatch.setattr(datasets, "VOCSegmentation", fetch)
    found = find_voc2012(tmp_path / "new", download=True)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["VOCdevkit"]
    assert asked == [{"year": "2012", "image_set": "trainval", "download": True}]
    assert len(open_dataset(found, "train")) == 3


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("checksum\nmore")])
def test_a_download_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    datasets = pytest.importorskip("torchvision.datasets")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "VOCSegmentation", fail)
    with pytest.raises(DataError, match="cannot be fetched") as failed:
        find_voc2012(tmp_path / "new", download=True)
    assert "VOCtrainval" in str(failed.value)
    assert not (tmp_path / "new" / "VOCdevkit").exists()
    assert "\n" not in str(failed.value)


def test_the_augmented_list_reads_the_masks_that_belong_to_it(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(train=3, val=1)
    lists = root / "ImageSets" / "Segmentation"
    (lists / "trainaug.txt").write_text("train_0\ntrain_2\n")
    official = open_dataset(root, "trainaug")
    assert np.array_equal(official[0].mask, open_dataset(root, "train")[0].mask)
    augmented = np.full((48, 64), 5, np.uint8)
    for name in ("train_0", "train_2"):
        write_mask(root / "SegmentationClassAug" / f"{name}.png", augmented, voc_palette())
    assert [int(s.mask.max()) for s in map(open_dataset(root, "trainaug").__getitem__, (0, 1))] == [
        5,
        5,
    ]
    assert open_dataset(root, "train")[0].mask.min() != 5
