"""A TensorRT that offers exactly the names of one release, and a network simple enough to check.

The names come from ``tests/fixtures/trt-api/*.json``: a name that a release lacks raises
``AttributeError``, when it is read and when it is set.  Its "engine" gives each pixel the class
``(R + G + B) mod C``.
"""

from __future__ import annotations

import json
import struct
import weakref
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx

from tests.fake_cuda import FakeCuda

API_FOLDER = Path(__file__).parent / "fixtures" / "trt-api"
RELEASES = ("8.6.0", "10.16.1", "11.4.0", "rtx-1.7.1")
NUM_CLASSES = 5
SCRATCH_BYTES = 4096
#: What its profiler tells of each run, in milliseconds.
LAYER_MS = {"conv": 0.25, "argmax": 0.125}


@cache
def api(release: str) -> dict[str, list[str]]:
    """Names of each class of a release."""
    content: dict[str, Any] = json.loads((API_FOLDER / f"{release}.json").read_text())
    classes: dict[str, list[str]] = content["classes"]
    return classes


def version_of(release: str) -> str:
    """The full version of a release."""
    return str(json.loads((API_FOLDER / f"{release}.json").read_text())["version"])


class Member(int):
    """A member of an enumeration."""

    name: str


def _enumeration(name: str, members: list[str]) -> type:
    made = {}
    for value, member in enumerate(members):
        made[member] = Member(value)
        made[member].name = member
    return type(name, (), made)


def _restricted(behaviour: type, name: str, allowed: list[str]) -> type:
    """A class whose instances have the names of the release and no others."""

    def check(attribute: str) -> None:
        if not attribute.startswith("_") and attribute not in allowed:
            raise AttributeError(f"{name} of this release has no {attribute}")

    def read(self: Any, attribute: str) -> Any:
        check(attribute)
        return object.__getattribute__(self, attribute)

    def write(self: Any, attribute: str, value: Any) -> None:
        check(attribute)
        object.__setattr__(self, attribute, value)

    return type(name, (behaviour,), {"__getattribute__": read, "__setattr__": write})


class FakeTensorRt(ModuleType):
    """The module of one release.

    Args:
        release: of :data:`RELEASES`.
        cuda: the device that its engines run on.
    """

    def __init__(self, release: str, cuda: FakeCuda) -> None:
        super().__init__("tensorrt_rtx_bindings" if release.startswith("rtx") else "tensorrt")
        self.__spec__ = ModuleSpec(self.__name__, None)
        self.__version__ = version_of(release)
        self._release, self._cuda = release, cuda
        self._half_layers = True
        self._calls: list[str] = []
        self._capturable = True
        self._contexts: weakref.WeakSet[Any] = weakref.WeakSet()
        behaviours = {cls.__name__.removeprefix("_"): cls for cls in _BEHAVIOURS}
        for name, members in api(release).items():
            if name in behaviours:
                made = _restricted(behaviours[name], name, members)
                made._trt = self  # type: ignore[attr-defined]
                if name == "ILogger":
                    for value, level in enumerate(("INTERNAL_ERROR", "ERROR", "WARNING", "INFO")):
                        setattr(made, level, value)
                    made.VERBOSE = 4  # type: ignore[attr-defined]
            else:
                made = _enumeration(name, members)
            setattr(self, name, made)

    @property
    def _strongly_typed(self) -> bool:
        return self._release != "8.6.0"


class _ILogger:
    def __init__(self) -> None:
        pass


class _IProgressMonitor:
    def __init__(self) -> None:
        pass


class _IProfiler:
    def __init__(self) -> None:
        pass


class _Builder:
    _trt: FakeTensorRt

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> Any:
        network = self._trt.INetworkDefinition()
        network._flags = flags
        return network

    def create_builder_config(self) -> Any:
        return self._trt.IBuilderConfig()

    def create_optimization_profile(self) -> Any:
        return self._trt.IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        trt = self._trt
        flags = api(trt._release)["NetworkDefinitionCreationFlag"]
        if trt._release == "8.6.0":
            assert network._flags == 1 << flags.index("EXPLICIT_BATCH")
        elif trt._release == "10.16.1":
            assert network._flags == 1 << flags.index("STRONGLY_TYPED")
        else:
            assert network._flags == 0
        half = network._half and trt._half_layers
        if not trt._strongly_typed:
            half = half and "FP16" in config._flags
        monitor = config._settings.get("progress_monitor")
        if monitor is not None:
            monitor.phase_start("Building", None, 2)
            for step in range(2):
                if not monitor.step_complete("Building", step):
                    return None
            monitor.phase_finish("Building")
        kind = "Half" if half else "Float"
        self._logger.log(
            trt.ILogger.VERBOSE,
            "Layers:\nName: conv, LayerType: correlation, Inputs: [ { Name: image, Datatype: UInt8,"
            " Format: Linear }], Constants: [ { Name: w, Datatype: Float }], Outputs: [ { Name: x,"
            f" Datatype: {kind}, Format: Linear }}], TacticName: t, StreamId: 0",
        )
        payload = {
            "profiles": config._profiles,
            "outputs": network._outputs,
            "half": half,
            "detailed": config._settings["profiling_verbosity"].name == "DETAILED",
            "shared": trt._release != "8.6.0" or "PROFILE_SHARING_0806" in config._features,
        }
        numbers = [*map(int, trt.__version__.split(".")), 0][:4]  # noqa: RUF048 - whole numbers here
        tag = b"vtrt" if trt._release.startswith("rtx") else b"ftrt"
        return tag + bytes(20) + struct.pack("4B", *numbers) + json.dumps(payload).encode()


class _IBuilderConfig:
    _trt: FakeTensorRt

    def __init__(self) -> None:
        self._flags: set[str] = {"TF32"}
        self._profiles: list[Any] = []
        self._settings: dict[str, Any] = {}
        # On for good in 10.x; later releases have forgotten the name.
        self._features = {"PROFILE_SHARING_0806"} if self._trt._release == "10.16.1" else set()
        self._capabilities: dict[int, str] = {}
        self._sources = (1 << len(api(self._trt._release)["TacticSource"])) - 1
        self._cache: Any = None

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile._shapes)
        return len(self._profiles) - 1

    def set_flag(self, flag: Member) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: Member) -> None:
        self._flags.discard(flag.name)

    def get_preview_feature(self, feature: Member) -> bool:
        return feature.name in self._features

    def set_preview_feature(self, feature: Member, enable: bool) -> None:
        assert enable
        self._features.add(feature.name)
        self._trt._calls.append(f"preview {feature.name}")

    def get_tactic_sources(self) -> int:
        return self._sources

    def set_tactic_sources(self, sources: int) -> bool:
        self._sources = sources
        self._trt._calls.append(f"set_tactic_sources {sources:b}")
        return True

    def set_memory_pool_limit(self, pool: Member, nbytes: int) -> None:
        self._trt._calls.append(f"{pool.name} {nbytes}")

    def set_compute_capability(self, capability: Member, index: int) -> bool:
        self._trt._calls.append(f"capability {capability.name}")
        return True

    def create_timing_cache(self, content: bytes) -> Any:
        cache = self._trt.ITimingCache()
        cache._content = content
        return cache

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache._content.startswith(b"foreign"):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache

    def _setting(name: str) -> Any:  # type: ignore[misc]  # noqa: N805
        def write(self: Any, value: Any) -> None:
            self._settings[name] = value

        return property(lambda self: self._settings.get(name), write)

    profiling_verbosity = _setting("profiling_verbosity")
    builder_optimization_level = _setting("builder_optimization_level")
    progress_monitor = _setting("progress_monitor")
    num_compute_capabilities = _setting("num_compute_capabilities")


class _ITimingCache:
    _content = b""

    def serialize(self) -> bytes:
        return self._content + b" timed"


class _IOptimizationProfile:
    def set_shape(self, name: str, low: Any, typical: Any, high: Any) -> None:
        assert name == "image"
        self._shapes = [list(low), list(typical), list(high)]


class _INetworkDefinition:
    _trt: FakeTensorRt
    _flags = 0
    _half = False
    _outputs: list[str] = []  # noqa: RUF012

    num_inputs = 1

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def _tensor(self, name: str, kind: str, shape: tuple[int, ...]) -> Any:
        tensor = self._trt.ITensor()
        tensor.name, tensor.dtype, tensor.shape = name, getattr(self._trt.DataType, kind), shape
        return tensor

    def get_input(self, index: int) -> Any:
        return self._tensor("image", "UINT8", (-1, -1, -1, 3))

    def get_output(self, index: int) -> Any:
        name = self._outputs[index]
        return self._tensor(name, "UINT8" if name == "mask" else "FLOAT", (-1, -1, -1))


class _ITensor:
    pass


class _OnnxParser:
    _trt: FakeTensorRt

    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._errors = network, []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def parse(self, content: bytes) -> bool:
        model = onnx.load_from_string(content)
        self._network._outputs = [output.name for output in model.graph.output]
        self._network._half = any(
            tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer
        )
        for index, node in enumerate(model.graph.node):
            if node.op_type == "Unheard":
                problem = self._trt.ParserError()
                problem._index, problem._node = index, node
                self._errors.append(problem)
        return not self._errors


class _ParserError:
    _index: int
    _node: Any

    def desc(self) -> str:
        return "no importer\nfor this operator"

    def node(self) -> int:
        return self._index

    def node_name(self) -> str:
        return str(self._node.name)

    def node_operator(self) -> str:
        return str(self._node.op_type)


class _Runtime:
    _trt: FakeTensorRt

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        engine = self._trt.ICudaEngine()
        engine._logger, engine._users = self._logger, weakref.WeakSet()
        engine._plan = json.loads(bytes(plan)[28:])
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
        return ["image", *self._plan["outputs"]][index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        return modes.INPUT if name == "image" else modes.OUTPUT

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._plan["profiles"])

    def get_tensor_profile_shape(self, name: str, index: int) -> Any:
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
        if not self._plan["detailed"]:
            return json.dumps({"Layers": ["conv"]})
        kind = f"Row major linear {'FP16' if self._plan['half'] else 'FP32'} format"
        # As an H100 with 8.6.0 showed it.
        old = self._trt.__version__.startswith("8.")
        if old and (self.execution_context is None or not self.execution_context._shape):
            kind = "N/A due to dynamic shapes"
        layer = {"Name": "conv", "Outputs": [{"Format/Datatype": kind}]}
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
            return False
        self._profile = profile
        return profile < len(self._plan["profiles"])

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self._profile < 0:
            return False
        low, _, high = self._plan["profiles"][self._profile]
        self._changes += 1
        self._shape = tuple(shape)
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def infer_shapes(self) -> list[str]:
        return [] if self._shape else ["image"]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch, height, width, _ = self._shape
        return (batch, NUM_CLASSES, height, width) if name == "logits" else (batch, height, width)

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self._addresses[name] = pointer
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return self._trt._capturable

    def execute_async_v3(self, stream: int) -> bool:
        cuda, shape, addresses = self._trt._cuda, self._shape, dict(self._addresses)
        assert self._scratch
        scratch, captured, changes = self._scratch, cuda.is_capturing(stream), self._changes
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


_BEHAVIOURS = (
    _ILogger, _IProgressMonitor, _IProfiler, _Builder, _IBuilderConfig, _ITimingCache,
    _IOptimizationProfile, _INetworkDefinition, _ITensor, _OnnxParser, _ParserError, _Runtime,
    _ICudaEngine, _EngineInspector, _IExecutionContext,
)  # fmt: skip
