"""The training loop: labelled images → checkpoint, figures per epoch, a preview to look at.

for each epoch
    for each batch ── examples ─▶ network ─▶ loss ─▶ learner.step
    validate at full image size, by the deploy graph's own path to a mask
    write checkpoint, figures, preview; then the state, from which --resume goes on exactly
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fcn_deploy.artifacts import Run
from fcn_deploy.checkpoint import load_weights, read_spec
from fcn_deploy.dataset import Dataset, Sample, class_counts, median_frequency, size_range
from fcn_deploy.distributed import World, lost_ranks_named, synchronised
from fcn_deploy.errors import (
    CheckpointError,
    DataError,
    InputError,
    TrainingError,
    TrainingStoppedError,
)
from fcn_deploy.examples import EpochOrder, Examples, batches, seed_of
from fcn_deploy.learner import Learner, State, Sums, save_state
from fcn_deploy.masks import prediction_grid, voc_palette
from fcn_deploy.metrics import ConfusionMatrix
from fcn_deploy.model import DeployModel, Normalise
from fcn_deploy.networks import DEFAULT_ARCHITECTURE, build_model
from fcn_deploy.recipes import SMALLEST_CROP, Recipe
from fcn_deploy.spec import IGNORE_INDEX, ModelSpec
from fcn_deploy.training_files import Epoch, TrainingFiles, best_of

PREVIEW_ROWS = 4
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
        patience: stop after so many epochs without a better validation mIoU; None: never.
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
            "device": str(self.device),
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
        pixel_accuracy: on this process's training crops of the epoch so far, 0 to 1.
        mean_iou: likewise.
        examples_per_s: training examples of all processes per second, this epoch.
    """

    epoch: int
    batch: int
    batches: int
    loss: float
    pixel_accuracy: float
    mean_iou: float
    examples_per_s: float


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
        TrainingError: the loss is NaN or infinite, or another process was lost; the last whole
            checkpoint stays, and the state to resume from.
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
        course = _Course(plan, spec, train_set, val_set, world)
        if state is not None:
            course.resume(state, run)
        files = None
        if world.leads:
            files = TrainingFiles(run, about, tensorboard=tensorboard, done=len(course.epochs))
            stack.callback(files.close)

        def save() -> None:
            if world.leads:
                save_state(run.state, course.state(arguments or {}))

        if state is None:
            save()  # so that what is not there is known to be finished, or never begun
        while not course.finished:
            for progress in _saved_now_and_then(course.learn(), save):
                on_batch(progress)
                if stop():
                    save()
                    raise TrainingStoppedError(
                        f"stopped by a signal in epoch {progress.epoch}, batch {progress.batch}",
                        "go on with the same command and --resume",
                    )
            epoch, preview = course.validated()
            if files is not None:
                files.write(course.learner.result, spec, course.epochs, preview)
            save()
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
    """A training run while it goes on: what learns, what from, and how far it is."""

    def __init__(
        self,
        plan: TrainPlan,
        spec: ModelSpec,
        train_set: Dataset,
        val_set: Dataset,
        world: World,
    ) -> None:
        self._plan, self._spec, self._world = plan, spec, world
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
            self._order,
            workers=plan.workers,
            pinned=plan.device.type == "cuda",
        )
        self.learner = Learner(
            network, plan.recipe, plan.recipe.epochs * len(self._order), scaled=plan.amp == "fp16"
        )
        self._normalise = Normalise(spec).to(plan.device)
        self._class_weights = _class_weights(plan, train_set)
        self._sums = Sums.empty(spec.num_classes, plan.device)
        self._started = time.perf_counter()
        self._forward: nn.Module | None = None
        self._frozen = False
        self.epochs: list[Epoch] = []

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or no better one is to be expected."""
        if len(self.epochs) >= self._plan.recipe.epochs:
            return True
        if self._plan.patience is None or not self.epochs:
            return False
        return len(self.epochs) - best_of(self.epochs).epoch >= self._plan.patience

    def state(self, arguments: Mapping[str, Any]) -> State:
        """Return where the run stands between two batches."""
        return State(
            arguments=arguments,
            epoch=len(self.epochs) + 1,
            sums=self._sums,
            epochs=[epoch.to_json() for epoch in self.epochs],
            learner=self.learner.state(),
        )

    def resume(self, state: State, run: Run) -> None:
        """Go on from there."""
        try:
            self.learner.restore(state.learner)
            self.epochs = [Epoch.from_json(values) for values in state.epochs]
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"{run.state} is of another network or recipe", "train anew with --overwrite"
            ) from error
        self._sums = state.sums
        self._sums.confusion = self._sums.confusion.to(self._plan.device)
        if not self._world.leads:
            self._sums.confusion.zero_()  # rank 0 saved what it had seen itself

    def learn(self) -> Iterator[Progress]:
        """Learn from the rest of the epoch, batch by batch."""
        plan, number = self._plan, len(self.epochs) + 1
        self._started = time.perf_counter()
        frozen = plan.freeze_epochs is not None and number <= plan.freeze_epochs
        _set_training(self.learner.network, frozen)
        if self._forward is None or frozen != self._frozen:
            # Both keep account of which weights are trained.
            self._forward, self._frozen = self._wrapped(), frozen
        self._order.epoch, self._order.start = number, self._sums.batches
        asked = time.perf_counter()
        for images, masks in self._loader:
            came = time.perf_counter()
            self._sums.data_seconds += came - asked
            self._learn_batch(self._forward, images, masks, number)
            asked = time.perf_counter()
            self._sums.compute_seconds += asked - came
            yield self._progress(number)

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
        value = world.sum(loss.detach().clone()).item() / world.size  # note: waits for the GPU
        if not math.isfinite(value):
            where = first_not_finite(self.learner.network, normalised)
            raise TrainingError(
                f"the loss became {value} in epoch {number}, batch {sums.batches + 1}: {where}",
                "lower --lr, or clip gradients with --clip-norm; the last whole checkpoint stays",
            )
        sums.lr = self.learner.lr
        self.learner.step(loss)
        # Logged per example for either kind, so that the tutorial's figures can be put beside it.
        per_example = len(images) * world.size if plan.recipe.loss == "image-sum" else 1
        sums.loss += value / per_example
        sums.batches += 1
        sums.examples += len(images)
        sums.confusion += _confusion(masks, logits.detach().argmax(1), self._spec.num_classes)

    def _progress(self, number: int) -> Progress:
        sums = self._sums
        scores = ConfusionMatrix(sums.confusion.cpu().numpy())
        return Progress(
            epoch=number,
            batch=sums.batches,
            batches=len(self._order),
            loss=sums.loss / sums.batches,
            pixel_accuracy=scores.pixel_accuracy(),
            mean_iou=scores.mean_iou(),
            examples_per_s=self._examples_per_s(),
        )

    def _examples_per_s(self) -> float:
        seconds = self._sums.data_seconds + self._sums.compute_seconds
        return self._sums.examples * self._world.size / seconds

    def validated(self) -> tuple[Epoch, NDArray[np.uint8] | None]:
        """Close the epoch: score it, and draw some of the validation images if it was scored."""
        plan, sums = self._plan, self._sums
        number = len(self.epochs) + 1
        scored = number % plan.recipe.validate_every == 0 or number == plan.recipe.epochs
        result, preview = ConfusionMatrix.empty(self._spec.num_classes), None
        if scored:
            network = self.learner.result
            result = evaluate(network, self._spec, self._val_set, plan.device, self._world)
            if self._world.leads:
                preview = draw_preview(network, self._spec, self._val_set, plan.device)
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
        return epoch, preview


def _saved_now_and_then(
    progress: Iterator[Progress], save: Callable[[], None]
) -> Iterator[Progress]:
    """Pass on the batches; save after some of them, in an epoch that takes long."""
    saved = time.perf_counter()
    for step in progress:
        if time.perf_counter() - saved > SAVE_SECONDS:
            save()
            saved = time.perf_counter()
        yield step


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


def segmentation_loss(
    logits: Tensor,
    masks: Tensor,
    kind: Literal["pixel-mean", "image-sum"],
    class_weights: Tensor | None = None,
    world: World = World(),  # noqa: B008  # a frozen value
) -> Tensor:
    """Return the cross-entropy loss of a batch; void pixels count for nothing.

    Args:
        logits: float [N, C, H, W].
        masks: uint8 [N, H, W].
        kind: see :class:`~fcn_deploy.recipes.Recipe`.
        class_weights: float [C], or None for all alike.
        world: a batch is that of all its processes.

    Returns:
        A scalar whose mean over the processes is the loss of their batches together; 0 where every
        pixel is void.
    """
    # Pixel by pixel: of the loss over whole pictures CUDA has no deterministic form.
    per_pixel = F.cross_entropy(
        logits.permute(0, 2, 3, 1).flatten(0, 2),  # (N·H·W, C)
        masks.flatten().long(),
        class_weights,
        ignore_index=IGNORE_INDEX,
        reduction="none",
    ).view(masks.shape)  # (N, H, W), 0 at void
    if kind == "image-sum":
        return world.size * per_pixel.mean(dim=(1, 2)).sum()
    labelled = masks != IGNORE_INDEX
    if class_weights is None:
        total = labelled.sum().float()
    else:
        total = class_weights[masks[labelled].long()].sum()
    everywhere = world.sum(total).clamp(min=torch.finfo(torch.float32).tiny)
    return world.size * per_pixel.sum() / everywhere


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


def first_not_finite(network: nn.Module, images: Tensor) -> str:
    """Say where in a network the first NaN or infinity arises.

    Args:
        network: in any mode.
        images: float [N, 3, H, W], normalised.
    """
    for name, parameter in network.named_parameters():
        if not parameter.isfinite().all():
            return f"the weights {name} are no longer finite"
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                found.append(name)

        return look

    leaves = [(name, m) for name, m in network.named_modules() if not list(m.children())]
    hooks = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        return f"{found[0]} is the first layer that gives NaN or infinity"
    return "every layer is finite in float32"


def evaluate(
    network: nn.Module,
    spec: ModelSpec,
    dataset: Dataset,
    device: torch.device,
    world: World = World(),  # noqa: B008  # a frozen value
) -> ConfusionMatrix:
    """Score the network at full image size, by the deploy graph's own path to a mask."""
    model = DeployModel(network, spec).to(device)
    confusion = ConfusionMatrix.empty(spec.num_classes)
    for index in range(world.rank, len(dataset), world.size):
        sample = dataset[index]
        confusion += ConfusionMatrix.of(sample.mask, _mask(model, sample), spec.num_classes)
    counts = torch.from_numpy(confusion.counts).to(device)
    return ConfusionMatrix(world.sum(counts).cpu().numpy())


def _mask(model: DeployModel, sample: Sample) -> NDArray[np.uint8]:
    with torch.inference_mode():
        image = torch.from_numpy(sample.image)[None].to(model.normalise.mean.device)
        (mask,) = model(image)
    prediction: NDArray[np.uint8] = mask[0].cpu().numpy()
    return prediction


def draw_preview(
    network: nn.Module, spec: ModelSpec, dataset: Dataset, device: torch.device
) -> NDArray[np.uint8]:
    """Return the grid image | prediction | truth of evenly spread samples, uint8 [H, W, 3]."""
    model = DeployModel(network, spec).to(device)
    rows = min(PREVIEW_ROWS, len(dataset))
    samples = [dataset[i * len(dataset) // rows] for i in range(rows)]
    return prediction_grid(
        [sample.image for sample in samples],
        [_mask(model, sample) for sample in samples],
        [sample.mask for sample in samples],
        spec.palette,
    )
