"""The training loop: labelled images → checkpoint, figures per epoch, a preview to look at.

for each epoch
    for each batch ── examples ─▶ network ─▶ loss ─▶ gradient ─finite?─▶ learner.step
    validate at full image size, by the deploy graph's own path to a mask
    write the state, from which --resume goes on exactly; then checkpoint, figures, preview

Rank 0 touches the run directory; whatever is decided by a clock or a signal, all ranks agree on.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fcn_deploy.core.errors import (
    CheckpointError,
    DataError,
    InputError,
    TrainingError,
    TrainingStoppedError,
)
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import IGNORE_INDEX, ModelSpec
from fcn_deploy.data.class_counts import class_counts, median_frequency
from fcn_deploy.data.dataset import Dataset, size_range
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.data.metrics import ConfusionMatrix
from fcn_deploy.networks.checkpoint import load_weights, read_spec
from fcn_deploy.networks.deploy_graph import Normalise
from fcn_deploy.networks.fcn import DEFAULT_ARCHITECTURE, build_model
from fcn_deploy.runners.pytorch import device_name, fastest_kernels
from fcn_deploy.training.distributed import World, lost_ranks_named, synchronised
from fcn_deploy.training.loader import EpochOrder, Examples, RunOrder, batches, seed_of
from fcn_deploy.training.loss import first_not_finite, segmentation_loss
from fcn_deploy.training.recipes import SMALLEST_CROP, Recipe
from fcn_deploy.training.run_files import Epoch, TrainingFiles, best_of
from fcn_deploy.training.train_state import Learner, State, Sums, save_state
from fcn_deploy.training.validation import draw_preview, evaluate

#: Within an epoch the state is saved again after so many seconds.
SAVE_SECONDS = 300.0

Amp = Literal["off", "bf16", "fp16"]
_AMP_TYPES = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    weights: Literal["imagenet"] | Path | None = None
    freeze_epochs: int | None = None
    seed: int = 0
    workers: int = 0
    amp: Amp = "off"
    compiled: bool = False
    sync_batch_norm: bool = False
    deterministic: bool = False
    patience: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values, as ``metrics.json`` has it."""
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
class DataCounts:
    """What was read of a data set, and how many examples were dropped as too small."""

    source: str
    read: int
    dropped: int


def train(
    plan: TrainPlan,
    train_set: Dataset,
    val_set: Dataset,
    run: Run,
    *,
    world: World = World(),  # noqa: B008  # a frozen value
    state: State | None = None,
    arguments: Mapping[str, Any] | None = None,
    data_argument: str | None = None,
    options: Sequence[str] = (),
    dropped: int = 0,
    tensorboard: bool = False,
    on_batch: Callable[[Progress], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> list[Epoch]:
    """Train a network; after each epoch the run holds whole checkpoints, figures and previews.

    Args:
        plan: what to do.
        train_set: the images to learn from, none smaller than the crop.
        val_set: the images to score on, any size.
        run: where to write.
        world: the processes that train together; rank 0 writes.
        state: where an earlier start of the same run stands, to go on from there.
        arguments: what the run was started with, kept in its state.
        data_argument: how the user named the data, so that later stages find it again.
        options: of the command line, to repeat it.
        dropped: examples left out of ``train_set`` as smaller than the crop, for the record.
        tensorboard: write event files.
        on_batch: told after every batch.
        on_epoch: told after every epoch, once its files are written.

    Raises:
        DataError: no examples, or the two sets' classes differ.
        ArchitectureError, CheckpointError: the starting weights cannot be used.
        ArtifactError: ``state`` is of another network, or a place cannot be written.
        BackendError: TensorBoard files were asked for and cannot be written.
        InputError: ``state`` is of other data, another device or another number of processes.
        TrainingError: loss, gradient or weights are NaN or infinite, or another process was lost;
            the last whole checkpoint stays, and the state to resume from.
        TrainingStoppedError: a signal asked for an end.
    """
    _check(plan, train_set, val_set, world)
    spec = ModelSpec(
        architecture=plan.architecture,
        class_names=train_set.class_names,
        palette=voc_palette(len(train_set.class_names)),
        image_sizes=size_range(train_set),
    )
    about = {
        **plan.to_json(),
        "options": list(options),
        "processes": world.size,
        "class_names": list(spec.class_names),
        "data_argument": data_argument,
        "data": {
            "train": asdict(DataCounts(train_set.source, len(train_set) + dropped, dropped)),
            "val": asdict(DataCounts(val_set.source, len(val_set), 0)),
        },
    }
    with ExitStack() as stack:
        stack.enter_context(_determinism(plan.deterministic))
        stack.enter_context(lost_ranks_named(world))
        stop = stack.enter_context(_stop_requests())
        course = _Course(plan, spec, train_set, val_set, world, run, stop)
        stack.callback(course.close)
        between_epochs = False
        if state is not None:
            course.resume(state)
            between_epochs = state.sums.batches == 0 and len(course.epochs) > 0
        elif world.leads:
            run.forget_training()
        files = None
        if world.leads:
            done = len(course.epochs) - between_epochs
            files = TrainingFiles(run, about, tensorboard=tensorboard, done=done)
            stack.callback(files.close)

        def save() -> None:
            now = course.state(arguments or {})
            if world.leads:
                save_state(run.state, now)

        def write(preview: NDArray[np.uint8] | None) -> None:
            if files is not None:
                files.write(course.learner.result, spec, course.epochs, preview)

        if state is None:
            save()  # so that what is not there is known to be finished, or never begun
        if between_epochs:
            write(course.preview())  # it may have been killed after the state was written
        while not course.finished:
            for progress in course.learn():
                on_batch(progress)
                if course.stopping or course.save_due:
                    course.require_finite()
                    save()
                if course.stopping:
                    raise TrainingStoppedError(
                        f"stopped by a signal in epoch {progress.epoch}, batch {progress.batch}",
                        "go on with the same command and --resume",
                    )
            course.require_finite()
            epoch = course.validated()
            save()
            write(course.preview())
            on_epoch(epoch)
        if world.leads:
            run.state.unlink(missing_ok=True)
    return course.epochs


def _check(plan: TrainPlan, train_set: Dataset, val_set: Dataset, world: World) -> None:
    height, width = plan.recipe.crop_size
    if min(height, width) < SMALLEST_CROP:
        raise InputError(
            f"crop {height}x{width} is too small", f"use at least {SMALLEST_CROP}x{SMALLEST_CROP}"
        )
    if len(train_set) == 0:
        raise DataError(
            f"no training image of {train_set.source} is as large as the crop {height}x{width}",
            "use a smaller --crop-size",
        )
    if len(val_set) == 0:
        raise DataError(f"no validation images in {val_set.source}", "add some to val.txt")
    if train_set.class_names != val_set.class_names:
        raise DataError(f"{train_set.source} and {val_set.source} name different classes")
    together = plan.recipe.batch_size * world.size
    if world.size > 1 and len(train_set) < together:
        raise DataError(
            f"{len(train_set)} training images are fewer than one batch of all processes, "
            f"{together}",
            "use a smaller --batch-size or fewer processes",
        )


class _Course:
    """A training run while it goes on: what learns, what from, and how far it is.

    Attributes:
        learner: what learns.
        epochs: figures of the finished ones.
        stopping: whether the system has asked any of the processes to end.
        save_due: whether the state was last saved long ago.
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
        self._plan, self._spec, self._world = plan, spec, world
        self._run, self._stop = run, stop
        self._val_set = val_set
        torch.manual_seed(plan.seed)
        # Channels last: a fifth faster on CPUs with oneDNN, and what tensor cores want.
        network = starting_network(plan, spec).to(plan.device)
        network = network.to(memory_format=torch.channels_last)
        if plan.sync_batch_norm and world.size > 1:
            network = synchronised(network, plan.device)
        self._order = EpochOrder(
            len(train_set), plan.recipe.batch_size, plan.seed, world.rank, world.size
        )
        self._loader = batches(
            Examples(train_set, plan.recipe, plan.seed),
            RunOrder(self._order, plan.recipe.epochs),
            workers=plan.workers,
            pinned=plan.device.type == "cuda",
        )
        self.learner = Learner(
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
        self.stopping = self.save_due = False

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or no better one is to be expected."""
        if len(self.epochs) >= self._plan.recipe.epochs:
            return True
        if self._plan.patience is None or not self.epochs or not self.epochs[-1].validated:
            return False
        return len(self.epochs) - best_of(self.epochs).epoch >= self._plan.patience

    def state(self, arguments: Mapping[str, Any]) -> State:
        """Return where the run stands between two batches; all ranks have to ask."""
        self._saved = time.perf_counter()
        confusion = self._world.sum(self._sums.confusion.clone())
        return State(
            arguments=arguments,
            setting=self._setting,
            epoch=len(self.epochs) + 1,
            sums=replace(self._sums, confusion=confusion),
            epochs=[epoch.to_json() for epoch in self.epochs],
            learner=self.learner.state(),
        )

    def resume(self, state: State) -> None:
        """Go on from there."""
        _require_same_setting(state.setting, self._setting)
        try:
            self.learner.restore(state.learner)
            self.epochs = [Epoch.from_json(values) for values in state.epochs]
        except torch.OutOfMemoryError:
            raise
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"{self._run.state} is of another network or recipe", "train anew with --overwrite"
            ) from error
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
        with torch.autocast(plan.device.type, _AMP_TYPES[plan.amp], enabled=plan.amp != "off"):
            logits = forward(normalised)  # (N, C, h, w)
        logits = logits.float()
        loss = segmentation_loss(logits, masks, plan.recipe.loss, self._class_weights, world)
        norm = self.learner.take_gradient(loss)
        value, size = self._agreed(loss.detach(), norm)
        place = f"in epoch {number}, batch {sums.batches + 1}"
        if not math.isfinite(value):
            where = first_not_finite(self.learner.network, normalised)
            where = where or "every layer is finite in float32"
            raise TrainingError(f"the loss became {value} {place}: {where}", self._way_out())
        if not math.isfinite(size) and not self.learner.skips_overflows:
            where = self.learner.first_wild_gradient()
            raise TrainingError(f"the gradient became {size} {place}: {where}", self._way_out())
        sums.lr = self.learner.lr
        self.learner.step(norm)
        self._picture = normalised[:1]
        # Logged per example for either kind, so that the tutorial's figures can be put beside it.
        per_example = len(images) * world.size if plan.recipe.loss == "image-sum" else 1
        sums.loss += value / per_example
        sums.batches += 1
        sums.examples += len(images)
        sums.confusion += _confusion(masks, logits.detach().argmax(1), self._spec.num_classes)

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
        result = ConfusionMatrix.empty(self._spec.num_classes)
        if scored:
            network = self.learner.result
            result = evaluate(network, self._spec, self._val_set, plan.device, self._world)
        trained = ConfusionMatrix(self._world.sum(sums.confusion).cpu().numpy())
        epoch = Epoch(
            epoch=number,
            lr=sums.lr,
            loss=sums.loss / sums.batches,
            train_pixel_accuracy=trained.pixel_accuracy(),
            train_mean_iou=trained.mean_iou(),
            val_pixel_accuracy=result.pixel_accuracy(),
            val_mean_iou=result.mean_iou(),
            val_iou=[None if math.isnan(iou) else float(iou) for iou in result.iou()],
            examples_per_s=self._examples_per_s(),
            data_seconds=sums.data_seconds,
            compute_seconds=sums.compute_seconds,
            seconds=time.perf_counter() - self._started,
        )
        self.epochs.append(epoch)
        self._sums = Sums.empty(self._spec.num_classes, plan.device)
        return epoch

    def preview(self) -> NDArray[np.uint8] | None:
        """Draw some of the validation images if the last epoch was scored; rank 0 alone does."""
        if not self._world.leads or not self.epochs[-1].validated:
            return None
        return draw_preview(self.learner.result, self._spec, self._val_set, self._plan.device)


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


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Yield whether Ctrl-C was pressed or the process told to end: then a batch is finished first.

    A second Ctrl-C ends at once.
    """
    asked = False

    def remember(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    try:
        older = {number: signal.signal(number, remember) for number in _SIGNALS}
    except ValueError:  # not the main thread, which alone hears signals
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        for number, handler in older.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def _determinism(asked: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    if asked:  # cuBLAS reads it when it is loaded
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(asked or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _class_weights(plan: TrainPlan, train_set: Dataset) -> Tensor | None:
    if plan.recipe.class_weights == "none":
        return None
    weights = median_frequency(class_counts(train_set))
    if plan.recipe.class_weights == "sqrt-median-frequency":
        weights = np.sqrt(weights)
    return torch.from_numpy(weights).to(plan.device)


def starting_network(plan: TrainPlan, spec: ModelSpec) -> nn.Module:
    """Build the network that training starts from.

    Raises:
        ArchitectureError: an unknown architecture, or weights that cannot be had or do not fit.
        CheckpointError: a checkpoint of another architecture or class list.
    """
    if isinstance(plan.weights, Path) and plan.weights.suffix == ".safetensors":
        network = build_model(plan.architecture, spec.num_classes)
        _require_same(plan.weights, read_spec(plan.weights), spec)
        load_weights(plan.weights, network)
        return network
    return build_model(plan.architecture, spec.num_classes, weights=plan.weights)


def _require_same(path: Path, given: ModelSpec, wanted: ModelSpec) -> None:
    if given.architecture != wanted.architecture:
        raise CheckpointError(
            f"{path} is a {given.architecture}, not a {wanted.architecture}",
            f"use --arch {given.architecture}",
        )
    if given.class_names != wanted.class_names:
        raise CheckpointError(
            f"{path} knows {given.num_classes} classes ({', '.join(given.class_names[:3])}, …), "
            f"the data has {wanted.num_classes} ({', '.join(wanted.class_names[:3])}, …)",
            "use data with the same classes.txt, or start from --weights none",
        )


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
    body = network.get_submodule("body")
    body.requires_grad_(not frozen)
    if frozen:
        body.eval()  # or batch norm's running statistics would move all the same
