"""How good a network is: scored, and drawn, by the deploy graph's own path to a mask.

network ─▶ DeployModel ─▶ masks of whole pictures ─▶ confusion matrix, preview
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.dataset import Dataset, Sample
from fcn_deploy.data.masks import prediction_grid
from fcn_deploy.data.metrics import ConfusionMatrix
from fcn_deploy.networks.deploy_graph import DeployModel
from fcn_deploy.training.distributed import World

PREVIEW_ROWS = 4


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
