"""PyTorch eager, the way scripts do it: numpy before the network, numpy after it."""

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


def open_peer(run: Run, threads: int) -> ScriptPeer:
    """Open a run's checkpoint."""
    network, spec, file, digest = load_network(run)
    return ScriptPeer(
        "peer:script",
        network,
        spec,
        threads,
        library="eager, numpy around it",
        file=file,
        digest=digest,
    )


class ScriptPeer(TorchPeer):
    """float32 NCHW through ``model(x)``; normalisation and argmax in numpy on the host."""

    def __init__(
        self, backend: str, network: nn.Module, spec: ModelSpec, threads: int, **about: Any
    ) -> None:
        super().__init__(backend, network, spec, threads, **about)
        self._mean = np.array(spec.mean, dtype=np.float32)
        self._std = np.array(spec.std, dtype=np.float32)

    def _segment(self, network: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        normalised = (images.astype(np.float32) / 255 - self._mean) / self._std
        batch = np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))  # (N, 3, H, W)
        there = torch.from_numpy(batch).to(self._device)
        self._wait_for_stage(COPY_IN)
        logits = self._logits(network, there)  # (N, C, H, W)
        self._wait_for_stage(COMPUTE)
        mask: NDArray[np.uint8] = logits.cpu().numpy().argmax(axis=1).astype(np.uint8)
        return mask

    def _logits(self, network: nn.Module, batch: Tensor) -> Tensor:
        logits: Tensor = network(batch)
        return logits
