"""Which pictures are evaluated, and what they were to the training."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from fcn_deploy.core.errors import ArtifactError, DataError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.data.scenes.dataset import SceneDataset
from fcn_deploy.evaluate.pictures import open_split, require_same_classes, role_of
from fcn_deploy.results.evaluation import CHOSE_EPOCH, TRAINED_ON, UNUSED
from tests.conftest import WriteVocFolder
from tests.fakes import FAKE_SPEC
from tests.result_files import metrics

KEPT = "sha256:kept"


def test_any_list_is_opened_by_its_name(voc_folder: WriteVocFolder) -> None:
    folder = voc_folder()
    lists = folder / "ImageSets" / "Segmentation"
    (lists / "night.txt").write_text("train_1\nval_0\n")
    assert open_split(str(folder), "night").names == ("train_1", "val_0")
    assert open_split("synthetic", "val").names[0].startswith("scene_1_")


def test_a_list_that_is_missing_is_answered_with_those_that_are_there(
    voc_folder: WriteVocFolder,
) -> None:
    folder = voc_folder()
    with pytest.raises(DataError, match=r"no list test in .*; choose --split of train, val$"):
        open_split(str(folder), "test")
    with pytest.raises(DataError, match="no list test in the built-in scenes; choose --split of"):
        open_split("synthetic", "test")


def test_a_list_without_labels_is_refused(voc_folder: WriteVocFolder) -> None:
    folder = voc_folder()
    shutil.rmtree(folder / "SegmentationClass")
    with pytest.raises(DataError, match="no picture of the list val has a mask"):
        open_split(str(folder), "val")


@pytest.mark.parametrize("suffix", [".PNG", ".Png"])
def test_masks_are_found_whatever_the_case_of_their_suffix(
    voc_folder: WriteVocFolder, suffix: str
) -> None:
    folder = voc_folder()
    for mask in (folder / "SegmentationClass").iterdir():
        mask.rename(mask.with_suffix(suffix))
    assert open_split(str(folder), "val").names == ("val_0", "val_1")


def test_a_single_mask_that_is_missing_is_named(voc_folder: WriteVocFolder) -> None:
    folder = voc_folder()
    (folder / "SegmentationClass" / "val_1.png").unlink()
    with pytest.raises(DataError, match=r"val.txt names val_1, but there is no mask"):
        open_split(str(folder), "val")


def test_other_classes_are_named(voc_folder: WriteVocFolder) -> None:
    scenes = open_split(str(voc_folder()), "val")
    with pytest.raises(DataError, match="has 8 classes, the network 5"):
        require_same_classes(scenes, FAKE_SPEC)
    names = ("background", "disc", "hoop", *scenes.class_names[3:])
    renamed = dataclasses.replace(FAKE_SPEC, class_names=names, palette=((0, 0, 0),) * 8)
    with pytest.raises(DataError, match="calls class 2 ring, the network hoop"):
        require_same_classes(scenes, renamed)
    same = dataclasses.replace(renamed, class_names=scenes.class_names)
    require_same_classes(scenes, same)


def noted_training(folder: Path, *, learned: str = "train", learned_count: int = 3) -> Any:
    """Return the document of a training on lists of a folder with 3 and 2 images."""
    return metrics(
        data={
            "train": {"source": f"{folder} ({learned})", "read": learned_count, "dropped": 0},
            "val": {"source": f"{folder} (val)", "read": 2, "dropped": 0},
        }
    )


@pytest.fixture
def listed(voc_folder: WriteVocFolder) -> Path:
    """A folder in VOC layout with lists besides ``train`` (3 images) and ``val`` (2)."""
    folder = voc_folder()
    lists = folder / "ImageSets" / "Segmentation"
    (lists / "trainval.txt").write_text("val_1\ntrain_0\n")
    (lists / "part_of_val.txt").write_text("val_0\n")
    (lists / "trainaug.txt").write_text("train_0\ntrain_1\n")
    (lists / "other.txt").write_text("train_2\n")
    return folder


@pytest.mark.parametrize(
    ("split", "learned", "role"),
    [
        ("val", "train", CHOSE_EPOCH),
        ("train", "train", TRAINED_ON),
        ("trainval", "train", TRAINED_ON),
        ("part_of_val", "train", CHOSE_EPOCH),
        ("train", "trainaug", TRAINED_ON),
        ("other", "trainaug", UNUSED),
        ("other", "gone", None),
    ],
)
def test_the_run_says_what_the_pictures_were(
    run: Run, listed: Path, split: str, learned: str, role: str | None
) -> None:
    count = 2 if learned == "trainaug" else 3
    write_json(run.metrics, noted_training(listed, learned=learned, learned_count=count))
    dataset = open_split(str(listed), split)
    assert role_of(dataset, run, KEPT) == role
    assert role_of(dataset, run, "sha256:of other weights") is None


def test_of_pictures_in_another_folder_nothing_is_claimed(run: Run, listed: Path) -> None:
    write_json(run.metrics, noted_training(listed))
    moved = listed.rename(listed.with_name("moved"))
    for split in ("train", "val", "other"):
        assert role_of(open_split(str(moved), split), run, KEPT) is None


def test_of_a_list_that_has_changed_since_the_training_nothing_is_claimed(
    run: Run, listed: Path
) -> None:
    write_json(run.metrics, noted_training(listed, learned_count=4))
    for split in ("train", "val"):
        assert role_of(open_split(str(listed), split), run, KEPT) is None


@pytest.mark.parametrize(("split", "role"), [("train", TRAINED_ON), ("val", CHOSE_EPOCH)])
def test_the_built_in_scenes_are_told_apart(run: Run, split: str, role: str) -> None:
    used = {name: SceneDataset.open(name) for name in ("train", "val")}
    known = {
        name: {"source": scenes.source, "read": len(scenes), "dropped": 0}
        for name, scenes in used.items()
    }
    write_json(run.metrics, metrics(data=known))
    assert role_of(used[split], run, KEPT) == role


def test_without_figures_of_the_training_the_role_is_unknown(run: Run) -> None:
    dataset = open_split("synthetic", "val")
    assert role_of(dataset, run, KEPT) is None
    write_json(run.metrics, {"kind": "train"})
    with pytest.raises(ArtifactError, match=r"delete .*, or train again"):
        role_of(dataset, run, KEPT)
