"""The calls that load and run an engine, for every release: the half of ``api`` that executes.

``api.TensorRt`` inherits them and adds what builds engines; differences between the releases are
asked by name here as there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fcn_deploy.core.errors import BackendError
from fcn_deploy.machine.cuda import Stream
from fcn_deploy.tensorrt.callbacks import LayerTimes, last_error, layer_profiler, logger


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
            if hasattr(context, "set_device_memory"):
                context.set_device_memory(scratch, nbytes)
            else:
                context.device_memory = scratch
        return context

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
            return bool(context.is_stream_capturable(int(stream.handle)))
        return True
