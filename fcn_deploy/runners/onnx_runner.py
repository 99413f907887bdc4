"""What the backends that run an ONNX file share: its description, its outputs, being closed."""

from __future__ import annotations

from typing import TypeVar

from fcn_deploy.core.errors import BackendError
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.machine.description import usable_cores
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import OpenRequest, Runner

_Held = TypeVar("_Held")


class OnnxRunner(Runner):
    """An ONNX file of ours, ready to run.

    The mask always comes from the file as shipped.  Where logits are needed and the file has none,
    subclasses open the same graph a second time, with its logits made visible: that serves
    measurement, and the shipped graph stays what is measured.

    Args:
        backend: the name it was opened by.
        file: read once; subclasses release it when all that they need of it is open.
        request: what it is opened for.
    """

    #: What subclasses differ in: name and version of what executes the file, and where.
    _library: str
    _device = "cpu"
    _providers: tuple[str, ...] = ()

    def __init__(self, backend: str, file: OnnxFile, request: OpenRequest) -> None:
        self._backend = backend
        self._file = file
        self._metadata = file.metadata
        self._digest = file.digest
        #: As the description says them, unless the backend computes otherwise than the file says.
        self._precision = self._arithmetic = self._metadata.precision.value
        self._threads = request.threads or usable_cores()
        self._wanted = request.outputs
        given = self._metadata.outputs
        self._shipped_outputs = tuple(name for name in self._wanted if name in given)
        hidden = set(self._wanted) - set(given)
        #: Whether logits must be had, for themselves or for a margin, that the file does not give.
        self._needs_probe = bool(hidden) and "logits" not in given
        #: Whether it is opened for masks alone: who wants to see logits measures no throughput.
        self._masks_alone = self._wanted == ("mask",)

    @property
    def spec(self) -> ModelSpec:
        """Classes, colours, normalisation of the network."""
        return self._metadata.spec

    def describe(self) -> RunnerDescription:
        """Say what this runner is, as built."""
        return RunnerDescription(
            backend=self._backend,
            device=self._device,
            precision=self._precision,
            arithmetic=self._arithmetic,
            library=self._library,
            threads=self._threads,
            file=str(self._file.path),
            digest=self._digest,
            checkpoint_digest=self._metadata.checkpoint_digest,
            providers=self._providers,
        )

    def _require_open(self, held: _Held | None) -> _Held:
        """Return what :meth:`close` sets to None.

        Raises:
            BackendError: the runner is closed.
        """
        if held is None:
            raise BackendError(f"the {self._backend} runner is closed")
        return held
