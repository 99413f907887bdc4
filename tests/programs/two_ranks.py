"""Run by tests/training/test_distributed.py under torchrun: how far two processes are from one.

    torchrun --nproc-per-node 2 two_ranks.py DATA      → a line of JSON by rank 0

Everything is computed in float64.  In float32 a sum taken in another order moves some tensors by
hundredths of what they learn, namely those whose gradient is a small difference of large ones.
And what such training may get wrong is done wrong on purpose too, to see how far off that is.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from fcn_deploy.core.run import Run
from fcn_deploy.data.voc import VocDataset
from fcn_deploy.training import loop, trainer
from fcn_deploy.training import plan as plan_training
from fcn_deploy.training.distributed import World, joined
from fcn_deploy.training.recipes import RECIPES
from fcn_deploy.training.sampler import Draw, EpochOrder

RECIPE = dataclasses.replace(
    RECIPES["tutorial"], epochs=1, batch_size=2, crop_size=(64, 64), lr=0.003
)
_starting_network = trainer.starting_network
Weights = dict[str, Tensor]


def in_float64(*arguments: Any) -> nn.Module:
    """Start as training does.  The copy that is validated is float32, and is fed as such."""
    network = _starting_network(*arguments).double()
    network.register_forward_pre_hook(
        lambda module, inputs: tuple(x.to(next(module.parameters()).dtype) for x in inputs)
    )
    return network


class NotAveraged(World):
    def parallel(self, network: nn.Module) -> nn.Module:
        return network


class SameHalf(EpochOrder):
    """Every rank takes what is rank 0's."""

    def __init__(self, length: int, batch_size: int, seed: int, rank: int, ranks: int) -> None:
        super().__init__(length, batch_size, seed, 0, ranks)


class InChunks(EpochOrder):
    """Not every batch is split among the ranks but the epoch, as PyTorch's own sampler might."""

    def __init__(self, length: int, batch_size: int, seed: int, rank: int, ranks: int) -> None:
        super().__init__(length, batch_size, seed, rank, ranks)
        self.pieces = EpochOrder(length, batch_size, seed)
        self.rank = rank

    def __iter__(self) -> Iterator[list[Draw]]:
        first = self.rank * len(self)
        yield from list(self.pieces)[first : first + len(self)]


def trained(
    data: Path, world: World, batch_size: int, synchronised: bool
) -> tuple[Weights, Weights]:
    """Return the weights before and after an epoch; no files are written."""
    kept: list[nn.Module] = []

    def kept_in_float64(*arguments: Any) -> nn.Module:
        network = in_float64(*arguments)
        kept.extend([copy.deepcopy(network), network])
        return network

    plan = plan_training.TrainPlan(
        dataclasses.replace(RECIPE, batch_size=batch_size), sync_batch_norm=synchronised
    )
    train_set, val_set = (VocDataset.open(data, split) for split in ("train", "val"))
    with (
        patch.object(trainer, "starting_network", kept_in_float64),
        patch.object(loop, "TrainingFiles"),
        patch.object(loop, "save_state"),
    ):
        loop.train(plan, train_set, val_set, Run(data), world=world)
    before, after = (network.state_dict() for network in kept)
    return before, after


def distance(found: Weights, wanted: Weights, begun: Weights) -> dict[str, float]:
    """Return how far weights are from others, in units of what those have learned."""
    off = torch.stack([(found[name] - wanted[name]).double().norm() for name in wanted])
    learned = torch.stack([(wanted[name] - begun[name]).double().norm() for name in wanted])
    whole = off.norm() / learned.norm()
    return {"worst_tensor": float((off / learned).max()), "whole": float(whole)}


def main(data: Path) -> None:
    found: dict[str, Weights] = {}
    with joined(torch.device("cpu")) as world:
        apart = NotAveraged(world.rank, world.size, world.local_rank)
        for name, order, together, synchronised in (
            ("correct", EpochOrder, world, True),
            ("gradients not averaged", EpochOrder, apart, True),
            ("batch norm not synchronised", EpochOrder, world, False),
            ("both ranks see the same half", SameHalf, world, True),
            ("the epoch is cut in chunks", InChunks, world, True),
        ):
            with patch.object(trainer, "EpochOrder", order):
                _, found[name] = trained(data, together, 2, synchronised)
        if world.leads:
            begun, wanted = trained(data, World(), 4, False)
            print(json.dumps({name: distance(w, wanted, begun) for name, w in found.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
