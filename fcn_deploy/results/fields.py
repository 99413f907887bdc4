"""JSON objects on their way in: whatever is missing or wrong is named with file, place and repair.

    Fields(values, file, repair).child("inputs").text("source")
        → the text, or ArtifactError "bench.json is damaged: inputs.source is missing"

A result file may come from another machine or from a person's editor: every value is checked as it
is read, and none is trusted for having the right type.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import ArtifactError

#: What a picture inside a file may be, and what its content must then be.
_PICTURE_KINDS = {"data:image/png;base64": "PNG", "data:image/jpeg;base64": "JPEG"}
#: No figure of ours is larger.
LARGEST = 1e30


@dataclass(frozen=True)
class InlinePicture:
    """A picture that is stored in a file as a ``data:`` URI, checked to be one.

    Attributes:
        uri: ``data:image/png;base64,…`` or the same of JPEG.
        width: in pixels.
        height: in pixels.
    """

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Fields:
    """A JSON object that is being read.

    Attributes:
        values: the object.
        file: where it stands, for messages.
        repair: what to do about a damaged one.
        where: path of the object inside the file, with a dot at its end, or empty.
    """

    values: Mapping[str, Any]
    file: Path
    repair: str
    where: str = ""

    def wrong(self, name: str, expected: str) -> ArtifactError:
        """Return the error that names a field which is missing or not what was expected."""
        state = "is missing" if name not in self.values else f"is not {expected}"
        return ArtifactError(f"{self.file} is damaged: {self.where}{name} {state}", self.repair)

    def text(self, name: str) -> str:
        """Return a text."""
        value = self.values.get(name)
        if not isinstance(value, str):
            raise self.wrong(name, "text")
        return value

    def text_or_none(self, name: str) -> str | None:
        """Return a text; None where it is null or missing."""
        return None if self.values.get(name) is None else self.text(name)

    def flag(self, name: str) -> bool:
        """Return true or false."""
        value = self.values.get(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def non_negative_int(self, name: str) -> int:
        """Return a whole number from 0."""
        value = self.values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise self.wrong(name, "a whole number")
        return value

    def non_negative_int_or_none(self, name: str) -> int | None:
        """Return a whole number from 0; None where it is null."""
        return None if self._is_null(name) else self.non_negative_int(name)

    def index(self, name: str, count: int) -> int:
        """Return a whole number below ``count``."""
        value = self.non_negative_int(name)
        if value >= count:
            raise self.wrong(name, f"a whole number below {count}")
        return value

    def number(self, name: str) -> float:
        """Return a finite number."""
        value = finite(self.values.get(name))
        if value is None:
            raise self.wrong(name, "a number")
        return value

    def number_or_none(self, name: str) -> float | None:
        """Return a finite number; None where it is null."""
        return None if self._is_null(name) else self.number(name)

    def positive(self, name: str) -> float:
        """Return a finite number above 0."""
        value = self.number(name)
        if value <= 0:
            raise self.wrong(name, "a number above 0")
        return value

    def items(self, name: str) -> Sequence[Any]:
        """Return a list."""
        value = self.values.get(name)
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts."""
        values = self.items(name)
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(name, "a list of texts")
        return tuple(values)

    def texts_or_none(self, name: str) -> tuple[str, ...] | None:
        """Return a list of texts; None where it is null."""
        return None if self._is_null(name) else self.texts(name)

    def numbers(self, name: str, length: int | None = None) -> tuple[float, ...]:
        """Return a list of finite numbers: at least one, or exactly ``length``."""
        values = [finite(value) for value in self.items(name)]
        known = tuple(value for value in values if value is not None)
        if not known or len(known) != len(values) or len(known) != (length or len(known)):
            raise self.wrong(name, f"a list of {length or 'some'} numbers")
        return known

    def positives(self, name: str) -> tuple[float, ...]:
        """Return a list of finite numbers above 0, at least one."""
        values = self.numbers(name)
        if min(values) <= 0:
            raise self.wrong(name, "a list of numbers above 0")
        return values

    def sequence_or_none(self, name: str, length: int) -> tuple[float, ...] | None:
        """Return a list of ``length`` finite numbers; None where it is null."""
        return None if self._is_null(name) else self.numbers(name, length)

    def numbers_or_none(self, name: str) -> tuple[float | None, ...]:
        """Return a list of numbers, each of which may be null."""
        values = self.items(name)
        if not all(value is None or finite(value) is not None for value in values):
            raise self.wrong(name, "a list of numbers")
        return tuple(finite(value) for value in values)

    def non_negative_ints(self, name: str) -> tuple[int, ...]:
        """Return a list of whole numbers from 0."""
        values = self.items(name)
        if not all(type(value) is int and 0 <= value < 2**63 for value in values):
            raise self.wrong(name, "a list of whole numbers")
        return tuple(values)

    def size(self, name: str) -> tuple[int, int]:
        """Return [height, width] in pixels."""
        height, width = self.numbers(name, 2)
        return int(height), int(width)

    def sizes(self, name: str) -> tuple[tuple[int, int], ...]:
        """Return a list of [height, width] in pixels."""
        values = self.items(name)
        if not all(
            isinstance(size, list) and [type(length) for length in size] == [int, int]
            for size in values
        ):
            raise self.wrong(name, "a list of sizes, [height, width] each")
        return tuple((height, width) for height, width in values)

    def colours(self, name: str, count: int) -> tuple[tuple[int, int, int], ...]:
        """Return ``count`` colours, [red, green, blue] each, 0 to 255."""
        colours = [tuple(colour) if isinstance(colour, list) else () for colour in self.items(name)]
        if len(colours) != count or not all(
            len(colour) == 3 and all(type(shade) is int and 0 <= shade < 256 for shade in colour)
            for colour in colours
        ):
            raise self.wrong(name, f"a list of {count} colours")
        return tuple((red, green, blue) for red, green, blue in colours)

    def picture(self, name: str) -> InlinePicture:
        """Return a picture that is stored in the file: PNG or JPEG, in base64."""
        from PIL import Image

        uri = self.text(name)
        kind, _, content = uri.partition(",")
        wrong = self.wrong(name, "a PNG or JPEG picture as a data: URI")
        if kind not in _PICTURE_KINDS:
            raise wrong
        try:
            data = base64.b64decode(content, validate=True)
            formats = [_PICTURE_KINDS[kind]]
            with Image.open(io.BytesIO(data), formats=formats) as image:  # noqa: TID251 (no file)
                width, height = image.size
                image.verify()
        except (
            binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError,
        ) as error:  # fmt: skip
            raise wrong from error
        return InlinePicture(uri, width, height)

    def child(self, name: str) -> Fields:
        """Return an object."""
        value = self.values.get(name)
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Fields(value, self.file, self.repair, f"{self.where}{name}.")

    def child_or_none(self, name: str) -> Fields | None:
        """Return an object; None where it is null."""
        return None if self._is_null(name) else self.child(name)

    def children(self, name: str) -> list[Fields]:
        """Return a list of objects."""
        values = self.items(name)
        if not all(isinstance(value, dict) for value in values):
            raise self.wrong(name, "a list of objects")
        return [
            Fields(value, self.file, self.repair, f"{self.where}{name}[{index}].")
            for index, value in enumerate(values)
        ]

    def as_texts(self, name: str) -> dict[str, str]:
        """Return an object of plain values as text, whatever its keys: machines grow new ones."""
        return as_texts(self.child(name).values)

    def _is_null(self, name: str) -> bool:
        return name in self.values and self.values[name] is None


def finite(value: Any) -> float | None:
    """Return a JSON number as a float; None for whatever is none, or not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON's whole numbers have no end
        return None
    # Nothing measured is beyond; what is would overflow where an axis is laid out.
    return number if abs(number) <= LARGEST else None


def finite_or_none(value: float) -> float | None:
    """Return a computed number as JSON can hold it: None for NaN and infinity."""
    return float(value) if math.isfinite(value) else None


def as_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return plain JSON values as text; null and objects are left out."""
    return {
        str(key): _as_text(value)
        for key, value in values.items()
        if value is not None and not isinstance(value, dict)
    }


def _as_text(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    # Numbers are a size, such as [64, 96]; words are a list, such as the CPU's flags.
    return ("×" if all(type(v) is int for v in value) else ", ").join(map(str, value))
