"""How good a network is: scored, and drawn, by the deploy graph's own path to a mask.

network ─▶ DeployModel ─▶ masks of whole pictures ─▶ confusion matrix, preview
                          masks of crops ──────────▶ confusion matrix, as the tutorial counts
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fcn_deploy.core.spec import IGNORE_INDEX, ModelSpec
from fcn_deploy.data.dataset import Dataset, Sample
from fcn_deploy.data.masks import prediction_grid
from fcn_deploy.data.metrics import ConfusionMatrix
from fcn_deploy.networks.deploy_graph import DeployModel
from fcn_deploy.training.distributed import World
from fcn_deploy.training.recipes import Recipe
from fcn_deploy.training.sampler import seed_of

PREVIEW_ROWS = 4


@dataclass(frozen=True)
class ValidationCrops:
    """The validation set as "Dive into Deep Learning" takes it: a random crop of each image.

    Images smaller than the crop are dropped, and void pixels count as background, as its colour is
    that of no class there.  The book crops anew in each epoch; here an image has one crop, so that
    epochs compare.

    Attributes:
        dataset: the images that are large enough.
        size: (height, width) of the crops.
        seed: of their places.
    """

    dataset: Dataset
    size: tuple[int, int]
    seed: int

    @classmethod
    def of(cls, dataset: Dataset, recipe: Recipe, seed: int) -> ValidationCrops | None:
        """Return the crops; None where the recipe asks for none, or no image is large enough."""
        if not recipe.crop_validation:
            return None
        crops = cls(dataset.at_least(*recipe.crop_size), recipe.crop_size, seed)
        return crops if len(crops) else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        generator = np.random.default_rng(seed_of(self.seed, index))
        top, left = (
            int(generator.integers(have - want + 1))
            for have, want in zip(sample.mask.shape, self.size, strict=True)
        )
        height, width = self.size
        window = np.s_[top : top + height, left : left + width]
        mask = sample.mask[window]
        background = np.where(mask == IGNORE_INDEX, 0, mask).astype(np.uint8)
        return replace(sample, image=np.ascontiguousarray(sample.image[window]), mask=background)


def evaluate(
    network: nn.Module,
    spec: ModelSpec,
    dataset: Dataset | ValidationCrops,
    device: torch.device,
    world: World = World(),  # noqa: B008  # a frozen value
) -> ConfusionMatrix:
    """Score the network on images as they are, by the deploy graph's own path to a mask."""
    model = DeployModel(network, spec).to(device)
    confusion = ConfusionMatrix.empty(spec.num_classes)
    with _float32():
        for index in range(world.rank, len(dataset), world.size):
            sample = dataset[index]
            confusion += ConfusionMatrix.of(sample.mask, _mask(model, sample), spec.num_classes)
    counts = torch.from_numpy(confusion.counts).to(device)
    return ConfusionMatrix(world.sum(counts).cpu().numpy())


@contextmanager
def _float32() -> Iterator[None]:
    """Keep a GPU from rounding to TF32's 10 bits, as the torch runner does."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = False
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


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
