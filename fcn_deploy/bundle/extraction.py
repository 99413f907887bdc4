"""Takes a bundle out of its archive, trusting nothing: listed, checked, hashed, and only then used.

    archive ──form──▶ names and sizes ──fcn-deploy.json──▶ expected ones ──SHA-256──▶ folder

Before anything is written, the archive has its one form, and holds exactly the files that its
manifest names, of their sizes, under names that bundles have.  A file whose digest is another one
is not kept.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fcn_deploy.bundle.certificate import FILE, certified_pictures, read_certificate
from fcn_deploy.bundle.container import REPAIR, Archive, name_problem
from fcn_deploy.bundle.manifest import (
    CARD,
    KITFILE,
    MANIFEST,
    MAX_MANIFEST,
    SIGNATURE,
    Manifest,
)
from fcn_deploy.bundle.signature import names_key
from fcn_deploy.core.errors import ArtifactError, BundleError, MissingStageError
from fcn_deploy.core.files import file_digest, write_error
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.graph.onnx_file import OnnxFile

#: What a bundle's files are called; nothing else is extracted.
_KNOWN = re.compile(
    r"README\.md|Kitfile|model(\.(fp16|int8))?\.onnx|original\.(onnx|json)|metrics\.json"
    r"|preview\.png|engines/[^/]+\.plan(\.json)?|(parity|evaluate|bench)/[^/]+\.json"
    r"|certificate/(certificate\.json|\d{5}\.(png|mask\.png|truth\.png|logits))"
)
#: Of these, what is made anew for a bundle.
_CERTIFICATE = "certificate/"
#: Bytes that a signature may have.
_MAX_SIGNATURE = 1 << 22


@dataclass(frozen=True)
class Extraction:
    """A bundle that has been taken out of its archive.

    Attributes:
        bundle: the archive.
        folder: where its files are.
        manifest: what it says of itself.
        signed: whether it holds a signature; nobody has checked it.
        faults: files that are not there because they are not what the manifest says: sentences,
            each beginning with the file's name.
    """

    bundle: Path
    folder: Path
    manifest: Manifest
    signed: bool
    faults: tuple[str, ...]

    def run(self, *, trusted: bool = False) -> Run:
        """Return its files as a run; ``trusted`` lets its engines be loaded."""
        return Run(self.folder, trusted=trusted, bundle=self.bundle)

    def require_whole(self) -> None:
        """Refuse a bundle of which a file is damaged.

        Raises:
            BundleError: naming the first one.
        """
        if self.faults:
            more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
            raise BundleError(f"{self.bundle}: {self.faults[0]}{more}", REPAIR)


@contextmanager
def opened_archive(bundle: Path) -> Iterator[Archive]:
    """Open a bundle's archive, its form checked.

    Raises:
        MissingStageError: there is no such file.
        BundleError: it cannot be read, or is no bundle.
    """
    if not bundle.is_file():  # a pipe would be waited for
        raise MissingStageError(f"no bundle {bundle}", "check the path")
    try:
        with bundle.open("rb") as stream:
            yield Archive(bundle, stream)
    except OSError as error:
        if error.filename not in (None, str(bundle)):
            raise
        raise BundleError(f"cannot read {bundle}: {error.strerror}", REPAIR) from error


def read_manifest(archive: Archive, bundle: Path) -> tuple[Manifest, bytes]:
    """Return an archive's manifest, which names exactly the files that it holds; and its bytes.

    Raises:
        BundleError: it is missing or damaged, or the archive holds other files.
    """
    content = archive.content(MANIFEST, MAX_MANIFEST)
    manifest = Manifest.read(content, bundle)
    held = {name: member.size for name, member in archive.members.items()}
    del held[MANIFEST]
    if held.pop(SIGNATURE, 0) > _MAX_SIGNATURE:
        raise BundleError(f"{bundle}: {SIGNATURE} is too large for a signature", REPAIR)
    named = {name: file.size for name, file in manifest.files.items()}
    for name in sorted(held.keys() ^ named.keys()):
        where = "the archive holds" if name in held else f"{MANIFEST} names"
        raise BundleError(f"{bundle}: only {where} {name}", REPAIR)
    for name, size in named.items():
        if held[name] != size:
            raise BundleError(
                f"{bundle}: {name} has {held[name]} bytes, {MANIFEST} says {size}", REPAIR
            )
        if not _KNOWN.fullmatch(name) or name_problem(name) is not None:
            raise BundleError(f"{bundle}: {name} is no file of a bundle", REPAIR)
    return manifest, content


def extract(bundle: Path, folder: Path, *, chosen_by: str = "TMPDIR") -> Extraction:
    """Take a bundle's files out into a folder of one's own, each hashed on its way.

    Args:
        bundle: the archive.
        folder: empty, and nobody else's to write.
        chosen_by: the variable that chooses where it lies, for errors.

    Raises:
        MissingStageError: there is no such archive.
        BundleError: it is no bundle, or hostile; nothing was written.
        WriteError: the folder cannot be written.
    """
    with opened_archive(bundle) as archive:
        manifest, content = read_manifest(archive, bundle)
        expected = {name: file.digest for name, file in manifest.files.items()}
        expected[MANIFEST] = f"sha256:{hashlib.sha256(content).hexdigest()}"
        faults = []
        for name in archive.members:
            try:
                fault = _extracted(archive, name, folder / name, expected.get(name))
            except OSError as error:
                raise write_error(folder / name, error, flags=chosen_by) from error
            if fault is not None:
                faults.append(fault)
        signed = SIGNATURE in archive.members
    return Extraction(bundle, folder, manifest, signed, tuple(faults))


def holds_files(
    bundle: Path, files: Mapping[str, Path], *, pictures: Sequence[str], key: Path | None
) -> bool:
    """Say whether a bundle is whole, and was made of these files of a run, as they are now.

    Args:
        bundle: the archive.
        files: name in the bundle → file.
        pictures: digests of those that ride along.
        key: private key by which it must be signed; None: it must not be signed.

    Raises:
        MissingStageError: there is no such archive.
        BundleError: it is no bundle, or is damaged.
        MissingExtraError: what reads the key is not installed.
        InputError: the key cannot be read.
    """
    with opened_archive(bundle) as archive:
        manifest, _ = read_manifest(archive, bundle)
        digests = {name: _digest_of(archive, name) for name in archive.members if name != MANIFEST}
        if any(file.digest != digests[name] for name, file in manifest.files.items()):
            return False
        certificate = archive.content(f"{_CERTIFICATE}{FILE}", MAX_MANIFEST)
        if certified_pictures(certificate) != list(pictures):
            return False
        if (key is not None) != (SIGNATURE in archive.members):
            return False
        if key is not None and not names_key(archive.content(SIGNATURE, _MAX_SIGNATURE), key):
            return False
    made = {CARD, KITFILE} | {name for name in manifest.files if name.startswith(_CERTIFICATE)}
    if manifest.files.keys() - made != files.keys():
        return False
    return all(file_digest(path) == manifest.files[name].digest for name, path in files.items())


def _digest_of(archive: Archive, name: str) -> str:
    digest = hashlib.sha256()
    for block in archive.blocks(name):
        digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _extracted(archive: Archive, name: str, target: Path, expected: str | None) -> str | None:
    """Write a file; where it is damaged, return why and keep nothing."""
    target.parent.mkdir(mode=0o700, exist_ok=True)
    digest = hashlib.sha256()
    fault = None
    with target.open("xb") as stream:
        try:
            for block in archive.blocks(name):
                digest.update(block)
                stream.write(block)
        except BundleError as error:
            fault = f"{name} is damaged ({error.message})"
    found = f"sha256:{digest.hexdigest()}"
    if expected not in (None, found):  # the signature has none
        fault = f"{name} is damaged: expected {expected}, found {found}"
    if fault is not None:
        target.unlink()
    return fault


def contradictions(extraction: Extraction) -> tuple[str, ...]:
    """Return where a bundle's files say otherwise than its manifest: sentences.

    Raises:
        BackendError: the onnx package is missing.
    """
    manifest, run = extraction.manifest, extraction.run()
    found = []
    for onnx in manifest.onnx:
        try:
            metadata = OnnxFile(run.root / onnx.file).metadata
        except ArtifactError as error:
            found.append(f"{onnx.file}: {error.message}")
            continue
        said = (metadata.precision, metadata.checkpoint_digest, metadata.spec)
        if said != (onnx.precision, manifest.checkpoint_digest, manifest.spec):
            found.append(f"{onnx.file} is of another network or precision than {MANIFEST} says")
        if run.onnx(onnx.precision).name != onnx.file:
            found.append(f"{onnx.file} has the name of another precision than {onnx.precision}")
    if manifest.imported:
        try:
            original = OnnxFile(run.original)
            _ = original.model
            if original.digest != manifest.checkpoint_digest:
                found.append(f"{run.original.name} is another network than {MANIFEST} says")
        except ArtifactError as error:
            found.append(f"{run.original.name}: {error.message}")
    try:
        certificate = read_certificate(run.certificate)
    except ArtifactError as error:
        return (*found, f"certificate: {error.message}")
    stems_from = certificate.reference.checkpoint_digest
    if stems_from != manifest.checkpoint_digest or certificate.spec != manifest.spec:
        found.append("certificate: it is of another network")
    return tuple(found)


def precisions(manifest: Manifest) -> tuple[Precision, ...]:
    """Return the precisions of a bundle's ONNX files."""
    return tuple(onnx.precision for onnx in manifest.onnx)
