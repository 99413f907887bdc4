"""Files of a run: where they lie, how they are named by digest, how they are written whole.

Every stage reads files and writes new ones.  A file appears under its name only when it is
complete: it is written under a temporary name in the same folder and moved with ``os.replace``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import ArtifactError, MissingStageError
from fcn_deploy.core.spec import Precision

DEFAULT_RUN = Path("runs/fcn")
#: Of the files that may be named in place of a run.
MODEL_SUFFIXES = (".safetensors", ".onnx", ".plan")
#: What chooses where a command writes, for the repair of a failed write.
OUTPUT_FLAGS = "--out or --json"


def file_digest(path: Path) -> str:
    """Return ``sha256:…`` of the file's bytes."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
    return f"sha256:{digest.hexdigest()}"


@contextmanager
def atomic_path(target: Path, *, flags: str = OUTPUT_FLAGS) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; move it there if the block succeeds.

    On any exception the temporary file is removed and an older ``target`` stays as it was.

    Raises:
        ArtifactError: the folder cannot be made or written, or the disk is full.
    """
    temporary = _temporary(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        os.replace(temporary, target)
    except OSError as error:
        if error.errno is None:  # a library's own OSError, not the disk's: let its owner speak
            raise
        raise write_error(target, error, flags=flags) from error
    finally:
        with suppress(OSError):  # it may never have come to be, nor its folder
            temporary.unlink()


def _temporary(target: Path) -> Path:
    # The suffix is kept: Pillow and onnx choose a format by it.
    return target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")


def _flush(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


@contextmanager
def atomic_pair(
    content: Path, voucher: Path, *, flags: str = OUTPUT_FLAGS
) -> Iterator[tuple[Path, Path]]:
    """Yield temporary paths for a file and for another that vouches for it; move both at the end.

    As long as one of the two is not whole on the disk, an older pair stays as it was.  A crash
    between the moves leaves ``content`` without a voucher, never beside the voucher of another.

    Raises:
        ArtifactError: the folder cannot be made or written, or the disk is full.
    """
    temporaries = _temporary(content), _temporary(voucher)
    try:
        content.parent.mkdir(parents=True, exist_ok=True)
        yield temporaries
        for temporary in temporaries:
            _flush(temporary)
        voucher.unlink(missing_ok=True)
        os.replace(temporaries[0], content)
        os.replace(temporaries[1], voucher)
    except OSError as error:
        raise write_error(content, error, flags=flags) from error
    finally:
        for temporary in temporaries:
            with suppress(OSError):  # it may never have come to be, nor its folder
                temporary.unlink()


def write_error(target: Path, error: OSError, *, flags: str = OUTPUT_FLAGS) -> ArtifactError:
    """Translate a failed write into one clear sentence.

    Args:
        target: what could not be written.
        error: why.
        flags: what the user may type to write elsewhere.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        repair = f"the disk is full: free some space, or write elsewhere with {flags}"
    else:
        repair = f"choose another place with {flags}"
    # What `mkdir` finds existing is a file in the folder's place; "File exists" would mislead.
    reason = os.strerror(errno.ENOTDIR) if error.errno == errno.EEXIST else error.strerror
    return ArtifactError(f"cannot write {target}: {reason or error}", repair)


def probe(target: Path, *, flags: str = OUTPUT_FLAGS) -> None:
    """Make the target's folder and try that it can be written, before the work that it is for.

    Raises:
        ArtifactError: it cannot be written, or is a folder.
    """
    # A name that nobody has: the user may keep other files in this folder.
    trial = target.parent / f".writable.{secrets.token_hex(4)}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise write_error(target, error, flags=flags) from error


def write_bytes(target: Path, content: bytes, *, flags: str = OUTPUT_FLAGS) -> None:
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


@dataclass(frozen=True)
class Run:
    """A run directory, with single files that the user named instead of its own.

    Attributes:
        root: the directory, e.g. ``runs/fcn``.
        named_file: a checkpoint, ONNX file or engine given by name in place of the run's own.
        trusted: load an engine that has no sidecar; engines are code.
    """

    root: Path
    named_file: Path | None = None
    trusted: bool = False

    @classmethod
    def from_argument(cls, argument: str | Path | None) -> Run:
        """Turn a command's RUN argument (a directory, a file, nothing) into a run.

        Raises:
            MissingStageError: neither a directory nor a file of that name exists.
            ArtifactError: the file is neither a checkpoint nor an ONNX file.
        """
        if argument is None:
            return cls(DEFAULT_RUN)
        path = Path(argument)
        if path.is_file():
            if path.suffix not in MODEL_SUFFIXES:  # its neighbours must not stand in for it
                raise ArtifactError(
                    f"{path} is no checkpoint (.safetensors), ONNX file (.onnx) or engine (.plan)",
                    "give a run directory or one of its model files",
                )
            return cls(path.parent, path)
        if path.is_dir():
            return cls(path)
        if path.suffix in MODEL_SUFFIXES:
            raise MissingStageError(f"no file {path}", "check the path, or name a run directory")
        raise MissingStageError(
            f"no run {path}", f"run `fcn-deploy train --out {shlex.quote(str(path))}` first"
        )

    def _file(self, name: str, suffix: str) -> Path:
        if self.named_file is not None and self.named_file.suffix == suffix:
            return self.named_file
        return self.root / name

    @property
    def command_suffix(self) -> str:
        """The RUN argument as the user should type it: empty for the default run."""
        return "" if self.root == DEFAULT_RUN else f" {shlex.quote(str(self.root))}"

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint lies (it may not exist)."""
        return self._file("model.safetensors", ".safetensors")

    def onnx(self, precision: Precision) -> Path:
        """Where the ONNX file of that precision lies (it may not exist)."""
        name = "model.onnx" if precision is Precision.FP32 else f"model.{precision.value}.onnx"
        return self._file(name, ".onnx")

    def has_model(self) -> bool:
        """Say whether a checkpoint or an ONNX file is there."""
        return self.checkpoint.exists() or any(self.onnx(p).exists() for p in Precision)

    def onnx_target(self, precision: Precision) -> Path:
        """Where `export` writes: always the run's own file, never one that was named."""
        return Run(self.root).onnx(precision)

    @property
    def name(self) -> str:
        """What the run's engines are named after: its directory, or the ONNX file given."""
        if self.named_file is not None and self.named_file.suffix == ".onnx":
            return self.named_file.stem
        return self.root.resolve().name

    @property
    def named_engine(self) -> Path | None:
        """A TensorRT engine given by name, or None."""
        if self.named_file is not None and self.named_file.suffix == ".plan":
            return self.named_file
        return None

    @property
    def baseline_onnx(self) -> Path:
        """The plain export that `bench` measures as the baseline."""
        return self.root / "baseline.onnx"

    @property
    def metrics(self) -> Path:
        """Training figures per epoch."""
        return self.root / "metrics.json"

    @property
    def preview(self) -> Path:
        """Grid image | prediction | truth, of the last epoch."""
        return self.root / "preview.png"

    def preview_of(self, epoch: int) -> Path:
        """The same grid of an epoch, from 1."""
        return self.root / "previews" / f"epoch-{epoch:03}.png"

    @property
    def last_checkpoint(self) -> Path:
        """The weights after the last epoch; :attr:`checkpoint` holds those of the best."""
        return self.root / "last.safetensors"

    @property
    def epoch_lines(self) -> Path:
        """The figures of :attr:`metrics` again, one epoch a line."""
        return self.root / "metrics.jsonl"

    @property
    def state(self) -> Path:
        """Where an unfinished training run stands, for ``train --resume``."""
        return self.root / "state.pt"

    @property
    def events(self) -> Path:
        """TensorBoard's event files."""
        return self.root / "tensorboard"

    @property
    def parity_folder(self) -> Path:
        """Parity results, one JSON per candidate."""
        return self.root / "parity"

    @property
    def bench_folder(self) -> Path:
        """Benchmark results."""
        return self.root / "bench"

    @property
    def bisect_folder(self) -> Path:
        """Layer-by-layer comparisons of two ONNX files."""
        return self.root / "bisect"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.root / "report.html"

    def refuse_existing(self, *, overwrite: bool) -> None:
        """Keep a trained model from being replaced unasked.

        Raises:
            ArtifactError: the directory holds a model or an unfinished run, and ``overwrite`` is
                not set.
        """
        if self.state.exists() and not overwrite:
            raise ArtifactError(
                f"{self.root} holds an unfinished training run",
                "go on with --resume, train into another folder with --out, or replace it with "
                "--overwrite",
            )
        if self.checkpoint.exists() and not overwrite:
            raise ArtifactError(
                f"{self.checkpoint} exists already",
                "train into another folder with --out, or replace it with --overwrite",
            )

    def forget_training(self) -> None:
        """Remove what an earlier training left and a new one would stand beside.

        Its best checkpoint and its figures stay until the new one's first epoch replaces them.
        """
        previews = self.preview_of(1).parent.glob("epoch-*.png")
        for path in (self.last_checkpoint, *previews, *self.events.glob("events.out.tfevents.*")):
            path.unlink(missing_ok=True)

    def prepare(self) -> None:
        """Make the directory and try that it can be written, before hours of work.

        Raises:
            ArtifactError: it cannot be written.
        """
        probe(self.checkpoint)

    def require_checkpoint(self) -> Path:
        """Return the checkpoint's path.

        Raises:
            MissingStageError: the run has not been trained.
        """
        if not self.checkpoint.is_file():
            out = f" --out{self.command_suffix}" if self.command_suffix else ""
            raise MissingStageError(f"no {self.checkpoint}", f"run `fcn-deploy train{out}` first")
        return self.checkpoint

    def require_onnx(self, precision: Precision) -> Path:
        """Return the ONNX file's path.

        Raises:
            MissingStageError: the run has not been exported in that precision.
        """
        path = self.onnx(precision)
        if not path.is_file():
            raise MissingStageError(
                f"no {path}", f"run `fcn-deploy export{self.command_suffix}{precision.flag}` first"
            )
        return path
