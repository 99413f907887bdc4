"""What a run holds of a network of another tool: the file itself, and how it is fed and read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fcn_deploy.core.errors import ArtifactError, OnnxFileError
from fcn_deploy.core.files import content_digest, json_bytes, read_json, write_bytes
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.graph.foreign.network import Interface
from fcn_deploy.graph.foreign.preprocessing import Preprocessing

RECORD_SCHEMA = 1
_IMPORT_AGAIN = "run `fcn-deploy import onnx:FILE` again"


@dataclass(frozen=True)
class Imported:
    """The record beside an original.

    Attributes:
        source: name of the file that was imported.
        digest: of the original as the run holds it.
        preprocessing: of its pictures.
        interface: what it takes and gives.
        spec: of the deploy graph.
    """

    source: str
    digest: str
    preprocessing: Preprocessing
    interface: Interface
    spec: ModelSpec

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {
            "schema": RECORD_SCHEMA,
            "kind": "import",
            "source": self.source,
            "digest": self.digest,
            "preprocessing": self.preprocessing.to_json(),
            "interface": self.interface.to_json(),
            "spec": self.spec.to_json(),
        }

    def write(self, run: Run, content: bytes) -> None:
        """Write the original and this record into a run, each whole or not at all.

        Raises:
            ArtifactError: a file cannot be written.
        """
        write_bytes(run.original, content)
        write_bytes(run.original_record, json_bytes(self.to_json()))


def read_imported(run: Run) -> tuple[Imported, bytes]:
    """Return a run's record, and the bytes of its original.

    Raises:
        ArtifactError: the record is missing or damaged.
        OnnxFileError: the original is missing, or another than the record is of.
    """
    fields = read_json(run.original_record, _IMPORT_AGAIN)
    try:
        if fields["schema"] != RECORD_SCHEMA:
            raise ArtifactError(
                f"{run.original_record} has schema {fields['schema']}, this version reads "
                f"{RECORD_SCHEMA}",
                _IMPORT_AGAIN,
            )
        record = Imported(
            source=str(fields["source"]),
            digest=str(fields["digest"]),
            preprocessing=Preprocessing.from_json(fields["preprocessing"]),
            interface=Interface.from_json(fields["interface"]),
            spec=ModelSpec.from_json(fields["spec"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{run.original_record} is damaged ({error!r})", _IMPORT_AGAIN) from (
            error
        )
    try:
        content = run.original.read_bytes()
    except OSError as error:
        raise OnnxFileError(
            f"cannot read {run.original}: {error.strerror}", _IMPORT_AGAIN
        ) from error
    if content_digest(content) != record.digest:
        raise OnnxFileError(
            f"{run.original} is another file than {run.original_record} is of", _IMPORT_AGAIN
        )
    return record, content
