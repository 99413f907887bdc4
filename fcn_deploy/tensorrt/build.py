"""ONNX → TensorRT engine: the plan as TensorRT wrote it, and the sidecar that says what it is.

    file = OnnxFile(Path("runs/fcn/model.fp16.onnx"))
    engine_from_onnx(file, name="fcn", product=Product.RTX)

The precision is that of the ONNX file.  Knows no torch: it runs on the target device.
"""

from __future__ import annotations

import glob
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import ArtifactError, BuildError, InputError, OnnxFileError
from fcn_deploy.core.files import json_bytes, probe, write_bytes, write_error
from fcn_deploy.core.spec import Precision, Product
from fcn_deploy.graph.onnx_file import OnnxFile, OnnxMetadata
from fcn_deploy.machine import cuda
from fcn_deploy.machine.description import utc_now
from fcn_deploy.tensorrt import api
from fcn_deploy.tensorrt.api import TensorRt
from fcn_deploy.tensorrt.build_options import (
    CACHE_FLAG,
    BuildOptions,
    default_timing_cache,
    refuse_other_file,
    sorted_capabilities,
    timing_cache_problem,
)
from fcn_deploy.tensorrt.builder import BuiltPlan, EngineBuilder
from fcn_deploy.tensorrt.callbacks import OnProgress
from fcn_deploy.tensorrt.draft import Draft, refused_path, take_draft, write_draft
from fcn_deploy.tensorrt.engine_file import (
    ENGINES_FOLDER,
    EngineSidecar,
    engine_path,
    read_engine,
    sidecar_path,
    this_system,
)
from fcn_deploy.tensorrt.layer_census import (
    LayerCount,
    count_layers,
    count_unasked,
    require_precision,
)
from fcn_deploy.tensorrt.portability import (
    Portability,
    capabilities_in_name,
    portability_of,
    release_in_name,
    require_portable,
)


@dataclass(frozen=True)
class Engine:
    """An engine on disk.

    Attributes:
        path: of the plan.
        sidecar: what lies beside it.
        current: it was there already, and nothing has changed.
        differences: what has changed since the engine that was there before, in words.
        warnings: what went otherwise than it should and cost no engine, in sentences.
    """

    path: Path
    sidecar: EngineSidecar
    current: bool
    differences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


#: Fields of the sidecar that older ones lack and that follow from the ONNX file: no reason to build
#: anew what was built from the same file.
_TOLD_LATER = ("tail", "source_digest")


def engine_from_onnx(
    file: OnnxFile,
    *,
    name: str,
    product: Product,
    options: BuildOptions | None = None,
    folder: Path = ENGINES_FOLDER,
    command: str = "fcn-deploy build",
    export: str = "fcn-deploy export",
    on_progress: OnProgress | None = None,
    source_digest: str | None = None,
) -> Engine:
    """Build an engine, or find that the one on disk is current.

    Args:
        file: that `fcn-deploy export` wrote; it is released when TensorRT has read it.
        name: what the engine is named after.
        product: which TensorRT is to build it.
        options: profiles and builder settings.
        folder: where to put it.
        command: what rebuilds it, for its sidecar.
        export: what writes the ONNX file anew, short of its precision and outputs.
        on_progress: called with phase, steps done, steps in all, where the release tells them.
        source_digest: of :class:`EngineSidecar`.

    Raises:
        BackendError: TensorRT, or the GPU that it needs, is missing.
        OnnxFileError: the file is not ours, or newer than this TensorRT reads.
        InputError: an option that this TensorRT does not have.
        ArtifactError: the engine or the timing cache that was named cannot be written.
        BuildError: TensorRT refuses the network, or an FP16 or INT8 engine has no layer of that
            precision; its plan is left beside its place then, and the timing cache is written.
    """
    options = options or BuildOptions()
    tensorrt = api.load(product)
    wanted = {**_cache_key(file, tensorrt, options), "source_digest": source_digest}
    path = _path(folder, name, wanted)
    known, differences = _compare(path, name, wanted)
    if known is not None and not differences:
        return Engine(path, _completed(path, known, wanted), current=True)
    export += _export_options(file.metadata)
    left = take_draft(path, lambda found: not _differences(found, wanted))
    if left is not None:
        with left:
            told = LayerCount(left.sidecar.layers, left.sidecar.layers_from)
            sidecar = _accept(left, told, file, export)
        return Engine(path, sidecar, False, differences, (_taken_over(sidecar),))
    _check_opset(file, tensorrt, export)
    sidecar, warnings = _build(tensorrt, file, path, wanted, options, command, export, on_progress)
    return Engine(path, sidecar, False, differences, warnings)


def _build(
    tensorrt: TensorRt,
    file: OnnxFile,
    path: Path,
    wanted: dict[str, Any],
    options: BuildOptions,
    command: str,
    export: str,
    on_progress: OnProgress | None,
) -> tuple[EngineSidecar, tuple[str, ...]]:
    """Build an engine and put it into its place; return its sidecar and what to warn of."""
    refuse_other_file(options.timing_cache)
    settings, warnings = _with_timing_cache(options, tensorrt, path.parent, wanted)
    # A build takes minutes: what it is for must not fail after it.
    for place, flags in ((path, "--out"), (options.timing_cache, CACHE_FLAG)):
        if place is not None:
            probe(place, flags=flags)
    targets = wanted["compute_capabilities"] if tensorrt.chooses_capabilities else ()
    builder = EngineBuilder(tensorrt, file, settings, wanted["profiles"], targets, export)
    started = time.monotonic()
    built = builder.run(on_progress)
    warnings += built.warnings
    seconds = round(time.monotonic() - started, 3)
    # Both are kept before a question is asked of the engine: minutes of work lie in them.
    lost = _write_timings(settings.timing_cache, built.timing_cache)
    known = _sidecar(_with_flags(wanted, built, options), built, command, seconds)
    with write_draft(path, memoryview(built.plan), known) as draft:
        count = count_layers(tensorrt, built, wanted["profiles"][0].typical, options.portable)
        sidecar = _accept(draft, count, file, export)
    if lost is not None and options.timing_cache is not None:
        raise lost
    if lost is not None:
        warnings += (f"the timing cache is not kept: {lost.message}",)
    return sidecar, warnings


def _accept(draft: Draft, count: LayerCount, file: OnnxFile, export: str) -> EngineSidecar:
    """Give a plan its name and its sidecar, or leave it as a refused one and say why."""
    try:
        refused = refused_path(draft.place)
        require_precision(count, file.metadata.precision, file.path, export, refused)
    except BuildError:
        draft.refuse()
        raise
    return draft.accept(count.layers, count.source)


def _taken_over(sidecar: EngineSidecar) -> str:
    return (
        f"this engine was built at {sidecar.built_at}; that process ended before its layers were "
        "counted, so they were not counted again"
    )


def _completed(path: Path, known: EngineSidecar, wanted: dict[str, Any]) -> EngineSidecar:
    """Return the sidecar of a current engine with what one of its age does not tell."""
    told = {field: wanted[field] for field in _TOLD_LATER if wanted[field] is not None}
    sidecar = replace(known, **told)
    if sidecar != known:
        with suppress(ArtifactError):  # a folder that cannot be written: the engine is current
            write_bytes(sidecar_path(path), json_bytes(sidecar.to_json()), flags="--out")
    return sidecar


def _path(folder: Path, name: str, wanted: dict[str, Any]) -> Path:
    portable = portability_of(wanted["flags"])
    return engine_path(
        folder,
        name,
        wanted["precision"],
        wanted["product"],
        release_in_name(wanted["version"], portable),
        capabilities_in_name(wanted["compute_capabilities"], portable),
    )


def _with_timing_cache(
    options: BuildOptions, tensorrt: TensorRt, folder: Path, wanted: dict[str, Any]
) -> tuple[BuildOptions, tuple[str, ...]]:
    """Return the options with the folder's timing cache, where none is named and one is of use.

    That cache saves time and no more: one that cannot be used is done without, with a warning.
    """
    if options.timing_cache is not None or not tensorrt.has_timing_cache:
        return options, ()
    cache = default_timing_cache(
        folder, wanted["product"], wanted["version"], wanted["compute_capabilities"]
    )
    problem = timing_cache_problem(cache)
    if problem is not None:
        return options, (f"built without timing cache: {problem}",)
    return replace(options, timing_cache=cache), ()


def _write_timings(path: Path | None, content: bytes) -> ArtifactError | None:
    """Write the timing cache; return what kept it from being written."""
    if path is None or not content:
        return None
    try:
        write_bytes(path, content, flags=CACHE_FLAG)
    except ArtifactError as error:  # no reason to lose the engine too
        return error
    return None


def _with_flags(wanted: dict[str, Any], built: BuiltPlan, options: BuildOptions) -> dict[str, Any]:
    """Return what is known before the build with what is known after it of the settings."""
    flags = {**wanted["flags"], "builder": list(built.flags)}
    if options.timing_cache is not None:  # the engine that shows the logits takes it too
        flags["timing_cache"] = str(options.timing_cache)
    return {**wanted, "flags": flags}


def _sidecar(
    known: dict[str, Any], built: BuiltPlan, command: str, seconds: float
) -> EngineSidecar:
    """Return what the sidecar says if asking the engine for its layers ends the process."""
    count = count_unasked(built)
    return EngineSidecar(
        **known,
        plan_digest="",
        plan_bytes=0,
        layers=count.layers,
        layers_from=count.source,
        tensors=built.tensors,
        command=command,
        built_at=utc_now(),
        build_seconds=seconds,
    )


def _export_options(metadata: OnnxMetadata) -> str:
    outputs = "" if metadata.outputs == ("mask",) else f" --outputs {','.join(metadata.outputs)}"
    return metadata.precision.flag + outputs


def _cache_key(file: OnnxFile, tensorrt: TensorRt, options: BuildOptions) -> dict[str, Any]:
    """Return every field of the sidecar that is known before the build: the cache's key."""
    metadata = file.metadata
    gpu_name = driver = None
    capabilities = sorted_capabilities(options.compute_capabilities)
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
    require_portable(tensorrt, options.portable, capabilities)
    return {
        "product": tensorrt.product,
        "version": tensorrt.version,
        "onnx_digest": file.digest,
        "checkpoint_digest": metadata.checkpoint_digest,
        "precision": metadata.precision,
        "compute_capabilities": capabilities,
        "gpu_name": gpu_name,
        "driver": driver,
        "system": this_system(),
        "profiles": options.profiles or (metadata.spec.default_profile,),
        "flags": {
            "workspace_mib": options.workspace_mib,
            "optimization_level": options.optimization_level,
            "portable": None if options.portable is None else options.portable.value,
        },
        "spec": metadata.spec,
        "tail": metadata.tail,
    }


def _compare(
    path: Path, name: str, wanted: dict[str, Any]
) -> tuple[EngineSidecar | None, tuple[str, ...]]:
    """Return the sidecar of the engine that is there, and in what it differs from ``wanted``.

    Where there is none of that name, the newest of another release stands in for it; one for
    other GPUs or of the other product is another engine, and nothing that this one replaces.

    Raises:
        ArtifactError: the folder cannot be looked into.
    """
    start = f"{name}.{wanted['precision'].value}.{wanted['product'].value}-"
    portable = portability_of(wanted["flags"])
    target = "-".join(capabilities_in_name(wanted["compute_capabilities"], portable))
    # A version-compatible engine is another one than that for its own release alone.
    later = "+" if portable is Portability.VERSION else "[0-9]"
    try:
        found = path.parent.glob(f"{glob.escape(start)}[0-9]*{later}.{target}.plan")
        others = sorted((plan for plan in found if plan.is_file()), key=_modified)
        there = path if path.is_file() else others[-1] if others else None
        if there is None:
            return None, ()
        known = read_engine(there)
    except ArtifactError as error:
        return None, (error.message,)
    except OSError as error:
        raise write_error(path, error, flags="--out") from error
    return known, _differences(known, wanted)


def _differences(known: EngineSidecar, wanted: dict[str, Any]) -> tuple[str, ...]:
    """Return in what an engine differs from what is wanted, in words."""
    differences = []
    for field, value in wanted.items():
        if field in _TOLD_LATER:
            continue
        found = getattr(known, field)
        if field == "flags":
            found = {key: found.get(key) for key in value}
        if found != value:
            differences.append(f"{field}: {_in_words(found)} → {_in_words(value)}")
    return tuple(differences)


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


def _check_opset(file: OnnxFile, tensorrt: TensorRt, export: str) -> None:
    opset = max(entry.version for entry in file.model.opset_import)
    if opset > tensorrt.max_opset:
        raise OnnxFileError(
            f"{file.path} has opset {opset}, {tensorrt.label} reads up to {tensorrt.max_opset}",
            f"run `{export} --opset {tensorrt.max_opset}` first",
        )
