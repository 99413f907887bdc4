"""ONNX → TensorRT engine: the plan as TensorRT wrote it, and the sidecar that says what it is.

    engine_from_onnx(Path("runs/fcn/model.fp16.onnx"), name="fcn", product=Product.RTX)

The precision is that of the ONNX file.  Knows no torch: it runs on the target device.
"""

from __future__ import annotations

import json
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_deploy import gpu, trt_api
from fcn_deploy.artifacts import DEFAULT_RUN, Run, atomic_path, file_digest, write_bytes
from fcn_deploy.engine_file import (
    ENGINES_FOLDER,
    EngineSidecar,
    EngineTensor,
    engine_path,
    newest_engine,
    read_engine,
    sidecar_path,
    write_sidecar,
)
from fcn_deploy.errors import ArtifactError, BuildError, InputError, OnnxFileError
from fcn_deploy.machine import utc_now
from fcn_deploy.onnx_file import OnnxMetadata, load_onnx, read_metadata, with_logits
from fcn_deploy.spec import Precision, Product, ShapeProfile
from fcn_deploy.trt_api import OnProgress, TensorRt

#: The deploy graph's input; its channel axis is the last.
INPUT_NAME, CHANNELS = "image", 3
#: TensorRT's words for a tensor's type, ours behind them; floats first, because they decide.
_FLOAT_TYPES = (
    ("fp16", re.compile(r"\bhalf\b|\bfp16\b", re.I)),
    ("bf16", re.compile(r"\bbf(loat)?16\b", re.I)),
    ("fp8", re.compile(r"\bfp8", re.I)),
    ("fp32", re.compile(r"\bfloat\b|\bfp32\b", re.I)),
)
_INTEGER_TYPES = tuple(
    (name, re.compile(rf"\b{name}\b", re.I)) for name in ("int8", "uint8", "int32", "int64", "bool")
)
_NUMPY_NAMES = {"FLOAT": "float32", "HALF": "float16", "BOOL": "bool"}
#: How many of the parser's complaints go into the one-line error.
_SHOWN_PROBLEMS = 3


@dataclass(frozen=True)
class BuildOptions:
    """What the user may choose of a build.

    Attributes:
        profiles: batch shapes to take; empty: one that the training images' sizes suggest.
        workspace_mib: device memory that a layer's tactic may use; None: TensorRT's choice.
        optimization_level: 0 (quick build) to 5 (quick engine); None: TensorRT's choice.
        timing_cache: file that carries timings from one build to the next, or None.
        compute_capabilities: GPUs to build for, e.g. ``("sm89",)``; empty: this machine's, or
            all that TensorRT for RTX takes by default.
    """

    profiles: tuple[ShapeProfile, ...] = ()
    workspace_mib: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    compute_capabilities: tuple[str, ...] = ()

    def words(self) -> str:
        """Return the options as typed after `fcn-deploy build`."""
        words = [f"--profile {profile}" for profile in self.profiles]
        if self.workspace_mib is not None:
            words.append(f"--workspace {self.workspace_mib}")
        if self.optimization_level is not None:
            words.append(f"--opt-level {self.optimization_level}")
        if self.timing_cache is not None:
            words.append(f"--timing-cache {self.timing_cache}")
        if self.compute_capabilities:
            words.append(f"--compute-capability {','.join(self.compute_capabilities)}")
        return "".join(f" {word}" for word in words)


@dataclass(frozen=True)
class Engine:
    """An engine on disk.

    Attributes:
        path: of the plan.
        sidecar: what lies beside it.
        current: it was there already, and nothing has changed.
        differences: what has changed since the engine that was there before, in words.
    """

    path: Path
    sidecar: EngineSidecar
    current: bool
    differences: tuple[str, ...] = ()


def engine_from_onnx(
    onnx_path: Path,
    *,
    name: str,
    product: Product,
    options: BuildOptions | None = None,
    folder: Path = ENGINES_FOLDER,
    command: str = "fcn-deploy build",
    on_progress: OnProgress | None = None,
) -> Engine:
    """Build an engine, or find that the one on disk is current.

    Args:
        onnx_path: a file that `fcn-deploy export` wrote.
        name: what the engine is named after.
        product: which TensorRT is to build it.
        options: profiles and builder settings.
        folder: where to put it.
        command: what rebuilds it, for its sidecar.
        on_progress: called with phase, steps done, steps in all, where the release tells them.

    Raises:
        BackendError: TensorRT, or the GPU that it needs, is missing.
        OnnxFileError: the file is not ours, or newer than this TensorRT reads.
        InputError: an option that this TensorRT does not have.
        BuildError: TensorRT refuses the network, or an FP16 engine has no half layer.
    """
    options = options or BuildOptions()
    metadata = read_metadata(onnx_path)
    tensorrt = trt_api.load(product)
    wanted = _wanted(onnx_path, metadata, tensorrt, options)
    path = engine_path(
        folder,
        name,
        metadata.precision,
        product,
        tensorrt.version,
        wanted["compute_capabilities"],
    )
    known, differences = _compare(path, name, wanted)
    if known is not None and not differences:
        return Engine(path, known, current=True)
    _check_opset(onnx_path, tensorrt)
    started = time.monotonic()
    built = _Build(tensorrt, onnx_path, metadata, options, wanted["profiles"]).run(on_progress)
    sidecar = EngineSidecar(
        **{**wanted, "flags": {**wanted["flags"], "builder": list(built.flags)}},
        plan_digest="",
        plan_bytes=0,
        layers=built.layers,
        layers_from=built.layers_from,
        tensors=built.tensors,
        command=command,
        built_at=utc_now(),
        build_seconds=round(time.monotonic() - started, 3),
    )
    sidecar = _write(path, built.plan, sidecar)
    return Engine(path, sidecar, current=False, differences=differences)


def ensure_engine(
    run: Run,
    precision: Precision,
    *,
    outputs: Iterable[str] = ("mask",),
    product: str = "auto",
    folder: Path = ENGINES_FOLDER,
    say: Callable[[str], None] = lambda line: None,
    on_progress: OnProgress | None = None,
) -> None:
    """Make sure that the runner of TensorRT finds what it needs, building what is missing.

    A mask always comes from the engine of the file as shipped.  Where logits or margins are asked
    for and the file gives none, a second engine is built from the same graph with its logits made
    visible.

    Args:
        run: the model.
        precision: of the engine.
        outputs: that the runner will be asked for.
        product: ``auto``, ``trt`` or ``trt-rtx``.
        folder: where engines lie.
        say: takes a line before each build.
        on_progress: as for :func:`engine_from_onnx`.

    Raises:
        BackendError: TensorRT or the GPU is missing; the message says which and what to install.
    """
    if run.named_engine is not None:
        return
    chosen = trt_api.choose_product(product)
    version = trt_api.installed_version(chosen)
    capability = gpu.describe_gpu().compute_capability
    onnx_path = run.require_onnx(precision)
    metadata = read_metadata(onnx_path)

    def build_unless_there(
        source: Path, name: str, asked: set[str], digests: dict[str, str]
    ) -> None:
        found, reason = newest_engine(
            folder,
            product=chosen,
            version=version,
            compute_capability=capability,
            precision=metadata.precision,
            outputs=asked,
            **digests,
        )
        if found is None:
            say(f"no engine fits ({reason}): building one from {source}")
            engine_from_onnx(
                source,
                name=name,
                product=chosen,
                folder=folder,
                command=build_command(run, precision, chosen),
                on_progress=on_progress,
            )

    build_unless_there(onnx_path, run.name, {"mask"}, {"onnx_digest": file_digest(onnx_path)})
    hidden = set(outputs) - set(metadata.outputs)
    if hidden and "logits" not in metadata.outputs:
        exposed = folder / f"{run.name}.logits.{metadata.precision.value}.onnx"
        write_bytes(exposed, with_logits(load_onnx(onnx_path)).SerializeToString())
        build_unless_there(
            exposed,
            f"{run.name}.logits",
            {"logits"},
            {"checkpoint_digest": metadata.checkpoint_digest},
        )


def build_command(
    run: Run, precision: Precision, product: Product, options: BuildOptions | None = None
) -> str:
    """Return the words that build a run's engine."""
    if run.named_file is not None and run.named_file.suffix == ".onnx":
        source = f" {run.named_file}"
    else:
        source = "" if run.root == DEFAULT_RUN else f" {run.root}"
        source += "" if precision is Precision.FP32 else f" --{precision.value}"
    words = "" if options is None else options.words()
    return f"fcn-deploy build{source} --product {product.value}{words}"


def _wanted(
    onnx_path: Path, metadata: OnnxMetadata, tensorrt: TensorRt, options: BuildOptions
) -> dict[str, Any]:
    """Return every field of the sidecar that is known before the build: the cache's key."""
    gpu_name = driver = None
    capabilities = options.compute_capabilities
    if tensorrt.chooses_capabilities:
        capabilities = capabilities or trt_api.RTX_DEFAULT_CAPABILITIES
    elif capabilities:
        raise InputError(
            f"{tensorrt.label} builds for the GPU it runs on",
            "drop --compute-capability, or use --product trt-rtx",
        )
    else:
        device = gpu.describe_gpu()
        gpu_name, driver = device.name, device.driver
        capabilities = (device.compute_capability,)
    return {
        "product": tensorrt.product,
        "version": tensorrt.version,
        "onnx_digest": file_digest(onnx_path),
        "checkpoint_digest": metadata.checkpoint_digest,
        "precision": metadata.precision,
        "compute_capabilities": capabilities,
        "gpu_name": gpu_name,
        "driver": driver,
        "system": f"{platform.system()} {platform.machine()}",
        "profiles": options.profiles or (ShapeProfile.covering(metadata.spec.image_sizes),),
        "flags": {
            "workspace_mib": options.workspace_mib,
            "optimization_level": options.optimization_level,
        },
        "spec": metadata.spec,
    }


def _compare(
    path: Path, name: str, wanted: dict[str, Any]
) -> tuple[EngineSidecar | None, tuple[str, ...]]:
    """Return the sidecar of the engine that is there, and in what it differs from ``wanted``."""
    precision = wanted["precision"].value
    others = sorted(path.parent.glob(f"{name}.{precision}.*.plan"), key=_modified)
    there = path if path.is_file() else others[-1] if others else None
    if there is None:
        return None, ()
    try:
        known = read_engine(there)
    except ArtifactError as error:
        return None, (error.message,)
    differences = []
    for field, value in wanted.items():
        found = getattr(known, field)
        if field == "flags":
            found = {key: found.get(key) for key in value}
        if found != value:
            differences.append(f"{field}: {_in_words(found)} → {_in_words(value)}")
    return known, tuple(differences)


def _modified(path: Path) -> float:
    return path.stat().st_mtime


def _in_words(value: Any) -> str:
    if isinstance(value, Precision | Product):
        return str(value.value)
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    text = str(value)
    return text if len(text) <= 100 else f"{text[:97]}…"


def _check_opset(onnx_path: Path, tensorrt: TensorRt) -> None:
    opset = max(entry.version for entry in load_onnx(onnx_path).opset_import)
    if opset > tensorrt.max_opset:
        raise OnnxFileError(
            f"{onnx_path} has opset {opset}, {tensorrt.label} reads up to {tensorrt.max_opset}",
            f"run `fcn-deploy export --opset {tensorrt.max_opset}` first",
        )


def _write(path: Path, plan: Any, sidecar: EngineSidecar) -> EngineSidecar:
    # The old sidecar goes first: whatever happens, no sidecar ever lies beside another's plan.
    sidecar_path(path).unlink(missing_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(memoryview(plan))
    fields = {name: getattr(sidecar, name) for name in EngineSidecar.__dataclass_fields__}
    sidecar = EngineSidecar(
        **{**fields, "plan_digest": file_digest(path), "plan_bytes": path.stat().st_size}
    )
    write_sidecar(path, sidecar)
    return sidecar


@dataclass(frozen=True)
class _Built:
    """What the builder gave."""

    plan: Any
    layers: dict[str, int]
    layers_from: str
    tensors: tuple[EngineTensor, ...]
    flags: tuple[str, ...]


class _Build:
    """One run of TensorRT's builder."""

    def __init__(
        self,
        tensorrt: TensorRt,
        onnx_path: Path,
        metadata: OnnxMetadata,
        options: BuildOptions,
        profiles: tuple[ShapeProfile, ...],
    ) -> None:
        self._tensorrt = tensorrt
        self._onnx_path = onnx_path
        self._metadata = metadata
        self._options = options
        self._profiles = profiles

    def run(self, on_progress: OnProgress | None) -> _Built:
        """Parse, configure, build, count the layers."""
        trt = self._tensorrt.trt
        builder = trt.Builder(self._tensorrt.logger)
        network = self._parse(builder)
        config = builder.create_builder_config()
        flags = self._configure(builder, config)
        with (
            trt_api.logged_messages("Layers:") as listings,
            self._tensorrt.progress(config, on_progress),
        ):
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(
                f"{self._tensorrt.label} built no engine from {self._onnx_path}: "
                f"{trt_api.last_error()}",
                "try a smaller --profile or a larger --workspace",
            )
        self._save_timing_cache(config)
        layers, source = self._count_layers(plan, listings)
        self._check_precision(layers)
        return _Built(plan, layers, source, _tensors(trt, network), flags)

    def _parse(self, builder: Any) -> Any:
        trt = self._tensorrt.trt
        network = self._tensorrt.create_network(builder)
        parser = trt.OnnxParser(network, self._tensorrt.logger)
        if parser.parse(self._onnx_path.read_bytes()):
            return network
        nodes = load_onnx(self._onnx_path).graph.node
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
            f"{self._tensorrt.label} cannot read {self._onnx_path}: "
            + "; ".join(problems[:_SHOWN_PROBLEMS] or [trt_api.last_error()])
            + (f"; and {more} more" if more > 0 else ""),
            "export it again, with another --opset if the node needs one",
        )

    def _configure(self, builder: Any, config: Any) -> tuple[str, ...]:
        trt, options = self._tensorrt.trt, self._options
        for shapes in self._profiles:
            profile = builder.create_optimization_profile()
            smallest, typical, largest = ((*shape, CHANNELS) for shape in shapes.shapes)
            profile.set_shape(INPUT_NAME, smallest, typical, largest)
            if config.add_optimization_profile(profile) < 0:
                raise BuildError(
                    f"{self._tensorrt.label} refuses the profile {shapes}: {trt_api.last_error()}",
                    "choose another --profile",
                )
        # Without it the engine's inspector tells names alone, and no precision.
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.compute_capabilities:
            self._tensorrt.set_capabilities(config, options.compute_capabilities)
        self._load_timing_cache(config)
        return (
            *self._tensorrt.set_precision(config, self._metadata.precision),
            *self._tensorrt.leave_out_external_tactics(config),
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
        content = path.read_bytes() if path.is_file() else b""
        cache = config.create_timing_cache(content)
        # A cache of another GPU or release is refused; the build then starts one afresh.
        if cache is None or not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def _save_timing_cache(self, config: Any) -> None:
        if self._options.timing_cache is not None:
            cache = config.get_timing_cache()
            write_bytes(self._options.timing_cache, bytes(cache.serialize()))

    def _count_layers(self, plan: Any, listings: list[str]) -> tuple[dict[str, int], str]:
        trt = self._tensorrt.trt
        if gpu.unavailable_reason() is None:
            runtime = trt.Runtime(self._tensorrt.logger)
            engine = runtime.deserialize_cuda_engine(plan)
            if engine is not None:
                inspector = engine.create_engine_inspector()
                information = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
                return layers_by_precision(layers_of_inspector(information)), "engine inspector"
        # No GPU to load the engine on: the builder listed the same layers as it finished.
        layers = [layer for listing in listings for layer in layers_of_listing(listing)]
        return layers_by_precision(layers), "builder log"

    def _check_precision(self, layers: dict[str, int]) -> None:
        if self._metadata.precision is Precision.FP16 and not layers.get("fp16"):
            raise BuildError(
                f"the engine from {self._onnx_path} has no half-precision layer "
                f"({census(layers) or 'TensorRT lists no layers'}), so it is no FP16 engine",
                "run `fcn-deploy export --fp16` again; on a GPU without fast half precision, "
                "build without --fp16",
            )


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


#: The types of a layer's outputs and inputs, in TensorRT's words.
LayerTypes = tuple[list[str], list[str]]


def layers_of_inspector(information: str) -> list[LayerTypes]:
    """Read the layers' types from the engine inspector's JSON."""
    layers = []
    for layer in json.loads(information).get("Layers", []):
        if isinstance(layer, dict):  # a bare name where the engine was built without detail
            outputs, inputs = (
                [
                    f"{entry.get('Datatype', '')} {entry.get('Format/Datatype', '')}"
                    for entry in layer.get(side, [])
                ]
                for side in ("Outputs", "Inputs")
            )
            layers.append((outputs, inputs))
    return layers


def layers_of_listing(listing: str) -> list[LayerTypes]:
    """Read the layers' types from the list that the builder logs at its end."""
    layers = []
    for line in listing.splitlines():
        if line.startswith("Name: "):
            inputs, _, outputs = line.partition("Outputs: [")
            outputs = outputs.partition("TacticName: ")[0]
            inputs = inputs.partition("Inputs: [")[2].partition("Constants: [")[0]
            types = [re.findall(r"Datatype: ([^,}]*)", side) for side in (outputs, inputs)]
            layers.append((types[0], types[1]))
    return layers


def layers_by_precision(layers: Iterable[LayerTypes]) -> dict[str, int]:
    """Count layers by the precision that they work in.

    That is the floating type of what a layer gives, else of what it takes; a layer that touches
    no floats counts by its integers, and one without tensors (a shape's arithmetic) as ``none``.
    """
    counts: Counter[str] = Counter()
    for outputs, inputs in layers:
        found = "none"
        for types in (_FLOAT_TYPES, _INTEGER_TYPES):
            named = [
                name for text in (*outputs, *inputs) for name, pattern in types
                if pattern.search(text)
            ]  # fmt: skip
            if named:
                found = named[0]
                break
        counts[found] += 1
    return dict(sorted(counts.items()))


def census(layers: dict[str, int]) -> str:
    """Return the count in words, e.g. ``24 layers fp16, 2 fp32``."""
    parts = sorted(layers.items(), key=lambda entry: -entry[1])
    return ", ".join(
        f"{count} {'layers ' if index == 0 else ''}{name}"
        for index, (name, count) in enumerate(parts)
    )
