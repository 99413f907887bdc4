from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcn_deploy.dataset import open_dataset
from fcn_deploy.errors import DataError
from fcn_deploy.masks import voc_palette, write_mask
from fcn_deploy.voc2012 import find_voc2012
from tests.conftest import WriteVocFolder


def test_it_is_found_where_torchvision_puts_it(voc_folder: WriteVocFolder) -> None:
    folder = voc_folder(inside="VOCdevkit/VOC2012", class_names=None)
    assert find_voc2012(folder) == folder / "VOCdevkit" / "VOC2012"


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
