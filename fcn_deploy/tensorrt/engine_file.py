"""TensorRT engines as files: the clean plan, its sidecar, and who is refused.

    fcn.fp16.trt-10.16.1.11.sm89.plan        what TensorRT wrote, byte for byte
    fcn.fp16.trt-10.16.1.11.sm89.plan.json   the sidecar: what it is and where it belongs

An engine is code that the GPU runs, bound to one release and one kind of GPU.  It is checked in
this order, cheapest first: digest → product and version → compute capability → profile.  The digest
needs no TensorRT; the next two need to know its release, for which it is loaded only where its
package does not tell (a Jetson's does not); all three are decided before it sees the plan.
"""

from __future__ import annotations

import hashlib
import json
import platform
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from fcn_deploy.core.errors import ArtifactError, EngineError, MissingStageError
from fcn_deploy.core.files import file_digest, read_json
from fcn_deploy.core.spec import ModelSpec, Precision, Product, ShapeProfile
from fcn_deploy.tensorrt.callbacks import LOGGER

SIDECAR_SCHEMA = 1
ENGINES_FOLDER = Path("engines")
#: First bytes of a plan, by product.
_PLAN_TAGS = {b"ftrt": Product.TRT, b"vtrt": Product.RTX}
#: Both products write the release (major, minor, patch, build) into these bytes of the header;
#: read off plans of TensorRT for RTX 1.7.1 and off trtexec's ``--getPlanVersionOnly``.
_PLAN_HEADER_BYTES, _PLAN_VERSION_OFFSET = 28, 24
#: TensorRT's layout of plans for which that holds, by the four bytes behind the tag.
_PLAN_LAYOUT_OFFSET, _KNOWN_LAYOUT = 4, 0
REPAIR = "run `fcn-deploy build` again"


@dataclass(frozen=True)
class EngineTensor:
    """One input or output of an engine.

    Attributes:
        name: e.g. ``image``.
        mode: ``input`` or ``output``.
        dtype: as numpy names it.
        shape: -1 where it is dynamic.
    """

    name: str
    mode: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class EngineSidecar:
    """What lies beside a plan.

    Attributes:
        product: which TensorRT wrote the plan.
        version: its full release.
        plan_digest: of the plan.
        plan_bytes: its size.
        onnx_digest: of the ONNX file it was built from.
        checkpoint_digest: of the checkpoint that the ONNX file stems from.
        precision: of the network's arithmetic.
        layers: number of compiled layers by the precision that they work in; empty where TensorRT
            tells none.
        layers_from: who counted: the engine's inspector, or the builder's own log; else "not told"
            with the reason.
        compute_capabilities: GPUs that it runs on, e.g. ``("sm89",)``.
        gpu_name: of the GPU that it was built on; None where it was built without one.
        driver: CUDA version of that GPU's driver; None likewise.
        system: operating system and architecture that it runs on.
        profiles: batch shapes that it takes.
        tensors: inputs and outputs.
        flags: builder settings that shape the engine, by name.
        spec: classes, colours, normalisation.
        command: what rebuilds it.
        built_at: ISO 8601, UTC.
        build_seconds: time that the builder took.
        tail: the form of the ONNX file's last step, see docs/numerics.md; None in older sidecars,
            and where the file does not tell.
        source_digest: of the ONNX file as shipped, where the engine is of its graph with the logits
            made visible; None for all others, and in older sidecars.
    """

    product: Product
    version: str
    plan_digest: str
    plan_bytes: int
    onnx_digest: str
    checkpoint_digest: str
    precision: Precision
    layers: dict[str, int]
    layers_from: str
    compute_capabilities: tuple[str, ...]
    gpu_name: str | None
    driver: str | None
    system: str
    profiles: tuple[ShapeProfile, ...]
    tensors: tuple[EngineTensor, ...]
    flags: dict[str, Any]
    spec: ModelSpec
    command: str
    built_at: str
    build_seconds: float
    tail: str | None = None
    source_digest: str | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what the engine gives."""
        return tuple(tensor.name for tensor in self.tensors if tensor.mode == "output")

    @property
    def release(self) -> str:
        """Product and version, e.g. ``trt-10.16.1.11``."""
        return f"{self.product.value}-{self.version}"

    def to_json(self) -> dict[str, Any]:
        """Return the sidecar as JSON values, sealed with a digest of themselves."""
        content = {
            "schema": SIDECAR_SCHEMA,
            **asdict(self),
            "product": self.product.value,
            "precision": self.precision.value,
            "profiles": [profile.to_json() for profile in self.profiles],
            "spec": json.loads(self.spec.to_json()),
        }
        content = json.loads(json.dumps(content))
        return {**content, "sidecar_digest": _seal(content)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> EngineSidecar:
        """Read what :meth:`to_json` wrote.

        Raises:
            EngineError: of another schema, changed since it was written, or unreadable.
        """
        fields = dict(content)
        if fields.get("schema") != SIDECAR_SCHEMA:
            raise EngineError(
                f"has schema {fields.get('schema')}, this version reads {SIDECAR_SCHEMA}", REPAIR
            )
        expected, found = fields.pop("sidecar_digest", "none"), _seal(fields)
        if found != expected:
            raise EngineError(
                f"was changed after the build: expected {expected}, found {found}", REPAIR
            )
        del fields["schema"]
        try:
            _require_kinds(fields)
            return cls(
                **{
                    **fields,
                    "product": Product(fields["product"]),
                    "precision": Precision(fields["precision"]),
                    "compute_capabilities": tuple(fields["compute_capabilities"]),
                    "profiles": tuple(
                        ShapeProfile.from_json(entry) for entry in fields["profiles"]
                    ),
                    "tensors": tuple(
                        EngineTensor(**{**entry, "shape": tuple(entry["shape"])})
                        for entry in fields["tensors"]
                    ),
                    "spec": ModelSpec.from_json(json.dumps(fields["spec"])),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"is unreadable ({error!r})", REPAIR) from error


#: What the fields hold that are taken from a sidecar as they are.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "version": str,
    "plan_digest": str,
    "plan_bytes": int,
    "onnx_digest": str,
    "checkpoint_digest": str,
    "layers": dict,
    "layers_from": str,
    "gpu_name": (str, NoneType),
    "driver": (str, NoneType),
    "system": str,
    "flags": dict,
    "command": str,
    "built_at": str,
    "build_seconds": (int, float),
    "tail": (str, NoneType),
    "source_digest": (str, NoneType),
}


def _require_kinds(fields: dict[str, Any]) -> None:
    for name, kind in _KINDS.items():
        if name in fields and not isinstance(fields[name], kind):
            raise TypeError(f"{name} is {fields[name]!r}")
    if not all(isinstance(name, str) for name in fields["compute_capabilities"]):
        raise TypeError(f"compute_capabilities is {fields['compute_capabilities']!r}")


def _seal(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def engine_path(
    folder: Path,
    name: str,
    precision: Precision,
    product: Product,
    version: str,
    compute_capabilities: Iterable[str],
) -> Path:
    """Return where an engine lies: ``NAME.PRECISION.PRODUCT-VERSION.smXX.plan``."""
    target = "-".join(compute_capabilities)
    return folder / f"{name}.{precision.value}.{product.value}-{version}.{target}.plan"


def this_system() -> str:
    """Return this machine's operating system and architecture, e.g. ``Linux x86_64``."""
    return f"{platform.system()} {platform.machine()}"


def sidecar_path(plan: Path) -> Path:
    """Return where a plan's sidecar lies."""
    return plan.with_name(f"{plan.name}.json")


def read_sidecar(plan: Path) -> EngineSidecar:
    """Read a plan's sidecar.

    Raises:
        MissingStageError: there is none.
        EngineError: it was changed, or is unreadable.
    """
    path = sidecar_path(plan)
    if not path.is_file():
        raise MissingStageError(
            f"{plan} has no sidecar: expected {path.name} beside it, found none, so nobody knows "
            "what it is or where it belongs",
            f"{REPAIR}, or load it with --trust if you built it yourself (engines are code)",
        )
    try:
        return EngineSidecar.from_json(read_json(path, REPAIR))
    except EngineError as error:
        raise EngineError(f"the sidecar {path} {error.message}", error.repair) from error
    except ArtifactError as error:
        raise EngineError(error.message, REPAIR) from error


@dataclass(frozen=True)
class PlanHeader:
    """What a plan's first bytes tell without TensorRT.

    Attributes:
        product: which TensorRT wrote it.
        version: major, minor, patch and build of the release.
    """

    product: Product
    version: tuple[int, int, int, int]


def read_plan_header(plan: Path) -> PlanHeader:
    """Read which product and release wrote a plan.

    Raises:
        MissingStageError: there is no such file.
        EngineError: it is no plan, ends within its header, or has a layout that is not known.
    """
    try:
        with plan.open("rb") as stream:
            start = stream.read(_PLAN_HEADER_BYTES)
    except FileNotFoundError as error:
        raise MissingStageError(f"no engine {plan}", REPAIR) from error
    except OSError as error:
        raise EngineError(f"cannot read {plan}: {error.strerror}", REPAIR) from error
    if len(start) < _PLAN_HEADER_BYTES:
        raise EngineError(
            f"{plan} is truncated: expected a header of {_PLAN_HEADER_BYTES} bytes, found "
            f"{len(start)}",
            REPAIR,
        )
    if start[:4] not in _PLAN_TAGS:
        raise EngineError(
            f"{plan} is no TensorRT plan: expected it to start with "
            f"{' or '.join(repr(tag) for tag in _PLAN_TAGS)}, found {start[:4]!r}",
            REPAIR,
        )
    product = _PLAN_TAGS[start[:4]]
    (layout,) = struct.unpack_from("<I", start, _PLAN_LAYOUT_OFFSET)
    if product is Product.TRT and layout != _KNOWN_LAYOUT:
        raise EngineError(
            f"{plan} is a plan of another layout: expected serialization version {_KNOWN_LAYOUT}, "
            f"found {layout}",
            REPAIR,
        )
    version = struct.unpack_from("4B", start, _PLAN_VERSION_OFFSET)
    return PlanHeader(product, version)


def header_problem(plan: Path) -> str | None:
    """Return why a plan's first bytes do not tell its release, or None where they do."""
    try:
        read_plan_header(plan)
    except EngineError as error:
        return error.message
    return None


def read_engine(plan: Path) -> EngineSidecar:
    """Check that a plan is the one that its sidecar describes; TensorRT is not needed.

    A plan with that digest whose header says nothing is taken, with a warning: it is what TensorRT
    wrote, and a release may write its header differently.

    Raises:
        MissingStageError: the plan or its sidecar is missing.
        EngineError: the sidecar was changed; the plan is truncated, changed, or another release's.
    """
    if not plan.is_file():
        raise MissingStageError(f"no engine {plan}", REPAIR)
    sidecar = read_sidecar(plan)
    repair = f"run `{sidecar.command}` again"
    size = plan.stat().st_size
    if size < sidecar.plan_bytes:
        raise EngineError(
            f"{plan} is truncated: expected {sidecar.plan_bytes} bytes, found {size}", repair
        )
    digest = file_digest(plan)
    if digest != sidecar.plan_digest:
        raise EngineError(
            f"{plan} is not the plan that was built: expected {sidecar.plan_digest}, found "
            f"{digest}",
            repair,
        )
    problem = header_problem(plan)
    if problem is not None:
        LOGGER.warning("%s; it has the digest that its sidecar names, so it is taken", problem)
        return sidecar
    header = read_plan_header(plan)
    if header.product is not sidecar.product or not same_release(header, sidecar.version):
        raise EngineError(
            f"{plan} does not fit its sidecar: expected a plan of {sidecar.release}, found one of "
            f"{header.product.value}-{'.'.join(map(str, header.version))}",
            repair,
        )
    return sidecar


def same_release(header: PlanHeader, version: str) -> bool:
    """Say whether a plan's header tells the same TensorRT release as a version."""
    # TensorRT's module may say 8.6.0 where the plan says 8.6.0.12: compare what both tell.
    numbers = [int(word) for word in version.split(".")[:4] if word.isdigit()]
    return list(header.version[: len(numbers)]) == numbers
