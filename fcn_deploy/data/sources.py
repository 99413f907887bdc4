"""open_dataset: the dataset that ``--data`` names, which is synthetic, a folder, or VOC."""

from __future__ import annotations

from pathlib import Path

from fcn_deploy.data.class_list import read_class_list
from fcn_deploy.data.dataset import Dataset
from fcn_deploy.data.scenes.dataset import SceneDataset
from fcn_deploy.data.voc import AUGMENTED, VocDataset, find_voc_root, list_path


def open_dataset(source: str | Path, split: str) -> Dataset:
    """Open one split of ``synthetic`` or of a folder in VOC layout.

    Raises:
        DataError: see :meth:`VocDataset.open`.
    """
    if str(source) == "synthetic":
        return SceneDataset.open(split)
    return VocDataset.open(Path(source), split)


def training_split(source: str | Path) -> str:
    """Return the list to learn from: ``trainaug`` where the folder has it, else ``train``."""
    if str(source) == "synthetic":
        return "train"
    root = find_voc_root(Path(source))
    return AUGMENTED if list_path(root, AUGMENTED).is_file() else "train"


def class_notice(source: str | Path) -> str | None:
    """Return what to say of a folder without classes.txt: which classes are taken instead."""
    if str(source) == "synthetic":
        return None
    return read_class_list(find_voc_root(Path(source))).notice
