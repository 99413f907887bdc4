"""The baseline: what a user would have without this toolkit.

A plain export (float32 NCHW in, float32 logits out) in ONNX Runtime, with normalisation and
argmax in numpy on the host.  `bench` shows it in every table: `baseline`, on the CPU, beside what
runs there, `baseline-cuda`, on ONNX Runtime's CUDA provider, beside what runs on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, MissingStageError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec, Precision
from fcn_deploy.graph.onnx_file import read_metadata
from fcn_deploy.graph.session import cpu_session
from fcn_deploy.machine import cuda as gpu
from fcn_deploy.machine.description import usable_cores
from fcn_deploy.results.runner import (
    COMPUTE,
    COPY_IN,
    CPU_BASELINE,
    GPU_BASELINE,
    RunnerDescription,
)
from fcn_deploy.runners.base import Outputs, Runner
from fcn_deploy.runners.ort.sessions import cuda_missing, cuda_session


@dataclass(frozen=True)
class BaselineBackend:
    """The plain export on one of ONNX Runtime's providers.

    Attributes:
        name: of the backend.
        kind: where it runs, ``cpu`` or ``cuda``.
        missing: says what cannot be had, or None.
        open_session: from an ONNX file's bytes and a number of threads.
    """

    name: str
    kind: str
    missing: Callable[[], str | None]
    open_session: Callable[[bytes, int], Any]

    def unavailable_reason(self) -> str | None:
        """Return why it cannot run here, or None."""
        return self.missing()

    def open(
        self,
        run: Run,
        *,
        precision: Precision,
        outputs: tuple[str, ...],
        threads: int | None,
        device: str,
    ) -> BaselineRunner:
        """Open a run's plain export; see :func:`fcn_deploy.runners.base.open_runner`.

        Raises:
            BackendError: another precision or device was asked for.
        """
        if precision is not Precision.FP32 or device not in ("auto", self.kind):
            raise BackendError(f"backend {self.name} is float32 on {self.kind}")
        return BaselineRunner(self, run, outputs, threads)


class BaselineRunner(Runner):
    """The plain export, fed and read the way most deployment scripts do."""

    def __init__(
        self,
        backend: BaselineBackend,
        run: Run,
        outputs: tuple[str, ...],
        threads: int | None,
    ) -> None:
        self._path = run.baseline_onnx
        if not self._path.is_file():
            raise MissingStageError(
                f"no {self._path}", f"run `fcn-deploy bench{run.command_suffix}` with PyTorch once"
            )
        self._backend = backend.name
        self._device = "cpu" if backend.kind == "cpu" else f"cuda:0 ({gpu.describe_gpu().name})"
        self._metadata = read_metadata(self._path)
        self._digest = file_digest(self._path)
        self._threads = threads or usable_cores()
        self._outputs = outputs
        self._session: Any = backend.open_session(self._path.read_bytes(), self._threads)
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
            backend=self._backend,
            device=self._device,
            precision=self._metadata.precision.value,
            library=f"ONNX Runtime {onnxruntime.__version__}, plain export",
            providers=tuple(self._open_session().get_providers()),
            threads=self._threads,
            file=str(self._path),
            digest=self._digest,
            checkpoint_digest=self._metadata.checkpoint_digest,
        )

    def _open_session(self) -> Any:
        if self._session is None:
            raise BackendError(f"the {self._backend} runner is closed")
        return self._session

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        session = self._open_session()
        normalised = (images.astype(np.float32) / 255 - self._mean) / self._std
        batch = np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))  # (N, 3, H, W)
        self._ended(COPY_IN)
        (logits,) = session.run(["logits"], {"input": batch})  # (N, C, H, W)
        self._ended(COMPUTE)
        mask = logits.argmax(axis=1).astype(np.uint8)
        return Outputs(mask, logits if "logits" in self._outputs else None)

    def close(self) -> None:
        """Free the session; calling it twice is harmless."""
        self._session = None


def _cpu_missing() -> str | None:
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        return f"ONNX Runtime cannot be imported ({error}); pip install onnxruntime"
    return None


def _gpu_missing() -> str | None:
    reasons = (cuda_missing(), gpu.unavailable_reason())
    return "; ".join(reason for reason in reasons if reason) or None


def _plain_cuda_session(model: bytes, threads: int) -> Any:
    # Whoever deploys a plain export leaves it to ONNX Runtime what runs where.
    return cuda_session(model, threads, pixels_stay=False)


#: Backend ``baseline``.
cpu = BaselineBackend(CPU_BASELINE, "cpu", _cpu_missing, cpu_session)
#: Backend ``baseline-cuda``.
cuda = BaselineBackend(GPU_BASELINE, "cuda", _gpu_missing, _plain_cuda_session)
