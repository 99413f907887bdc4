"""ONNX Runtime on the CPU.  Knows no torch: this half goes onto the target device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.artifacts import Run, file_digest
from fcn_deploy.errors import BackendError, OnnxFileError
from fcn_deploy.machine import usable_cores
from fcn_deploy.metrics import margin_of
from fcn_deploy.onnx_file import OnnxMetadata, load_onnx, read_metadata, with_logits
from fcn_deploy.runners.base import Outputs, Runner, RunnerDescription
from fcn_deploy.runners.session import cpu_session
from fcn_deploy.spec import ModelSpec, Precision


def unavailable_reason() -> str | None:
    """Return why ONNX Runtime cannot run here, or None."""
    try:
        import onnxruntime
    except ImportError as error:
        return f"ONNX Runtime cannot be imported ({error}); pip install onnxruntime"
    if "CPUExecutionProvider" not in onnxruntime.get_available_providers():
        return "this ONNX Runtime has no CPUExecutionProvider; pip install onnxruntime"
    return None


def open(
    run: Run,
    *,
    precision: Precision,
    outputs: tuple[str, ...],
    threads: int | None,
    device: str,
) -> OrtRunner:
    """Open a run's ONNX file; see :func:`fcn_deploy.runners.base.open_runner`.

    Raises:
        BackendError: ``device`` is ``cuda``; this backend is the CPU's.
        OnnxFileError: the file is not ours, or was made from another checkpoint of this run.
    """
    if device == "cuda":
        raise BackendError("backend ort runs on the CPU", "drop --device cuda")
    path = run.require_onnx(precision)
    metadata = read_metadata(path)
    if metadata.precision is not precision and run.named_file is None:
        raise OnnxFileError(
            f"{path} holds a {metadata.precision.value} network, not {precision.value}",
            "export it again",
        )
    if run.checkpoint.is_file() and file_digest(run.checkpoint) != metadata.checkpoint_digest:
        raise OnnxFileError(
            f"{path} was exported from another checkpoint than {run.checkpoint}",
            f"run `fcn-deploy export{run.command_suffix}"
            f"{'' if precision is Precision.FP32 else ' --' + precision.value}` again",
        )
    return OrtRunner(path, metadata, outputs, threads)


class OrtRunner(Runner):
    """An exported file in an ONNX Runtime session.

    The mask always comes from the file as shipped.  Where logits are asked for and the file has
    none, a second session is opened on the same graph with its logits made visible: it serves
    measurement, and the shipped graph stays what is measured.
    """

    def __init__(
        self, path: Path, metadata: OnnxMetadata, outputs: tuple[str, ...], threads: int | None
    ) -> None:
        self._path = path
        self._metadata = metadata
        self._digest = file_digest(path)
        self._threads = threads or usable_cores()
        hidden = [name for name in outputs if name not in metadata.outputs]
        self._shipped_outputs = tuple(name for name in outputs if name in metadata.outputs)
        self._derive_margin = "margin" in hidden
        self._wanted = outputs
        self._session: Any = cpu_session(path.read_bytes(), self._threads)
        self._probe: Any = None
        if hidden and "logits" not in metadata.outputs:
            exposed = with_logits(load_onnx(path)).SerializeToString()
            self._probe = cpu_session(exposed, self._threads)

    @property
    def spec(self) -> ModelSpec:
        """Classes, colours, normalisation of the network."""
        return self._metadata.spec

    def describe(self) -> RunnerDescription:
        """Say what this runner is, as built."""
        import onnxruntime

        return RunnerDescription(
            backend="ort",
            device="cpu",
            precision=self._metadata.precision.value,
            library=f"ONNX Runtime {onnxruntime.__version__}",
            providers=tuple(self._open_session().get_providers()),
            threads=self._threads,
            file=str(self._path),
            digest=self._digest,
            checkpoint_digest=self._metadata.checkpoint_digest,
        )

    def _open_session(self) -> Any:
        if self._session is None:
            raise BackendError("the ort runner is closed")
        return self._session

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        names = list(self._shipped_outputs)
        feed = {"image": images}
        arrays = dict(zip(names, self._open_session().run(names, feed), strict=True))
        if self._probe is not None:
            (arrays["logits"],) = self._probe.run(["logits"], feed)
        if self._derive_margin:
            logits = arrays.get("logits")
            if logits is None:
                (logits,) = self._session.run(["logits"], feed)
            arrays["margin"] = margin_of(logits)
        return Outputs(**{name: arrays[name] for name in self._wanted})

    def close(self) -> None:
        """Free the sessions; calling it twice is harmless."""
        self._session = self._probe = None
