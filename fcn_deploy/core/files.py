"""Files of a run: where they lie, how they are named by digest, how they are written whole.

Every stage reads files and writes new ones.  A file appears under its name only when it is
complete: it is written under a temporary name in the same folder and moved with ``os.replace``.
"""

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import ArtifactError, MissingStageError, WriteError


def file_digest(path: Path) -> str:
    """Return ``sha256:…`` of the file's bytes."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}", "check the path") from error
    return f"sha256:{digest.hexdigest()}"


def content_digest(content: bytes) -> str:
    """Return ``sha256:…`` of bytes, as :func:`file_digest` does of a file that holds them."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@contextmanager
def atomic_path(target: Path, *, flags: str | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; move it there if the block succeeds.

    On any exception the temporary file is removed and an older ``target`` stays as it was.

    Raises:
        ArtifactError: the folder cannot be made or written, the disk is full, or there is something
            that is no file, as `/dev/null` is.
    """
    temporary = _temporary(target)
    try:
        _refuse_special(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = _create(temporary)
        yield temporary
        _flush(temporary, mode)
        os.replace(temporary, target)
    except OSError as error:
        if error.errno is None:  # a library's own OSError, not the disk's: let its owner speak
            raise
        raise write_error(target, error, flags=flags) from error
    finally:
        with suppress(OSError):  # it may never have come to be, nor its folder
            temporary.unlink()


def _refuse_special(target: Path) -> None:
    """Refuse what is neither a file nor a folder: moving a file there would replace a device."""
    if target.exists() and not target.is_file() and not target.is_dir():
        raise OSError(errno.EINVAL, "it is no regular file")


def _temporary(target: Path) -> Path:
    # The suffix is kept: Pillow and onnx choose a format by it.
    return target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")


def _create(path: Path) -> int:
    """Make an empty file, and return the mode that it is given here."""
    path.touch()
    return stat.S_IMODE(path.stat().st_mode)


def _flush(path: Path, mode: int) -> None:
    # A library may have put a file of its own in place of ours: safetensors' are for one's eyes.
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def write_error(target: Path, error: OSError, *, flags: str | None = None) -> WriteError:
    """Translate a failed write into one clear sentence.

    Args:
        target: what could not be written.
        error: why.
        flags: the options that choose another place; None: the command line adds its own.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        repair = "the disk is full: free some space, or write elsewhere"
    else:
        repair = "choose another place"
    # What `mkdir` finds existing is a file in the folder's place; "File exists" would mislead.
    reason = os.strerror(errno.ENOTDIR) if error.errno == errno.EEXIST else error.strerror
    return WriteError(f"cannot write {target}: {reason or error}", repair, flags)


def probe(target: Path, *, flags: str | None = None) -> None:
    """Make the target's folder and try that it can be written, before the work that it is for.

    Raises:
        ArtifactError: it cannot be written, or is a folder or a device.
    """
    # A name that nobody has: the user may keep other files in this folder.
    trial = target.parent / f".writable.{secrets.token_hex(4)}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _refuse_special(target)
    except OSError as error:
        raise write_error(target, error, flags=flags) from error


def write_bytes(target: Path, content: bytes, *, flags: str | None = None) -> None:
    """Write ``content`` to ``target``, whole or not at all."""
    with atomic_path(target, flags=flags) as temporary:
        temporary.write_bytes(content)


def write_json(target: Path, content: Any) -> None:
    """Write ``content`` as indented JSON to ``target``, whole or not at all.

    NaN and infinities are refused: JSON has no word for them, so callers write ``None``.
    """
    write_bytes(target, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """Return ``content`` as indented JSON, without NaN and infinities."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path, repair: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        repair: what the user should do if it is missing or broken.

    Raises:
        MissingStageError: there is no such file.
        ArtifactError: it is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingStageError(f"no {path}", repair) from error
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}", repair) from error
    except ValueError as error:
        raise ArtifactError(f"{path} is not JSON ({error})", repair) from error
    except RecursionError as error:
        raise ArtifactError(f"{path} is nested too deeply", repair) from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} is not a result of fcn-deploy", repair)
    return content
