"""``torch.compile`` of pictures → masks: one graph, channels last, frozen, one size at a time."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fcn_deploy.artifacts import Run
from fcn_deploy.runners.base import COMPUTE, COPY_IN
from peers.torch_peer import Segmenter, TorchPeer, load_network

_COMPILERS = {"darwin": "clang++", "win32": "cl"}


def unavailable_reason(precision: str = "fp32") -> str | None:
    """Return what ``torch.compile`` lacks here, or None."""
    if torch.cuda.is_available():
        if importlib.util.find_spec("triton") is None:
            return "torch.compile needs Triton on a GPU; pip install triton"
        return None
    if precision != "fp32":
        return "float16 is slow on a CPU, and PyTorch sees no GPU"
    compiler = os.environ.get("CXX") or _COMPILERS.get(sys.platform, "g++")
    if shutil.which(compiler) is None:
        return f"torch.compile needs a C++ compiler and finds no {compiler}; install it or set CXX"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "torch.compile needs Python's headers; install them (python3-dev)"
    return None


def open(run: Run, threads: int, *, precision: str = "fp32") -> CompiledPeer:
    """Prepare a run's checkpoint; a size is compiled when its first picture comes."""
    network, spec, file, digest = load_network(run)
    if precision == "fp16":
        network = network.half()
    module = Segmenter(network, spec).to(memory_format=torch.channels_last)
    backend = "peer:compile" if precision == "fp32" else f"peer:compile-{precision}"
    return CompiledPeer(
        backend, module, spec, threads,
        precision=precision, library="torch.compile", file=file, digest=digest,
    )  # fmt: skip


class CompiledPeer(TorchPeer):
    """Normalisation, network and argmax in one compiled graph.

    The threads are set before anything is compiled: the kernels for a CPU have their number inside.
    """

    def __init__(self, *arguments: Any, **about: Any) -> None:
        super().__init__(*arguments, **about)
        assert self._network is not None
        how: dict[str, Any] = (
            {"mode": "max-autotune"}  # with CUDA graphs
            if self._device.type == "cuda"
            # Weights become constants, laid out once as oneDNN wants them.
            else {"options": {"freezing": True}}
        )
        # fullgraph: a size too many is an error then, where it would run eagerly in silence.
        self._compiled: Any = torch.compile(self._network, dynamic=False, fullgraph=True, **how)

    def _segment(self, network: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # from_numpy refuses arrays that are read-only or run backwards
        host = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        there = host.to(self._device)
        self._wait_and_end(COPY_IN)
        produced = self._compiled(there)
        self._wait_and_end(COMPUTE)
        # A CUDA graph writes its next result to the same place; `cpu` copies.
        mask: NDArray[np.uint8] = produced.cpu().numpy()
        return mask

    def close(self) -> None:
        """Free the device; calling it twice is harmless."""
        self._compiled = None
        super().close()
