"""PyTorch compiled, and recorded as CUDA graphs: the package's own options under a peer's name."""

from __future__ import annotations

from dataclasses import replace

import torch

from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.runners.base import Runner
from fcn_deploy.runners.pytorch import TorchBackend, compiled, graphs

COMPILED = replace(compiled, name="peer:compile")
COMPILED_FP16 = replace(compiled, name="peer:compile-fp16")
GRAPHS = replace(graphs, name="peer:cuda-graphs")


def unavailable_reason(backend: TorchBackend, precision: Precision) -> str | None:
    """Return why PyTorch does not run so here, or is not worth it, or None."""
    if (reason := backend.unavailable_reason()) is not None:
        return reason
    if precision is Precision.FP16 and not torch.cuda.is_available():
        return "float16 is slow on a CPU, and PyTorch sees no GPU"
    return None


def open(run: Run, threads: int, *, backend: TorchBackend, precision: Precision) -> Runner:
    """Prepare a run's checkpoint; a size is compiled or recorded when its first picture comes."""
    return backend.open(run, precision=precision, outputs=("mask",), threads=threads, device="auto")
