"""The head of a journal: its first line, which says of what model and shard the other lines are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fcn_deploy.core.errors import ArtifactError
from fcn_deploy.core.spec import Precision
from fcn_deploy.predict.shard import Shard
from fcn_deploy.results.predictions import HEAD_BYTES, KIND, SCHEMA


@dataclass(frozen=True)
class JournalHead:
    """What all pictures of a journal have in common.

    Attributes:
        digest: of the model file.
        precision, backend: that computed the masks.
        overlay: whether overlays are written as well.
        shard: ``0/4``, or None for all pictures.
        classes: names by class index.
        begun_ns: when the journal was begun, by the clock of the file system it lies in.
        created: the same for people, ISO 8601, UTC.
        reading: options by which the model's masks are others, ``--bands 4,3,2``.
    """

    digest: str
    precision: str
    backend: str
    overlay: bool
    classes: tuple[str, ...]
    shard: str | None = None
    begun_ns: int = 0
    created: str = ""
    reading: str = ""

    def same_masks(self, other: JournalHead) -> bool:
        """Say whether two journals are of masks of one model, made in one way."""
        return self._model == other._model

    @property
    def _model(self) -> tuple[str, str, str, str]:
        return self.digest, self.precision, self.backend, self.reading

    @property
    def words(self) -> str:
        """The model, for messages."""
        return f"{self.backend} {self.precision}, {self.digest[:19]}{self._reading}"

    @property
    def _reading(self) -> str:
        return self.reading and f" {self.reading}"

    @property
    def file_precision(self) -> Precision:
        """Of the model file: bfloat16 is computed from float32."""
        return Precision.FP32 if self.precision == "bf16" else Precision(self.precision)

    @property
    def options(self) -> str:
        """What a command line asks for the same backend and model file with."""
        return f"--backend {self.backend}{self.file_precision.flag}{self._reading}"

    def line(self) -> bytes:
        """Return the head as the journal's first line."""
        values = {"kind": KIND, "schema": SCHEMA, **asdict(self)}
        return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def head_of(line: bytes, file: Path) -> JournalHead:
    """Read the first line of a journal.

    Raises:
        ArtifactError: it is none.
    """
    try:
        values = json.loads(line)
        if not line.endswith(b"\n") or values.pop("kind") != KIND or values.pop("schema") != SCHEMA:
            raise ValueError
        Precision(values["precision"])  # raises where there is no such
        return replace(JournalHead(**values), classes=tuple(values["classes"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(
            f"{file} does not begin as a journal of predict does",
            "delete it, or choose another folder with --out",
        ) from error


def other_heads(own: Path) -> dict[Path, JournalHead]:
    """Return the heads of all other journals of a folder."""
    heads: dict[Path, JournalHead] = {}
    for file in sorted(own.parent.glob("predictions*.jsonl")):
        if file.name != own.name:
            with reading(file), file.open("rb") as stream:
                heads[file] = head_of(stream.readline(HEAD_BYTES), file)
    return heads


def same_count(text: str | None, shard: Shard | None) -> bool:
    """Say whether a head's shard and another are parts of one whole."""
    return text is not None and shard is not None and text.endswith(f"/{shard.count}")


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Explain what fails inside, where a journal is read."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"cannot read {file}: {error.strerror}", "check its permissions"
        ) from error
