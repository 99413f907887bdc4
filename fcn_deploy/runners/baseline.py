"""The baseline: what a user would have without this toolkit.

A plain export (float32 NCHW in, float32 logits out) in ONNX Runtime, with normalisation and
argmax in numpy on the host.  `bench` shows it in every table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.artifacts import Run, file_digest
from fcn_deploy.errors import BackendError, MissingStageError
from fcn_deploy.machine import usable_cores
from fcn_deploy.onnx_file import read_metadata
from fcn_deploy.runners.base import COMPUTE, COPY_IN, Outputs, Runner, RunnerDescription
from fcn_deploy.runners.session import cpu_session
from fcn_deploy.spec import ModelSpec, Precision


def unavailable_reason() -> str | None:
    """Return why ONNX Runtime cannot run here, or None."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        return f"ONNX Runtime cannot be imported ({error}); pip install onnxruntime"
    return None


def open(
    run: Run,
    *,
    precision: Precision,
    outputs: tuple[str, ...],
    threads: int | None,
    device: str,
) -> BaselineRunner:
    """Open a run's plain export; see :func:`fcn_deploy.runners.base.open_runner`."""
    if precision is not Precision.FP32 or device == "cuda":
        raise BackendError("the baseline is float32 on the CPU")
    return BaselineRunner(run, outputs, threads)


class BaselineRunner(Runner):
    """The plain export, fed and read the way most deployment scripts do."""

    def __init__(self, run: Run, outputs: tuple[str, ...], threads: int | None) -> None:
        self._path = run.baseline_onnx
        if not self._path.is_file():
            raise MissingStageError(
                f"no {self._path}", f"run `fcn-deploy bench{run.command_suffix}` with PyTorch once"
            )
        self._metadata = read_metadata(self._path)
        self._digest = file_digest(self._path)
        self._threads = threads or usable_cores()
        self._outputs = outputs
        self._session: Any = cpu_session(self._path.read_bytes(), self._threads)
        self._mean = np.array(self._metadata.spec.mean, dtype=np.float32)
        self._std = np.array(self._metadata.spec.std, dtype=np.float32)

    @property
    def spec(self) -> ModelSpec:
        """Classes, colours, normalisation of the network."""
        return self._metadata.spec

    def describe(self) -> RunnerDescription:
        """Say what this runner is, as built."""
        import onnxruntime

        return RunnerDescription(
            backend="baseline",
            device="cpu",
            precision=self._metadata.precision.value,
            library=f"ONNX Runtime {onnxruntime.__version__}, plain export",
            providers=("CPUExecutionProvider",),
            threads=self._threads,
            file=str(self._path),
            digest=self._digest,
            checkpoint_digest=self._metadata.checkpoint_digest,
        )

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        if self._session is None:
            raise BackendError("the baseline runner is closed")
        normalised = (images.astype(np.float32) / 255 - self._mean) / self._std
        batch = np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))  # (N, 3, H, W)
        self._ended(COPY_IN)
        (logits,) = self._session.run(["logits"], {"input": batch})  # (N, C, H, W)
        self._ended(COMPUTE)
        mask = logits.argmax(axis=1).astype(np.uint8)
        return Outputs(mask, logits if "logits" in self._outputs else None)

    def close(self) -> None:
        """Free the session; calling it twice is harmless."""
        self._session = None
