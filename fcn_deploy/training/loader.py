"""Labelled images as training examples: cropped, augmented, batched, in an order that can resume.

    RunOrder ─Draw(epoch, index)─▶ Examples ─▶ uint8 [3, h, w] and [h, w] ─▶ batches

Chance is a function of (seed, epoch, index), not of what happened before: an example comes out the
same in whichever process it is made, and after a training run was killed and resumed.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from fcn_deploy.core.spec import IGNORE_INDEX, IMAGENET_MEAN
from fcn_deploy.data.dataset import Dataset
from fcn_deploy.training.recipes import Recipe


@dataclass(frozen=True)
class Draw:
    """One example of one epoch."""

    epoch: int
    index: int


def seed_of(*numbers: int) -> int:
    """Return a seed that depends on all the numbers, each ≥ 0, in their order."""
    sequence = np.random.SeedSequence((len(numbers), *numbers))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


class EpochOrder(Sampler[list[Draw]]):
    """Batches of an epoch: a new order each time, split among the ranks, from any batch on.

    A batch of all ranks together is a run of the epoch's order, of which each rank takes a part:
    so two processes see what one with twice the batch sees.

    Args:
        length: examples in the data set.
        batch_size: of one rank.
        seed: of the order.
        rank: of this process.
        ranks: how many there are.

    Attributes:
        epoch: whose order is given next, from 1.
        start: the first batch that is given; those before it are done.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, rank: int = 0, ranks: int = 1
    ) -> None:
        self._length, self._batch_size, self._seed = length, batch_size, seed
        self._rank, self._ranks = rank, ranks
        self.epoch, self.start = 1, 0

    def __len__(self) -> int:
        """Return the batches of an epoch, those already done included."""
        # A last batch of one example would train batch norm on next to nothing.
        return max(1, self._length // (self._batch_size * self._ranks))

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = torch.Generator().manual_seed(seed_of(self._seed, self.epoch))
        order = torch.randperm(self._length, generator=generator).tolist()
        together = self._batch_size * self._ranks
        for batch in range(self.start, len(self)):
            first = batch * together + self._rank * self._batch_size
            yield [Draw(self.epoch, index) for index in order[first : first + self._batch_size]]


class RunOrder(Sampler[list[Draw]]):
    """Batches of a whole run, epoch after epoch.

    An epoch of a small data set is over before processes that begin with it have made its first
    batch: so they are not told where one ends, and load ahead while the last is validated.

    Args:
        order: of an epoch; its ``epoch`` and ``start`` say where the run begins.
        epochs: the last one.
    """

    def __init__(self, order: EpochOrder, epochs: int) -> None:
        self._order, self._epochs = order, epochs

    def __iter__(self) -> Iterator[list[Draw]]:
        for epoch in range(self._order.epoch, self._epochs + 1):
            self._order.epoch = epoch
            yield from self._order
            self._order.start = 0


class Examples(TorchDataset[tuple[Tensor, Tensor]]):
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


def training_transform(recipe: Recipe) -> v2.Transform:
    """Return what happens to an image and its mask before they are a training example.

    Where a crop reaches beyond an image, it is filled with the mean colour and void.
    """
    steps: list[v2.Transform] = []
    if recipe.scale is None:
        mean_colour = [round(255 * channel) for channel in IMAGENET_MEAN]
        fill = {tv_tensors.Image: mean_colour, tv_tensors.Mask: IGNORE_INDEX}
        steps.append(v2.RandomCrop(recipe.crop_size, pad_if_needed=True, fill=fill))
    else:
        steps.append(RandomScaledCrop(recipe.crop_size, *recipe.scale))
    if recipe.flip:
        steps.append(v2.RandomHorizontalFlip())
    if recipe.colour_jitter:
        steps.append(v2.ColorJitter(*[recipe.colour_jitter] * 3))
    return v2.Compose(steps)


class RandomScaledCrop(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Resize by a random factor and crop, at a random place.

    What is cropped away is never resized: a window of ``size / factor`` is cut out and resized.  It
    stays inside the picture, so very small factors become larger ones for small pictures.

    Args:
        size: (height, width) of the crop.
        low: smallest factor.
        high: largest factor.
    """

    def __init__(self, size: tuple[int, int], low: float, high: float) -> None:
        super().__init__()
        self.size, self.low, self.high = size, low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw factor and place: ``top``, ``left``, ``height``, ``width`` of the window."""
        there = v2.functional.get_size(flat_inputs[0])
        fitting = max(want / have for want, have in zip(self.size, there, strict=True))
        low = max(self.low, fitting)
        factor = float(torch.empty(1).uniform_(low, max(self.high, low)))
        window = [min(h, round(w / factor)) for w, h in zip(self.size, there, strict=True)]
        place = [
            int(torch.randint(have - cut + 1, (1,)))
            for have, cut in zip(there, window, strict=True)
        ]
        return dict(zip(("top", "left", "height", "width"), [*place, *window], strict=True))

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Bilinear with antialiasing for images, nearest neighbour for masks."""
        return v2.functional.resized_crop(inpt, **params, size=list(self.size), antialias=True)


def _left_to_the_parent(_worker: int) -> None:
    """Let a loading process outlive what asks the whole group to end: the state is saved first."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def batches(
    examples: Examples, order: Sampler[list[Draw]], *, workers: int, pinned: bool
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
        worker_init_fn=_left_to_the_parent,
        # Else it would take a number out of the global generator.
        generator=torch.Generator(),
    )
