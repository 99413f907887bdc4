"""The order of the training samples, which is the same after a resume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Sampler


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
