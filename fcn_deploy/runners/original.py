"""The network that a run was imported from, as it stands: what `parity` holds its files against.

    RGB bytes ──numpy──▶ original.onnx in ONNX Runtime ──numpy──▶ mask, logits

Preprocessing, upsampling and argmax are written out in numpy: nothing is shared with the graph that
was rewritten.  `bench` measures the same as its baseline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, MissingStageError, cannot_import
from fcn_deploy.core.spec import ModelSpec, Precision
from fcn_deploy.graph.foreign.imported import read_imported
from fcn_deploy.graph.foreign.network import OriginalNetwork
from fcn_deploy.graph.session import cpu_session
from fcn_deploy.machine.description import usable_cores
from fcn_deploy.results.runner import COMPUTE, COPY_IN, RunnerDescription
from fcn_deploy.runners.base import Backend, OpenRequest, Outputs, Runner

NAME = "original"


class OriginalRunner(Runner):
    """A run's original in an ONNX Runtime session.

    Args:
        backend: the name it is opened by.
        request: what it is opened for.
        device: where it runs, as the description says it.
        open_session: from an ONNX file's bytes and a number of threads.
    """

    def __init__(
        self,
        backend: str,
        request: OpenRequest,
        device: str = "cpu",
        open_session: Callable[[bytes, int], Any] = cpu_session,
    ) -> None:
        import onnxruntime

        self._imported, content = read_imported(request.run)
        self._wanted = request.outputs
        threads = request.threads or usable_cores()
        self._network: OriginalNetwork | None = OriginalNetwork(
            content,
            self._imported.preprocessing,
            self._imported.interface,
            threads,
            open_session,
        )
        self._description = RunnerDescription(
            backend=backend,
            device=device,
            precision=Precision.FP32.value,
            arithmetic=Precision.FP32.value,
            library=f"ONNX Runtime {onnxruntime.__version__}, as imported",
            threads=threads,
            file=str(request.run.original),
            digest=self._imported.digest,
            checkpoint_digest=self._imported.digest,
            providers=self._network.providers,
        )

    @property
    def spec(self) -> ModelSpec:
        """Classes, colours, normalisation of the network."""
        return self._imported.spec

    def describe(self) -> RunnerDescription:
        """Say what this runner is, as built."""
        return self._description

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        if self._network is None:
            raise BackendError(f"the {self._description.backend} runner is closed")
        fed = self._network.feed(images)
        self.stage_done(COPY_IN)
        given = self._network.compute(fed)
        self.stage_done(COMPUTE)
        mask, logits = self._network.read(given, images.shape[1:3])
        return Outputs.chosen({"mask": mask, "logits": logits}, self._wanted)

    def close(self) -> None:
        """Free the session; calling it twice is harmless."""
        self._network = None


def _open(request: OpenRequest) -> Runner:
    if request.precision is not Precision.FP32:
        raise BackendError(f"backend {NAME} computes in float32 alone")
    if not request.run.is_foreign:
        raise MissingStageError(
            f"{request.run.root} was not imported from ONNX, so there is no original",
            "use another backend",
        )
    return OriginalRunner(NAME, request)


def _missing() -> str | None:
    for package in ("onnx", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            return f"{cannot_import(f'backend {NAME}', error)}; pip install {package}"
    return None


CPU = Backend(
    NAME,
    _open,
    _missing,
    lambda precision: precision is Precision.FP32,
    runs_on="cpu",
    on_request=True,
)
