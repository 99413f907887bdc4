"""The baseline: what a user would have without this toolkit.

A plain export (float32 NCHW in, float32 logits out) in ONNX Runtime, with normalisation and
argmax in numpy on the host.  `bench` shows it in every table: `baseline`, on the CPU, beside what
runs there, `baseline-cuda`, on ONNX Runtime's CUDA provider, beside what runs on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, MissingStageError, cannot_import
from fcn_deploy.core.spec import Precision
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.graph.session import cpu_session
from fcn_deploy.machine import cuda as gpu
from fcn_deploy.results.runner import COMPUTE, COPY_IN, CPU_BASELINE, GPU_BASELINE
from fcn_deploy.runners.base import Backend, OpenRequest, Outputs, Runner
from fcn_deploy.runners.onnx_runner import OnnxRunner
from fcn_deploy.runners.original import OriginalRunner
from fcn_deploy.runners.ort.sessions import cuda_missing, cuda_session


class BaselineRunner(OnnxRunner):
    """The plain export, fed and read the way most deployment scripts do.

    Args:
        backend: the name it is opened by.
        request: what it is opened for; the plain export of its run is opened.
        device: where it runs, as the description says it.
        open_session: from an ONNX file's bytes and a number of threads.
    """

    def __init__(
        self,
        backend: str,
        request: OpenRequest,
        device: str,
        open_session: Callable[[bytes, int], Any],
    ) -> None:
        import onnxruntime

        run = request.run
        if not run.baseline_onnx.is_file():
            raise MissingStageError(
                f"no {run.baseline_onnx}",
                f"run `fcn-deploy bench{run.command_suffix}` with PyTorch once",
            )
        file = OnnxFile(run.baseline_onnx)
        super().__init__(backend, file, request)
        self._device = device
        self._library = f"ONNX Runtime {onnxruntime.__version__}, plain export"
        self._mean = np.array(self.spec.mean, dtype=np.float32)
        self._std = np.array(self.spec.std, dtype=np.float32)
        content = file.bytes
        file.release()
        self._session: Any = open_session(content, self._threads)
        self._providers = tuple(self._session.get_providers())

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        session = self._require_open(self._session)
        normalised = (images.astype(np.float32) / 255 - self._mean) / self._std
        batch = np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))  # (N, 3, H, W)
        self.stage_done(COPY_IN)
        (logits,) = session.run(["logits"], {"input": batch})  # (N, C, H, W)
        self.stage_done(COMPUTE)
        mask = logits.argmax(axis=1).astype(np.uint8)
        return Outputs.chosen({"mask": mask, "logits": logits}, self._wanted)

    def close(self) -> None:
        """Free the session; calling it twice is harmless."""
        self._session = None


def baseline_backend(
    name: str,
    runs_on: Literal["cpu", "cuda"],
    missing: Callable[[], str | None],
    open_session: Callable[[bytes, int], Any],
) -> Backend:
    """Return the plain export on one of ONNX Runtime's providers as a backend.

    Args:
        name: of the backend.
        runs_on: where the provider computes.
        missing: says what cannot be had, or None.
        open_session: from an ONNX file's bytes and a number of threads.
    """

    def open_backend(request: OpenRequest) -> Runner:
        if not _takes(request.precision):
            raise BackendError(f"backend {name} computes in float32 alone")
        device = "cpu" if runs_on == "cpu" else f"cuda:0 ({gpu.describe_gpu().name})"
        # What a user of an imported network has without this toolkit is that network itself.
        runner = OriginalRunner if request.run.is_foreign else BaselineRunner
        return runner(name, request, device, open_session)

    return Backend(name, open_backend, missing, _takes, runs_on)


def _takes(precision: Precision) -> bool:
    return precision is Precision.FP32


def _cpu_missing() -> str | None:
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        return f"{cannot_import('the plain export', error)}; pip install onnxruntime"
    return None


def _gpu_missing() -> str | None:
    reasons = (cuda_missing(), gpu.unavailable_reason())
    return "; ".join(reason for reason in reasons if reason) or None


def _plain_cuda_session(model: bytes, threads: int) -> Any:
    # Whoever deploys a plain export leaves it to ONNX Runtime what runs where.
    return cuda_session(model, threads, pixels_stay=False)


CPU = baseline_backend(CPU_BASELINE, "cpu", _cpu_missing, cpu_session)
CUDA = baseline_backend(GPU_BASELINE, "cuda", _gpu_missing, _plain_cuda_session)
