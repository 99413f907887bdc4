"""Samples are decoded once, dropped by size, and never in both splits."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.core.errors import DataError
from fcn_deploy.data import dataset as dataset_module
from fcn_deploy.data.dataset import (
    CachedDataset,
    check_and_cache,
    iterate,
    require_disjoint,
    size_range,
)
from fcn_deploy.data.scenes.render import draw_scene
from fcn_deploy.data.sources import open_dataset
from fcn_deploy.data.voc import VocDataset
from tests.conftest import WriteVocFolder
from tests.data.voc_files import image_of, list_of, mask_of

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
    monkeypatch.setattr(dataset_module, "CACHE_BYTES", 2 * 48 * 64 * 4)  # two of three samples
    train = VocDataset.open(voc_folder(), "train")
    ticks: list[int] = []
    assert check_and_cache(train, lambda: ticks.append(1)) is train
    assert len(ticks) == 3


# -- the two splits -----------------------------------------------------------------------------


def test_a_sample_of_both_splits_is_refused(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(train=3, val=2)
    train_set, val_set = open_dataset(root, "train"), open_dataset(root, "val")
    require_disjoint(train_set, val_set)
    list_of(root, "val").write_text("val_0\ntrain_1\n")
    with pytest.raises(DataError, match="train_1 is both a training and a validation example"):
        require_disjoint(train_set, open_dataset(root, "val"))
