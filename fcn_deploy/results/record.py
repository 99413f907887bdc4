"""Records: dataclasses that become JSON objects and are read back, each field by its type.

    class Settings(Record):
        min_seconds: float      ─to_json─▶  {"min_seconds": 0.5}  ─from_fields─▶  Fields.number

A class whose JSON is not one key a field says so in its own `to_json` and `from_fields`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

from fcn_deploy.results.fields import Fields

if TYPE_CHECKING:
    from typing_extensions import Self

#: A number that is refused unless it is above 0.
Positive = Annotated[float, "above 0"]

_READERS: dict[Any, Callable[[Fields, str], Any]] = {
    str: Fields.text,
    str | None: Fields.text_or_none,
    bool: Fields.flag,
    int: Fields.non_negative_int,
    int | None: Fields.non_negative_int_or_none,
    float: Fields.number,
    float | None: Fields.number_or_none,
    Positive: Fields.positive,
    tuple[str, ...]: Fields.texts,
    tuple[str, ...] | None: Fields.texts_or_none,
    tuple[int, ...]: Fields.non_negative_ints,
    tuple[float | None, ...]: Fields.numbers_or_none,
    tuple[Positive, ...]: Fields.positives,
    tuple[int, int]: Fields.size,
    tuple[tuple[int, int], ...]: Fields.sizes,
}


class Record:
    """A dataclass that a result file holds as an object."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {name: as_json(value) for name, value in vars(self).items()}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read back what :meth:`to_json` gave.

        Raises:
            ArtifactError: a field is missing or damaged.
        """
        return cls(**read_fields(cls, fields))


def as_json(value: Any) -> Any:
    """Return a value as JSON can hold it: records and mappings as dicts, sequences as lists."""
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, Mapping):
        return {name: as_json(entry) for name, entry in value.items()}
    return [as_json(entry) for entry in value] if isinstance(value, (tuple, list)) else value


def read_fields(kind: type, fields: Fields, **given: Any) -> dict[str, Any]:
    """Return what a dataclass is made of, in the order of its fields.

    Args:
        kind: the dataclass.
        fields: the object that holds it.
        given: fields that were read otherwise.

    Raises:
        ArtifactError: a field is missing or damaged.
    """
    return {
        name: given[name] if name in given else read_field(hint, fields, name)
        for name, hint in _types(kind).items()
    }


def read_field(hint: Any, fields: Fields, name: str) -> Any:
    """Return a field of a type: of those above, a record, a record or None, a tuple of records.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    if hint in _READERS:
        return _READERS[hint](fields, name)
    kind, *rest = get_args(hint) or (hint,)
    if get_origin(hint) is tuple:
        return tuple(map(kind.from_fields, fields.children(name)))
    child = fields.child_or_none(name) if rest else fields.child(name)
    return None if child is None else kind.from_fields(child)


@cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)
