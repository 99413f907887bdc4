"""Writes a bundle: the files of a run, staged, described, signed and packed.

    run ──contents.gather──▶ Contents ─┐
    reference, pictures ─▶ certificate ├─▶ staging folder ─▶ manifest ─▶ signature ─▶ archive
    model card, Kitfile ───────────────┘

Equal files of the run and an equal reference give equal bytes, up to the signature: ECDSA draws a
number for each.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fcn_deploy.bundle.certificate import record_certificate
from fcn_deploy.bundle.container import write_archive
from fcn_deploy.bundle.contents import Contents
from fcn_deploy.bundle.manifest import (
    CARD,
    KITFILE,
    MANIFEST,
    SIGNATURE,
    BundledEngine,
    BundledFile,
    Manifest,
)
from fcn_deploy.bundle.model_card import data_words, kitfile, model_card
from fcn_deploy.bundle.signature import sign
from fcn_deploy.core.errors import BundleError, InputError
from fcn_deploy.core.files import file_digest, json_bytes, write_bytes
from fcn_deploy.core.run import BUNDLE_SUFFIX
from fcn_deploy.machine.description import describe_machine, describe_versions
from fcn_deploy.parity.inputs import Pictures
from fcn_deploy.runners.base import Runner


@dataclass(frozen=True)
class WrittenBundle:
    """A bundle that has been written.

    Attributes:
        manifest: what it says of itself.
        size: in bytes.
        certificate_size: bytes of the pictures that ride along, with their masks and logits.
        signed: whether it is.
    """

    manifest: Manifest
    size: int
    certificate_size: int
    signed: bool


def require_bundle_name(target: Path) -> None:
    """Refuse a name that commands would not know as a bundle's.

    Raises:
        InputError: it does not end so.
    """
    if not target.name.endswith(BUNDLE_SUFFIX) or target.name == BUNDLE_SUFFIX:
        raise InputError(
            f"{target} is no name for a bundle: commands know one by its ending {BUNDLE_SUFFIX}",
            f"write it to NAME{BUNDLE_SUFFIX}",
        )


def write_bundle(
    contents: Contents,
    reference: Runner,
    pictures: Pictures,
    target: Path,
    *,
    key: Path | None = None,
    on_picture: Callable[[], None] = lambda: None,
) -> WrittenBundle:
    """Write a bundle, whole or not at all.

    Args:
        contents: what goes into it.
        reference: float32, of the same checkpoint, opened for ``mask`` and ``logits``.
        pictures: that ride along.
        target: the archive.
        key: private key that signs it; None: it is not signed.
        on_picture: called after each picture.

    Raises:
        InputError: the reference is of another checkpoint, or not finite; there are no pictures;
            the key is none.
        BundleError: a file changed meanwhile, or there is too much of it.
        MissingExtraError: the packages that sign are not installed.
        WriteError: the place cannot be written.
    """
    require_bundle_name(target)
    if reference.describe().checkpoint_digest != contents.checkpoint_digest:
        raise InputError(
            f"{contents.run.root} has another checkpoint than its ONNX file is of",
            f"run `fcn-deploy export{contents.run.command_suffix}` again",
        )
    name = target.name.removesuffix(BUNDLE_SUFFIX)
    with tempfile.TemporaryDirectory(prefix="fcn-deploy-bundle-") as temporary:
        folder = Path(temporary) / name  # the signature names it
        folder.mkdir()
        for member, source in contents.files().items():
            place = folder / member
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, place)
        certificate_size = record_certificate(
            reference, pictures, folder / "certificate", on_picture=on_picture
        )
        card = model_card(contents, name, pictures.count)
        write_bytes(folder / CARD, card.encode())
        write_bytes(folder / KITFILE, kitfile(contents, name).encode())
        manifest = _manifest(contents, name, _staged(folder))
        write_bytes(folder / MANIFEST, json_bytes(manifest.to_json()))
        if key is not None:
            sign(folder, key)
        write_archive(target, _in_order(_staged(folder)))
    size = target.stat().st_size
    return WrittenBundle(manifest, size, certificate_size, key is not None)


def _staged(folder: Path) -> dict[str, Path]:
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _in_order(files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the files as they stand in the archive: what describes it first, then by name."""
    first = [name for name in (MANIFEST, CARD, KITFILE) if name in files]
    last = [name for name in (SIGNATURE,) if name in files]
    between = sorted(files.keys() - {*first, *last})
    return {name: files[name] for name in (*first, *between, *last)}


def _manifest(contents: Contents, name: str, staged: Mapping[str, Path]) -> Manifest:
    files = {
        member: BundledFile(path.stat().st_size, file_digest(path))
        for member, path in sorted(staged.items())
    }
    for onnx in contents.onnx:
        if files[onnx.file].digest != onnx.digest:
            raise BundleError(f"{contents.run.root / onnx.file} changed meanwhile", "bundle again")
    return Manifest(
        name=name,
        spec=contents.spec,
        data=data_words(contents),
        checkpoint_digest=contents.checkpoint_digest,
        imported=contents.run.is_foreign,
        onnx=contents.onnx,
        engines=_engines(contents, files),
        machine=describe_machine(),
        versions=describe_versions(),
        files=files,
    )


def _engines(contents: Contents, files: Mapping[str, BundledFile]) -> tuple[BundledEngine, ...]:
    sidecars = {sidecar.plan_digest: sidecar for sidecar in contents.engines.values()}
    known = {onnx.digest for onnx in contents.onnx}
    found = []
    for member, file in files.items():
        if not member.endswith(".plan"):
            continue
        if file.digest not in sidecars:
            raise BundleError(f"the plan of {member} changed meanwhile", "bundle again")
        sidecar = sidecars[file.digest]
        # What it was built from, or what that was made of before it was built.
        sources = (sidecar.source_digest, sidecar.onnx_digest)
        source = next(one for one in sources if one is not None and one in known)  # see `gather`
        found.append(BundledEngine(member, file.digest, source))
    return tuple(found)
