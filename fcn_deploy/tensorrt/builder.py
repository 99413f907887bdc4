"""EngineBuilder: one run of TensorRT's builder, from the parsed network to the plan."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fcn_deploy.core.errors import ArtifactError, BuildError, InputError
from fcn_deploy.core.files import write_bytes
from fcn_deploy.core.spec import ShapeProfile
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.tensorrt import api, callbacks
from fcn_deploy.tensorrt.api import TensorRt
from fcn_deploy.tensorrt.build_options import CACHE_FLAG, BuildOptions
from fcn_deploy.tensorrt.callbacks import OnProgress
from fcn_deploy.tensorrt.engine_file import EngineTensor
from fcn_deploy.tensorrt.layers import LISTINGS
from fcn_deploy.tensorrt.portability import configure_portable

#: The deploy graph's input; its channel axis is the last.
INPUT_NAME, CHANNELS = "image", 3
_NUMPY_NAMES = {"FLOAT": "float32", "HALF": "float16", "BOOL": "bool"}
#: How many of the parser's complaints go into the one-line error.
_SHOWN_PROBLEMS = 3


@dataclass(frozen=True)
class BuiltPlan:
    """An engine as the builder gave it, not written yet.

    Attributes:
        plan: its bytes, in memory of TensorRT's.
        listings: the builder's log messages that list its layers.
        tensors: in and outputs.
        flags: of the builder that were set.
        timing_cache: timings that the next build may begin with; empty where none is kept.
        warnings: what the user should know of the settings, in sentences.
    """

    plan: Any
    listings: tuple[str, ...]
    tensors: tuple[EngineTensor, ...]
    flags: tuple[str, ...]
    timing_cache: bytes
    warnings: tuple[str, ...] = ()


class EngineBuilder:
    """One run of TensorRT's builder."""

    def __init__(
        self,
        tensorrt: TensorRt,
        file: OnnxFile,
        options: BuildOptions,
        profiles: tuple[ShapeProfile, ...],
        capabilities: tuple[str, ...],
        export: str,
    ) -> None:
        self._tensorrt = tensorrt
        self._file = file
        self._metadata = file.metadata
        self._options = options
        self._profiles = profiles
        self._capabilities = capabilities
        self._export = export
        self._warnings: list[str] = []

    def run(self, on_progress: OnProgress | None) -> BuiltPlan:
        """Parse, configure, build."""
        trt = self._tensorrt.trt
        builder = self._tensorrt.create_builder()
        network = self._parse(builder)
        config = builder.create_builder_config()
        flags = self._configure(builder, config)
        # Asked before the build: nothing but the build itself may cost its minutes.
        tensors = _tensors(trt, network)
        with (
            callbacks.logged_messages(*LISTINGS) as listings,
            self._tensorrt.progress(config, on_progress),
        ):
            callbacks.clear_errors()
            plan = builder.build_serialized_network(network, config)
        cache = self._options.timing_cache
        timings = b"" if cache is None else _timings(config)
        if plan is None:
            if cache is not None and timings:  # the next attempt measures what is left
                with suppress(ArtifactError):
                    write_bytes(cache, timings)
            raise BuildError(
                f"{self._tensorrt.label} built no engine from {self._file.path}: "
                f"{callbacks.last_error()}",
                "try a smaller --profile or a larger --workspace",
            )
        return BuiltPlan(plan, tuple(listings), tensors, flags, timings, tuple(self._warnings))

    def _parse(self, builder: Any) -> Any:
        trt = self._tensorrt.trt
        network = self._tensorrt.create_network(builder)
        with self._tensorrt.call("made no ONNX parser"):
            parser = trt.OnnxParser(network, self._tensorrt.logger)
        callbacks.clear_errors()
        if parser.parse(self._file.bytes):
            self._file.release()  # the build takes minutes, and memory of its own
            return network
        nodes = self._file.model.graph.node
        problems = []
        for found in self._tensorrt.problems(parser):
            name, operator = found.node_name, found.operator
            if not name and 0 <= found.node_index < len(nodes):
                node = nodes[found.node_index]
                name, operator = node.name, node.op_type
            where = f"node {name!r} ({operator}): " if name or operator else ""
            problems.append(f"{where}{found.description.strip()}")
        more = len(problems) - _SHOWN_PROBLEMS
        raise BuildError(
            f"{self._tensorrt.label} cannot read {self._file.path}: "
            + "; ".join(problems[:_SHOWN_PROBLEMS] or [callbacks.last_error()])
            + (f"; and {more} more" if more > 0 else ""),
            f"run `{self._export}` again, with another --opset if the node needs one",
        )

    def _configure(self, builder: Any, config: Any) -> tuple[str, ...]:
        trt, options = self._tensorrt.trt, self._options
        for shapes in self._profiles:
            profile = builder.create_optimization_profile()
            smallest, typical, largest = ((*shape, CHANNELS) for shape in shapes.shapes)
            with self._tensorrt.call(f"refuses the profile {shapes}"):
                profile.set_shape(INPUT_NAME, smallest, typical, largest)
            callbacks.clear_errors()
            if config.add_optimization_profile(profile) < 0:
                raise BuildError(
                    f"{self._tensorrt.label} refuses the profile {shapes}: "
                    f"{callbacks.last_error()}",
                    "choose another --profile",
                )
        # Without it the engine's inspector tells names alone, and no precision.
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if self._capabilities:
            self._tensorrt.set_capabilities(config, self._capabilities)
        sharing = api.share_profiles(trt, config)
        self._load_timing_cache(config)
        return (
            *self._tensorrt.set_precision(config, self._metadata.precision),
            *self._tensorrt.leave_out_external_tactics(config),
            *([] if sharing is None else [sharing]),
            *configure_portable(self._tensorrt, config, self._options.portable),
        )

    def _load_timing_cache(self, config: Any) -> None:
        path = self._options.timing_cache
        if path is None:
            return
        if not self._tensorrt.has_timing_cache:
            raise InputError(
                f"{self._tensorrt.label} measures no tactics and has no timing cache",
                "drop --timing-cache",
            )
        try:
            content = path.read_bytes() if path.is_file() else b""
        except OSError as error:
            raise ArtifactError(
                f"cannot read {path}: {error.strerror}", f"choose another {CACHE_FLAG}"
            ) from error
        cache = config.create_timing_cache(content)
        # A cache of another GPU or release is refused; the build then starts one afresh.
        if cache is None or not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)
            self._warnings.append(
                f"{path} holds no timings of this TensorRT and GPU: it is begun afresh"
            )


def _timings(config: Any) -> bytes:
    try:
        cache = config.get_timing_cache()
        return b"" if cache is None else bytes(cache.serialize())
    except Exception as error:  # whatever the binding raises: no timings are worth the engine
        callbacks.LOGGER.warning("the timing cache is lost: %s", error)
        return b""


def _tensors(trt: Any, network: Any) -> tuple[EngineTensor, ...]:
    inputs = [(network.get_input(index), "input") for index in range(network.num_inputs)]
    outputs = [(network.get_output(index), "output") for index in range(network.num_outputs)]
    return tuple(
        EngineTensor(
            name=tensor.name,
            mode=mode,
            dtype=_NUMPY_NAMES.get(tensor.dtype.name, tensor.dtype.name.lower()),
            shape=tuple(tensor.shape),
        )
        for tensor, mode in [*inputs, *outputs]
    )
