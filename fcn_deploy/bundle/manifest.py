"""`fcn-deploy.json`: what a bundle holds, and from what it was made, by digest.

data ─▶ checkpoint ─▶ ONNX files ─▶ engines         each names what it was made from
files                                               name, size and SHA-256 of each
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import ArtifactError, BundleError
from fcn_deploy.core.spec import ModelSpec, Precision
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.record import Record, read_fields

BUNDLE_SCHEMA = 1
#: The files that compute masks, beside the original of what was imported from ONNX.
_MODEL = re.compile(r"model(\..*)?\.onnx|engines/.*\.plan")
_ORIGINAL = ("original.onnx", "original.json")
MANIFEST, SIGNATURE = "fcn-deploy.json", "model.sig"
CARD, KITFILE = "README.md", "Kitfile"
#: Bytes that a manifest may have.
MAX_MANIFEST = 1 << 24
_REPAIR = "get the bundle again from where it was made, or make it again with `fcn-deploy bundle`"


@dataclass(frozen=True)
class BundledFile(Record):
    """A file of a bundle.

    Attributes:
        size: in bytes.
        digest: ``sha256:…`` of the content.
    """

    size: int
    digest: str


@dataclass(frozen=True)
class BundledOnnx(Record):
    """An ONNX file of a bundle.

    Attributes:
        file: its name in the bundle.
        precision: of the network's arithmetic.
        digest: of the file.
        outputs: of its graph.
        proven_by: backends whose masks passed the gate with it, where the bundle was made.
    """

    file: str
    precision: Precision
    digest: str
    outputs: tuple[str, ...]
    proven_by: tuple[str, ...]

    @classmethod
    def from_fields(cls, fields: Fields) -> BundledOnnx:
        """Read back what ``asdict`` gave."""
        try:
            precision = Precision(fields.text("precision"))
        except ValueError as error:
            raise fields.wrong("precision", f"one of {', '.join(Precision)}") from error
        return cls(**read_fields(cls, fields, precision=precision))


@dataclass(frozen=True)
class BundledEngine(Record):
    """A TensorRT engine of a bundle.

    Attributes:
        file: its name in the bundle; its sidecar lies beside it.
        digest: of the plan.
        onnx_digest: of the ONNX file whose graph it computes.
    """

    file: str
    digest: str
    onnx_digest: str


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        name: of the network.
        spec: its classes, colours and normalisation.
        data: what it was trained on, in words; None where that is not known.
        checkpoint_digest: of the checkpoint, or of the original that was imported.
        imported: whether it was imported from ONNX.
        onnx: its ONNX files.
        engines: its engines.
        machine: where it was made, as JSON values.
        versions: distribution → version, there.
        files: name → file, of all but this manifest and the signature.
    """

    name: str
    spec: ModelSpec
    data: str | None
    checkpoint_digest: str
    imported: bool
    onnx: tuple[BundledOnnx, ...]
    engines: tuple[BundledEngine, ...]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    files: Mapping[str, BundledFile]

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON values; the same for the same content."""
        return {
            "schema": BUNDLE_SCHEMA,
            "kind": "bundle",
            "name": self.name,
            "class_names": list(self.spec.class_names),
            "palette": [list(colour) for colour in self.spec.palette],
            "spec": self.spec.to_json(),
            "data": self.data,
            "checkpoint_digest": self.checkpoint_digest,
            "imported": self.imported,
            "onnx": [asdict(file) for file in self.onnx],
            "engines": [asdict(engine) for engine in self.engines],
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "files": {name: asdict(file) for name, file in self.files.items()},
        }

    @classmethod
    def read(cls, content: bytes, bundle: Path) -> Manifest:
        """Read what :meth:`to_json` gave.

        Args:
            content: of the file.
            bundle: that it lies in, for errors.

        Raises:
            BundleError: it is damaged, of another schema, or contradicts itself.
        """
        place = bundle / MANIFEST
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{place} is not JSON ({error})", _REPAIR) from error
        if not isinstance(values, dict) or values.get("kind") != "bundle":
            raise BundleError(f"{place} describes no bundle", _REPAIR)
        if values.get("schema") != BUNDLE_SCHEMA:
            raise BundleError(
                f"{place} has schema {values.get('schema')}, this version reads {BUNDLE_SCHEMA}",
                "install the fcn-deploy that wrote it",
            )
        try:
            manifest = cls._from_fields(Fields(values, place, _REPAIR))
        except ArtifactError as error:
            raise BundleError(error.message, error.repair or _REPAIR) from error
        manifest._require_consistent(place)
        return manifest

    @classmethod
    def _from_fields(cls, fields: Fields) -> Manifest:
        files = fields.child("files")
        return cls(
            name=fields.text("name"),
            spec=ModelSpec.from_json(fields.text("spec")),
            data=fields.text_or_none("data"),
            checkpoint_digest=fields.text("checkpoint_digest"),
            imported=fields.flag("imported"),
            onnx=tuple(BundledOnnx.from_fields(entry) for entry in fields.children("onnx")),
            engines=tuple(BundledEngine.from_fields(e) for e in fields.children("engines")),
            machine=dict(fields.child("machine").values),
            versions=fields.as_texts("versions"),
            files={name: BundledFile.from_fields(files.child(name)) for name in files.values},
        )

    def _require_consistent(self, place: Path) -> None:
        """Refuse a manifest that names files which it does not list, or lists otherwise."""
        named = [(onnx.file, onnx.digest) for onnx in self.onnx]
        named += [(engine.file, engine.digest) for engine in self.engines]
        for file, digest in named:
            known = self.files.get(file)
            if known is None or known.digest != digest:
                raise BundleError(f"{place} names {file}, and not its digest", _REPAIR)
        known_onnx = {onnx.digest for onnx in self.onnx}
        for engine in self.engines:
            if f"{engine.file}.json" not in self.files:
                raise BundleError(f"{place} names {engine.file}, and not its sidecar", _REPAIR)
            if engine.onnx_digest not in known_onnx:
                raise BundleError(f"{place} names no ONNX file that {engine.file} is of", _REPAIR)
        # What is not named here would be run by commands, and proven by nobody.
        models = {name for name in self.files if _MODEL.fullmatch(name)}
        for file in sorted(models - {file for file, _ in named}):
            raise BundleError(f"{place} lists {file}, and does not say what it is", _REPAIR)
        if any((name in self.files) != self.imported for name in _ORIGINAL):
            raise BundleError(f"{place} does not say rightly whether it was imported", _REPAIR)
        if not any(file.precision is Precision.FP32 for file in self.onnx):
            raise BundleError(f"{place} names no float32 ONNX file", _REPAIR)
