"""What a training run leaves behind after each epoch, for people and for later stages.

last.safetensors   the weights after the epoch
model.safetensors  those of the best epoch by validation mIoU: what is exported
metrics.json       figures of all epochs; metrics.jsonl the same, a line each
preview.png        image | prediction | truth; previews/ keeps every epoch's
tensorboard/       the curves as event files, if asked for
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fcn_deploy.core.errors import BackendError
from fcn_deploy.core.files import file_digest, write_bytes, write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.masks import write_picture
from fcn_deploy.machine.description import describe_machine, describe_versions, utc_now
from fcn_deploy.networks.checkpoint import save_checkpoint

METRICS_SCHEMA = 2


@dataclass(frozen=True)
class Epoch:
    """Figures of one finished epoch.

    Attributes:
        epoch: from 1.
        lr: learning rate of its last batch.
        loss: mean over the epoch, per example.
        train_pixel_accuracy: on the training crops, 0 to 1.
        train_mean_iou: likewise.
        val_pixel_accuracy: on the validation images at full size, 0 to 1; NaN where this epoch
            was not validated.
        val_mean_iou: likewise.
        val_iou: per class, 0 to 1; None for a class that did not occur.
        examples_per_s: training examples of all processes per second, validation left out.
        data_seconds: spent waiting for examples.
        compute_seconds: spent learning from them.
        seconds: of the whole epoch, validation included.
    """

    epoch: int
    lr: float
    loss: float
    train_pixel_accuracy: float
    train_mean_iou: float
    val_pixel_accuracy: float
    val_mean_iou: float
    val_iou: list[float | None]
    examples_per_s: float
    data_seconds: float
    compute_seconds: float
    seconds: float

    @property
    def validated(self) -> bool:
        """Whether this epoch has a validation mIoU."""
        return not math.isnan(self.val_mean_iou)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; where no pixel was labelled a score is NaN, for which it has none."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Epoch:
        """Read back what :meth:`to_json` gave."""
        known: dict[str, Any] = {k: math.nan if v is None else v for k, v in values.items()}
        return cls(**known)


def best_of(epochs: Sequence[Epoch]) -> Epoch:
    """Return the epoch with the highest validation mIoU, the earliest of equals.

    Without any validation score, e.g. because all labels are void, the last epoch is the best.
    """
    scored = [epoch for epoch in epochs if epoch.validated]
    return max(scored, key=lambda epoch: epoch.val_mean_iou) if scored else epochs[-1]


class TrainingFiles:
    """Writes a run's files, each whole or not at all.

    Args:
        run: where.
        about: what the figures are of, as JSON values: plan, data, recipe.
        tensorboard: write event files too.
        done: epochs that an earlier start of this run has finished.

    Raises:
        BackendError: ``tensorboardX`` is not installed.
    """

    def __init__(self, run: Run, about: Mapping[str, Any], *, tensorboard: bool, done: int) -> None:
        self._run = run
        self._about = about
        self._events = _event_writer(run, done) if tensorboard else None

    def write(
        self,
        network: nn.Module,
        spec: ModelSpec,
        epochs: Sequence[Epoch],
        preview: NDArray[np.uint8] | None,
    ) -> None:
        """Write everything after an epoch.

        Args:
            network: its weights.
            spec: of the network.
            epochs: figures of all epochs, this one last.
            preview: uint8 [H, W, 3], or None where the epoch was not validated.

        Raises:
            ArtifactError: a place cannot be written.
        """
        run, epoch = self._run, epochs[-1]
        save_checkpoint(run.last_checkpoint, network, spec)
        if best_of(epochs) is epoch or not run.checkpoint.exists():
            save_checkpoint(run.checkpoint, network, spec)
        write_json(run.metrics, self._metrics(epochs))
        lines = "".join(json.dumps(entry.to_json()) + "\n" for entry in epochs)
        write_bytes(run.epoch_lines, lines.encode())
        if preview is not None:
            write_picture(run.preview_of(epoch.epoch), preview)
            write_picture(run.preview, preview)
        if self._events is not None:
            _write_events(self._events, epoch, spec, preview)

    def close(self) -> None:
        """Finish the event files."""
        if self._events is not None:
            self._events.close()

    def _metrics(self, epochs: Sequence[Epoch]) -> dict[str, Any]:
        return {
            "schema": METRICS_SCHEMA,
            "kind": "train",
            "created": utc_now(),
            "checkpoint_digest": file_digest(self._run.checkpoint),
            "best_epoch": best_of(epochs).epoch,
            **self._about,
            "epochs": [epoch.to_json() for epoch in epochs],
            "machine": describe_machine(),
            "versions": describe_versions(),
        }


def _event_writer(run: Run, done: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise BackendError(
            f"--tensorboard needs tensorboardX ({error})", "pip install 'fcn-deploy[tensorboard]'"
        ) from error
    # What a killed start wrote of later epochs is not to be shown.
    return SummaryWriter(str(run.events), purge_step=done + 1 if done else None)


def _write_events(
    writer: Any, epoch: Epoch, spec: ModelSpec, preview: NDArray[np.uint8] | None
) -> None:
    step = epoch.epoch
    scalars = {
        "loss/train": epoch.loss,
        "mIoU/train": epoch.train_mean_iou,
        "mIoU/val": epoch.val_mean_iou,
        "pixel_accuracy/train": epoch.train_pixel_accuracy,
        "pixel_accuracy/val": epoch.val_pixel_accuracy,
        "speed/examples_per_s": epoch.examples_per_s,
        "speed/data_seconds": epoch.data_seconds,
        "learning_rate": epoch.lr,
    }
    ious = {f"IoU/{n}": iou for n, iou in zip(spec.class_names, epoch.val_iou, strict=True)}
    for name, value in (scalars | ious).items():
        if value is not None and math.isfinite(value):
            writer.add_scalar(name, value, step)
    if preview is not None:
        writer.add_image("image_prediction_truth", preview, step, dataformats="HWC")
    writer.flush()
