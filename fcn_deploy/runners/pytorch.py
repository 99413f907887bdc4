"""PyTorch: the reference that every other backend is compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.artifacts import Run, file_digest
from fcn_deploy.errors import BackendError
from fcn_deploy.runners.base import COMPUTE, COPY_IN, Outputs, Runner, RunnerDescription
from fcn_deploy.spec import ModelSpec, Precision

try:
    import torch

    from fcn_deploy.checkpoint import load_checkpoint
    from fcn_deploy.model import DeployModel
except ImportError as error:
    # On a target device torch is absent by design; say so when the backend is asked for.
    _import_error: ImportError | None = error
else:
    _import_error = None


def unavailable_reason() -> str | None:
    """Return why PyTorch cannot run here, or None."""
    if _import_error is not None:
        return f"PyTorch cannot be imported ({_import_error}); pip install torch torchvision"
    return None


def takes(precision: Precision) -> bool:
    """Say whether PyTorch computes the checkpoint so: integers are the quantised file's."""
    return precision in (Precision.FP32, Precision.FP16)


def open(
    run: Run,
    *,
    precision: Precision,
    outputs: tuple[str, ...],
    threads: int | None,
    device: str,
) -> TorchRunner:
    """Open a run's checkpoint; see :func:`fcn_deploy.runners.base.open_runner`.

    Raises:
        BackendError: it does not compute in that precision.
    """
    if not takes(precision):
        raise BackendError(
            f"backend torch does not compute in {precision.value}",
            "use --backend ort, openvino or trt, which run the quantised file",
        )
    return TorchRunner(run, precision, outputs, threads, device)


class TorchRunner(Runner):
    """The checkpoint itself, eager, with the deploy graph's pre- and postprocessing."""

    def __init__(
        self,
        run: Run,
        precision: Precision,
        outputs: tuple[str, ...],
        threads: int | None,
        device: str,
    ) -> None:
        self._path = run.require_checkpoint()
        checkpoint = load_checkpoint(self._path)
        self._spec = checkpoint.spec
        self._digest = file_digest(self._path)
        self._precision = precision
        self._outputs = outputs
        self._device = choose_device(device)
        self._threads_before = torch.get_num_threads()
        if threads is not None:
            torch.set_num_threads(threads)
        # float32 means float32: on a GPU convolutions would else round to TF32's 10 bits, and the
        # reference of every comparison would be wrong by more than the candidates.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        self._threads = torch.get_num_threads()
        self._model: DeployModel | None = DeployModel(
            checkpoint.model, checkpoint.spec, outputs, precision
        ).to(self._device)

    @property
    def spec(self) -> ModelSpec:
        """Classes, colours, normalisation of the network."""
        return self._spec

    def describe(self) -> RunnerDescription:
        """Say what this runner is, as built."""
        name = str(self._device)
        if self._device.type == "cuda":
            name += f" ({torch.cuda.get_device_name(self._device)})"
        return RunnerDescription(
            backend="torch",
            device=name,
            precision=self._precision.value,
            library=f"PyTorch {torch.__version__}",
            threads=self._threads,
            file=str(self._path),
            digest=self._digest,
            checkpoint_digest=self._digest,
        )

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        if self._model is None:
            raise BackendError("the torch runner is closed")
        with torch.inference_mode():
            # from_numpy refuses arrays that are read-only or run backwards
            host = torch.from_numpy(np.require(images, requirements=["C", "W"]))
            images_there = host.to(self._device)
            self._wait_and_end(COPY_IN)
            produced = self._model(images_there)
            self._wait_and_end(COMPUTE)
        arrays = {
            name: tensor.cpu().numpy() for name, tensor in zip(self._outputs, produced, strict=True)
        }
        return Outputs(**arrays)

    def _wait_and_end(self, stage: str) -> None:
        if self._watched and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the GPU works on while Python runs ahead
        self._ended(stage)

    def close(self) -> None:
        """Free the device; calling it twice is harmless."""
        self._model = None
        torch.set_num_threads(self._threads_before)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def choose_device(device: str) -> torch.device:
    """Return the device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        BackendError: ``cuda`` was asked for and PyTorch sees no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError(
            f"PyTorch {torch.__version__} sees no CUDA device",
            "check `nvidia-smi` and that this PyTorch build has CUDA, or use --device cpu",
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)
