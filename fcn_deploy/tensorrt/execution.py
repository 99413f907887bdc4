"""Executes a TensorRT engine: contexts, CUDA graphs, streams of batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import DeviceMemoryError, EngineError, FcnDeployError
from fcn_deploy.core.spec import BatchShape, ShapeProfile
from fcn_deploy.machine import cuda
from fcn_deploy.machine.cuda import DeviceBuffer, Event, Stream
from fcn_deploy.results.runner import COMPUTE, COPY_IN, GraphCounts
from fcn_deploy.tensorrt import api, callbacks
from fcn_deploy.tensorrt.api import TensorRt
from fcn_deploy.tensorrt.buffers import INPUT_NAME, BatchBuffers, Lanes, free_memory, mib
from fcn_deploy.tensorrt.callbacks import LayerTimes
from fcn_deploy.tensorrt.engine_match import EngineIdentity, choose_profile, shape_error
from fcn_deploy.tensorrt.graphs import ShapeGraphs
from fcn_deploy.tensorrt.portability import Portability

#: Slots of an engine: two of ``stream``, one of ``run``.
_SLOTS = 3
#: A batch is enqueued plainly, then to be recorded.
_RUNS_UNTIL_A_GRAPH = 2
_DTYPES: dict[str, np.dtype[Any]] = {
    "mask": np.dtype(np.uint8),
    "logits": np.dtype(np.float32),
    "margin": np.dtype(np.float32),
}


@dataclass(frozen=True)
class LaunchLatency:
    """The device's time for a batch among launches in a row.

    Attributes:
        seconds: of one.
        graph: whether a CUDA graph was launched; else the work was enqueued plainly, and where the
            host needs longer for that than the device for the work, this is the host's time.
    """

    seconds: float
    graph: bool


class DeviceEngine:
    """An engine in device memory, with the contexts, slots and graphs that run it.

    All contexts share one piece of scratch memory: whatever runs, runs on the compute stream, one
    after the other.
    """

    def __init__(self, identity: EngineIdentity) -> None:
        self._identity = identity
        self.tensorrt: TensorRt = api.load(identity.product)
        trt = self.tensorrt.trt
        cuda.memory_in_use()  # starts CUDA where a failure is an error: 8.6's runtime would crash
        driver_serves = identity.is_served_by(cuda.describe_gpu().driver)
        runtime = self.tensorrt.create_runtime(driver_serves=driver_serves)
        callbacks.clear_errors()
        if identity.portable is Portability.VERSION:
            self.tensorrt.allow_host_code(runtime)
        engine = runtime.deserialize_cuda_engine(identity.path.read_bytes())
        if engine is None:
            raise EngineError(
                f"{self.tensorrt.label} cannot load {identity.path}: {callbacks.last_error()}",
                f"run `{identity.command}` here",
            )
        self._runtime, self._engine = runtime, engine
        self.names = self._output_names(trt, engine)
        self._profiles = identity.profiles or self._engine_profiles(engine)
        self._plain_contexts: dict[int, Any] = {}
        #: Why the engine gives a profile to one context alone; None where that is not known.
        self._sharing_problem: str | None = None
        self._scratch = self._allocate_scratch(self.tensorrt.scratch_bytes(engine))
        self.lanes = Lanes(Stream(), Stream(), Stream())
        self._compute = self.lanes.compute
        self._graphs = ShapeGraphs(self._compute)
        self._one_lane = Lanes(self._compute, self._compute, self._compute)
        self.stream_slots = (BatchBuffers(0), BatchBuffers(1))
        self._run_slot = BatchBuffers(2)
        self._open = True

    def _output_names(self, trt: Any, engine: Any) -> tuple[str, ...]:
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        outputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT]
        inputs = [name for name in names if name not in outputs]
        if inputs != [INPUT_NAME] or "mask" not in outputs or set(outputs) - set(_DTYPES):
            raise EngineError(
                f"{self._identity.path} takes {', '.join(inputs)} and gives {', '.join(outputs)}, "
                "not what our graph takes and gives",
                f"run `{self._identity.command}` again",
            )
        return tuple(outputs)

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
                f"the engine needs {mib(nbytes)} MiB of scratch memory on the GPU, {free_memory()}",
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

    def launch_latency(self, images: NDArray[np.uint8], launches: int) -> LaunchLatency:
        """Compute a batch so many times in a row and return the device's time for one.

        Between the two marks nothing is copied, and the device does not wait for the host: while
        one launch runs, the next is handed in.
        """
        slot = self._run_slot
        for _ in range(_RUNS_UNTIL_A_GRAPH):
            self.run(images)
        graph = self._graphs.find((slot.index, slot.shape))
        if graph is not None:
            launch = partial(graph.launch, self._compute)
        else:
            profile = choose_profile(self._profiles, slot.shape)
            assert profile is not None  # the runs have found one
            context = self._plain_context(profile)
            self._bind(context, slot, slot.shape)
            launch = partial(self._execute, context)
        started, ended = Event(), Event()
        try:
            launch()  # the device is still busy with this one when the first mark is handed in
            started.record(self._compute)
            for _ in range(launches):
                launch()
            ended.record(self._compute)
            ended.synchronize()
            return LaunchLatency(ended.seconds_since(started) / launches, graph is not None)
        finally:
            started.close()
            ended.close()

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

    def submit(self, slot: BatchBuffers, images: NDArray[np.uint8], lanes: Lanes) -> BatchBuffers:
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

    def collect(self, slot: BatchBuffers, *, copies: bool = True) -> dict[str, NDArray[Any]]:
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

    def reserve_shapes(self, shapes: int) -> None:
        """Keep a CUDA graph of so many shapes in every slot; never fewer than ``MAX_GRAPHS``."""
        self._graphs.reserve(_SLOTS * shapes)

    def graph_counts(self) -> GraphCounts:
        """Return how many recordings have become CUDA graphs so far, and how many were refused."""
        return GraphCounts(self._graphs.recorded, self._graphs.refused)

    def _make_room(self, slot: BatchBuffers, shape: BatchShape) -> None:
        sizes = {INPUT_NAME: int(np.prod(shape)) * 3}
        sizes |= {name: self._size(name, shape) for name in self.names}
        if slot.fits(sizes):
            return
        # Graphs have the old addresses built in.
        self._graphs.drop_slot(slot.index)
        try:
            slot.grow(sizes)
        except DeviceMemoryError as error:
            raise DeviceMemoryError(
                f"a batch of {'x'.join(map(str, shape))} (N×H×W) needs "
                f"{mib(sum(sizes.values()))} MiB for its inputs and outputs, {free_memory()}",
                "use smaller batches or free memory on the GPU",
            ) from error

    def _enqueue(self, slot: BatchBuffers, shape: BatchShape, profile: int) -> None:
        """Compute a batch: plainly the first time, then as a graph for as long as it is kept."""
        key = (slot.index, shape)
        graph = self._graphs.find(key)
        if graph is not None:
            graph.launch(self._compute)
            return
        if not self._graphs.is_due(key) or not self._enqueue_recorded(slot, shape, profile):
            self._enqueue_plainly(slot, shape, profile)
            self._graphs.see(key)

    def _enqueue_plainly(self, slot: BatchBuffers, shape: BatchShape, profile: int) -> None:
        context = self._plain_context(profile)
        self._bind(context, slot, shape)
        self._execute(context)

    def _plain_context(self, profile: int) -> Any:
        if profile not in self._plain_contexts:
            self._plain_contexts[profile] = self._new_context(profile)
        return self._plain_contexts[profile]

    def _enqueue_recorded(self, slot: BatchBuffers, shape: BatchShape, profile: int) -> bool:
        """Compute a batch and keep its work as a graph; False: this batch is not computed yet."""
        # A graph keeps a context of its own: a change of its shape would break the graph.
        key = (slot.index, shape)
        context = self._further_context(profile)
        if context is None:
            self._graphs.refuse(key, str(self._sharing_problem))
            return False
        try:
            self._bind(context, slot, shape)
            self._execute(context)  # serves this batch, and settles what a capture must not contain
        except FcnDeployError as error:  # the first context on this profile may still run it
            self._compute.synchronize()
            self._graphs.refuse(key, str(error))
            return False
        if not self.tensorrt.is_capturable(context, self._compute):
            self._graphs.refuse(key, "TensorRT says that it cannot be captured")
        elif self._graphs.record(key, context, lambda: self._execute(context)):
            return True
        # The context goes with this call, and its work is on the stream.
        self._compute.synchronize()
        return True

    def _further_context(self, profile: int) -> Any | None:
        """Return one more context on a profile that has one, or None where the engine has none.

        TensorRT 8.6 gives a profile to one context only, unless built to share.
        """
        if self._sharing_problem is not None:  # a property of the engine: asked once
            return None
        try:
            return self._new_context(profile)
        except FcnDeployError as error:
            # As text: a record of the error itself would keep the refused context alive.
            self._sharing_problem = str(error)
            return None

    def _new_context(self, profile: int) -> Any:
        scratch = self._scratch
        context = self.tensorrt.create_context(
            self._engine,
            0 if scratch is None else scratch.pointer,
            0 if scratch is None else scratch.nbytes,
        )
        # Profile 0 too: a context starts with it only where no other context has taken it.
        self.tensorrt.set_profile(context, profile, self._compute)
        return context

    def _bind(self, context: Any, slot: BatchBuffers, shape: BatchShape) -> None:
        """Tell a context the batch's shape and where its tensors lie; all by name."""
        tensorrt = self.tensorrt
        if not tensorrt.set_input_shape(context, INPUT_NAME, (*shape, 3)):
            raise shape_error(self._profiles, self._identity.command, shape)
        tensorrt.infer_shapes(context)
        for name, buffer in slot.device.items():
            if name != INPUT_NAME:
                found, expected = tensorrt.tensor_shape(context, name), self._shape(name, shape)
                if found != expected:
                    raise EngineError(
                        f"{self._identity.path} gives {name} of {found}, expected {expected}",
                        f"run `{self._identity.command}` again",
                    )
            tensorrt.set_address(context, name, buffer.pointer)

    def _execute(self, context: Any) -> None:
        self.tensorrt.execute(context, self._compute)

    def close(self) -> None:
        """Free everything on the device; calling it twice is harmless."""
        if not self._open:
            return
        self._open = False
        for stream in (self.lanes.copy_in, self.lanes.compute, self.lanes.copy_out):
            stream.synchronize()
        self._graphs.close()
        self._plain_contexts.clear()
        for slot in (*self.stream_slots, self._run_slot):
            slot.close()
        if self._scratch is not None:
            self._scratch.close()
        for stream in (self.lanes.copy_in, self.lanes.compute, self.lanes.copy_out):
            stream.close()
        self._engine = self._runtime = None
