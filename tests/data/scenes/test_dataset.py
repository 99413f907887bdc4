"""The built-in scenes as a dataset: two splits that are always the same."""

import numpy as np
import pytest

from fcn_deploy.data.dataset import iterate
from fcn_deploy.data.scenes.dataset import SCENE_COUNTS, SCENE_SIZE, SceneDataset
from fcn_deploy.data.scenes.render import SCENE_CLASS_NAMES
from fcn_deploy.data.sources import open_dataset


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
