"""A stream in PyTorch on the CPU by two workers, each with its share of the threads.

PyTorch's pages advise it for throughput: several instances of few threads each.  The number of
threads is OpenMP's, which every thread of a process has for itself; ``torch.compile`` makes code
of its own for the number that it meets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import Outputs, Runner
from fcn_deploy.runners.cpu_streams import LANES, in_threads


class TwoWorkers(Runner):
    """A runner in PyTorch whose stream computes two batches at a time.

    Args:
        runner: it may be called from two threads at once, as a network in evaluation mode may.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._closed = False

    @property
    def spec(self) -> ModelSpec:
        """Classes, colours, normalisation of the network."""
        return self._runner.spec

    def describe(self) -> RunnerDescription:
        """Say what the runner is, as built."""
        return self._runner.describe()

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        return self._runner.run(images, on_stage=self._on_stage)

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each batch, in order; see :func:`in_threads`."""
        description = self.describe()
        threads = description.threads or 1
        if description.on_gpu or threads < LANES:
            yield from self._runner.stream(batches)
            return

        def in_worker(images: NDArray[np.uint8]) -> Outputs:
            torch.set_num_threads(threads // LANES)  # of this worker
            return self._runner.run(images)

        def network() -> Callable[[NDArray[np.uint8]], Outputs]:
            if self._closed:
                raise BackendError(f"the {description.backend} runner is closed")
            return in_worker

        try:
            yield from in_threads(self, batches, network)
        finally:
            torch.set_num_threads(threads)  # some of what it sets, all threads share

    def reserve_shapes(self, shapes: int) -> None:
        """Pass on how many shapes of batches to keep prepared."""
        self._runner.reserve_shapes(shapes)

    def close(self) -> None:
        """Free the device; calling it twice is harmless."""
        self._closed = True
        self._runner.close()
