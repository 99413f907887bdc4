"""A bundle as a run: extracted once into the user's cache, under the digest of its manifest.

The manifest names the digest of every file, so a folder of that name has one right content; it is
hashed again before each use.  Results are not written there: see `Run.results_root`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from fcn_deploy.bundle.container import REPAIR
from fcn_deploy.bundle.extraction import (
    contradictions,
    extract,
    opened_archive,
    read_manifest,
)
from fcn_deploy.bundle.manifest import MANIFEST, SIGNATURE, Manifest
from fcn_deploy.core.errors import ArtifactError, BundleError, WriteError
from fcn_deploy.core.files import file_digest, write_error
from fcn_deploy.core.run import Run

#: The variable that chooses the user's cache folder.
_CHOICE = "XDG_CACHE_HOME"


def cache_folder() -> Path:
    """Return where bundles are extracted: below the user's cache folder.

    Raises:
        WriteError: the user has no home folder, and has chosen no place.
    """
    if chosen := os.environ.get(_CHOICE):
        return Path(chosen) / "fcn-deploy" / "bundles"
    try:
        return _usual_base() / "fcn-deploy" / "bundles"
    except RuntimeError as error:  # a user without a name, as containers have
        raise WriteError(
            "bundles are taken out below the home folder, and there is none",
            "choose another place",
            _CHOICE,
        ) from error


def _usual_base() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path.home() / ".cache"


def open_bundle(bundle: Path, *, trusted: bool = False) -> Run:
    """Return a bundle as a run; its files are checked by their digests, each time.

    Its signature is not checked; its engines are loaded only where it is trusted.

    Args:
        bundle: the archive.
        trusted: whether its engines may be loaded, which are code.

    Raises:
        MissingStageError: there is no such archive.
        BundleError: it is no bundle, is damaged, or hostile.
        WriteError: the cache cannot be written.
    """
    with opened_archive(bundle) as archive:
        manifest, content = read_manifest(archive, bundle)
    parent = cache_folder()
    folder = parent / hashlib.sha256(content).hexdigest()
    if not _is_whole(folder, manifest):
        try:
            parent.mkdir(parents=True, mode=0o700, exist_ok=True)
            _fill(bundle, folder, manifest)
        except OSError as error:
            raise write_error(folder, error, flags=_CHOICE) from error
    return Run(folder, trusted=trusted, bundle=bundle)


def _is_whole(folder: Path, manifest: Manifest) -> bool:
    """Say whether a folder, named by a manifest's digest, holds that and its files alone."""
    if folder.is_symlink():
        return False
    found = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    if found.keys() - {MANIFEST, SIGNATURE} != manifest.files.keys():
        return False
    if any(path.is_symlink() for path in found.values()):
        return False
    try:
        if file_digest(folder / MANIFEST) != f"sha256:{folder.name}":
            return False
        return all(
            found[name].stat().st_size == file.size and file_digest(found[name]) == file.digest
            for name, file in manifest.files.items()
        )
    except (ArtifactError, OSError):  # another process is replacing it
        return False


def _fill(bundle: Path, folder: Path, manifest: Manifest) -> None:
    """Extract a bundle beside its place, and move it there when it is whole.

    Of two processes at once, the first to be done wins; the other uses its folder.
    """
    fresh = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        extraction = extract(bundle, fresh, chosen_by=_CHOICE)
        extraction.require_whole()
        for sentence in contradictions(extraction):
            raise BundleError(f"{bundle}: {sentence}", REPAIR)
        if folder.exists() and not _is_whole(folder, manifest):
            broken = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
            with suppress(FileNotFoundError):  # another process was faster
                os.replace(folder, broken / "old")
            shutil.rmtree(broken, ignore_errors=True)
        try:
            fresh.rename(folder)
        except OSError:
            if not _is_whole(folder, manifest):
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
