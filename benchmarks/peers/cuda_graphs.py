"""PyTorch in float16, channels last, recorded once for each size as a CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fcn_deploy.artifacts import Run
from fcn_deploy.runners.base import COMPUTE, COPY_IN
from peers.torch_peer import Segmenter, TorchPeer, load_network

#: Before recording, as PyTorch advises: libraries choose kernels and take their workspace then.
WARM_UP_RUNS = 3


def unavailable_reason() -> str | None:
    """Return why there are no CUDA graphs here, or None."""
    if not torch.cuda.is_available():
        return "PyTorch sees no GPU, and CUDA graphs are the GPU's"
    return None


def open(run: Run, threads: int) -> CudaGraphsPeer:
    """Prepare a run's checkpoint; a size is recorded when its first picture comes."""
    network, spec, file, digest = load_network(run)
    module = Segmenter(network.half(), spec).to(memory_format=torch.channels_last)
    return CudaGraphsPeer(
        "peer:cuda-graphs", module, spec, threads,
        precision="fp16", library="CUDA graphs", file=file, digest=digest,
    )  # fmt: skip


@dataclass(frozen=True)
class _Recorded:
    """A graph and the buffers that it always reads and writes.

    Attributes:
        graph: images → mask.
        images: uint8 [N, H, W, 3], on the GPU.
        mask: uint8 [N, H, W], on the GPU, from the graph's own memory.
        pinned_images: their source, in pinned host memory.
        pinned_mask: its destination.
    """

    graph: torch.cuda.CUDAGraph
    images: Tensor
    mask: Tensor
    pinned_images: Tensor
    pinned_mask: Tensor


class CudaGraphsPeer(TorchPeer):
    """Static buffers, one graph for each batch shape, copies from and to pinned memory."""

    def __init__(self, *arguments: Any, **about: Any) -> None:
        super().__init__(*arguments, **about)
        self._recorded: dict[tuple[int, ...], _Recorded] = {}

    def _segment(self, network: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        recorded = self._recorded.get(images.shape)
        if recorded is None:
            recorded = self._recorded[images.shape] = self._record(network, images.shape)
        np.copyto(recorded.pinned_images.numpy(), images)
        # The pinned buffer is free again: the last run did not return before its mask was there.
        recorded.images.copy_(recorded.pinned_images, non_blocking=True)
        self._wait_and_end(COPY_IN)
        recorded.graph.replay()
        self._wait_and_end(COMPUTE)
        recorded.pinned_mask.copy_(recorded.mask, non_blocking=True)
        torch.cuda.current_stream(self._device).synchronize()
        return recorded.pinned_mask.numpy().copy()

    def _record(self, network: nn.Module, shape: tuple[int, ...]) -> _Recorded:
        images = torch.zeros(shape, dtype=torch.uint8, device=self._device)
        with _fastest_kernels():
            # On a stream of its own, as PyTorch advises: what the warm-up leaves on the default
            # stream would else be recorded with it.
            aside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP_RUNS):
                    network(images)
            torch.cuda.current_stream(self._device).wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                mask = network(images)
        return _Recorded(
            graph,
            images,
            mask,
            torch.empty(shape, dtype=torch.uint8, pin_memory=True),
            torch.empty(mask.shape, dtype=torch.uint8, pin_memory=True),
        )

    def close(self) -> None:
        """Free the graphs and their memory; calling it twice is harmless."""
        self._recorded = {}
        super().close()


@contextmanager
def _fastest_kernels() -> Iterator[None]:
    """Let cuDNN try its kernels for a size that will come again and again."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
