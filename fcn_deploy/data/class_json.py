"""classes.json: names and colours of the classes, and the mask values that mean each of them.

    {"classes": [{"name": "road", "colour": [128, 64, 128], "values": [7, 8]}, …],
     "void": {"values": [0], "colours": [[0, 0, 0]]},
     "others": "void"}

The place in the list is the class's index.  Without any ``values`` each value is an index;
``"reduce_zero_label": true`` says that 0 is void and n is class n - 1.  255 is void unless a class
has it.  ``others`` says what all other values are: ``"error"`` (the default) or ``"void"``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import ArtifactError, DataError
from fcn_deploy.core.files import read_json, write_json
from fcn_deploy.core.spec import IGNORE_INDEX
from fcn_deploy.data.mask_values import MAX_VALUE, ValueMap

CLASS_JSON = "classes.json"
Colour = tuple[int, int, int]
_KEYS = {"classes", "void", "others", "reduce_zero_label"}
_CLASS_KEYS = {"name", "colour", "color", "values"}
_VOID_KEYS = {"values", "colours", "colors"}


def read_class_json(
    file: Path,
) -> tuple[tuple[str, ...], tuple[Colour | None, ...], ValueMap | None, tuple[Colour, ...]]:
    """Return names, colours (None where there is none), values, and void's colours.

    Raises:
        DataError: unreadable, or contradictory; the message names the entry.
    """
    repair = f"see classes.json in docs/data.md, or remove {file}"
    try:
        content = read_json(file, repair)
    except ArtifactError as error:
        raise DataError(error.message, error.repair) from error
    _require_keys(file, "the file", content, _KEYS)
    entries = content.get("classes")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{file} has no list `classes`", 'write {"classes": [{"name": "road"}, …]}')
    names, colours, values = [], [], []
    for place, entry in enumerate(entries):
        name = entry.get("name")
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{file}: class {place} has no name", 'write {"name": "road"}')
        _require_keys(file, name, entry, _CLASS_KEYS)
        names.append(name.strip())
        colour = entry.get("colour", entry.get("color"))
        colours.append(None if colour is None else _colour(file, name, colour))
        values.append(_values(file, name, entry["values"]) if "values" in entry else None)
    void = content.get("void", {})
    if not isinstance(void, dict):
        raise DataError(f"{file}: `void` is no object", 'write {"void": {"values": [0]}}')
    _require_keys(file, "void", void, _VOID_KEYS)
    void_colours = void.get("colours", void.get("colors", []))
    if not isinstance(void_colours, list):
        raise DataError(f"{file}: void's colours are no list", "write [[0, 0, 0]]")
    return (
        tuple(names),
        tuple(colours),
        _value_map(file, content, names, values, _values(file, "void", void.get("values", []))),
        tuple(_colour(file, "void", colour) for colour in void_colours),
    )


def _require_keys(file: Path, owner: str, entry: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted({*entry} - known)
    if unknown:
        raise DataError(
            f"{file}: {owner} has an unknown entry {unknown[0]}",
            f"known: {', '.join(sorted(known))}",
        )


def _value_map(
    file: Path,
    content: Mapping[str, Any],
    names: list[str],
    values: list[list[int] | None],
    void: list[int],
) -> ValueMap | None:
    reduced, others = content.get("reduce_zero_label", False), content.get("others", "error")
    if others not in ("error", "void") or not isinstance(reduced, bool):
        raise DataError(
            f"{file}: `others` is {others!r}, `reduce_zero_label` {reduced!r}",
            '"others" is "error" or "void", "reduce_zero_label" true or false',
        )
    given = [name for name, numbers in zip(names, values, strict=True) if numbers is not None]
    if given and reduced:
        raise DataError(
            f"{file} has values and reduce_zero_label", "drop one of them: each says the same"
        )
    if given and len(given) < len(names):
        missing = next(name for name in names if name not in given)
        raise DataError(
            f"{file} gives values to {given[0]} but not to {missing}",
            "give every class its values ([] for none), or none",
        )
    if not given and not reduced and not void and others == "error":
        return None
    first = 1 if reduced else 0
    pairs = [
        (value, index)
        for index, numbers in enumerate(values)
        for value in ([index + first] if numbers is None else numbers)
    ]
    pairs += [(value, IGNORE_INDEX) for value in ([0, *void] if reduced else void)]
    seen: dict[int, int] = {}
    for value, index in pairs:
        if seen.setdefault(value, index) != index:
            raise DataError(f"{file} gives value {value} to two classes", "give each value once")
    return ValueMap(tuple(seen.items()), others == "void")


def _values(file: Path, owner: str, given: Any) -> list[int]:
    whole = isinstance(given, list) and all(type(value) is int for value in given)
    if not whole or not all(0 <= value <= MAX_VALUE for value in given):
        raise DataError(
            f"{file}: the values of {owner} are {given!r}", f"write a list of 0 to {MAX_VALUE}"
        )
    return list(given)


def _colour(file: Path, owner: str, given: Any) -> Colour:
    whole = isinstance(given, list) and all(type(channel) is int for channel in given)
    if not whole or len(given) != 3 or not all(0 <= channel <= 255 for channel in given):
        raise DataError(f"{file}: the colour of {owner} is {given!r}", "write [red, green, blue]")
    red, green, blue = given
    return red, green, blue


def class_json(
    names: tuple[str, ...],
    palette: tuple[Colour, ...],
    values: ValueMap | None = None,
    void_colours: tuple[Colour, ...] = (),
) -> dict[str, Any]:
    """Return the content of a classes.json that is read as these."""
    classes: list[dict[str, Any]] = [
        {"name": name, "colour": list(colour)} for name, colour in zip(names, palette, strict=True)
    ]
    void: dict[str, Any] = {}
    if values is not None:
        for index, entry in enumerate(classes):
            entry["values"] = sorted(value for value, of in values.pairs if of == index)
        void["values"] = sorted(value for value, of in values.pairs if of == IGNORE_INDEX)
    if void_colours:
        void["colours"] = [list(colour) for colour in void_colours]
    content: dict[str, Any] = {"classes": classes}
    if void:
        content["void"] = void
    if values is not None and values.others_void:
        content["others"] = "void"
    return content


def require_no_class_json(folder: Path) -> None:
    """Refuse a folder that has a classes.json.

    Raises:
        DataError: it has.
    """
    file = folder / CLASS_JSON
    if file.exists():
        raise DataError(f"{file} is there already", "remove it to have it written anew")


def write_class_json(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write a folder's classes.json, whole or not at all, and return its path.

    Raises:
        DataError: there is one.
    """
    require_no_class_json(folder)
    file = folder / CLASS_JSON
    write_json(file, dict(content))
    return file
