"""Epoch, Split, Training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fcn_deploy.results.environment import Environment
from fcn_deploy.results.fields import Fields


@dataclass(frozen=True)
class Epoch:
    """Figures of one epoch; scores are shares, 0 to 1, None where nothing was labelled."""

    epoch: int
    loss: float | None
    train_pixel_accuracy: float | None
    train_mean_iou: float | None
    val_pixel_accuracy: float | None
    val_mean_iou: float | None
    examples_per_s: float | None
    data_seconds: float | None
    compute_seconds: float | None
    seconds: float | None


@dataclass(frozen=True)
class Split:
    """How many examples of a data set were read, and how many dropped as smaller than the crop."""

    name: str
    source: str
    read: int
    dropped: int


@dataclass(frozen=True)
class Training:
    """What ``metrics.json`` holds.

    Attributes:
        options: of the command line that began it, as they were typed.
        freeze_epochs: the body was not trained in the first so many; None: never frozen.
        best_epoch: whose weights were kept, by validation mIoU.
        val_iou: per class, of the best epoch; None where the class does not occur.
        recipe: its fields, as text.
        data_argument: what ``--data`` was, if the file says.
    """

    environment: Environment
    architecture: str
    weights: str | None
    options: tuple[str, ...]
    freeze_epochs: int | None
    best_epoch: int
    seed: int
    device: str
    recipe: Mapping[str, str]
    data_argument: str | None
    class_names: tuple[str, ...]
    splits: tuple[Split, ...]
    epochs: tuple[Epoch, ...]
    val_iou: tuple[float | None, ...]

    @property
    def best(self) -> Epoch:
        """The epoch whose weights were kept."""
        return next(epoch for epoch in self.epochs if epoch.epoch == self.best_epoch)


def training_from_fields(fields: Fields, environment: Environment) -> Training:
    """Read the JSON of a training back."""
    class_names = fields.texts("class_names")
    epochs = fields.children("epochs")
    if not epochs:
        raise fields.wrong("epochs", "a list of at least one epoch")
    best_epoch = fields.whole("best_epoch")
    best = next((entry for entry in epochs if entry.whole("epoch") == best_epoch), None)
    if best is None:
        raise fields.wrong("best_epoch", "one of the epochs")
    val_iou = best.numbers_or_none("val_iou")
    if len(val_iou) != len(class_names):
        raise best.wrong("val_iou", f"one number for each of {len(class_names)} classes")
    data = fields.child("data")
    return Training(
        environment=environment,
        architecture=fields.text("architecture"),
        weights=fields.text_or_none("weights"),
        options=fields.texts("options"),
        freeze_epochs=fields.whole_or_none("freeze_epochs"),
        best_epoch=best_epoch,
        seed=fields.whole("seed"),
        device=fields.text("device"),
        recipe=fields.as_texts("recipe"),
        data_argument=fields.text_or_none("data_argument"),
        class_names=class_names,
        splits=tuple(split_from_fields(name, data.child(name)) for name in data.values),
        epochs=tuple(epoch_from_fields(entry) for entry in epochs),
        val_iou=val_iou,
    )


def split_from_fields(name: str, fields: Fields) -> Split:
    """Read the JSON of a split back."""
    return Split(name, fields.text("source"), fields.whole("read"), fields.whole("dropped"))


def epoch_from_fields(fields: Fields) -> Epoch:
    """Read the JSON of a epoch back."""
    return Epoch(
        epoch=fields.whole("epoch"),
        loss=fields.number_or_none("loss"),
        train_pixel_accuracy=fields.number_or_none("train_pixel_accuracy"),
        train_mean_iou=fields.number_or_none("train_mean_iou"),
        val_pixel_accuracy=fields.number_or_none("val_pixel_accuracy"),
        val_mean_iou=fields.number_or_none("val_mean_iou"),
        examples_per_s=fields.number_or_none("examples_per_s"),
        data_seconds=fields.number_or_none("data_seconds"),
        compute_seconds=fields.number_or_none("compute_seconds"),
        seconds=fields.number_or_none("seconds"),
    )
