"""TensorRT engines on the GPU, without torch.

    host                 device
    pinned in ──copy──▶ in ──▶ engine ──▶ out ──copy──▶ pinned out        one slot

A batch in flight owns a slot.  ``run`` uses one slot on one stream; ``stream`` uses two slots on
three streams (copy in, compute, copy out), so that copies hide behind computing.  A batch in a
``batch_buffer`` skips the first pinned buffer, a result of ``stream_views`` lies in the last one:
with both, the host copies nothing.  A shape that comes back is recorded as a CUDA graph; one that
cannot be recorded is enqueued plainly, as is every shape of an engine that allows no second context
on a profile (see ``tensorrt.api.share_profiles``).
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, EngineError, FcnDeployError, InputError
from fcn_deploy.core.spec import BatchShape, ModelSpec, Product
from fcn_deploy.machine import cuda
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import Backend, OpenRequest, Outputs, Runner
from fcn_deploy.tensorrt import api
from fcn_deploy.tensorrt.buffers import BatchBuffers
from fcn_deploy.tensorrt.build_missing import ensure_engine
from fcn_deploy.tensorrt.engine_file import read_sidecar
from fcn_deploy.tensorrt.engine_match import (
    EngineIdentity,
    RunModel,
    find_engine,
    identify,
    installed_products,
)
from fcn_deploy.tensorrt.execution import DeviceEngine, LaunchLatency


def _missing() -> str | None:
    reasons = [cuda.unavailable_reason()]
    if not installed_products():
        reasons.append(api.unavailable_reason(Product.TRT))
    return "; ".join(reason for reason in reasons if reason) or None


def _open(request: OpenRequest) -> TrtRunner:
    """Open a run's newest fitting engine.

    Raises:
        MissingStageError: no engine fits; the repair names the build command.
        EngineError: the engine named is damaged, or belongs elsewhere.
    """
    shipped, probe = _engines(request)
    return TrtRunner(shipped, probe, request)


def _engines(request: OpenRequest) -> tuple[EngineIdentity, EngineIdentity | None]:
    """Return the engine of the masks, and another one where logits are wanted that it hides."""
    capability = cuda.describe_gpu().compute_capability
    model = RunModel(request.run, request.precision)
    if request.run.named_engine is not None:
        return identify(request.run.named_engine, model, capability), None
    shipped = identify(find_engine(model, ("mask",), capability), model, capability)
    if not set(request.outputs) - set(shipped.outputs) or "logits" in shipped.outputs:
        return shipped, None
    probe = find_engine(model, ("logits",), capability, source_digest=shipped.onnx_digest)
    return shipped, identify(probe, model, capability)


def _build_missing(
    request: OpenRequest,
    say: Callable[[str], None],
    on_progress: Callable[[str, int, int], None],
) -> None:
    ensure_engine(
        request.run, request.precision, outputs=request.outputs, say=say, on_progress=on_progress
    )


def _build_seconds(plan: Path) -> float | None:
    try:
        return read_sidecar(plan).build_seconds
    except EngineError:  # a trusted engine has no sidecar
        return None


class TrtRunner(Runner):
    """An engine of TensorRT or TensorRT for RTX.

    The mask always comes from the engine as shipped.  Where logits are asked for and it has none,
    a second engine, built from the same graph with its logits made visible, serves measurement.
    """

    def __init__(
        self,
        shipped: EngineIdentity,
        probe: EngineIdentity | None,
        request: OpenRequest,
    ) -> None:
        self._identity = shipped
        self._wanted = request.outputs
        self._device = f"cuda:0 ({cuda.describe_gpu().name})"
        self._stream_token: _Reading | None = None  # of the stream() that owns the two slots
        self._engine: DeviceEngine | None = DeviceEngine(shipped)
        self._graph_counts = self._engine.graph_counts  # they outlive the engine
        self._probe: DeviceEngine | None = None
        try:
            self._library = self._engine.tensorrt.label
            if probe is not None:
                self._probe = DeviceEngine(probe)
            self._check_outputs()
        except BaseException:
            self.close()
            raise

    def _check_outputs(self) -> None:
        given = {name for loaded in (self._engine, self._probe) if loaded for name in loaded.names}
        missing = [
            name
            for name in self._wanted
            if name not in given and not (name == "margin" and "logits" in given)
        ]
        if missing:
            raise EngineError(
                f"{self._identity.path} gives no {' and no '.join(missing)}",
                f"run `fcn-deploy export --outputs {','.join(self._wanted)}` and "
                f"`{self._identity.command}` first",
            )

    @property
    def spec(self) -> ModelSpec:
        """Classes, colours, normalisation of the network."""
        return self._identity.spec

    def describe(self) -> RunnerDescription:
        """Say what this runner is, as built."""
        portable = self._identity.portable
        return RunnerDescription(
            backend="trt",
            device=self._device,
            precision=self._identity.precision.value,
            arithmetic=self._identity.precision.value,
            library=self._library,
            threads=1,  # one host thread feeds the device
            file=str(self._identity.path),
            digest=self._identity.digest,
            checkpoint_digest=self._identity.checkpoint_digest,
            cuda_graphs=self._graph_counts(),
            note=self._identity.note,
            tail=self._identity.tail,
            portable=None if portable is None else portable.value,
        )

    def _open_engine(self) -> DeviceEngine:
        if self._engine is None:
            raise BackendError("the trt runner is closed")
        return self._engine

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        loaded = self._open_engine()
        arrays = loaded.run(images, self.stage_done if self._watched else None)
        if self._probe is not None:
            arrays = {**self._probe.run(images), **arrays}
        return Outputs.chosen(arrays, self._wanted)

    def reserve_shapes(self, shapes: int) -> None:
        """Keep a CUDA graph of so many shapes in every slot."""
        for loaded in (self._engine, self._probe):
            if loaded is not None:
                loaded.reserve_shapes(shapes)

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each batch, in order, with its copies beside the computing.

        A batch that is refused raises after the results of those before it.  The stream read last
        owns the slots: one left half-way is in nobody's way, and reading it on is refused.

        Raises:
            InputError: another stream of this runner was begun before this one's end.
        """
        return self._streamed(batches, _Reading(copies=True))

    def stream_views(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Do as :meth:`stream`, with results in pinned memory that the next but one overwrites.

        Valid until the next one is asked for or the runner is closed.
        """
        return self._streamed(batches, _Reading(copies=False))

    def batch_buffer(self, shape: BatchShape) -> NDArray[np.uint8]:
        """Return pinned memory for a batch, uint8 [N, H, W, 3]: the bus reads it where it lies.

        It is filled by the caller, handed to :meth:`run` or a stream as it is or as its first
        pictures, and left alone until the result of that batch has come.  Three buffers in turn
        keep a stream busy.  Getting one takes a while: make a few and use them again.  It outlives
        the runner.

        Args:
            shape: N, H, W.

        Raises:
            DeviceMemoryError: no more memory can be locked.
        """
        return cuda.pinned_array((*shape, 3))

    def _streamed(self, batches: Iterable[NDArray[np.uint8]], token: _Reading) -> Iterator[Outputs]:
        if self._probe is not None:
            yield from super().stream(batches)
            return
        loaded = self._open_engine()
        self._stream_token = token
        in_flight: deque[BatchBuffers] = deque()
        try:
            for index, images in enumerate(batches):
                if len(in_flight) == len(loaded.stream_slots):
                    yield self._collect_streamed(token, loaded, in_flight)
                self.check(images)
                self._require_slots(token)
                slot = loaded.stream_slots[index % len(loaded.stream_slots)]
                in_flight.append(loaded.submit(slot, images, loaded.lanes))
        except FcnDeployError:
            while in_flight and token is self._stream_token:
                yield self._collect_streamed(token, loaded, in_flight)
            raise
        while in_flight:
            yield self._collect_streamed(token, loaded, in_flight)

    def _collect_streamed(
        self, token: _Reading, loaded: DeviceEngine, in_flight: deque[BatchBuffers]
    ) -> Outputs:
        # Anything may have happened since the last result: the slots may be another's by now.
        self._require_slots(token)
        slot = in_flight.popleft()
        try:
            arrays = loaded.collect(slot, copies=token.copies)
            return Outputs.chosen(arrays, self._wanted)
        except FcnDeployError:
            in_flight.clear()  # a later result would be taken for the one that is missing
            raise

    def _require_slots(self, token: _Reading) -> None:
        self._open_engine()
        if token is not self._stream_token:
            raise InputError(
                "another stream() of this runner is being read",
                "read each stream to its end before the next, or open a second runner",
            )

    def device_seconds(self, images: NDArray[np.uint8]) -> float:
        """Run a batch and return the device's own time for computing it, without the copies."""
        self.check(images)
        loaded = self._open_engine()
        loaded.run(images)
        return loaded.last_compute_seconds()

    def launch_seconds(self, images: NDArray[np.uint8], *, launches: int = 50) -> float:
        """Return the device's time for a batch without the host's: that of one launch of many.

        As :meth:`launch_latency`, which also tells whether a CUDA graph was launched.
        """
        return self.launch_latency(images, launches=launches).seconds

    def launch_latency(self, images: NDArray[np.uint8], *, launches: int = 50) -> LaunchLatency:
        """Launch a batch's CUDA graph many times in a row, between two marks on the device.

        :meth:`device_seconds` has one launch between its marks, and for a small batch the device
        waits there for the host to make it.  Here the host is ahead of the device.

        Args:
            images: a batch; it is copied once, before the first mark.
            launches: how many there are between the marks.

        Returns:
            The mean of one launch; where there is no graph, of one plain enqueue.

        Raises:
            InputError: fewer than one launch.
        """
        self.check(images)
        if launches < 1:
            raise InputError(f"{launches} launches take no time", "ask for one at least")
        return self._open_engine().launch_latency(images, launches)

    def layer_seconds(self, images: NDArray[np.uint8], *, runs: int = 100) -> dict[str, float]:
        """Return the device's time for each layer by TensorRT's profiler, in the order they run.

        The profiler stands between the layers and there is no graph: the sum is more than
        :meth:`device_seconds` says.  ``benchmarks/gpu/device_tier.py`` calls this; no command does.

        Args:
            images: a batch.
            runs: how many are timed; each layer's median counts.
        """
        self.check(images)
        times = self._open_engine().layer_times(images, runs)
        # A name that several layers bear is told several times a run.
        return {
            name: statistics.median(found) * len(found) / runs / 1000
            for name, found in times.items()
        }

    def close(self) -> None:
        """Free the device; calling it twice is harmless."""
        for loaded in (self._engine, self._probe):
            if loaded is not None:
                loaded.close()
        self._engine = self._probe = self._stream_token = None


@dataclass(frozen=True, eq=False)
class _Reading:
    """A stream() that is being read.

    Attributes:
        copies: whether its results are arrays of their own.
    """

    copies: bool


TRT = Backend(
    "trt",
    _open,
    _missing,
    runs_on="cuda",
    build_missing=_build_missing,
    build_seconds=_build_seconds,
)
