"""TensorRT engines on the GPU, without torch.

    host                 device
    pinned in ──copy──▶ in ──▶ engine ──▶ out ──copy──▶ pinned out        one slot

A batch in flight owns a slot.  ``run`` uses one slot on one stream; ``stream`` uses two slots on
three streams (copy in, compute, copy out), so that copies hide behind computing.  A batch in a
``batch_buffer`` skips the first pinned buffer, a result of ``stream_views`` lies in the last one:
with both, the host copies nothing.  A shape that comes back is recorded as a CUDA graph; one that
cannot be recorded is enqueued plainly, as is every shape of an engine that allows no second context
on a profile (see ``trt_api.share_profiles``).
"""

from __future__ import annotations

import statistics
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import (
    BackendError,
    DeviceMemoryError,
    EngineError,
    FcnDeployError,
    InputError,
    MissingStageError,
)
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import BatchShape, ModelSpec, Precision, Product, ShapeProfile
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.graph.onnx_file import read_metadata
from fcn_deploy.machine import cuda
from fcn_deploy.machine.cuda import DeviceBuffer, Event, Graph, PinnedBuffer, Stream
from fcn_deploy.results.runner import COMPUTE, COPY_IN, RunnerDescription
from fcn_deploy.runners.base import Outputs, Runner, check_images
from fcn_deploy.tensorrt import api
from fcn_deploy.tensorrt.api import LayerTimes, TensorRt
from fcn_deploy.tensorrt.engine_file import (
    ENGINES_FOLDER,
    check_belongs,
    check_release,
    choose_profile,
    newest_engine,
    read_engine,
    read_plan_header,
    shape_error,
    sidecar_path,
)

INPUT_NAME = "image"
#: How many (slot, shape) pairs keep a CUDA graph, unless more are asked for; the least recently
#: used one makes room.
MAX_GRAPHS = 8
#: How many (slot, shape) pairs are remembered as seen, and as refused by a capture, for each graph.
_REMEMBERED_PER_GRAPH = 4
#: Slots of an engine: two of ``stream``, one of ``run``.
_SLOTS = 3
#: Buffers grow in steps of this, so that shapes of about one size share one allocation.
_BUFFER_STEP = 1 << 20
_DTYPES: dict[str, np.dtype[Any]] = {
    "mask": np.dtype(np.uint8),
    "logits": np.dtype(np.float32),
    "margin": np.dtype(np.float32),
}


def unavailable_reason() -> str | None:
    """Return which of TensorRT and the GPU is missing and what to install, or None."""
    reasons = [cuda.unavailable_reason()]
    if not _installed_products():
        reasons.append(api.unavailable_reason(Product.TRT))
    return "; ".join(reason for reason in reasons if reason) or None


def _installed_products() -> list[Product]:
    # Asked without loading TensorRT: an engine that is refused is refused before that.
    return [product for product in Product if api.is_installed(product)]


def open(
    run: Run,
    *,
    precision: Precision,
    outputs: tuple[str, ...],
    threads: int | None,
    device: str,
) -> TrtRunner:
    """Open a run's newest fitting engine; see :func:`fcn_deploy.runners.base.open_runner`.

    Raises:
        MissingStageError: no engine fits; the repair names the build command.
        EngineError: the engine named is damaged, or belongs elsewhere.
        BackendError: ``device`` is ``cpu``.
    """
    if device == "cpu":
        raise BackendError("backend trt runs on a GPU", "drop --device cpu")
    capability = cuda.describe_gpu().compute_capability
    if run.named_engine is not None:
        return TrtRunner(_identify(run.named_engine, run, precision, capability), None, outputs)
    shipped = _find_engine(run, precision, ("mask",), capability)
    identity = _identify(shipped, run, precision, capability)
    probe = None
    if set(outputs) - set(identity.outputs) and "logits" not in identity.outputs:
        found = _find_engine(run, precision, ("logits",), capability)
        probe = _identify(found, run, precision, capability)
    return TrtRunner(identity, probe, outputs)


def _find_engine(run: Run, precision: Precision, outputs: tuple[str, ...], capability: str) -> Path:
    """Return the newest engine of the run that fits this machine and gives ``outputs``."""
    onnx_path = run.onnx(precision)
    digests: dict[str, str] = {}
    if onnx_path.is_file():
        metadata = read_metadata(onnx_path)
        precision = metadata.precision
        digests["checkpoint_digest"] = metadata.checkpoint_digest
        if set(outputs) <= set(metadata.outputs):
            digests["onnx_digest"] = file_digest(onnx_path)
    elif run.checkpoint.is_file():
        digests["checkpoint_digest"] = file_digest(run.checkpoint)
    else:
        digests["name"] = run.name
    reasons = []
    for product in _installed_products():
        found, reason = newest_engine(
            ENGINES_FOLDER,
            product=product,
            version=api.installed_version(product),
            compute_capability=capability,
            precision=precision,
            outputs=outputs,
            onnx_digest=digests.get("onnx_digest"),
            checkpoint_digest=digests.get("checkpoint_digest"),
            name=digests.get("name"),
        )
        if found is not None:
            return found
        reasons.append(reason)
    build = f"fcn-deploy build{run.command_suffix}{precision.flag}"
    if outputs != ("mask",):
        probe = run.root / f"model.{'-'.join(outputs)}.{precision.value}.onnx"
        build = (
            f"fcn-deploy export{run.command_suffix}{precision.flag} "
            f"--outputs mask,{','.join(outputs)} --out {probe} && fcn-deploy build {probe}"
        )
    raise MissingStageError(
        f"no engine of {run.root} gives {', '.join(outputs)} here ({'; '.join(reasons)})",
        f"run `{build}` first",
    )


@dataclass(frozen=True)
class _EngineIdentity:
    """An engine that has passed every check but the profile.

    Attributes:
        path: of the plan.
        digest: of the plan.
        product: which TensorRT runs it.
        spec: classes, colours, normalisation.
        precision: of the network's arithmetic.
        checkpoint_digest: of the checkpoint it stems from.
        outputs: that its sidecar names; empty where it has none.
        profiles: batch shapes that it takes; empty: ask the engine.
        command: what rebuilds it.
    """

    path: Path
    digest: str
    product: Product
    spec: ModelSpec
    precision: Precision
    checkpoint_digest: str
    outputs: tuple[str, ...]
    profiles: tuple[ShapeProfile, ...]
    command: str


def _identify(plan: Path, run: Run, precision: Precision, capability: str) -> _EngineIdentity:
    """Check an engine in the order digest → product and version → compute capability."""
    if run.trusted and plan.is_file() and not sidecar_path(plan).is_file():
        header = read_plan_header(plan)
        check_release(plan, header, header.product, api.installed_version(header.product))
        metadata = read_metadata(run.require_onnx(precision))
        return _EngineIdentity(
            path=plan,
            digest=file_digest(plan),
            product=header.product,
            spec=metadata.spec,
            precision=metadata.precision,
            checkpoint_digest=metadata.checkpoint_digest,
            outputs=(),
            profiles=(),
            command="fcn-deploy build",
        )
    sidecar = read_engine(plan)
    check_belongs(
        plan,
        sidecar,
        product=sidecar.product,
        version=api.installed_version(sidecar.product),
        compute_capability=capability,
    )
    return _EngineIdentity(
        path=plan,
        digest=sidecar.plan_digest,
        product=sidecar.product,
        spec=sidecar.spec,
        precision=sidecar.precision,
        checkpoint_digest=sidecar.checkpoint_digest,
        outputs=sidecar.outputs,
        profiles=sidecar.profiles,
        command=sidecar.command,
    )


class TrtRunner(Runner):
    """An engine of TensorRT or TensorRT for RTX.

    The mask always comes from the engine as shipped.  Where logits are asked for and it has none,
    a second engine, built from the same graph with its logits made visible, serves measurement.
    """

    def __init__(
        self,
        shipped: _EngineIdentity,
        probe: _EngineIdentity | None,
        outputs: tuple[str, ...],
    ) -> None:
        self._identity = shipped
        self._wanted = outputs
        self._device = f"cuda:0 ({cuda.describe_gpu().name})"
        self._stream_token: _Reading | None = None  # of the stream() that owns the two slots
        self._engine: _DeviceEngine | None = _DeviceEngine(shipped)
        self._probe: _DeviceEngine | None = None
        try:
            self._library = self._engine.tensorrt.label
            if probe is not None:
                self._probe = _DeviceEngine(probe)
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
        return RunnerDescription(
            backend="trt",
            device=self._device,
            precision=self._identity.precision.value,
            library=self._library,
            threads=1,  # one host thread feeds the device
            file=str(self._identity.path),
            digest=self._identity.digest,
            checkpoint_digest=self._identity.checkpoint_digest,
        )

    def _open_engine(self) -> _DeviceEngine:
        if self._engine is None:
            raise BackendError("the trt runner is closed")
        return self._engine

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        loaded = self._open_engine()
        arrays = loaded.run(images, self._ended if self._watched else None)
        if self._probe is not None:
            arrays = {**self._probe.run(images), **arrays}
        return self._chosen(arrays)

    def _chosen(self, arrays: dict[str, NDArray[Any]]) -> Outputs:
        if "margin" in self._wanted and "margin" not in arrays:
            arrays["margin"] = margin_of(arrays["logits"])
        return Outputs(**{name: arrays[name] for name in self._wanted})

    def keep(self, shapes: int) -> None:
        """Keep a CUDA graph of so many shapes in every slot."""
        for loaded in (self._engine, self._probe):
            if loaded is not None:
                loaded.keep(shapes)

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
        """Return pinned memory for a batch: the bus reads it where it lies.

        Its contract is :meth:`fcn_deploy.runners.base.Runner.batch_buffer`'s; it outlives the
        runner.

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
        in_flight: deque[_Slot] = deque()
        try:
            for index, images in enumerate(batches):
                if len(in_flight) == len(loaded.stream_slots):
                    yield self._collect_streamed(token, loaded, in_flight)
                check_images(images)
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
        self, token: _Reading, loaded: _DeviceEngine, in_flight: deque[_Slot]
    ) -> Outputs:
        # Anything may have happened since the last result: the slots may be another's by now.
        self._require_slots(token)
        slot = in_flight.popleft()
        try:
            return self._chosen(loaded.collect(slot, copies=token.copies))
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
        check_images(images)
        loaded = self._open_engine()
        loaded.run(images)
        return loaded.last_compute_seconds()

    def layer_seconds(self, images: NDArray[np.uint8], *, runs: int = 100) -> dict[str, float]:
        """Return the device's time for each layer by TensorRT's profiler, in the order they run.

        The profiler stands between the layers and there is no graph: the sum is more than
        :meth:`device_seconds` says.

        Args:
            images: a batch.
            runs: how many are timed; each layer's median counts.
        """
        check_images(images)
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


@dataclass(frozen=True)
class _Lanes:
    """The streams that a batch passes through; one stream may serve for all three."""

    copy_in: Stream
    compute: Stream
    copy_out: Stream


class _Slot:
    """What one batch in flight owns: buffers on both sides, and marks of its passage."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.shape: BatchShape = (0, 0, 0)
        self.host: dict[str, PinnedBuffer] = {}
        self.device: dict[str, DeviceBuffer] = {}
        self.arrived, self.started, self.computed, self.returned = (Event() for _ in range(4))
        self.in_flight = False
        #: The caller's pinned batch that is being read; held so that its memory stays.
        self.source: NDArray[np.uint8] | None = None

    def fits(self, sizes: dict[str, int]) -> bool:
        """Say whether tensors of these sizes in bytes find room."""
        return all(
            name in self.device and size <= self.device[name].nbytes for name, size in sizes.items()
        )

    def grow(self, sizes: dict[str, int]) -> None:
        """Make room for tensors of these sizes in bytes; addresses change.

        Raises:
            DeviceMemoryError: the GPU has not that much; the slot is empty then.
        """
        sizes = {
            name: max(size, self.device[name].nbytes if name in self.device else 0)
            for name, size in sizes.items()
        }
        self.release()
        try:
            for name, size in sizes.items():
                rounded = -(-size // _BUFFER_STEP) * _BUFFER_STEP
                self.host[name] = PinnedBuffer(rounded)
                self.device[name] = DeviceBuffer(rounded)
        except FcnDeployError:
            self.release()
            raise

    def release(self) -> None:
        """Free the buffers."""
        for name in self.host:
            self.host[name].close()
        for name in self.device:
            self.device[name].close()
        self.host, self.device = {}, {}

    def close(self) -> None:
        """Free buffers and events."""
        self.release()
        for event in (self.arrived, self.started, self.computed, self.returned):
            event.close()


class _DeviceEngine:
    """An engine in device memory, with the contexts, slots and graphs that run it.

    All contexts share one piece of scratch memory: whatever runs, runs on the compute stream, one
    after the other.
    """

    def __init__(self, identity: _EngineIdentity) -> None:
        self._identity = identity
        self.tensorrt: TensorRt = api.load(identity.product)
        trt = self.tensorrt.trt
        api.clear_errors()
        runtime = trt.Runtime(self.tensorrt.logger)
        engine = runtime.deserialize_cuda_engine(identity.path.read_bytes())
        if engine is None:
            raise EngineError(
                f"{self.tensorrt.label} cannot load {identity.path}: {api.last_error()}",
                f"run `{identity.command}` here",
            )
        self._runtime, self._engine = runtime, engine
        self.names = self._output_names(trt, engine)
        self._profiles = identity.profiles or self._engine_profiles(engine)
        self._plain_contexts: dict[int, Any] = {}
        self._graphs: OrderedDict[tuple[int, BatchShape], tuple[Graph, Any]] = OrderedDict()
        self._seen: OrderedDict[tuple[int, BatchShape], None] = OrderedDict()
        self._refused: OrderedDict[tuple[int, BatchShape], None] = OrderedDict()
        self._max_graphs = MAX_GRAPHS
        self._shares_profiles = True
        self._scratch = self._allocate_scratch(self.tensorrt.scratch_bytes(engine))
        self.lanes = _Lanes(Stream(), Stream(), Stream())
        self._compute = self.lanes.compute
        self._one_lane = _Lanes(self._compute, self._compute, self._compute)
        self.stream_slots = (_Slot(0), _Slot(1))
        self._run_slot = _Slot(2)
        self._open = True

    def _output_names(self, trt: Any, engine: Any) -> tuple[str, ...]:
        names = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                names.append(name)
        unknown = sorted(set(names) - set(_DTYPES))
        if unknown or "mask" not in names:
            raise EngineError(
                f"{self._identity.path} gives {', '.join(names)}, not the outputs of our graph",
                f"run `{self._identity.command}` again",
            )
        return tuple(names)

    def _engine_profiles(self, engine: Any) -> tuple[ShapeProfile, ...]:
        profiles = []
        for index in range(engine.num_optimization_profiles):
            shapes = engine.get_tensor_profile_shape(INPUT_NAME, index)
            profiles.append(ShapeProfile.from_json([tuple(shape)[:3] for shape in shapes]))
        return tuple(profiles)

    def _allocate_scratch(self, nbytes: int) -> DeviceBuffer | None:
        try:
            return DeviceBuffer(nbytes) if nbytes else None
        except DeviceMemoryError as error:
            raise DeviceMemoryError(
                f"the engine needs {_mib(nbytes)} MiB of scratch memory on the GPU, "
                f"{_free_memory()}",
                f"free some, or run `{self._identity.command}` with a smaller --profile",
            ) from error

    def run(
        self, images: NDArray[np.uint8], ended: Callable[[str], None] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run one batch and wait for it; where asked for, also for each stage, and say so."""
        slot = self.submit(self._run_slot, images, self._one_lane)
        if ended is not None:
            slot.arrived.synchronize()
            ended(COPY_IN)
            slot.computed.synchronize()
            ended(COMPUTE)
        return self.collect(slot)

    def last_compute_seconds(self) -> float:
        """Return the device's time for computing the last batch of :meth:`run`."""
        return self._run_slot.computed.seconds_since(self._run_slot.started)

    def layer_times(self, images: NDArray[np.uint8], runs: int) -> LayerTimes:
        """Run a batch several times under TensorRT's profiler."""
        slot = self._run_slot
        self.run(images)  # the batch is on the device, and what a first run settles is settled
        profile = choose_profile(self._profiles, slot.shape)
        assert profile is not None  # the run has found one
        # Not given back: the profiler stays with a context, and the next batch makes another.
        context = self._plain_contexts.pop(profile, None) or self._new_context(profile)
        self._bind(context, slot, slot.shape)
        with self.tensorrt.layers_timed(context) as times:
            for _ in range(runs):
                self._execute(context)
                self._compute.synchronize()
            del context
        return times

    def submit(self, slot: _Slot, images: NDArray[np.uint8], lanes: _Lanes) -> _Slot:
        """Enqueue a batch; :meth:`collect` waits for it.

        Raises:
            BatchShapeError: no profile takes the shape.
            DeviceMemoryError: no room for it; the engine stays usable.
        """
        shape: BatchShape = images.shape[:3]
        profile = choose_profile(self._profiles, shape)
        if profile is None:
            raise shape_error(self._profiles, self._identity.command, shape)
        if slot.in_flight:  # left by a caller who stopped reading
            slot.returned.synchronize()
        self._make_room(slot, shape)
        slot.shape, slot.in_flight = shape, True
        try:
            slot.source = images if cuda.is_pinned(images) else None
            if slot.source is None:
                np.copyto(slot.host[INPUT_NAME].array(images.shape, images.dtype), images)
            source = slot.host[INPUT_NAME] if slot.source is None else slot.source
            lanes.copy_in.copy_in(slot.device[INPUT_NAME], source, images.nbytes)
            slot.arrived.record(lanes.copy_in)
            lanes.compute.wait(slot.arrived)
            slot.started.record(lanes.compute)
            self._enqueue(slot, shape, profile)
            slot.computed.record(lanes.compute)
            lanes.copy_out.wait(slot.computed)
            for name in self.names:
                lanes.copy_out.copy_out(slot.host[name], slot.device[name], self._size(name, shape))
            slot.returned.record(lanes.copy_out)
        except BaseException:
            # The slot must be idle before anyone writes into its buffers again.
            for stream in {id(lane): lane for lane in vars(lanes).values()}.values():
                stream.synchronize()
            slot.in_flight = False
            raise
        return slot

    def collect(self, slot: _Slot, *, copies: bool = True) -> dict[str, NDArray[Any]]:
        """Wait for a batch and return its outputs, as arrays of their own or as the slot's."""
        slot.returned.synchronize()
        slot.in_flight, slot.source = False, None
        outputs = {
            name: slot.host[name].array(self._shape(name, slot.shape), _DTYPES[name])
            for name in self.names
        }
        return {name: array.copy() for name, array in outputs.items()} if copies else outputs

    def _shape(self, name: str, shape: BatchShape) -> tuple[int, ...]:
        images, height, width = shape
        if name == "logits":
            return images, self._identity.spec.num_classes, height, width
        return shape

    def _size(self, name: str, shape: BatchShape) -> int:
        return int(np.prod(self._shape(name, shape))) * _DTYPES[name].itemsize

    def keep(self, shapes: int) -> None:
        """Keep a CUDA graph of so many shapes in every slot; never fewer than ``MAX_GRAPHS``."""
        self._max_graphs = max(MAX_GRAPHS, _SLOTS * shapes)

    def _make_room(self, slot: _Slot, shape: BatchShape) -> None:
        sizes = {INPUT_NAME: int(np.prod(shape)) * 3}
        sizes |= {name: self._size(name, shape) for name in self.names}
        if slot.fits(sizes):
            return
        # Graphs have the old addresses built in.
        self._drop_graphs([key for key in self._graphs if key[0] == slot.index])
        try:
            slot.grow(sizes)
        except DeviceMemoryError as error:
            raise DeviceMemoryError(
                f"a batch of {'x'.join(map(str, shape))} (N×H×W) needs "
                f"{_mib(sum(sizes.values()))} MiB for its inputs and outputs, {_free_memory()}",
                "use smaller batches or free memory on the GPU",
            ) from error

    def _enqueue(self, slot: _Slot, shape: BatchShape, profile: int) -> None:
        """Compute a batch: plainly the first time, then as a graph for as long as it is kept."""
        key = (slot.index, shape)
        if key in self._graphs:
            self._graphs.move_to_end(key)
            self._graphs[key][0].launch(self._compute)
            return
        context = None
        if self._shares_profiles and key in self._seen and key not in self._refused:
            # A graph keeps a context of its own: a change of its shape would break the graph.
            context = self._further_context(profile)
        if context is None:
            if profile not in self._plain_contexts:
                self._plain_contexts[profile] = self._new_context(profile)
            context = self._plain_contexts[profile]
            self._bind(context, slot, shape)
            self._execute(context)
            self._remember(self._seen, key)
            return
        self._bind(context, slot, shape)
        self._execute(context)  # serves this batch, and settles what a capture must not contain
        if not self._capture(key, context):
            # Another shape may do better; this one is not tried again and again.
            self._remember(self._refused, key)
            # The context goes with this call, and its work is on the stream.
            self._compute.synchronize()

    def _capture(self, key: tuple[int, BatchShape], context: Any) -> bool:
        """Record a context's work and keep the graph; False where that is refused."""
        if not self.tensorrt.is_capturable(context, self._compute):
            return False
        try:
            self._compute.begin_capture()
            try:
                self._execute(context)
            except FcnDeployError:
                self._compute.abandon_capture()
                raise
            graph = self._compute.end_capture()
        except FcnDeployError as error:
            api.LOGGER.info("no CUDA graph, enqueuing plainly instead: %s", error)
            return False
        self._graphs[key] = (graph, context)
        while len(self._graphs) > self._max_graphs:
            self._drop_graphs([next(iter(self._graphs))])
        return True

    def _remember(
        self,
        keys: OrderedDict[tuple[int, BatchShape], None],
        key: tuple[int, BatchShape],
    ) -> None:
        keys[key] = None
        keys.move_to_end(key)
        while len(keys) > _REMEMBERED_PER_GRAPH * self._max_graphs:
            keys.popitem(last=False)

    def _drop_graphs(self, keys: list[tuple[int, BatchShape]]) -> None:
        if keys:
            self._compute.synchronize()
        for key in keys:
            graph, _context = self._graphs.pop(key)
            graph.close()

    def _further_context(self, profile: int) -> Any | None:
        """Return one more context on a profile that has one, or None where the engine has none.

        TensorRT 8.6 gives a profile to one context only, unless built to share.
        """
        try:
            return self._new_context(profile)
        except FcnDeployError as error:
            self._shares_profiles = False  # a property of the engine: asked once
            api.LOGGER.info("no CUDA graphs, enqueuing plainly instead: %s", error)
            return None

    def _new_context(self, profile: int) -> Any:
        api.clear_errors()
        scratch = self._scratch
        context = self.tensorrt.create_context(
            self._engine,
            0 if scratch is None else scratch.pointer,
            0 if scratch is None else scratch.nbytes,
        )
        # Profile 0 too: a context starts with it only where no other context has taken it.
        if not context.set_optimization_profile_async(profile, int(self._compute.handle)):
            raise BackendError(f"TensorRT cannot switch to profile {profile}: {api.last_error()}")
        return context

    def _bind(self, context: Any, slot: _Slot, shape: BatchShape) -> None:
        """Tell a context the batch's shape and where its tensors lie; all by name."""
        api.clear_errors()
        if not context.set_input_shape(INPUT_NAME, (*shape, 3)):
            raise shape_error(self._profiles, self._identity.command, shape)
        missing = context.infer_shapes()
        if missing:
            raise BackendError(f"TensorRT lacks the shapes of {', '.join(missing)}")
        for name, buffer in slot.device.items():
            if name != INPUT_NAME:
                found, expected = tuple(context.get_tensor_shape(name)), self._shape(name, shape)
                if found != expected:
                    raise EngineError(
                        f"{self._identity.path} gives {name} of {found}, expected {expected}",
                        f"run `{self._identity.command}` again",
                    )
            if not context.set_tensor_address(name, buffer.pointer):
                raise BackendError(f"TensorRT takes no address for {name}: {api.last_error()}")

    def _execute(self, context: Any) -> None:
        api.clear_errors()
        if not context.execute_async_v3(int(self._compute.handle)):
            message = api.last_error()
            if "memory" in message.lower():
                raise DeviceMemoryError(
                    f"TensorRT ran out of memory ({message}), {_free_memory()}",
                    "use smaller batches or free memory on the GPU",
                )
            raise BackendError(f"TensorRT could not run the engine: {message}")

    def close(self) -> None:
        """Free everything on the device; calling it twice is harmless."""
        if not self._open:
            return
        self._open = False
        for stream in (self.lanes.copy_in, self.lanes.compute, self.lanes.copy_out):
            stream.synchronize()
        self._drop_graphs(list(self._graphs))
        self._plain_contexts.clear()
        for slot in (*self.stream_slots, self._run_slot):
            slot.close()
        if self._scratch is not None:
            self._scratch.close()
        for stream in (self.lanes.copy_in, self.lanes.compute, self.lanes.copy_out):
            stream.close()
        self._engine = self._runtime = None


def _mib(nbytes: int) -> int:
    return -(-nbytes // (1 << 20))


def _free_memory() -> str:
    free, total = cuda.cuda("cudaMemGetInfo")
    return f"{_mib(free)} of {_mib(total)} MiB are free"
