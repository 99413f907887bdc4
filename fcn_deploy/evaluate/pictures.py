"""The labelled pictures of an evaluation, and what they were to the network's training."""

from __future__ import annotations

from pathlib import Path

from fcn_deploy.core.errors import DataError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.dataset import Dataset
from fcn_deploy.data.folder_dataset import FolderDataset
from fcn_deploy.data.scenes.dataset import SCENE_SEEDS, SceneDataset
from fcn_deploy.data.sources import DataSource
from fcn_deploy.results.evaluation import CHOSE_EPOCH, TRAINED_ON, UNUSED
from fcn_deploy.results.read import read_training


def open_split(source: str, split: str, held_out: float | None = None) -> Dataset:
    """Open a list of labelled pictures.

    Args:
        source: a folder of labelled images, or ``synthetic``.
        split: name of the list.
        held_out: see :class:`fcn_deploy.data.sources.DataSource`.

    Raises:
        DataError: there is no such list, none of its pictures is labelled, or see
            :meth:`fcn_deploy.data.sources.DataSource.open`.
    """
    if source == "synthetic":
        _require_list(split, tuple(SCENE_SEEDS), "the built-in scenes")
        return DataSource(source, held_out).open(split)
    # As `train` notes its data, so that the lists of the two can be told to be the same.
    data = DataSource(str(Path(source).resolve()), held_out)
    layout = data.layout
    assert layout is not None  # only the built-in scenes have none
    place = layout.list_place(split)
    _require_list(split, layout.lists(), str(place.parent if place.suffix else layout.root))
    if not any(layout.find_mask(name, split) for name in layout.names(split)):
        raise DataError(
            f"no picture of the list {split} has a mask in {layout.mask_folder(split)}",
            "add the masks, or name a list that has some with --split",
        )
    return data.open(split)


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
        f"{dataset.source} {words}", "evaluate on data with the list of classes of the training"
    )


def role_of(dataset: Dataset, run: Run, checkpoint_digest: str) -> str | None:
    """Return what the pictures were to the training, one of ``ROLES``.

    None where that cannot be told: the run was not trained here, its figures are of another
    checkpoint, the images lie in another folder than those of the training, or a list of the
    training is no longer there or has another number of names.

    Args:
        dataset: the images; compared with those of the training by their names in its lists.
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
    recorded = {split.name: split for split in training.splits}
    for name, role in (("train", TRAINED_ON), ("val", CHOSE_EPOCH)):
        names = _listed_names(dataset, recorded[name].source) if name in recorded else None
        if names is None or len(names) != recorded[name].read:
            return None
        if not set(dataset.names).isdisjoint(names):
            return role
    return UNUSED


def _listed_names(dataset: Dataset, source: str) -> tuple[str, ...] | None:
    """Return the names in the list of a source; None unless it is a list of the same folder."""
    if not isinstance(dataset, FolderDataset):
        scenes = map(SceneDataset.open, SCENE_SEEDS)
        return next((each.names for each in scenes if each.source == source), None)
    for split in dataset.layout.lists():
        if dataset.layout.source(split) == source:
            try:
                return dataset.layout.lines(split)
            except DataError:  # nobody has asked to evaluate on that list
                return None
    return None
