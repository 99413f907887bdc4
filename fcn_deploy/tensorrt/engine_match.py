"""Does an engine belong to this graph, this GPU and this release of TensorRT; which one does."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fcn_deploy.core.errors import (
    ArtifactError,
    BatchShapeError,
    EngineError,
    InputError,
    MissingStageError,
)
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import BatchShape, ModelSpec, Precision, Product, ShapeProfile
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.tensorrt import api
from fcn_deploy.tensorrt.engine_file import (
    ENGINES_FOLDER,
    REPAIR,
    EngineSidecar,
    PlanHeader,
    header_problem,
    read_engine,
    read_plan_header,
    read_sidecar,
    same_release,
    sidecar_path,
    this_system,
)
from fcn_deploy.tensorrt.portability import (
    Portability,
    fits_gpu,
    fits_release,
    portability_of,
    version_numbers,
)


def installed_products() -> list[Product]:
    """Return the TensorRT products that are installed."""
    # Asked without loading TensorRT: an engine that is refused is refused before that.
    return [product for product in Product if api.is_installed(product)]


@dataclass(frozen=True, eq=False)
class RunModel:
    """The model that an engine must have been built from: a run's, of one precision.

    Attributes:
        run: the run directory, or a file that was named.
        precision: of the file.
    """

    run: Run
    precision: Precision

    @cached_property
    def file(self) -> OnnxFile:
        """Its ONNX file, which need not be there; read once for all that ask."""
        return OnnxFile(self.run.onnx(self.precision))


def engine_folders(run: Run) -> tuple[Path, ...]:
    """Return where a run's engines may lie; a bundle's own are code, and loaded where trusted."""
    if run.bundle is not None and run.trusted:
        return run.engines_folder, ENGINES_FOLDER
    return (ENGINES_FOLDER,)


def find_engine(
    model: RunModel,
    outputs: tuple[str, ...],
    capability: str,
    *,
    source_digest: str | None = None,
) -> Path:
    """Return the newest engine of the model that fits this machine and gives ``outputs``.

    Args:
        model: that it must be of.
        outputs: that it must give.
        capability: of this machine's GPU.
        source_digest: of the ONNX file whose graph it must be of, with more made visible or
            without; None: that of the model where it gives ``outputs``.

    Raises:
        MissingStageError: there is none; the repair names the command that builds it.
    """
    run, precision = model.run, model.precision
    digests: dict[str, str] = {}
    if model.file.path.is_file():
        metadata = model.file.metadata
        precision = metadata.precision
        digests["checkpoint_digest"] = metadata.checkpoint_digest
        if set(outputs) <= set(metadata.outputs):
            digests["onnx_digest"] = model.file.digest
    elif run.checkpoint.is_file():
        digests["checkpoint_digest"] = file_digest(run.checkpoint)
    else:
        digests["name"] = run.name
    reasons = []
    for product, folder in itertools.product(installed_products(), engine_folders(run)):
        found, reason = newest_engine(
            folder,
            product=product,
            version=api.installed_version(product),
            compute_capability=capability,
            precision=precision,
            outputs=outputs,
            onnx_digest=digests.get("onnx_digest"),
            checkpoint_digest=digests.get("checkpoint_digest"),
            name=digests.get("name"),
            source_digest=source_digest,
        )
        if found is not None:
            return found
        reasons.append(reason)
    build = f"fcn-deploy build{run.command_suffix}{precision.flag}"
    if outputs != ("mask",):  # another export might not be the graph that gives the masks
        build = f"fcn-deploy parity{run.command_suffix} --backend trt{precision.flag}"
    raise MissingStageError(
        f"no engine of {run.shown} gives {', '.join(outputs)} here ({'; '.join(reasons)})",
        f"run `{build}` first",
    )


@dataclass(frozen=True)
class EngineIdentity:
    """An engine that has passed every check but the profile.

    Attributes:
        path: of the plan.
        digest: of the plan.
        onnx_digest: of the ONNX file that it was built from.
        product: which TensorRT runs it.
        spec: classes, colours, normalisation.
        precision: of the network's arithmetic.
        checkpoint_digest: of the checkpoint it stems from.
        outputs: that its sidecar names; empty where it has none.
        profiles: batch shapes that it takes; empty: ask the engine.
        command: what rebuilds it.
        driver: CUDA version of the driver that it was built under; None where it is not known.
        note: what is unusual about it, or None.
        portable: what it was built to fit beyond one release and one kind of GPU, or None.
        tail: the form of its network's last step; None where that is not told.
    """

    path: Path
    digest: str
    onnx_digest: str
    product: Product
    spec: ModelSpec
    precision: Precision
    checkpoint_digest: str
    outputs: tuple[str, ...]
    profiles: tuple[ShapeProfile, ...]
    command: str
    portable: Portability | None = None
    driver: str | None = None
    note: str | None = None
    tail: str | None = None

    def is_served_by(self, driver: str) -> bool:
        """Say whether a driver is as new as the one under which this release built the engine."""
        return self.driver is not None and version_numbers(driver) >= version_numbers(self.driver)


def identify(plan: Path, model: RunModel, capability: str) -> EngineIdentity:
    """Check an engine in the order digest → product and version → compute capability."""
    if model.run.trusted and plan.is_file() and not sidecar_path(plan).is_file():
        header = read_plan_header(plan)
        check_release(plan, header, header.product, api.installed_version(header.product))
        model.run.require_onnx(model.precision)
        metadata = model.file.metadata
        return EngineIdentity(
            path=plan,
            digest=file_digest(plan),
            onnx_digest=model.file.digest,
            product=header.product,
            spec=metadata.spec,
            precision=metadata.precision,
            checkpoint_digest=metadata.checkpoint_digest,
            outputs=(),
            profiles=(),
            command="fcn-deploy build",
            tail=metadata.tail,
        )
    sidecar = read_engine(plan)
    check_belongs(
        plan,
        sidecar,
        product=sidecar.product,
        version=api.installed_version(sidecar.product),
        compute_capability=capability,
    )
    return EngineIdentity(
        path=plan,
        digest=sidecar.plan_digest,
        onnx_digest=sidecar.onnx_digest,
        product=sidecar.product,
        spec=sidecar.spec,
        precision=sidecar.precision,
        checkpoint_digest=sidecar.checkpoint_digest,
        outputs=sidecar.outputs,
        profiles=sidecar.profiles,
        command=sidecar.command,
        portable=portability_of(sidecar.flags),
        driver=sidecar.driver,
        note=header_problem(plan),
        tail=sidecar.tail,
    )


def check_release(plan: Path, header: PlanHeader, product: Product, version: str) -> None:
    """Refuse a plan without a sidecar that another product or release wrote.

    Raises:
        EngineError: naming both releases.
    """
    if header.product is not product or not same_release(header, version):
        found = f"{header.product.value}-{'.'.join(map(str, header.version))}"
        raise _release_error(plan, found, f"{product.value}-{version}", REPAIR)


def check_belongs(
    plan: Path,
    sidecar: EngineSidecar,
    *,
    product: Product,
    version: str,
    compute_capability: str,
) -> None:
    """Refuse an engine of another release, for another system or for another GPU.

    Args:
        plan: the engine, for the message.
        sidecar: of the engine.
        product: the one that is to run it.
        version: the release installed here.
        compute_capability: of this machine's GPU, e.g. ``sm89``.

    Raises:
        EngineError: saying what was expected, what was found, and what rebuilds it.
    """
    command = sidecar.command
    if sidecar.product is Product.RTX and compute_capability not in sidecar.compute_capabilities:
        # Run as it stands it would build for the same GPUs again.
        command = re.sub(r" --compute-capability \S+", "", command)
        command += f" --compute-capability {compute_capability}"
    repair = f"run `{command}` here"
    portable = portability_of(sidecar.flags)
    if sidecar.product is not product or not fits_release(portable, sidecar.version, version):
        raise _release_error(plan, sidecar.release, f"{product.value}-{version}", repair)
    system = this_system()
    if sidecar.system != system:
        raise EngineError(
            f"{plan} is for another system: expected {system}, found {sidecar.system}", repair
        )
    if not fits_gpu(portable, sidecar.compute_capabilities, compute_capability):
        built_on = "" if sidecar.gpu_name is None else f" (built on {sidecar.gpu_name})"
        raise EngineError(
            f"{plan} is for another GPU: expected compute capability {compute_capability}, found "
            f"{', '.join(sidecar.compute_capabilities)}{built_on}",
            repair,
        )


def _release_error(plan: Path, found: str, expected: str, repair: str) -> EngineError:
    return EngineError(
        f"{plan} is of another TensorRT: expected {expected}, which is installed here, found "
        f"{found}",
        repair,
    )


def choose_profile(profiles: tuple[ShapeProfile, ...], shape: BatchShape) -> int | None:
    """Return the index of the profile tuned nearest to ``shape``, or None if none takes it."""
    fitting = [index for index, profile in enumerate(profiles) if profile.contains(shape)]

    def tuned_for(index: int) -> int:
        typical = profiles[index].typical
        return sum(abs(a - b) for a, b in zip(typical, shape, strict=True))

    return min(fitting, key=tuned_for) if fitting else None


def shape_error(
    profiles: tuple[ShapeProfile, ...], command: str, shape: BatchShape
) -> BatchShapeError:
    """Return the refusal of a shape outside all profiles, naming the nearest and the rebuild."""
    nearest = min(profiles, key=lambda profile: profile.distance(shape))
    try:
        repair = f"run `{command} --profile {nearest.widened_to(shape)}`"
    except InputError:
        repair = "no engine takes so many pixels at a time: give smaller batches or pictures"
    return BatchShapeError(
        f"the engine takes no batch of {'x'.join(map(str, shape))} (N×H×W): the nearest profile is "
        f"{nearest}",
        repair,
    )


def newest_engine(
    folder: Path,
    *,
    product: Product,
    version: str,
    compute_capability: str,
    precision: Precision,
    outputs: Iterable[str],
    onnx_digest: str | None = None,
    checkpoint_digest: str | None = None,
    name: str | None = None,
    source_digest: str | None = None,
) -> tuple[Path | None, str]:
    """Look for an engine that belongs here and to the model.

    Args:
        folder: where engines lie.
        product: the one that is to run it.
        version: the release installed here.
        compute_capability: of this machine's GPU.
        precision: asked for.
        outputs: that it must give; one that gives nothing else is preferred.
        onnx_digest: of the file it must have been built from, or None.
        checkpoint_digest: of the checkpoint it must stem from, or None.
        name: what it must be named after, or None; for a machine that holds engines alone.
        source_digest: of the file as shipped that it must have been built from, or of whose graph
            with the logits made visible; or None.

    Returns:
        The newest that fits, portable ones last, or None; and why the best other does not fit.
    """
    wanted = set(outputs)
    here = {"version": version, "compute_capability": compute_capability}
    fitting, refused = list[tuple[int, bool, str, Path]](), list[tuple[bool, str, str]]()
    for path in sorted(folder.glob("*.plan")):
        if name is not None and not path.name.startswith(f"{name}."):
            continue
        try:
            sidecar = read_sidecar(path)
            check_belongs(path, sidecar, product=product, **here)
        except ArtifactError as error:
            refused.append((False, "", error.message))
            continue
        foreign = not (
            onnx_digest in (None, sidecar.onnx_digest)
            and checkpoint_digest in (None, sidecar.checkpoint_digest)
            and source_digest in (None, sidecar.onnx_digest, sidecar.source_digest)
        )
        if foreign:
            reason = "was built from another file"
        elif sidecar.precision is not precision:
            reason = f"is {sidecar.precision.value}"
        elif not wanted <= set(sidecar.outputs):
            reason = f"gives {', '.join(sidecar.outputs)} alone"
        else:
            fitting.append(_rank(path, sidecar))
            continue
        refused.append((wanted <= set(sidecar.outputs), sidecar.built_at, f"{path} {reason}"))
    reason = max(refused)[-1] if refused else f"there is none in {folder}/"
    return (max(fitting)[-1] if fitting else None), reason


def _rank(path: Path, sidecar: EngineSidecar) -> tuple[int, bool, str, Path]:
    """Return what the engines that fit are ordered by, the best one highest."""
    # A portable engine may be slower than one for this release and GPU, however new it is.
    exact = portability_of(sidecar.flags) is None
    return -len(sidecar.outputs), exact, sidecar.built_at, path
