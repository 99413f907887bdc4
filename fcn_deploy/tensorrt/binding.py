"""The calls that load and run an engine, for every release: the half of ``api`` that executes.

``api.TensorRt`` inherits them and adds what builds engines; differences between the releases are
asked by name here as there.

TensorRT's library answers a call that fails with false or null, and its Python binding passes some
of these answers on and raises at others: ``set_optimization_profile_async`` and ``infer_shapes``
raise ``RuntimeError`` in every release.  Whichever it is, it comes as an error of ours from here.

Where TensorRT cannot start CUDA (its driver is too old for it, though ``cuda-bindings`` may work),
``Builder(logger)`` is a ``TypeError``, and so is ``Runtime(logger)``, but for 8.6's: that one ends
the process.  Both are made here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fcn_deploy.core.errors import BackendError, DeviceMemoryError
from fcn_deploy.machine.cuda import Stream
from fcn_deploy.tensorrt.buffers import free_memory
from fcn_deploy.tensorrt.callbacks import (
    LayerTimes,
    clear_errors,
    last_error,
    layer_profiler,
    logged_messages,
    logger,
)

#: What pybind's wrappers raise: for a call that failed, for arguments or an answer that do not fit.
_RAISED = (RuntimeError, TypeError, ValueError)
#: What TensorRT says where it cannot start CUDA, before the number of CUDA's error.
_CUDA_START = "CUDA initialization failure"


class Binding:
    """TensorRT's Python module, and the calls that run an engine.

    Attributes:
        trt: the module, ``tensorrt`` or ``tensorrt_rtx_bindings``.
        label: product and version, for people.
        logger: TensorRT's own, one per process; its messages go to ``logging``.
    """

    def __init__(self, trt: Any, label: str) -> None:
        self.trt = trt
        self.label = label
        self.logger = logger(trt)
        #: Whether this process has seen TensorRT start CUDA.
        self._has_started_cuda = False

    def create_builder(self) -> Any:
        """Return TensorRT's builder.

        Raises:
            BackendError: TensorRT cannot start CUDA, or lacks the library of its builder.
        """
        trt = self.trt
        clear_errors()
        with logged_messages("") as messages:
            try:
                builder = trt.Builder(self.logger)
            except TypeError as error:
                raise self._start_error("builder", messages) from error
        self._has_started_cuda = True
        return builder

    def create_runtime(self, *, driver_serves: bool = False) -> Any:
        """Return TensorRT's runtime.

        Args:
            driver_serves: this release is known to start CUDA under this machine's driver.

        Raises:
            BackendError: TensorRT cannot start CUDA.
        """
        trt = self.trt
        # 8.6, which has no STRONGLY_TYPED.  A builder may fail there; but it loads kernels, for
        # seconds and for good, so it is not made where the answer is known.
        ends_the_process = not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
        if ends_the_process and not driver_serves and not self._has_started_cuda:
            try:
                self.create_builder()
            except BackendError:
                if not self._has_started_cuda:
                    raise
        clear_errors()
        with logged_messages("") as messages:
            try:
                runtime = trt.Runtime(self.logger)
            except TypeError as error:
                raise self._start_error("runtime", messages) from error
        self._has_started_cuda = True
        return runtime

    def allow_host_code(self, runtime: Any) -> None:
        """Let a runtime load a plan that carries a runtime of its own: code that the host runs."""
        if hasattr(runtime, "engine_host_code_allowed"):
            runtime.engine_host_code_allowed = True

    def _start_error(self, what: str, messages: list[str]) -> BackendError:
        said = last_error()
        if "load library" in said:
            self._has_started_cuda = True  # it comes first, and a runtime does without that library
            return BackendError(
                f"{self.label} made no {what}: {said}",
                "install all libraries of that TensorRT, where the loader looks for them",
            )
        # It complains of CUDA's start in a warning, which is no last error.
        said = next((text for text in reversed(messages) if _CUDA_START in text), said)
        return BackendError(
            f"{self.label} cannot use this GPU's driver: {said}",
            "update the NVIDIA driver, or install a TensorRT for the CUDA version that the driver "
            "supports (see `nvidia-smi`)",
        )

    @contextmanager
    def call(self, failure: str) -> Iterator[None]:
        """Let what a call raises come as our error, with what TensorRT logged in the meantime.

        Args:
            failure: what it then means, to go on behind the product's name.

        Raises:
            BackendError: the call raised.
        """
        clear_errors()
        silence = last_error()
        try:
            yield
        except _RAISED as error:
            said = last_error()
            if said == silence:
                said = str(error)
            raise BackendError(f"{self.label} {failure}: {said}") from error

    def scratch_bytes(self, engine: Any) -> int:
        """Return the device memory that one execution needs beside inputs and outputs."""
        if hasattr(engine, "device_memory_size_v2"):
            return int(engine.device_memory_size_v2)
        if hasattr(engine, "device_memory_size"):
            return int(engine.device_memory_size)
        raise BackendError(f"{self.label} does not tell its engine's memory")

    def create_context(self, engine: Any, scratch: int, nbytes: int) -> Any:
        """Return an execution context on scratch memory of ours, so that contexts can share it.

        Args:
            engine: what to execute.
            scratch: address of device memory, or 0 where the engine needs none.
            nbytes: its size.

        Raises:
            BackendError: TensorRT made no context.
        """
        trt = self.trt
        with self.call("made no execution context"):
            if hasattr(trt, "ExecutionContextAllocationStrategy"):
                context = engine.create_execution_context(
                    trt.ExecutionContextAllocationStrategy.USER_MANAGED
                )
            elif hasattr(engine, "create_execution_context_without_device_memory"):
                context = engine.create_execution_context_without_device_memory()
            else:
                context = None
        if context is None:
            raise BackendError(f"{self.label} made no execution context: {last_error()}")
        if scratch:
            with self.call("takes no scratch memory"):
                if hasattr(context, "set_device_memory"):
                    context.set_device_memory(scratch, nbytes)
                else:
                    context.device_memory = scratch
        return context

    def set_profile(self, context: Any, profile: int, stream: Stream) -> None:
        """Let a context take the shapes of a profile.

        Raises:
            BackendError: another context has the profile, and the engine does not share it.
        """
        with self.call(f"cannot switch to profile {profile}"):
            context.set_optimization_profile_async(profile, int(stream.handle))

    def set_input_shape(self, context: Any, name: str, shape: tuple[int, ...]) -> bool:
        """Tell a context the shape of an input; False: its profile does not hold it."""
        with self.call(f"takes no shape for {name}"):
            return bool(context.set_input_shape(name, shape))

    def infer_shapes(self, context: Any) -> None:
        """Let a context work out the shapes that follow from those of the inputs.

        Raises:
            BackendError: it cannot, or lacks the shape of an input.
        """
        with self.call("cannot infer the shapes"):
            missing = context.infer_shapes()
        if missing:
            raise BackendError(f"{self.label} lacks the shapes of {', '.join(missing)}")

    def tensor_shape(self, context: Any, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, as it follows from those of the inputs.

        Raises:
            BackendError: it is not known; TensorRT answers with a shape of length -1.
        """
        with self.call(f"knows no shape of {name}"):
            return tuple(context.get_tensor_shape(name))

    def set_address(self, context: Any, name: str, pointer: int) -> None:
        """Tell a context where a tensor lies.

        Raises:
            BackendError: it takes no such address.
        """
        with self.call(f"takes no address for {name}"):
            taken = context.set_tensor_address(name, pointer)
        if not taken:
            raise BackendError(f"{self.label} takes no address for {name}: {last_error()}")

    def execute(self, context: Any, stream: Stream) -> None:
        """Enqueue a context's work.

        Raises:
            DeviceMemoryError: TensorRT ran out of memory.
            BackendError: it cannot run for another reason.
        """
        with self.call("could not run the engine"):
            enqueued = context.execute_async_v3(int(stream.handle))
        if enqueued:
            return
        message = last_error()
        if "memory" in message.lower():
            raise DeviceMemoryError(
                f"TensorRT ran out of memory ({message}), {free_memory()}",
                "use smaller batches or free memory on the GPU",
            )
        raise BackendError(f"{self.label} could not run the engine: {message}")

    @contextmanager
    def layers_timed(self, context: Any) -> Iterator[LayerTimes]:
        """Collect the time of each layer whenever the context runs.

        It runs slower so, and each run waits for its end.  The context keeps its profiler: let go
        of it before this ends.
        """
        times: LayerTimes = {}
        profiler = layer_profiler(self.trt.IProfiler, times)
        context.profiler = profiler
        yield times
        del profiler  # the context only borrows it

    def is_capturable(self, context: Any, stream: Stream) -> bool:
        """Say whether the context's work can be recorded in a CUDA graph."""
        if hasattr(context, "is_stream_capturable"):
            with self.call("does not tell whether a stream can be captured"):
                return bool(context.is_stream_capturable(int(stream.handle)))
        return True
