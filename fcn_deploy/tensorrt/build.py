"""ONNX → TensorRT engine: the plan as TensorRT wrote it, and the sidecar that says what it is.

    engine_from_onnx(Path("runs/fcn/model.fp16.onnx"), name="fcn", product=Product.RTX)

The precision is that of the ONNX file.  Knows no torch: it runs on the target device.
"""

from __future__ import annotations

import glob
import json
import platform
import re
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import (
    ArtifactError,
    BackendError,
    BuildError,
    FcnDeployError,
    InputError,
    OnnxFileError,
)
from fcn_deploy.core.files import file_digest, probe, write_bytes, write_error
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision, Product, ShapeProfile
from fcn_deploy.graph.onnx_file import OnnxMetadata, load_onnx, read_metadata, with_logits
from fcn_deploy.machine import cuda
from fcn_deploy.machine.description import utc_now
from fcn_deploy.tensorrt import api
from fcn_deploy.tensorrt.api import OnProgress, TensorRt
from fcn_deploy.tensorrt.engine_file import (
    ENGINES_FOLDER,
    EngineSidecar,
    EngineTensor,
    engine_path,
    newest_engine,
    read_engine,
    read_sidecar,
    write_engine,
)

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
#: Precisions whose engine is a failure without a layer of theirs; how a layer and its arithmetic
#: are called.
_LAYER_WORDS = {
    Precision.FP16: ("half-precision", "half precision"),
    Precision.INT8: ("8-bit", "8-bit arithmetic"),
}
_CACHE_FLAG = "--timing-cache"
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
            words.append(f"--timing-cache {shlex.quote(str(self.timing_cache))}")
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
    export: str = "fcn-deploy export",
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
        export: what writes the ONNX file anew, short of its precision and outputs.
        on_progress: called with phase, steps done, steps in all, where the release tells them.

    Raises:
        BackendError: TensorRT, or the GPU that it needs, is missing.
        OnnxFileError: the file is not ours, or newer than this TensorRT reads.
        InputError: an option that this TensorRT does not have.
        ArtifactError: the engine or the timing cache cannot be written.
        BuildError: TensorRT refuses the network, or an FP16 or INT8 engine has no layer of that
            precision.
    """
    options = options or BuildOptions()
    metadata = read_metadata(onnx_path)
    tensorrt = api.load(product)
    wanted = _wanted(onnx_path, metadata, tensorrt, options)
    path = engine_path(
        folder,
        name,
        metadata.precision,
        product,
        tensorrt.version,
        wanted["compute_capabilities"],
    )
    try:
        known, differences = _compare(path, name, wanted)
    except OSError as error:
        raise write_error(path, error, flags="--out") from error
    if known is not None and not differences:
        return Engine(path, known, current=True)
    export += _export_words(metadata)
    _check_opset(onnx_path, tensorrt, export)
    # A build takes minutes: what it is for must not fail after it.
    probe(path, flags="--out")
    if options.timing_cache is not None:
        probe(options.timing_cache, flags=_CACHE_FLAG)
    started = time.monotonic()
    built = _Build(
        tensorrt,
        onnx_path,
        metadata,
        options,
        wanted["profiles"],
        wanted["compute_capabilities"] if tensorrt.chooses_capabilities else (),
        export,
    ).run(on_progress)
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
    sidecar = write_engine(path, memoryview(built.plan), sidecar)
    if options.timing_cache is not None:
        write_bytes(options.timing_cache, built.timing_cache, flags=_CACHE_FLAG)
    return Engine(path, sidecar, current=False, differences=differences)


def ensure_engine(
    run: Run,
    precision: Precision,
    *,
    outputs: Iterable[str] = ("mask",),
    product: str = "auto",
    folder: Path = ENGINES_FOLDER,
    timing_cache: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    on_progress: OnProgress | None = None,
) -> None:
    """Make sure that the runner of TensorRT finds what it needs, building what is missing.

    A mask always comes from the engine of the file as shipped.  Where logits or margins are asked
    for and the file gives none, a second engine is built from the same graph with its logits made
    visible, for the same batch shapes: a shape that the first takes must not fail in the second.

    Args:
        run: the model.
        precision: of the engine.
        outputs: that the runner will be asked for.
        product: ``auto``, ``trt`` or ``trt-rtx``.
        folder: where engines lie.
        timing_cache: of :class:`BuildOptions`.
        say: takes a line before each build.
        on_progress: as for :func:`engine_from_onnx`.

    Raises:
        BackendError: TensorRT or the GPU is missing; the message says which and what to install.
    """
    if run.named_engine is not None:
        return
    chosen = api.choose_product(product)
    version = api.installed_version(chosen)
    capability = cuda.describe_gpu().compute_capability
    onnx_path = run.require_onnx(precision)
    metadata = read_metadata(onnx_path)

    def find(
        asked: str, *, onnx_digest: str | None = None, checkpoint_digest: str | None = None
    ) -> tuple[Path | None, str]:
        return newest_engine(
            folder,
            product=chosen,
            version=version,
            compute_capability=capability,
            precision=metadata.precision,
            outputs=(asked,),
            onnx_digest=onnx_digest,
            checkpoint_digest=checkpoint_digest,
        )

    def build(
        source: Path, name: str, reason: str, shipped: EngineSidecar | None = None
    ) -> EngineSidecar:
        options = BuildOptions(
            profiles=() if shipped is None else shipped.profiles,
            timing_cache=timing_cache,
            compute_capabilities=_capabilities_here(chosen, capability),
        )
        say(f"no engine fits ({reason}): building one from {onnx_path}")
        if shipped is None:
            command = build_command(run, precision, chosen, options, folder)
        else:  # it follows the masks' engine: to change this one is to rebuild that one
            command = shipped.command
        return engine_from_onnx(
            source,
            name=name,
            product=chosen,
            options=options,
            folder=folder,
            command=command,
            export=export_command(run),
            on_progress=on_progress,
        ).sidecar

    found, reason = find("mask", onnx_digest=file_digest(onnx_path))
    shipped = build(onnx_path, run.name, reason) if found is None else read_sidecar(found)
    hidden = set(outputs) - set(metadata.outputs)
    if not hidden or "logits" in metadata.outputs:
        return
    found, reason = find("logits", checkpoint_digest=metadata.checkpoint_digest)
    if found is not None and read_sidecar(found).profiles != shipped.profiles:
        found, reason = None, f"{found} has other profiles than the engine of the masks"
    if found is None:
        exposed = folder / f"{run.name}.logits.{metadata.precision.value}.onnx"
        write_bytes(exposed, with_logits(load_onnx(onnx_path)).SerializeToString())
        try:
            build(exposed, f"{run.name}.logits", reason, shipped)
        finally:
            exposed.unlink()  # made for this build alone


def _capabilities_here(product: Product, capability: str) -> tuple[str, ...]:
    """Return what to build for, so that the engine runs on this GPU; empty: the default does.

    Raises:
        BackendError: the product does not run on this GPU.
    """
    tensorrt = api.load(product)
    if not tensorrt.chooses_capabilities or capability in api.RTX_DEFAULT_CAPABILITIES:
        return ()
    if capability not in tensorrt.known_capabilities:
        raise BackendError(
            f"{tensorrt.label} does not run on {capability}, this machine's GPU, but on "
            f"{', '.join(tensorrt.known_capabilities)}",
            "use TensorRT itself here: pip install 'fcn-deploy[trt]'",
        )
    return (capability,)


def build_command(
    run: Run,
    precision: Precision,
    product: Product,
    options: BuildOptions | None = None,
    folder: Path = ENGINES_FOLDER,
) -> str:
    """Return the words that build a run's engine."""
    if (named := _named_onnx(run)) is not None:
        source = f" {shlex.quote(str(named))}"
    else:
        source = run.command_suffix + precision.flag
    words = "" if options is None else options.words()
    out = "" if folder == ENGINES_FOLDER else f" --out {shlex.quote(str(folder))}"
    return f"fcn-deploy build{source} --product {product.value}{words}{out}"


def export_command(run: Run) -> str:
    """Return the words that write a run's ONNX file, short of its precision and outputs."""
    named = _named_onnx(run)
    out = "" if named is None else f" --out {shlex.quote(str(named))}"
    return f"fcn-deploy export{run.command_suffix}{out}"


def _named_onnx(run: Run) -> Path | None:
    named = run.named_file
    return named if named is not None and named.suffix == ".onnx" else None


def _export_words(metadata: OnnxMetadata) -> str:
    outputs = "" if metadata.outputs == ("mask",) else f" --outputs {','.join(metadata.outputs)}"
    return metadata.precision.flag + outputs


def parse_capabilities(text: str) -> tuple[str, ...]:
    """Read ``sm89,sm120``: sorted by number, each once, so that no two names mean the same build.

    Raises:
        InputError: a word is no compute capability, or there is none.
    """
    words = [word.strip().lower() for word in text.split(",")]
    for word in words:
        if not re.fullmatch(r"sm[0-9]{2,4}", word):
            raise InputError(
                f"--compute-capability: {word!r} is no compute capability",
                "write e.g. --compute-capability sm89,sm120",
            )
    return _sorted_capabilities(words)


def _sorted_capabilities(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names), key=lambda name: (len(name), name)))


def _wanted(
    onnx_path: Path, metadata: OnnxMetadata, tensorrt: TensorRt, options: BuildOptions
) -> dict[str, Any]:
    """Return every field of the sidecar that is known before the build: the cache's key."""
    gpu_name = driver = None
    capabilities = _sorted_capabilities(options.compute_capabilities)
    if tensorrt.chooses_capabilities:
        capabilities = capabilities or api.RTX_DEFAULT_CAPABILITIES
    elif capabilities:
        raise InputError(
            f"{tensorrt.label} builds for the GPU it runs on",
            "drop --compute-capability, or use --product trt-rtx",
        )
    else:
        device = cuda.describe_gpu()
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
    """Return the sidecar of the engine that is there, and in what it differs from ``wanted``.

    Where there is none of that name, the newest of another release stands in for it; one for
    other GPUs or of the other product is another engine, and nothing that this one replaces.
    """
    start = f"{name}.{wanted['precision'].value}.{wanted['product'].value}-"
    target = "-".join(wanted["compute_capabilities"])
    others = sorted(path.parent.glob(f"{glob.escape(start)}[0-9]*.{target}.plan"), key=_modified)
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


def _check_opset(onnx_path: Path, tensorrt: TensorRt, export: str) -> None:
    opset = max(entry.version for entry in load_onnx(onnx_path).opset_import)
    if opset > tensorrt.max_opset:
        raise OnnxFileError(
            f"{onnx_path} has opset {opset}, {tensorrt.label} reads up to {tensorrt.max_opset}",
            f"run `{export} --opset {tensorrt.max_opset}` first",
        )


@dataclass(frozen=True)
class _Built:
    """What the builder gave."""

    plan: Any
    layers: dict[str, int]
    layers_from: str
    tensors: tuple[EngineTensor, ...]
    flags: tuple[str, ...]
    timing_cache: bytes


class _Build:
    """One run of TensorRT's builder."""

    def __init__(
        self,
        tensorrt: TensorRt,
        onnx_path: Path,
        metadata: OnnxMetadata,
        options: BuildOptions,
        profiles: tuple[ShapeProfile, ...],
        capabilities: tuple[str, ...],
        export: str,
    ) -> None:
        self._tensorrt = tensorrt
        self._onnx_path = onnx_path
        self._metadata = metadata
        self._options = options
        self._profiles = profiles
        self._capabilities = capabilities
        self._export = export

    def run(self, on_progress: OnProgress | None) -> _Built:
        """Parse, configure, build, count the layers."""
        trt = self._tensorrt.trt
        builder = trt.Builder(self._tensorrt.logger)
        network = self._parse(builder)
        config = builder.create_builder_config()
        flags = self._configure(builder, config)
        with (
            api.logged_messages("Layers:") as listings,
            self._tensorrt.progress(config, on_progress),
        ):
            api.clear_errors()
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(
                f"{self._tensorrt.label} built no engine from {self._onnx_path}: "
                f"{api.last_error()}",
                "try a smaller --profile or a larger --workspace",
            )
        cache = self._options.timing_cache
        timings = b"" if cache is None else _timings(config)
        try:
            layers, source = self._count_layers(plan, listings)
            self._check_precision(layers)
        except FcnDeployError:
            if cache is not None:  # worth minutes, also to the next attempt
                write_bytes(cache, timings, flags=_CACHE_FLAG)
            raise
        return _Built(plan, layers, source, _tensors(trt, network), flags, timings)

    def _parse(self, builder: Any) -> Any:
        trt = self._tensorrt.trt
        network = self._tensorrt.create_network(builder)
        parser = trt.OnnxParser(network, self._tensorrt.logger)
        api.clear_errors()
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
            + "; ".join(problems[:_SHOWN_PROBLEMS] or [api.last_error()])
            + (f"; and {more} more" if more > 0 else ""),
            f"run `{self._export}` again, with another --opset if the node needs one",
        )

    def _configure(self, builder: Any, config: Any) -> tuple[str, ...]:
        trt, options = self._tensorrt.trt, self._options
        for shapes in self._profiles:
            profile = builder.create_optimization_profile()
            smallest, typical, largest = ((*shape, CHANNELS) for shape in shapes.shapes)
            profile.set_shape(INPUT_NAME, smallest, typical, largest)
            api.clear_errors()
            if config.add_optimization_profile(profile) < 0:
                raise BuildError(
                    f"{self._tensorrt.label} refuses the profile {shapes}: {api.last_error()}",
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
                f"cannot read {path}: {error.strerror}", f"choose another {_CACHE_FLAG}"
            ) from error
        cache = config.create_timing_cache(content)
        # A cache of another GPU or release is refused; the build then starts one afresh.
        if cache is None or not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def _count_layers(self, plan: Any, listings: list[str]) -> tuple[dict[str, int], str]:
        trt = self._tensorrt.trt
        if cuda.unavailable_reason() is None:
            runtime = trt.Runtime(self._tensorrt.logger)
            engine = runtime.deserialize_cuda_engine(plan)
            if engine is not None:
                information = self._inspected(engine)
                return layers_by_precision(layers_of_inspector(information)), "engine inspector"
        # No GPU to load the engine on: the builder listed the same layers as it finished.
        layers = [layer for listing in listings for layer in layers_of_listing(listing)]
        return layers_by_precision(layers), "builder log"

    def _inspected(self, engine: Any) -> str:
        trt = self._tensorrt.trt
        inspector = engine.create_engine_inspector()
        # Before 10 a tensor of dynamic size has no type until a context knows the size.
        context = self._tensorrt.create_context(engine, 0, 0)
        typical = self._profiles[0].shapes[1]
        if not context.set_input_shape(INPUT_NAME, (*typical, CHANNELS)):
            raise BuildError(
                f"{self._tensorrt.label} refuses {typical} of the engine's own profile: "
                f"{api.last_error()}"
            )
        inspector.execution_context = context
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def _check_precision(self, layers: dict[str, int]) -> None:
        precision = self._metadata.precision
        if precision in _LAYER_WORDS and not layers.get(precision.value):
            adjective, arithmetic = _LAYER_WORDS[precision]
            raise BuildError(
                f"the engine from {self._onnx_path} has no {adjective} layer "
                f"({census(layers) or 'TensorRT lists no layers'}), so it is no "
                f"{precision.value.upper()} engine",
                f"run `{self._export}` again; on a GPU without fast {arithmetic}, build without "
                f"{precision.flag.strip()}",
            )


def _timings(config: Any) -> bytes:
    return bytes(config.get_timing_cache().serialize())


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
    # Not strict: 8.6 leaves the line ends of its layers' comments as they are.
    for layer in json.loads(information, strict=False).get("Layers", []):
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
    One that reads int8 alone multiplies int8, though it may give its sums as floats, as the
    convolutions of TensorRT for RTX do.
    """
    counts: Counter[str] = Counter()
    for outputs, inputs in layers:
        if inputs and all(re.search(r"\bint8\b", text, re.I) for text in inputs):
            counts["int8"] += 1
            continue
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
