"""PyTorch compiled, and recorded as CUDA graphs: the package's own options under a peer's name."""

from __future__ import annotations

import torch

from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.runners.base import Backend, OpenRequest, Runner
from fcn_deploy.runners.pytorch import COMPILED_OPTIONS, GRAPHS_OPTIONS, torch_backend

COMPILED = torch_backend("peer:compile", COMPILED_OPTIONS)
COMPILED_FP16 = torch_backend("peer:compile-fp16", COMPILED_OPTIONS)
GRAPHS = torch_backend("peer:cuda-graphs", GRAPHS_OPTIONS)


def unavailable_reason(backend: Backend, precision: Precision) -> str | None:
    """Return why PyTorch does not run so here, or is not worth it, or None."""
    if (reason := backend.unavailable_reason()) is not None:
        return reason
    if precision is Precision.FP16 and not torch.cuda.is_available():
        return "float16 is slow on a CPU, and PyTorch sees no GPU"
    return None


def open_peer(run: Run, threads: int, *, backend: Backend, precision: Precision) -> Runner:
    """Prepare a run's checkpoint; a size is compiled or recorded when its first picture comes."""
    return backend.open(OpenRequest(run, precision, threads=threads))
