"""Labelled images as training examples: cropped, augmented, batched, in an order that can resume.

    RunOrder ─Draw(epoch, index)─▶ TrainingImages ─▶ uint8 [3, h, w] and [h, w] ─▶ batches

Chance is a function of (seed, epoch, index), not of what happened before: an example comes out the
same in whichever process it is made, and after a training run was killed and resumed.
"""

from __future__ import annotations

import signal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset
from torchvision import tv_tensors

from fcn_deploy.data.dataset import Dataset
from fcn_deploy.training.augmentation import training_transform
from fcn_deploy.training.recipes import Recipe
from fcn_deploy.training.sampler import Draw, seed_of


class TrainingImages(TorchDataset[tuple[Tensor, Tensor]]):
    """Samples as tensors: uint8 [3, h, w] and [h, w], cropped to one size, or to half of it.

    Args:
        dataset: the samples.
        recipe: what happens to them.
        seed: of their augmentation.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe, seed: int) -> None:
        self._dataset = dataset
        self._transform = training_transform(recipe)
        self._half_size_epochs = recipe.half_size_epochs
        self._half_size_transform = training_transform(recipe.at_half_size())
        self._seed = seed

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        sample = self._dataset[draw.index]
        image = tv_tensors.Image(torch.from_numpy(sample.image).permute(2, 0, 1))
        mask = tv_tensors.Mask(torch.from_numpy(sample.mask))
        half = draw.epoch <= self._half_size_epochs
        transform = self._half_size_transform if half else self._transform
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.manual_seed(seed_of(self._seed, draw.epoch, draw.index))
            image, mask = transform(image, mask)
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)


def ignore_signals(_worker: int) -> None:
    """Leave Ctrl-C and SIGTERM to the process that trains, which saves its state before it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def batches(
    examples: TrainingImages, order: Sampler[list[Draw]], *, workers: int, pinned: bool
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return the loader: uint8 [N, 3, h, w] and [N, h, w] per batch of ``order``.

    Args:
        examples: what is loaded.
        order: in which order.
        workers: processes that load; 0 loads in this one.
        pinned: in memory from which a GPU copies faster.
    """
    return DataLoader(
        examples,
        batch_sampler=order,
        num_workers=workers,
        pin_memory=pinned,
        # PyTorch sees to it then that the processes end with this one, whatever still holds them.
        persistent_workers=workers > 0,
        worker_init_fn=ignore_signals,
        # Else it would take a number out of the global generator.
        generator=torch.Generator(),
    )
