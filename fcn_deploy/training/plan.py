"""TrainPlan: all that a training depends on; Provenance: what began it; Progress: how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from fcn_deploy.data.metrics import ConfusionMatrix
from fcn_deploy.networks.architectures import DEFAULT_ARCHITECTURE
from fcn_deploy.networks.backbones import Weights
from fcn_deploy.networks.device import device_name
from fcn_deploy.training.recipes import Recipe

Amp = Literal["off", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainPlan:
    """Everything that a training run depends on.

    Attributes:
        recipe: the schedule and its numbers.
        device: where to compute.
        architecture: a name of ``networks.architecture_names()``.
        weights: what the network starts from: nothing, ImageNet (the body), a torchvision file
            (the body), or a ``.safetensors`` checkpoint of ours (all of it).
        freeze_epochs: the body is not trained in the first so many epochs; None: never frozen.
        seed: of initialisation, order and augmentation.
        workers: processes that load data; 0 loads in this one.
        amp: arithmetic of the forward pass: float32, or automatic mixed precision.
        compiled: through ``torch.compile``.
        sync_batch_norm: batch statistics over all processes.
        deterministic: refuse operations whose result depends on the order of threads.
        patience: stop at a validated epoch when the best one is so many epochs back; None: never.
    """

    recipe: Recipe
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    architecture: str = DEFAULT_ARCHITECTURE
    weights: Weights = None
    freeze_epochs: int | None = None
    seed: int = 0
    workers: int = 0
    amp: Amp = "off"
    compiled: bool = False
    sync_batch_norm: bool = False
    deterministic: bool = False
    patience: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values: the fields of `results.training.TrainingSetup`."""
        return {
            "architecture": self.architecture,
            "weights": None if self.weights is None else str(self.weights),
            "freeze_epochs": self.freeze_epochs,
            "seed": self.seed,
            "device": device_name(self.device),
            "amp": self.amp,
            "compiled": self.compiled,
            "sync_batch_norm": self.sync_batch_norm,
            "deterministic": self.deterministic,
            "patience": self.patience,
            "recipe": asdict(self.recipe),
        }


@dataclass(frozen=True)
class Progress:
    """Where an epoch stands, for a progress bar.

    Attributes:
        epoch: from 1.
        batch: batches done in this epoch.
        batches: in an epoch.
        loss: mean over the epoch so far, per example.
        examples_per_s: training examples of all processes per second, this epoch.
        confusion: int64 [C, C], of this process's training crops of the epoch, on its device.
    """

    epoch: int
    batch: int
    batches: int
    loss: float
    examples_per_s: float
    confusion: Tensor

    def scores(self) -> ConfusionMatrix:
        """Return what has been counted by now; this waits for a GPU."""
        return ConfusionMatrix(self.confusion.cpu().numpy())


@dataclass(frozen=True)
class Provenance:
    """What began a training run: training only passes it on, into the run's state and figures.

    Attributes:
        arguments: option → value of the command line, as JSON values; a resumed run is held
            against them.
        options: the same as they were typed, to repeat the command.
        data_argument: how the user named the data, so that later stages find it again.
        dropped: training examples that were left out as smaller than the crop.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    data_argument: str | None = None
    dropped: int = 0
