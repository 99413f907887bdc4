"""The training loop: labelled images → checkpoint, figures per epoch, a preview to look at."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from fcn_deploy.artifacts import Run, file_digest, write_json
from fcn_deploy.checkpoint import load_weights, read_spec, save_checkpoint
from fcn_deploy.dataset import Dataset, Sample, iterate, size_range
from fcn_deploy.errors import CheckpointError, DataError, InputError, TrainingError
from fcn_deploy.machine import describe_machine, describe_versions, utc_now
from fcn_deploy.masks import prediction_grid, voc_palette, write_picture
from fcn_deploy.metrics import ConfusionMatrix
from fcn_deploy.model import DeployModel, Normalise
from fcn_deploy.networks import DEFAULT_ARCHITECTURE, build_model
from fcn_deploy.spec import IGNORE_INDEX, IMAGENET_MEAN, ModelSpec

METRICS_SCHEMA = 1
#: Smaller crops leave the stride-32 body a single pixel, of which batch norm learns nothing.
SMALLEST_CROP = 64
PREVIEW_ROWS = 4


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        name: for people and results.
        optimizer: SGD as in the tutorial, or AdamW.
        lr: learning rate, the peak of the schedule if there is one.
        weight_decay: of the optimizer.
        schedule: ``constant`` or ``one-cycle``.
        epochs: passes over the training images.
        batch_size: images per step.
        crop_size: (height, width) of the training crops, in pixels.
        augment: random scale 0.5 to 1 and horizontal flip before the random crop.
        loss: ``pixel-mean`` averages over all labelled pixels of a batch; ``image-sum`` averages
            over the pixels of each image and sums over the batch, as the tutorial does.
    """

    name: str
    optimizer: Literal["sgd", "adamw"]
    lr: float
    weight_decay: float
    schedule: Literal["constant", "one-cycle"]
    epochs: int
    batch_size: int
    crop_size: tuple[int, int]
    augment: bool
    loss: Literal["pixel-mean", "image-sum"]


RECIPES = {
    # "Dive into Deep Learning", section "Fully Convolutional Networks": fine-tuning on VOC 2012.
    "tutorial": Recipe(
        "tutorial", "sgd", 1e-3, 1e-3, "constant", 5, 32, (320, 480), False, "image-sum"
    ),
    "scratch": Recipe(
        "scratch", "adamw", 2e-3, 1e-2, "one-cycle", 30, 8, (192, 256), True, "pixel-mean"
    ),
}


@dataclass(frozen=True)
class TrainPlan:
    """Everything that a training run depends on.

    Attributes:
        recipe: the schedule and its numbers.
        device: where to compute.
        architecture: a key of ``networks.ARCHITECTURES``.
        weights: what the network starts from: nothing, ImageNet (the body), a torchvision file
            (the body), or a ``.safetensors`` checkpoint of ours (all of it).
        freeze_backbone: train the head only.
        seed: of initialisation, order and augmentation.
        workers: processes that load data; 0 loads in this one.
    """

    recipe: Recipe
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    architecture: str = DEFAULT_ARCHITECTURE
    weights: Literal["imagenet"] | Path | None = None
    freeze_backbone: bool = False
    seed: int = 0
    workers: int = 0


@dataclass(frozen=True)
class Progress:
    """Where an epoch stands, for a progress bar.

    Attributes:
        epoch: from 1.
        batch: batches done in this epoch.
        batches: in an epoch.
        loss: mean over the epoch so far, per example.
        pixel_accuracy: on the training crops of the epoch so far, 0 to 1.
        mean_iou: likewise.
        examples_per_s: training examples per second, this epoch.
    """

    epoch: int
    batch: int
    batches: int
    loss: float
    pixel_accuracy: float
    mean_iou: float
    examples_per_s: float


@dataclass(frozen=True)
class Epoch:
    """Figures of one finished epoch.

    Attributes:
        epoch: from 1.
        lr: learning rate at its start.
        loss: mean over the epoch, per example.
        train_pixel_accuracy: on the training crops, 0 to 1.
        train_mean_iou: likewise.
        val_pixel_accuracy: on the validation images at full size, 0 to 1.
        val_mean_iou: likewise.
        val_iou: per class, 0 to 1; None for a class that did not occur.
        examples_per_s: training examples per second, validation left out.
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
    seconds: float


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
    data_argument: str | None = None,
    dropped: int = 0,
    on_batch: Callable[[Progress], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> list[Epoch]:
    """Train a network; after each epoch the run holds a whole checkpoint, figures and preview.

    Args:
        plan: what to do.
        train_set: the images to learn from, none smaller than the crop.
        val_set: the images to score on, any size.
        run: where to write.
        data_argument: how the user named the data, so that later stages find it again.
        dropped: examples left out of ``train_set`` as smaller than the crop, for the record.
        on_batch: told after every batch.
        on_epoch: told after every epoch, once its files are written.

    Raises:
        DataError: no examples, or the two sets' classes differ.
        ArchitectureError, CheckpointError: the starting weights cannot be used.
        TrainingError: the loss is NaN or infinite; the last whole checkpoint stays.
    """
    _check(plan, train_set, val_set)
    torch.manual_seed(plan.seed)
    spec = ModelSpec(
        architecture=plan.architecture,
        class_names=train_set.class_names,
        palette=voc_palette(len(train_set.class_names)),
        image_sizes=size_range(train_set),
    )
    # Channels last: a fifth faster on CPUs with oneDNN, and what tensor cores want.
    network = starting_network(plan, spec).to(plan.device)
    network = network.to(memory_format=torch.channels_last)
    normalise = Normalise(spec).to(plan.device)
    loader = _loader(plan, train_set)
    optimizer, scheduler = _optimizer(plan.recipe, network, len(loader))
    counts = {
        "train": DataCounts(train_set.source, len(train_set) + dropped, dropped),
        "val": DataCounts(val_set.source, len(val_set), 0),
    }

    epochs: list[Epoch] = []
    for number in range(1, plan.recipe.epochs + 1):
        started = time.perf_counter()
        lr = float(optimizer.param_groups[0]["lr"])
        for progress in _train_epoch(
            plan, number, network, normalise, loader, optimizer, scheduler, spec
        ):
            on_batch(progress)
        confusion = evaluate(network, spec, val_set, plan.device)
        epochs.append(_epoch(number, lr, progress, confusion, time.perf_counter() - started))
        save_checkpoint(run.checkpoint, network, spec)
        write_json(
            run.metrics,
            _metrics(plan, spec, file_digest(run.checkpoint), data_argument, counts, epochs),
        )
        write_picture(run.preview, preview(network, spec, val_set, plan.device))
        on_epoch(epochs[-1])
    return epochs


def _check(plan: TrainPlan, train_set: Dataset, val_set: Dataset) -> None:
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


class _Crops(TorchDataset[tuple[Tensor, Tensor]]):
    """Samples as tensors: uint8 [3, h, w] and [h, w], cropped to one size."""

    def __init__(self, dataset: Dataset, recipe: Recipe) -> None:
        self._dataset = dataset
        self._transform = training_transform(recipe)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self._dataset[index]
        image = tv_tensors.Image(torch.from_numpy(sample.image).permute(2, 0, 1))
        mask = tv_tensors.Mask(torch.from_numpy(sample.mask))
        image, mask = self._transform(image, mask)
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)


class RandomScale(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Resize image and mask by one random factor, uniform in ``[low, high]``."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factor and return the new size, ``[height, width]``."""
        height, width = v2.functional.get_size(flat_inputs[0])
        factor = float(torch.empty(1).uniform_(self.low, self.high))
        return {"size": [max(1, round(height * factor)), max(1, round(width * factor))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize: bilinear with antialiasing for images, nearest for masks."""
        return v2.functional.resize(inpt, params["size"], antialias=True)


def training_transform(recipe: Recipe) -> v2.Transform:
    """Return what happens to an image and its mask before they are a training example.

    Where a crop reaches beyond a shrunken image, it is filled with the mean colour and void.
    """
    mean_colour = [round(255 * channel) for channel in IMAGENET_MEAN]
    crop = v2.RandomCrop(
        recipe.crop_size,
        pad_if_needed=True,
        fill={tv_tensors.Image: mean_colour, tv_tensors.Mask: IGNORE_INDEX},
    )
    if not recipe.augment:
        return crop
    return v2.Compose([RandomScale(0.5, 1.0), crop, v2.RandomHorizontalFlip()])


def _loader(plan: TrainPlan, train_set: Dataset) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(
        _Crops(train_set, plan.recipe),
        batch_size=plan.recipe.batch_size,
        shuffle=True,
        num_workers=plan.workers,
        # A last batch of one example would train batch norm on next to nothing.
        drop_last=len(train_set) >= plan.recipe.batch_size,
        pin_memory=plan.device.type == "cuda",
        persistent_workers=plan.workers > 0,
    )


def _optimizer(
    recipe: Recipe, network: nn.Module, batches: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    else:
        optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    if recipe.schedule == "one-cycle":
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=recipe.lr, total_steps=recipe.epochs * batches
        )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


def segmentation_loss(
    logits: Tensor, masks: Tensor, kind: Literal["pixel-mean", "image-sum"]
) -> Tensor:
    """Return the cross-entropy loss of a batch; void pixels count for nothing.

    Args:
        logits: float [N, C, H, W].
        masks: uint8 [N, H, W].
        kind: see :class:`Recipe`.

    Returns:
        A scalar; 0 where every pixel is void.
    """
    per_pixel = F.cross_entropy(
        logits, masks.long(), ignore_index=IGNORE_INDEX, reduction="none"
    )  # (N, H, W), 0 at void
    if kind == "image-sum":
        return per_pixel.mean(dim=(1, 2)).sum()
    return per_pixel.sum() / (masks != IGNORE_INDEX).sum().clamp(min=1)


def _train_epoch(
    plan: TrainPlan,
    number: int,
    network: nn.Module,
    normalise: Normalise,
    loader: DataLoader[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    spec: ModelSpec,
) -> Iterator[Progress]:
    _set_training(network, plan.freeze_backbone)
    confusion = ConfusionMatrix.empty(spec.num_classes)
    loss_sum, examples = 0.0, 0
    started = time.perf_counter()
    for batch, (images, masks) in enumerate(loader, start=1):
        images, masks = images.to(plan.device), masks.to(plan.device)
        pixels = images.float().contiguous(memory_format=torch.channels_last)
        logits = network(normalise(pixels))  # (N, C, h, w)
        loss = segmentation_loss(logits, masks, plan.recipe.loss)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        loss_value = loss.item()  # note: waits for the GPU
        if not math.isfinite(loss_value):
            raise TrainingError(
                f"the loss became {loss_value} in epoch {number}, batch {batch}",
                "lower --lr; the checkpoint of the last whole epoch stays",
            )
        # Logged per example for either kind, so that the tutorial's figures can be put beside it.
        loss_sum += loss_value / (len(images) if plan.recipe.loss == "image-sum" else 1)
        examples += len(images)
        confusion += ConfusionMatrix.of(
            masks.cpu().numpy(),
            logits.detach().argmax(1).to(torch.uint8).cpu().numpy(),
            spec.num_classes,
        )
        yield Progress(
            epoch=number,
            batch=batch,
            batches=len(loader),
            loss=loss_sum / batch,
            pixel_accuracy=confusion.pixel_accuracy(),
            mean_iou=confusion.mean_iou(),
            examples_per_s=examples / (time.perf_counter() - started),
        )


def _set_training(network: nn.Module, freeze_backbone: bool) -> None:
    network.train()
    if freeze_backbone:
        body = network.get_submodule("body")
        body.requires_grad_(False)
        body.eval()  # or batch norm's running statistics would move all the same


def evaluate(
    network: nn.Module, spec: ModelSpec, dataset: Dataset, device: torch.device
) -> ConfusionMatrix:
    """Score the network at full image size, by the deploy graph's own path to a mask."""
    model = DeployModel(network, spec).to(device)
    confusion = ConfusionMatrix.empty(spec.num_classes)
    for sample in iterate(dataset):
        confusion += ConfusionMatrix.of(sample.mask, _mask(model, sample), spec.num_classes)
    return confusion


def _mask(model: DeployModel, sample: Sample) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with torch.inference_mode():
        image = torch.from_numpy(sample.image)[None].to(model.normalise.mean.device)
        (mask,) = model(image)
    prediction: np.ndarray[Any, np.dtype[np.uint8]] = mask[0].cpu().numpy()
    return prediction


def preview(
    network: nn.Module, spec: ModelSpec, dataset: Dataset, device: torch.device
) -> np.ndarray[Any, np.dtype[np.uint8]]:
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


def _epoch(
    number: int, lr: float, progress: Progress, confusion: ConfusionMatrix, seconds: float
) -> Epoch:
    return Epoch(
        epoch=number,
        lr=lr,
        loss=progress.loss,
        train_pixel_accuracy=progress.pixel_accuracy,
        train_mean_iou=progress.mean_iou,
        val_pixel_accuracy=confusion.pixel_accuracy(),
        val_mean_iou=confusion.mean_iou(),
        val_iou=[None if math.isnan(iou) else float(iou) for iou in confusion.iou()],
        examples_per_s=progress.examples_per_s,
        seconds=seconds,
    )


def _metrics(
    plan: TrainPlan,
    spec: ModelSpec,
    checkpoint_digest: str,
    data_argument: str | None,
    counts: dict[str, DataCounts],
    epochs: list[Epoch],
) -> dict[str, Any]:
    return {
        "schema": METRICS_SCHEMA,
        "kind": "train",
        "created": utc_now(),
        "checkpoint_digest": checkpoint_digest,
        "architecture": plan.architecture,
        "weights": None if plan.weights is None else str(plan.weights),
        "freeze_backbone": plan.freeze_backbone,
        "seed": plan.seed,
        "device": str(plan.device),
        "recipe": asdict(plan.recipe),
        "class_names": list(spec.class_names),
        "data_argument": data_argument,
        "data": {split: asdict(count) for split, count in counts.items()},
        "epochs": [_finite(asdict(epoch)) for epoch in epochs],
        "machine": describe_machine(),
        "versions": describe_versions(),
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    # Where no pixel was labelled a score is NaN, for which JSON has no word.
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
