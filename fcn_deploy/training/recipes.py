"""How a network is trained, as named sets of numbers.  Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Schedule = Literal["constant", "one-cycle", "poly"]
ClassWeights = Literal["none", "sqrt-median-frequency", "median-frequency"]
Loss = Literal["pixel-mean", "image-sum"]
#: Smaller crops leave the stride-32 body a single pixel, of which batch norm learns nothing.
SMALLEST_CROP = 64


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        name: for people and results.
        optimizer: SGD without momentum, as in the tutorial, whatever the schedule; or AdamW.
        lr: learning rate, the peak of the schedule if there is one.
        weight_decay: of the optimizer.
        schedule: ``constant``; ``one-cycle`` (Smith & Topin 2017); or ``poly``, which falls to
            nothing as (1 - step/steps)^0.9 (Chen et al. 2017).
        epochs: passes over the training images.
        batch_size: images per step, of each process.
        crop_size: (height, width) of the training crops, in pixels.
        scale: smallest and largest factor by which a picture is resized before it is cropped;
            None crops without resizing.
        flip: mirror every second example.
        colour_jitter: brightness, contrast and saturation vary by up to this factor; 0 for none.
        loss: ``pixel-mean`` averages over all labelled pixels of a batch; ``image-sum`` averages
            over the pixels of each image and sums over the batch, as the tutorial does.
        half_size: share of the epochs, the first ones, in which pictures and crops are half as high
            and wide: they show as much for a quarter of the work (progressive resizing, as Howard
            et al. did for DAWNBench, 2018).
        class_weights: of the loss; see :func:`fcn_deploy.data.class_counts.median_frequency`;
            ``sqrt-`` takes the root, between all alike and all equally important.
        ema: decay per step of an exponential moving average of the weights, which is then what is
            validated and saved; None keeps the weights themselves.
        clip_norm: the gradient's norm is cut down to this; None leaves it.
        validate_every: epochs from one validation to the next; the last is always validated.
        architecture: what is trained unless another one is asked for; None: the default.
        crop_validation: also give the validation accuracy as the tutorial takes it, on crops; see
            :class:`fcn_deploy.training.validation.ValidationCrops`.
    """

    name: str
    optimizer: Literal["sgd", "adamw"]
    lr: float
    weight_decay: float
    schedule: Schedule
    epochs: int
    batch_size: int
    crop_size: tuple[int, int]
    scale: tuple[float, float] | None
    flip: bool
    colour_jitter: float
    loss: Loss
    half_size: float = 0.0
    class_weights: ClassWeights = "none"
    ema: float | None = None
    clip_norm: float | None = None
    validate_every: int = 1
    architecture: str | None = None
    crop_validation: bool = False

    @property
    def half_size_epochs(self) -> int:
        """How many epochs are learned at half size; none where half a crop would be too small."""
        if min(self.crop_size) // 2 < SMALLEST_CROP:
            return 0
        return round(self.half_size * self.epochs)

    def at_half_size(self) -> Recipe:
        """Return the recipe with pictures and crops half as high and wide."""
        height, width = self.crop_size
        low, high = (1.0, 1.0) if self.scale is None else self.scale
        return replace(self, crop_size=(height // 2, width // 2), scale=(low / 2, high / 2))


# "Dive into Deep Learning", section "Fully Convolutional Networks": fine-tuning on VOC 2012.  First
# the tab in PyTorch.
_TUTORIAL = Recipe(
    "tutorial",
    optimizer="sgd",
    lr=1e-3,
    weight_decay=1e-3,
    schedule="constant",
    epochs=5,
    batch_size=32,
    crop_size=(320, 480),
    scale=None,
    flip=False,
    colour_jitter=0,
    loss="image-sum",
    crop_validation=True,
)
RECIPES = {
    "tutorial": _TUTORIAL,
    # The tab in Keras.  Keras decouples the weight decay from the gradient; without momentum that
    # is the very step that PyTorch takes: w - lr * decay * w - lr * gradient.
    "tutorial-keras": replace(
        _TUTORIAL, name="tutorial-keras", architecture="fcn32s-resnet50", loss="pixel-mean"
    ),
    "scratch": Recipe(
        "scratch",
        optimizer="adamw",
        lr=2e-3,
        weight_decay=1e-2,
        schedule="one-cycle",
        epochs=64,
        batch_size=8,
        crop_size=(192, 256),
        scale=(0.75, 1.33),
        flip=True,
        colour_jitter=0.1,
        loss="pixel-mean",
        half_size=0.7,
        class_weights="sqrt-median-frequency",
        # No moving average: at this learning rate it lags by five points of mIoU (CamVid).
        validate_every=16,  # on two cores it takes as long as an epoch at half size
    ),
}
