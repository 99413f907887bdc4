"""The files of a training run: what each epoch writes, what may be replaced, what is removed.

last.safetensors   the weights after the epoch
model.safetensors  those of the best epoch by validation mIoU: what is exported
metrics.json       figures of all epochs; metrics.jsonl the same, a line each
preview.png        image | prediction | truth; previews/ keeps every epoch's
tensorboard/       the curves as event files, if asked for
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fcn_deploy.core.errors import ArtifactError
from fcn_deploy.core.extras import require_extra
from fcn_deploy.core.files import file_digest, write_bytes, write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.masks import write_picture
from fcn_deploy.networks.checkpoint import save_checkpoint
from fcn_deploy.results.environment import Environment, result_header
from fcn_deploy.results.training import TRAIN_SCHEMA, Epoch, Training, TrainingSetup, best_of


def refuse_existing(run: Run, *, overwrite: bool) -> None:
    """Keep a trained model from being replaced unasked.

    Raises:
        ArtifactError: the run holds a model or an unfinished training, and ``overwrite`` is not
            set.
    """
    if run.state.exists() and not overwrite:
        raise ArtifactError(
            f"{run.root} holds an unfinished training run",
            "go on with --resume, train into another folder with --out, or replace it with "
            "--overwrite",
        )
    held = next((file for file in (run.checkpoint, run.original) if file.exists()), None)
    if held is not None and not overwrite:
        raise ArtifactError(
            f"{held} exists already",
            "train into another folder with --out, or replace it with --overwrite",
        )


def forget_training(run: Run) -> None:
    """Remove what an earlier training left and a new one would stand beside.

    Its best checkpoint and its figures stay until the new one's first epoch replaces them.
    """
    previews = run.preview_of(1).parent.glob("epoch-*.png")
    for path in (run.last_checkpoint, *previews, *run.events.glob("events.out.tfevents.*")):
        path.unlink(missing_ok=True)


class TrainingFiles:
    """Writes a run's files, each whole or not at all.

    Args:
        run: where.
        setup: what the figures are of.
        tensorboard: write event files too.
        done: epochs that an earlier start of this run has finished.

    Raises:
        MissingExtraError: ``tensorboardX`` is not installed.
    """

    def __init__(self, run: Run, setup: TrainingSetup, *, tensorboard: bool, done: int) -> None:
        self._run = run
        self._setup = setup
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
        header = result_header("train", TRAIN_SCHEMA)
        here = Environment(
            self._run.metrics.name, header["created"], header["machine"], header["versions"]
        )
        digest = file_digest(self._run.checkpoint)
        return {**header, **Training.of(self._setup, epochs, digest, here).to_json()}


def _event_writer(run: Run, done: int) -> Any:
    require_extra("--tensorboard", "tensorboard", "tensorboardX", otherwise=", or drop it")
    from tensorboardX import SummaryWriter

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
        if value is not None:
            writer.add_scalar(name, value, step)
    if preview is not None:
        writer.add_image("image_prediction_truth", preview, step, dataformats="HWC")
    writer.flush()
