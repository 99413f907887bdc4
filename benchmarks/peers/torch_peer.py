"""What the peers in PyTorch share: the checkpoint, the device, the threads, the description."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fcn_deploy.core.errors import BackendError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.networks.checkpoint import load_checkpoint
from fcn_deploy.networks.device import choose_device
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import Outputs, Runner


class TorchPeer(Runner):
    """A network in PyTorch, on the GPU where there is one.

    Args:
        backend: its name.
        network: what :meth:`_segment` runs, in evaluation mode.
        spec: classes and colours.
        threads: CPU threads.
        precision: of its arithmetic, for the description.
        library: what is special about how PyTorch runs it.
        file: that the weights are from; empty for none.
        digest: of that file.
    """

    def __init__(
        self,
        backend: str,
        network: nn.Module,
        spec: ModelSpec,
        threads: int,
        *,
        precision: str = "fp32",
        library: str = "",
        file: str = "",
        digest: str = "",
    ) -> None:
        self._spec = spec
        self._device = choose_device("auto")
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads)
        # As for our own runner: float32 means float32, not the 10 bits of TF32.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        name = str(self._device)
        if self._device.type == "cuda":
            name += f" ({torch.cuda.get_device_name(self._device)})"
        self._description = RunnerDescription(
            backend=backend,
            device=name,
            precision=precision,
            arithmetic=precision,
            library=f"PyTorch {torch.__version__}" + (f", {library}" if library else ""),
            threads=threads,
            file=file,
            digest=digest,
            checkpoint_digest=digest,
        )
        self._network: nn.Module | None = network.to(self._device)

    @property
    def spec(self) -> ModelSpec:
        """Classes, colours, normalisation of the network."""
        return self._spec

    def describe(self) -> RunnerDescription:
        """Say what this runner is, as built."""
        return self._description

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        if self._network is None:
            raise BackendError(f"the {self._description.backend} runner is closed")
        with torch.inference_mode():
            return Outputs(self._segment(self._network, images))

    def _segment(self, network: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return masks uint8 [N, H, W]; called in inference mode."""
        raise NotImplementedError

    def _wait_for_stage(self, stage: str) -> None:
        if self._watched and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the GPU works on while Python runs ahead
        self.stage_done(stage)

    def close(self) -> None:
        """Free the device; calling it twice is harmless."""
        if self._network is None:
            return
        self._network = None
        torch.set_num_threads(self._threads_before)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def load_network(run: Run) -> tuple[nn.Module, ModelSpec, str, str]:
    """Return a run's network in evaluation mode, its spec, its file and that file's digest."""
    path = run.require_checkpoint()
    checkpoint = load_checkpoint(path)
    return checkpoint.model.eval(), checkpoint.spec, str(path), file_digest(path)
