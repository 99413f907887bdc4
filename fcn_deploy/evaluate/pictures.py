"""The labelled pictures of an evaluation, and what they were to the network's training."""

from __future__ import annotations

from pathlib import Path

from fcn_deploy.core.errors import DataError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.dataset import Dataset
from fcn_deploy.data.scenes.dataset import SCENE_SEEDS
from fcn_deploy.data.sources import open_dataset
from fcn_deploy.data.voc import find_voc_root, list_path, mask_folder, read_list
from fcn_deploy.results.evaluation import CHOSE_EPOCH, TRAINED_ON, UNUSED
from fcn_deploy.results.read import read_training


def open_split(source: str, split: str) -> Dataset:
    """Open a list of labelled pictures.

    Args:
        source: a folder in VOC layout, or ``synthetic``.
        split: name of the list.

    Raises:
        DataError: there is no such list, none of its pictures is labelled, or see
            :meth:`fcn_deploy.data.voc.VocDataset.open`.
    """
    if source == "synthetic":
        _require_list(split, tuple(SCENE_SEEDS), "the built-in scenes")
        return open_dataset(source, split)
    # As `train` notes its data, so that the lists of the two can be told to be the same.
    root = find_voc_root(Path(source).resolve())
    lists = list_path(root, split).parent
    _require_list(split, tuple(sorted(path.stem for path in lists.glob("*.txt"))), str(lists))
    masks = mask_folder(root, split)
    if not any((masks / f"{name}.png").is_file() for name in read_list(root, split)):
        raise DataError(
            f"no picture of the list {split} has a mask in {masks}",
            "add the masks, or name a list that has some with --split",
        )
    return open_dataset(root, split)


def _require_list(split: str, known: tuple[str, ...], place: str) -> None:
    if split not in known:
        repair = f"choose --split of {', '.join(known)}" if known else "write one name a line"
        raise DataError(f"no list {split} in {place}", repair)


def require_same_classes(dataset: Dataset, spec: ModelSpec) -> None:
    """Refuse labels of other classes than the network's.

    Raises:
        DataError: naming the first class that differs.
    """
    theirs, ours = dataset.class_names, spec.class_names
    if theirs == ours:
        return
    if len(theirs) != len(ours):
        words = f"has {len(theirs)} classes, the network {len(ours)}"
    else:
        index = next(i for i, pair in enumerate(zip(theirs, ours, strict=True)) if len({*pair}) > 1)
        words = f"calls class {index} {theirs[index]}, the network {ours[index]}"
    raise DataError(
        f"{dataset.source} {words}", "evaluate on data with the classes.txt of the training"
    )


def role_of(dataset: Dataset, run: Run, checkpoint_digest: str) -> str | None:
    """Return what the pictures were to the training, one of ``ROLES``.

    None where the run does not say: it was not trained here, or the checkpoint is another one than
    that whose training the run tells.

    Args:
        dataset: the pictures.
        run: of the network.
        checkpoint_digest: of the checkpoint whose masks are evaluated.

    Raises:
        ArtifactError: the run's figures of the training are damaged.
    """
    if not run.metrics.exists():
        return None
    training = read_training(run, f"delete {run.metrics}, or train again")
    if training.checkpoint_digest != checkpoint_digest:
        return None
    names = {split.source: split.name for split in training.splits}
    if dataset.source not in names:
        return UNUSED
    return CHOSE_EPOCH if names[dataset.source] == "val" else TRAINED_ON
