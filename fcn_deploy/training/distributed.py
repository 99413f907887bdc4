"""One process or many: what ``torchrun`` started, and sums over its ranks.

    torchrun --nproc-per-node 2 -m fcn_deploy train …

Every rank holds the whole network and takes its share of each batch; PyTorch's
``DistributedDataParallel`` averages the gradients.  Rank 0 alone writes files and speaks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fcn_deploy.core.errors import FcnDeployError, InputError, LostProcessError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes that train one network together.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        local_rank: of this process on its machine: the GPU that it takes.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def share_buffers(self, network: nn.Module) -> None:
        """Give all ranks rank 0's buffers: batch norm's statistics may differ from rank to rank."""
        if self.size > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)

    def from_leader(self, decide: Callable[[], T]) -> T:
        """Let rank 0 decide; return its answer, or raise its error, on all ranks.

        Raises:
            FcnDeployError: rank 0's.
        """
        if self.size == 1:
            return decide()
        outcome: list[Any] = [None, None]
        if self.leads:
            try:
                outcome[0] = decide()
            except FcnDeployError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome)
        answer, refusal = outcome
        if refusal is not None:
            raise refusal
        decided: T = answer
        return decided

    def parallel(self, network: nn.Module) -> nn.Module:
        """Return the network so that its gradients are averaged over all ranks."""
        if self.size == 1:
            return network
        on_gpu = next(network.parameters()).device.type == "cuda"
        devices = [self.local_rank] if on_gpu else None
        wrapped: nn.Module = DistributedDataParallel(network, device_ids=devices)
        return wrapped


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the processes that ``torchrun`` started; alone where it did not.

    Raises:
        InputError: the processes did not find each other, or are more than this machine's GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", size)), torch.cuda.device_count()
        if here > gpus:
            raise InputError(
                f"{here} processes share {gpus} GPUs of this machine",
                f"use --nproc-per-node {gpus}, or --device cpu",
            )
        torch.cuda.set_device(local_rank)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"the {size} processes did not find each other ({str(error).splitlines()[0]})",
            "start them with `torchrun --nproc-per-node N -m fcn_deploy train …`",
        ) from error
    try:
        yield World(dist.get_rank(), size, local_rank)
    finally:
        dist.destroy_process_group()


@contextmanager
def lost_ranks_named(world: World) -> Iterator[None]:
    """Turn what a collective says when another process is gone into one clear line.

    Raises:
        LostProcessError: another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo has no exception class of its own; NCCL's is a RuntimeError too.
        words = str(error).lower()
        if world.size == 1 or not any(name in words for name in ("gloo", "nccl", "peer")):
            raise
        raise LostProcessError(
            f"rank {world.rank} of {world.size} lost another process",
            "see that one's own message; then run the same command with --resume",
        ) from error


def synchronised(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with batch statistics taken over all ranks.

    PyTorch's own ``SyncBatchNorm`` refuses a CPU, so there the same sums are taken by gloo.

    Raises:
        InputError: a library's own batch normalisation, which does more, would lose the rest:
            timm's has the activation inside.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and type(module) is not nn.BatchNorm2d:
            raise InputError(
                f"--sync-batch-norm is for PyTorch's own BatchNorm2d, and the network has "
                f"{type(module).__name__}",
                "drop --sync-batch-norm",
            )
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = _SyncBatchNormOnCpu  # the same parameters under the same names
    return network


class _SumOverRanks(torch.autograd.Function):
    """Sums, through which gradients flow: every rank's result depends on every rank's input."""

    @staticmethod
    def forward(_context: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return _SumOverRanks.forward(None, gradient)


def _sum_over_ranks(tensor: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(tensor)
    return total


class _SyncBatchNormOnCpu(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        """Normalise float [N, C, H, W] by the statistics of all ranks' N·H·W values."""
        if not self.training:
            return super().forward(input)
        # Half floats would lose the digits of such sums.
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        count = torch.full((1,), float(input.numel() / input.shape[1]))
        sums = _sum_over_ranks(torch.cat([wide.sum((0, 2, 3)), count]))
        total = sums[-1]
        mean = sums[:-1] / total  # (C,)
        centred = wide - mean.view(1, -1, 1, 1)
        # In two passes: the difference of two large sums would lose the variance's digits.
        variance = _sum_over_ranks(centred.square().sum((0, 2, 3))) / total
        self._remember(mean.detach(), variance.detach(), float(total.detach()))
        scaled = centred * (variance + self.eps).rsqrt().view(1, -1, 1, 1)
        weight, bias = self.weight.view(1, -1, 1, 1), self.bias.view(1, -1, 1, 1)
        return (scaled * weight + bias).to(input.dtype)

    def _remember(self, mean: Tensor, variance: Tensor, count: float) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        unbiased = variance * (count / max(count - 1, 1))
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)
