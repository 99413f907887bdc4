"""Environment: the machine, the versions and the time with which every result file begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fcn_deploy.machine.description import describe_machine, describe_versions, utc_now
from fcn_deploy.results.fields import Fields, as_texts

#: Properties of a machine that make it another one for speed, most telling first.
IDENTITY = ("cpu", "cores", "architecture", "memory_gib", "system", "python")
#: Share by which the memory that the system grants may differ: a new kernel keeps more for itself.
MEMORY_TOLERANCE = 0.05


@dataclass(frozen=True)
class Environment:
    """Where and when a file's figures came to be.

    Attributes:
        file: name of the file, below the run directory where it lies there, else as given.
        created: ISO 8601, UTC.
        machine: property → value, as JSON values.
        versions: distribution → version.
    """

    file: str
    created: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]

    @classmethod
    def current(cls, file: str = "") -> Environment:
        """Return this machine, its versions and the time."""
        return cls(file, utc_now(), describe_machine(), describe_versions())

    @classmethod
    def from_fields(cls, fields: Fields, file: str) -> Environment:
        """Read the header of a result file back; kind and schema are the caller's to check.

        Raises:
            ArtifactError: a field is missing or damaged.
        """
        return cls(
            file=file,
            created=fields.text("created"),
            machine=dict(fields.child("machine").values),
            versions=fields.as_texts("versions"),
        )

    def to_json(self, kind: str, schema: int) -> dict[str, Any]:
        """Return what every result file begins with, as JSON values.

        Args:
            kind: of the file, e.g. ``bench``.
            schema: version of its layout.
        """
        return {
            "schema": schema,
            "kind": kind,
            "created": self.created,
            "machine": dict(self.machine),
            "versions": dict(self.versions),
        }

    @property
    def properties(self) -> dict[str, str]:
        """The machine's properties as text."""
        return as_texts(self.machine)

    @property
    def machine_name(self) -> str:
        """CPU and cores, for a heading."""
        return machine_name(self.machine)

    def same_machine(self, other: Environment) -> bool:
        """Say whether figures were taken on the same machine, by the same Python."""
        return not differing(
            {name: self.property(name) for name in IDENTITY},
            {name: other.property(name) for name in IDENTITY},
            IDENTITY,
        )

    def property(self, name: str) -> str:
        """Return a property of the machine, empty if unknown; of its system the name alone.

        A kernel moves on without the machine becoming another one.
        """
        value = self.properties.get(name, "")
        return value.partition(" ")[0] if name == "system" else value


def differing(
    one: Mapping[str, str], other: Mapping[str, str], names: Sequence[str]
) -> tuple[str, ...]:
    """Return in which of some properties two machines differ; memory may do so a little."""
    return tuple(
        name
        for name in names
        if one.get(name) != other.get(name)
        and not (name == "memory_gib" and _about_equal(one.get(name), other.get(name)))
    )


def _about_equal(one: str | None, other: str | None) -> bool:
    try:
        less, more = sorted((float(one or 0), float(other or 0)))
    except ValueError:
        return False
    return more - less <= MEMORY_TOLERANCE * less


def machine_name(machine: Mapping[str, Any]) -> str:
    """Return a machine's CPU and cores, for a heading."""
    cores = f", {machine['cores']} cores" if "cores" in machine else ""
    return f"{machine.get('cpu', 'unknown machine')}{cores}"


def result_header(kind: str, schema: int) -> dict[str, Any]:
    """Return what every result file made on this machine begins with, as JSON values.

    Args:
        kind: of the file, e.g. ``bench``.
        schema: version of its layout.
    """
    return Environment.current().to_json(kind, schema)
