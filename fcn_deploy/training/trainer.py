"""Trainer: training steps, epochs, validation, and the state to resume from."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fcn_deploy.core.errors import CheckpointError, InputError, TrainingError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import IGNORE_INDEX, ModelSpec
from fcn_deploy.data.class_counts import class_counts, median_frequency
from fcn_deploy.data.dataset import Dataset
from fcn_deploy.data.metrics import ConfusionMatrix
from fcn_deploy.networks.deploy_graph import Normalise
from fcn_deploy.networks.device import fastest_kernels
from fcn_deploy.networks.python_weights import stored_architecture
from fcn_deploy.networks.starting_weights import starting_network
from fcn_deploy.results.training import Epoch, best_of
from fcn_deploy.training.distributed import World, synchronised
from fcn_deploy.training.loader import TrainingImages, batches
from fcn_deploy.training.loss import first_not_finite, segmentation_loss
from fcn_deploy.training.plan import Progress, Provenance, TrainPlan
from fcn_deploy.training.sampler import EpochOrder, RunOrder, seed_of
from fcn_deploy.training.train_state import ResumeState, Sums, TrainState
from fcn_deploy.training.validation import ValidationCrops, draw_preview, evaluate

#: Within an epoch the state is saved again after so many seconds.
SAVE_SECONDS = 300.0
_AMP_TYPES = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """A training run while it goes on: what learns, what from, and how far it is.

    Attributes:
        spec: of the checkpoints: its architecture is the one to build them again by.
        learner: what learns.
        epochs: figures of the finished ones.
        stopping: whether the system has asked any of the processes to end.
        save_due: whether the state was last saved long ago.
        between_epochs: whether it was resumed where one epoch was over and no other begun.
    """

    def __init__(
        self,
        plan: TrainPlan,
        spec: ModelSpec,
        train_set: Dataset,
        val_set: Dataset,
        world: World,
        run: Run,
        stop: Callable[[], bool],
    ) -> None:
        self._plan, self._world = plan, world
        self._run, self._stop = run, stop
        self._val_set = val_set
        self._val_crops = ValidationCrops.of(val_set, plan.recipe, plan.seed)
        torch.manual_seed(plan.seed)
        # Channels last: a fifth faster on CPUs with oneDNN, and what tensor cores want.
        network: nn.Module = starting_network(plan.architecture, spec.class_names, plan.weights)
        stored = stored_architecture(plan.architecture, network, spec.num_classes)
        self.spec = replace(spec, architecture=stored)
        network = network.to(plan.device)
        network = network.to(memory_format=torch.channels_last)
        if plan.sync_batch_norm and world.size > 1:
            network = synchronised(network, plan.device)
        self._order = EpochOrder(
            len(train_set), plan.recipe.batch_size, plan.seed, world.rank, world.size
        )
        self._loader = batches(
            TrainingImages(train_set, plan.recipe, plan.seed),
            RunOrder(self._order, plan.recipe.epochs),
            workers=plan.workers,
            pinned=plan.device.type == "cuda",
        )
        self.learner = TrainState(
            network, plan.recipe, plan.recipe.epochs * len(self._order), scaled=plan.amp == "fp16"
        )
        self._normalise = Normalise(spec).to(plan.device)
        self._class_weights = _class_weights(plan, train_set)
        self._sums = Sums.empty(spec.num_classes, plan.device)
        self._setting = {
            "processes": world.size,
            "device": plan.device.type,
            "amp": plan.amp,
            "data": _names_digest(train_set, val_set),
            "batches": len(self._order),
        }
        self._started = self._saved = time.perf_counter()
        self._forward: nn.Module | None = None
        self._loaded: Iterator[tuple[Tensor, Tensor]] | None = None
        self._frozen = False
        self._picture: Tensor | None = None
        self.epochs: list[Epoch] = []
        self.stopping = self.save_due = self.between_epochs = False

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or no better one is to be expected."""
        if len(self.epochs) >= self._plan.recipe.epochs:
            return True
        if self._plan.patience is None or not self.epochs or not self.epochs[-1].validated:
            return False
        return len(self.epochs) - best_of(self.epochs).epoch >= self._plan.patience

    def state(self, provenance: Provenance) -> ResumeState:
        """Return where the run stands between two batches; all ranks have to ask."""
        self._saved = time.perf_counter()
        confusion = self._world.sum(self._sums.confusion.clone())
        return ResumeState(
            arguments=provenance.arguments,
            options=provenance.options,
            setting=self._setting,
            epoch=len(self.epochs) + 1,
            sums=replace(self._sums, confusion=confusion),
            epochs=tuple(self.epochs),
            learner=self.learner.state(),
        )

    def resume(self, state: ResumeState) -> None:
        """Go on from there."""
        _require_same_setting(state.setting, self._setting)
        try:
            self.learner.restore(state.learner)
        except torch.OutOfMemoryError:
            raise
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"{self._run.state} is of another network or recipe", "train anew with --overwrite"
            ) from error
        self.epochs = list(state.epochs)
        self.between_epochs = state.sums.batches == 0 and len(self.epochs) > 0
        confusion = state.sums.confusion.to(self._plan.device)
        # It was saved as the sum over all ranks, which it is to be again.
        self._sums = replace(
            state.sums, confusion=confusion if self._world.leads else torch.zeros_like(confusion)
        )

    def learn(self) -> Iterator[Progress]:
        """Learn from the rest of the epoch, batch by batch."""
        plan, number = self._plan, len(self.epochs) + 1
        self._started = time.perf_counter()
        frozen = plan.freeze_epochs is not None and number <= plan.freeze_epochs
        _set_training(self.learner.network, frozen)
        if self._forward is None or frozen != self._frozen:
            # Both keep account of which weights are trained.
            self._forward, self._frozen = self._wrapped(), frozen
        if self._loaded is None:
            self._order.epoch, self._order.start = number, self._sums.batches
            self._loaded = iter(self._loader)
        asked = time.perf_counter()
        for images, masks in islice(self._loaded, len(self._order) - self._sums.batches):
            came = time.perf_counter()
            # Of the crops there is one shape; validation has many, and each would be tried anew.
            with nullcontext() if plan.deterministic else fastest_kernels():
                self._learn_batch(self._forward, images, masks, number)
            self._sums.data_seconds += came - asked
            self._sums.compute_seconds += time.perf_counter() - came
            yield self._progress(number)
            asked = time.perf_counter()

    def close(self) -> None:
        """End the processes that load data."""
        self._loaded = None
        del self._loader

    def _wrapped(self) -> nn.Module:
        network = self._world.parallel(self.learner.network)
        return torch.compile(network) if self._plan.compiled else network  # type: ignore[return-value]

    def _learn_batch(self, forward: nn.Module, images: Tensor, masks: Tensor, number: int) -> None:
        plan, sums, world = self._plan, self._sums, self._world
        # Dropout draws from the global generator: a resumed run must draw the same.
        torch.manual_seed(seed_of(plan.seed, number, sums.batches, world.rank))
        images = images.to(plan.device, non_blocking=True)
        masks = masks.to(plan.device, non_blocking=True)
        pixels = images.float().contiguous(memory_format=torch.channels_last)
        normalised = self._normalise(pixels)
        with (
            torch.autocast(plan.device.type, _AMP_TYPES[plan.amp], enabled=plan.amp != "off"),
            _naming_single_values(),
        ):
            logits = forward(normalised)  # (N, C, h, w)
        logits = logits.float()
        loss = segmentation_loss(logits, masks, plan.recipe.loss, self._class_weights, world)
        norm = self.learner.backward(loss)
        value, size = self._agreed(loss.detach(), norm)
        place = f"in epoch {number}, batch {sums.batches + 1}"
        if not math.isfinite(value):
            where = first_not_finite(self.learner.network, normalised)
            where = where or "every layer is finite in float32"
            raise TrainingError(f"the loss became {value} {place}: {where}", self._way_out())
        if not math.isfinite(size) and not self.learner.skips_overflows:
            where = self.learner.first_non_finite_gradient()
            raise TrainingError(f"the gradient became {size} {place}: {where}", self._way_out())
        sums.lr = self.learner.lr
        self.learner.step(norm)
        self._picture = normalised[:1]
        # Logged per example for either kind, so that the tutorial's figures can be put beside it.
        per_example = len(images) * world.size if plan.recipe.loss == "image-sum" else 1
        sums.loss += value / per_example
        sums.batches += 1
        sums.examples += len(images)
        sums.confusion += _confusion(masks, logits.detach().argmax(1), self.spec.num_classes)

    def _agreed(self, loss: Tensor, norm: Tensor) -> tuple[float, float]:
        """Return the loss over all ranks and the gradient's norm; hear who wants an end or a save.

        The one place in a step where the processes wait for their GPUs: what is then timed as
        computing is computed.
        """
        due = self._world.leads and time.perf_counter() - self._saved > SAVE_SECONDS
        wishes = torch.tensor([float(self._stop()), float(due)], device=loss.device)
        told = self._world.sum(torch.cat([loss.view(1), wishes]))
        total, stop, save, size = torch.cat([told, norm.view(1)]).tolist()
        self.stopping, self.save_due = stop > 0, save > 0
        return total / self._world.size, size

    def require_finite(self) -> None:
        """Refuse to write weights that the last step has spoiled.

        Raises:
            TrainingError: on all ranks.
        """
        where = None
        if self._picture is not None:
            where = first_not_finite(copy.deepcopy(self.learner.result).eval(), self._picture)
        spoiled = torch.tensor(float(where is not None), device=self._plan.device)
        if self._world.sum(spoiled).item() > 0:
            raise TrainingError(
                f"the weights were spoiled in epoch {len(self.epochs) + 1}, batch "
                f"{self._sums.batches}: {where or 'see the other ranks'}",
                self._way_out(),
            )

    def _way_out(self) -> str:
        last = self._run.last_checkpoint
        if not self.epochs:
            return "train anew with a lower --lr, or with --clip-norm"
        return (
            f"{last} holds epoch {len(self.epochs)}: train on with --weights {last} --recipe "
            f"{self._plan.recipe.name} --out NEW and a lower --lr, or with --clip-norm"
        )

    def _progress(self, number: int) -> Progress:
        sums = self._sums
        return Progress(
            epoch=number,
            batch=sums.batches,
            batches=len(self._order),
            loss=sums.loss / sums.batches,
            examples_per_s=self._examples_per_s(),
            confusion=sums.confusion,
        )

    def _examples_per_s(self) -> float:
        seconds = self._sums.data_seconds + self._sums.compute_seconds
        return self._sums.examples * self._world.size / seconds

    def validated(self) -> Epoch:
        """Close the epoch, and score it if it is its turn."""
        plan, sums = self._plan, self._sums
        self._world.share_buffers(self.learner.result)  # what is scored is what rank 0 saves
        number = len(self.epochs) + 1
        scored = number % plan.recipe.validate_every == 0 or number == plan.recipe.epochs
        result = self._scored(self._val_set if scored else None)
        crops = self._scored(self._val_crops if scored else None)
        trained = ConfusionMatrix(self._world.sum(sums.confusion).cpu().numpy())
        epoch = Epoch(
            epoch=number,
            lr=sums.lr,
            loss=sums.loss / sums.batches,
            train_pixel_accuracy=_score(trained.pixel_accuracy()),
            train_mean_iou=_score(trained.mean_iou()),
            val_pixel_accuracy=_score(result.pixel_accuracy()),
            val_mean_iou=_score(result.mean_iou()),
            val_iou=tuple(map(_score, result.iou().tolist())),
            examples_per_s=self._examples_per_s(),
            data_seconds=sums.data_seconds,
            compute_seconds=sums.compute_seconds,
            seconds=time.perf_counter() - self._started,
            val_crops_pixel_accuracy=_score(crops.pixel_accuracy()),
        )
        self.epochs.append(epoch)
        self._sums = Sums.empty(self.spec.num_classes, plan.device)
        return epoch

    def _scored(self, samples: Dataset | ValidationCrops | None) -> ConfusionMatrix:
        if samples is None:
            return ConfusionMatrix.empty(self.spec.num_classes)
        network, device = self.learner.result, self._plan.device
        return evaluate(network, self.spec, samples, device, self._world)

    def preview(self) -> NDArray[np.uint8] | None:
        """Draw some of the validation images if the last epoch was scored; rank 0 alone does."""
        if not self._world.leads or not self.epochs[-1].validated:
            return None
        return draw_preview(self.learner.result, self.spec, self._val_set, self._plan.device)


def _score(share: float) -> float | None:
    return None if math.isnan(share) else share


def _names_digest(*datasets: Dataset) -> str:
    names = [[dataset.class_names, dataset.names] for dataset in datasets]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _require_same_setting(begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on where another course would be taken than the one begun.

    Raises:
        InputError: naming what differs.
    """
    repairs = {
        "processes": "start as many with torchrun",
        "device": f"add --device {begun['device']}",
        "amp": f"add --amp {begun['amp']}",
        "data": "give the lists back the names they had, or train anew with --overwrite",
        "batches": "give the data back the sizes it had, or train anew with --overwrite",
    }
    words = {
        "processes": f"with {begun['processes']} processes, not {now['processes']}",
        "device": f"on {begun['device']}, not on {now['device']}",
        "amp": f"with --amp {begun['amp']}, not {now['amp']}",
        "data": "with other names in the data's lists",
        "batches": f"with {begun['batches']} batches in an epoch, not {now['batches']}",
    }
    for name, said in words.items():
        if begun[name] != now[name]:
            raise InputError(f"the run was begun {said}", repairs[name])


def _class_weights(plan: TrainPlan, train_set: Dataset) -> Tensor | None:
    if plan.recipe.class_weights == "none":
        return None
    weights = median_frequency(class_counts(train_set))
    if plan.recipe.class_weights == "sqrt-median-frequency":
        weights = np.sqrt(weights)
    return torch.from_numpy(weights).to(plan.device)


def _confusion(masks: Tensor, prediction: Tensor, num_classes: int) -> Tensor:
    """Count pixels by true class (row) and predicted class (column): int64 [C, C]."""
    pairs = masks.long() * num_classes + prediction
    # One cell more takes the void: leaving it out would make the GPU wait for a count.
    void = num_classes**2
    pairs = torch.where(masks == IGNORE_INDEX, void, pairs)
    counts = torch.bincount(pairs.flatten(), minlength=void + 1)
    return counts[:void].view(num_classes, num_classes)


def _set_training(network: nn.Module, frozen: bool) -> None:
    network.train()
    body = getattr(network, "body", None)
    if body is None:  # a network from Python: which of its parts is the body is not known
        return
    body.requires_grad_(not frozen)
    if frozen:
        body.eval()  # or batch norm's running statistics would move all the same


@contextmanager
def _naming_single_values() -> Iterator[None]:
    """Say what is wrong where a layer has one value per channel to normalise.

    Raises:
        TrainingError: naming the options that give it more.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 value per channel when training"):
            raise
        raise TrainingError(
            "the network pools each picture to one value per channel, and batch normalisation "
            "learns nothing from one picture",
            "train with --batch-size 2 or more, on at least as many images",
        ) from error
