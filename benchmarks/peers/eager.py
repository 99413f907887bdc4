"""PyTorch eager, as its own performance tuning guide advises.

Inference mode, channels last, one copy to the device, no synchronisation in between; from the
picture to the mask in torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.results.runner import COMPUTE, COPY_IN
from peers.torch_peer import TorchPeer, load_network


def unavailable_reason() -> str | None:
    """Return None: whoever measures peers has PyTorch."""
    return None


def open_peer(run: Run, threads: int) -> EagerPeer:
    """Open a run's checkpoint."""
    network, spec, file, digest = load_network(run)
    return EagerPeer(
        "peer:eager", network, spec, threads,
        library="eager, channels last", file=file, digest=digest,
    )  # fmt: skip


class EagerPeer(TorchPeer):
    """float32, channels last; normalisation, network and argmax on the device."""

    def __init__(
        self, backend: str, network: nn.Module, spec: ModelSpec, threads: int, **about: Any
    ) -> None:
        network = network.to(memory_format=torch.channels_last)
        super().__init__(backend, network, spec, threads, **about)
        self._mean, self._std = (
            torch.tensor(values, device=self._device).view(1, 3, 1, 1)
            for values in (spec.mean, spec.std)
        )

    def _segment(self, network: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # from_numpy refuses arrays that are read-only or run backwards
        host = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        there = host.to(self._device)
        self._wait_for_stage(COPY_IN)
        # Pictures lie channels last already; seen as NCHW, they keep that order in memory.
        batch = there.permute(0, 3, 1, 2).float().div_(255).sub_(self._mean).div_(self._std)
        mask = self._logits(network, batch).argmax(dim=1).to(torch.uint8)
        self._wait_for_stage(COMPUTE)
        on_host: NDArray[np.uint8] = mask.cpu().numpy()
        return on_host

    def _logits(self, network: nn.Module, batch: Tensor) -> Tensor:
        logits: Tensor = network(batch)  # (N, C, H, W)
        return logits
