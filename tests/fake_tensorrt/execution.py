"""The fake runtime: engines, their contexts, and what they compute.

A call that fails answers as the real binding's does (``python/src/infer/pyCore.cpp`` of TensorRT):
``set_optimization_profile_async`` and ``infer_shapes`` raise, the others return False or None, and
a shape that is not known is one of length -1.
"""

from __future__ import annotations

import json
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.fake_tensorrt.release import Member

if TYPE_CHECKING:
    from tests.fake_tensorrt import FakeTensorRt

NUM_CLASSES = 5
SCRATCH_BYTES = 4096
#: What its profiler tells of each run, in milliseconds.
LAYER_MS = {"conv": 0.25, "argmax": 0.125}


class _UnknownShape:
    """A shape of which TensorRT knows nothing: ``tuple`` of it is a ``ValueError``."""

    def __len__(self) -> int:
        return -1


class _IProfiler:
    def __init__(self) -> None:
        pass


class _Runtime:
    _trt: FakeTensorRt
    engine_host_code_allowed = False

    def __init__(self, logger: Any) -> None:
        self._trt._start(logger, "runtime")
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        content = json.loads(bytes(plan)[28:])
        carries_code = content.get("version_compatible") and not self.engine_host_code_allowed
        if carries_code or not self._trt._loads_engines:
            self._logger.log(self._trt.ILogger.ERROR, "The engine cannot be deserialized.")
            return None
        engine = self._trt.ICudaEngine()
        engine._logger, engine._users = self._logger, weakref.WeakSet()
        engine._plan = content
        return engine


class _ICudaEngine:
    _trt: FakeTensorRt
    _plan: dict[str, Any]
    _logger: Any
    _users: weakref.WeakSet[Any]

    device_memory_size = device_memory_size_v2 = SCRATCH_BYTES

    @property
    def num_io_tensors(self) -> int:
        return 1 + len(self._plan["outputs"])

    def get_tensor_name(self, index: int) -> str:
        return [self._input, *self._plan["outputs"]][index]

    @property
    def _input(self) -> str:
        return str(self._plan.get("input", "image"))

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        return modes.INPUT if name == self._input else modes.OUTPUT

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._plan["profiles"])

    def get_tensor_profile_shape(self, name: str, index: int) -> Any:
        if name != self._input:
            return [_UnknownShape()] * 3
        return self._plan["profiles"][index]

    def create_engine_inspector(self) -> Any:
        inspector = self._trt.EngineInspector()
        inspector._plan, inspector._trt = self._plan, self._trt
        return inspector

    def create_execution_context(self, strategy: Member | None = None) -> Any:
        assert strategy is not None, "an engine's own scratch memory would be one per context"
        assert strategy.name == "USER_MANAGED"
        return self._context()

    def create_execution_context_without_device_memory(self) -> Any:
        return self._context()

    def _context(self) -> Any:
        context = self._trt.IExecutionContext()
        context._plan, context._engine = self._plan, self
        context._number = self._trt._calls.count("context")
        context._profile = -1 if self._is_taken(0) else 0
        self._users.add(context)
        self._trt._contexts.add(context)
        self._trt._calls.append("context")
        return context

    def _is_taken(self, profile: int) -> bool:
        """Whether a live context keeps the profile from others: the rule of 8.6."""
        if self._plan["shared"]:
            return False
        return any(context._profile == profile for context in self._users)


class _EngineInspector:
    _plan: dict[str, Any]
    _trt: FakeTensorRt
    execution_context: Any = None

    def get_engine_information(self, layer_format: Member) -> str:
        assert layer_format.name == "JSON"
        if self._trt._inspector is not None:
            return str(self._trt._inspector())
        if not self._plan["detailed"]:
            return json.dumps({"Layers": ["conv"]})
        kind = f"Row major linear {'FP16' if self._plan['half'] else 'FP32'} format"
        source = "Row major linear Int8 format" if self._plan["integers"] else ""
        # As an H100 with 8.6.0 showed it.
        old = self._trt.__version__.startswith("8.")
        if old and (self.execution_context is None or not self.execution_context._shape):
            kind, source = "N/A due to dynamic shapes", ""
        # 11.x tells type and format apart.
        field = "DataType" if self._trt.__version__.startswith("11.") else "Format/Datatype"
        layer: dict[str, Any] = {"Name": "conv", "Outputs": [{field: kind}]}
        if source:
            layer["Inputs"] = [{field: source}]
        information = json.dumps({"Layers": [layer], "Metadata": "one\nother"})
        return information.replace("\\n", "\n") if old else information


class _IExecutionContext:
    _trt: FakeTensorRt
    _plan: dict[str, Any]
    _engine: Any

    def __init__(self) -> None:
        self._profile = self._scratch = self._changes = 0
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}
        self.profiler: Any = None

    def set_device_memory(self, pointer: int, nbytes: int) -> None:
        assert nbytes >= SCRATCH_BYTES
        self._scratch = pointer

    device_memory = property(None, lambda self, pointer: setattr(self, "_scratch", pointer))

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        if profile != self._profile and self._engine._is_taken(profile):
            self._engine._logger.log(
                self._trt.ILogger.ERROR,
                f"Profile {profile} has been chosen by another IExecutionContext.",
            )
            raise RuntimeError("Error in set optimization profile async.")
        if profile >= len(self._plan["profiles"]):
            raise RuntimeError("Error in set optimization profile async.")
        self._profile = profile
        return True  # whatever happens: a failure is raised

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self._profile < 0:
            return False
        low, _, high = self._plan["profiles"][self._profile]
        self._changes += 1
        self._shape = tuple(shape)
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def infer_shapes(self) -> list[str]:
        return [] if self._shape else ["image"]

    def get_tensor_shape(self, name: str) -> Any:
        if not self._shape or name not in ["image", *self._plan["outputs"]]:
            return _UnknownShape()
        batch, height, width, _ = self._shape
        return (batch, NUM_CLASSES, height, width) if name == "logits" else (batch, height, width)

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self._addresses[name] = pointer
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return self._trt._capturable

    def _refusal(self, captured: bool, idle: bool) -> str | None:
        if captured and not idle:  # what the first enqueue has begun is not settled yet
            return "IExecutionContext::enqueueV3: operation not permitted when stream is capturing"
        first = min(self._engine._users, key=lambda context: context._number)
        if not self._trt._further_contexts_run and first is not self:
            return "IExecutionContext::enqueueV3: the scratch memory is another context's"
        return None

    def execute_async_v3(self, stream: int) -> bool:
        cuda, shape, addresses = self._trt._cuda, self._shape, dict(self._addresses)
        assert self._scratch
        scratch, captured, changes = self._scratch, cuda.is_capturing(stream), self._changes
        refused = self._refusal(captured, cuda.is_idle(stream))
        if refused is not None:
            self._engine._logger.log(self._trt.ILogger.ERROR, refused)
            return False
        # Weakly: work on a stream keeps no context alive, and needs it.
        alive = weakref.ref(self)

        def compute() -> None:
            context = alive()
            assert context is not None, "a context was destroyed before its work was done"
            # A graph is valid only as long as its context stays as it was when recorded.
            assert not captured or context._changes == changes
            cuda.bytes_at(scratch, SCRATCH_BYTES)
            cuda.clock += 100
            size = int(np.prod(shape))
            image = np.ctypeslib.as_array(cuda.bytes_at(addresses["image"], size)).reshape(shape)
            logits = fake_logits(image)
            results = {"mask": fake_mask(image), "logits": logits}
            for name, pointer in addresses.items():
                if name != "image":
                    content = np.ascontiguousarray(results[name])
                    np.ctypeslib.as_array(cuda.bytes_at(pointer, content.nbytes))[:] = (
                        np.frombuffer(content.tobytes(), np.uint8)
                    )

        cuda.enqueue(stream, compute)
        self._trt._calls.append("execute")
        if self.profiler is not None:  # the real one waits for the layers, to tell their times
            assert not captured
            cuda.cudaStreamSynchronize(stream)
            for name, ms in LAYER_MS.items():
                self.profiler.report_layer_time(name, ms)
        return True


def fake_mask(images: Any) -> Any:
    """The mask that a fake engine gives: uint8 [N, H, W]."""
    return (images.astype(np.int64).sum(axis=3) % NUM_CLASSES).astype(np.uint8)


def fake_logits(images: Any) -> Any:
    """Its logits: float32 [N, C, H, W], 1 for the mask's class and 0 for the others."""
    classes = np.arange(NUM_CLASSES)[None, :, None, None]
    return (fake_mask(images)[:, None] == classes).astype(np.float32)
