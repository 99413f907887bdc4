"""The fake builder, from the parser to the plan."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import onnx

from tests.fake_tensorrt.release import Member, api

if TYPE_CHECKING:
    from tests.fake_tensorrt import FakeTensorRt


class _ILogger:
    def __init__(self) -> None:
        pass


class _IProgressMonitor:
    def __init__(self) -> None:
        pass


class _Builder:
    _trt: FakeTensorRt

    def __init__(self, logger: Any) -> None:
        self._trt._start(logger, "builder")
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
        integers = network._quantized
        if not trt._strongly_typed:
            half = half and "FP16" in config._flags
            integers = integers and "INT8" in config._flags
        monitor = config._settings.get("progress_monitor")
        if monitor is not None:
            monitor.phase_start("Building", None, 2)
            for step in range(2):
                if not monitor.step_complete("Building", step):
                    return None
            monitor.phase_finish("Building")
        if trt._logs_layers:
            self._logger.log(trt.ILogger.VERBOSE, self._listing(half, integers))
        payload = {
            "profiles": config._profiles,
            "outputs": network._outputs,
            "half": half,
            "integers": integers,
            "version_compatible": "VERSION_COMPATIBLE" in config._flags,
            "detailed": config._settings["profiling_verbosity"].name == "DETAILED",
            "shared": trt._release != "8.6.0" or "PROFILE_SHARING_0806" in config._features,
        }
        numbers = [*map(int, trt.__version__.split(".")), 0][:4]  # noqa: RUF048 - whole numbers here
        tag = b"vtrt" if trt._release.startswith("rtx") else b"ftrt"
        return tag + bytes(20) + struct.pack("4B", *numbers) + json.dumps(payload).encode()

    def _listing(self, half: bool, integers: bool) -> str:
        """What the builder logs at its end, as 8.6 writes it and as the later ones do."""
        kind = "Half" if half else "Float"
        source, given = ("Int8", kind) if integers else ("UInt8", kind)
        if not self._trt._strongly_typed:
            return (
                "Engine Layer Information:\n"
                f"Layer(CaskConvolution): conv + (Unnamed Layer* 3) [Activation], Tactic: "
                f"0x00000000000003ea, image ({source}[-1,-1,-1,3]) -> x ({given}[-1,64:8,-1,-1])"
            )
        return (
            f"Layers:\nName: conv, LayerType: correlation, Inputs: [ {{ Name: image, Datatype: "
            f"{source}, Format: Linear }}], Constants: [ {{ Name: w, Datatype: Float }}], Outputs: "
            f"[ {{ Name: x, Datatype: {given}, Format: Linear }}], TacticName: t, StreamId: 0"
        )


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
    hardware_compatibility_level = _setting("hardware_compatibility_level")
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
    _quantized = False
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
        weights = {
            tensor.name for tensor in model.graph.initializer
            if tensor.data_type == onnx.TensorProto.INT8 and tensor.dims
        }  # fmt: skip
        for index, node in enumerate(model.graph.node):
            self._network._quantized |= node.op_type == "DequantizeLinear"
            if node.op_type == "Unheard":
                self._refuse(index, node, "no importer\nfor this operator")
            elif (
                node.op_type == "DequantizeLinear"
                and node.input[0] in weights
                and not self._trt._strongly_typed
            ):
                self._refuse(index, node, "invalid weights type of Int8")
        return not self._errors

    def _refuse(self, index: int, node: Any, description: str) -> None:
        problem = self._trt.ParserError()
        problem._index, problem._node, problem._description = index, node, description
        self._errors.append(problem)


class _ParserError:
    _index: int
    _node: Any
    _description: str

    def desc(self) -> str:
        return self._description

    def node(self) -> int:
        return self._index

    def node_name(self) -> str:
        return str(self._node.name)

    def node_operator(self) -> str:
        return str(self._node.op_type)
