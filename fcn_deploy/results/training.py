"""What metrics.json holds: epochs, splits, and the whole training with the plan that it followed.

TrainingSetup (before the first epoch) ─┐
Epoch, … (one more after each) ─────────┴─▶ Training ─to_json─▶ metrics.json ─from_fields─▶
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcn_deploy.results.environment import Environment
from fcn_deploy.results.fields import Fields, as_texts
from fcn_deploy.results.record import Record, as_json, read_fields

if TYPE_CHECKING:
    from typing_extensions import Self

TRAIN_SCHEMA = 2


@dataclass(frozen=True)
class Epoch(Record):
    """Figures of one finished epoch.

    Scores are shares, 0 to 1; None where no pixel was labelled.

    Attributes:
        epoch: from 1.
        lr: learning rate of its last batch.
        loss: mean over the epoch, per example.
        train_pixel_accuracy: on the training crops.
        train_mean_iou: likewise.
        val_pixel_accuracy: on the validation images at full size; None also where this epoch was
            not validated.
        val_mean_iou: likewise.
        val_iou: likewise, per class; None for a class that did not occur.
        examples_per_s: training examples of all processes per second, validation left out.
        data_seconds: spent waiting for examples.
        compute_seconds: spent learning from them.
        seconds: of the whole epoch, validation included.
        val_crops_pixel_accuracy: on a crop of each validation image that is large enough, void
            counted as background; None also where the recipe does not ask for it.
    """

    epoch: int
    lr: float
    loss: float
    train_pixel_accuracy: float | None
    train_mean_iou: float | None
    val_pixel_accuracy: float | None
    val_mean_iou: float | None
    val_iou: tuple[float | None, ...]
    examples_per_s: float
    data_seconds: float
    compute_seconds: float
    seconds: float
    val_crops_pixel_accuracy: float | None = None

    @property
    def validated(self) -> bool:
        """Whether this epoch has a validation mIoU."""
        return self.val_mean_iou is not None

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read back what :meth:`to_json` gave.

        Raises:
            ArtifactError: a field is missing or damaged.
        """
        given: dict[str, Any] = {}
        if "val_crops_pixel_accuracy" not in fields.values:  # as in files of older versions
            given["val_crops_pixel_accuracy"] = None
        return cls(**read_fields(cls, fields, **given))


def best_of(epochs: Sequence[Epoch]) -> Epoch:
    """Return the epoch with the highest validation mIoU, the earliest of equals.

    Without any validation score, e.g. because all labels are void, the last epoch is the best.
    """
    best, highest = epochs[-1], -1.0
    for epoch in epochs:
        if epoch.val_mean_iou is not None and epoch.val_mean_iou > highest:
            best, highest = epoch, epoch.val_mean_iou
    return best


@dataclass(frozen=True)
class Split:
    """How many examples of a data set were read, and how many dropped as smaller than the crop.

    Attributes:
        name: ``train`` or ``val``.
        source: where they come from, in words.
        read: all of them.
        dropped: of these.
    """

    name: str
    source: str
    read: int
    dropped: int

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values; the name is the caller's key."""
        return {"source": self.source, "read": self.read, "dropped": self.dropped}

    @classmethod
    def from_fields(cls, name: str, fields: Fields) -> Split:
        """Read back what :meth:`to_json` gave.

        Raises:
            ArtifactError: a field is missing or damaged.
        """
        return cls(**read_fields(cls, fields, name=name))


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What is known of a training before its first epoch.

    Attributes:
        architecture: of the network.
        weights: what it started from; None: nothing.
        freeze_epochs: the body was not trained in the first so many; None: never frozen.
        seed: of initialisation, order and augmentation.
        device: what computed, by name.
        amp: arithmetic of the forward pass: ``off``, ``bf16`` or ``fp16``.
        compiled: through ``torch.compile``.
        sync_batch_norm: batch statistics over all processes.
        deterministic: operations whose result depends on chance were refused.
        patience: epochs without a better one after which it was to stop; None: none.
        recipe: field → value, as JSON values.
        options: of the command line that began it, as they were typed.
        processes: that trained together.
        class_names: by index.
        data_argument: what ``--data`` was; None where no command began it.
        splits: the training and the validation set.
    """

    architecture: str
    weights: str | None
    freeze_epochs: int | None
    seed: int
    device: str
    amp: str
    compiled: bool
    sync_batch_norm: bool
    deterministic: bool
    patience: int | None
    recipe: Mapping[str, Any]
    options: tuple[str, ...]
    processes: int
    class_names: tuple[str, ...]
    data_argument: str | None
    splits: tuple[Split, ...]

    @property
    def held_out(self) -> float | None:
        """The share of the images that ``--split`` kept for validation; None without it."""
        typed = dict(zip(self.options, self.options[1:], strict=False))
        return float(typed["--split"]) if "--split" in typed else None


@dataclass(frozen=True, kw_only=True)
class Training(TrainingSetup):
    """A training with the epochs that are finished: the content of ``metrics.json``.

    Attributes:
        environment: where it was trained.
        checkpoint_digest: of the weights that were kept.
        best_epoch: whose weights were kept, by validation mIoU.
        epochs: from the first one, at least one.
    """

    environment: Environment
    checkpoint_digest: str
    best_epoch: int
    epochs: tuple[Epoch, ...]

    @classmethod
    def of(
        cls,
        setup: TrainingSetup,
        epochs: Sequence[Epoch],
        checkpoint_digest: str,
        environment: Environment,
    ) -> Training:
        """Return a training with its finished epochs."""
        return cls(
            **vars(setup),
            environment=environment,
            checkpoint_digest=checkpoint_digest,
            best_epoch=best_of(epochs).epoch,
            epochs=tuple(epochs),
        )

    @property
    def best(self) -> Epoch:
        """The epoch whose weights were kept."""
        return next(epoch for epoch in self.epochs if epoch.epoch == self.best_epoch)

    @property
    def val_iou(self) -> tuple[float | None, ...]:
        """IoU per class of the best epoch; None where the class does not occur."""
        return self.best.val_iou

    @property
    def recipe_texts(self) -> dict[str, str]:
        """The recipe's fields as text; those that are not set are left out."""
        return as_texts(self.recipe)

    def to_json(self) -> dict[str, Any]:
        """Return all but the environment, which the header of the file tells, as JSON values."""
        values = {name: as_json(value) for name, value in vars(self).items()}
        del values["environment"], values["splits"]
        return {**values, "data": {split.name: split.to_json() for split in self.splits}}

    @classmethod
    def from_fields(cls, fields: Fields, environment: Environment) -> Training:
        """Read back what :meth:`to_json` gave.

        Raises:
            ArtifactError: a field is missing or damaged.
        """
        entries = fields.children("epochs")
        if not entries:
            raise fields.wrong("epochs", "a list of at least one epoch")
        data = fields.child("data")
        read = read_fields(
            cls,
            fields,
            environment=environment,
            recipe=fields.child("recipe").values,
            splits=tuple(Split.from_fields(name, data.child(name)) for name in data.values),
        )
        training = cls(**read)
        kept = [e for e in entries if e.values["epoch"] == training.best_epoch]
        if not kept:
            raise fields.wrong("best_epoch", "one of the epochs")
        if len(training.val_iou) != len(training.class_names):
            raise kept[0].wrong(
                "val_iou", f"one number for each of {len(training.class_names)} classes"
            )
        return training
