"""The header of a TIFF, of its first picture: sizes, and whether it lies somewhere on the earth.

Reads the tags alone, of TIFF and BigTIFF, without any library: it is asked of every .tif that is
named.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

#: How a name ends that may be a map's.
TIFF_SUFFIXES = (".tif", ".tiff")
_WIDTH, _HEIGHT, _SOFTWARE = 256, 257, 305
#: GeoTIFF: scale, tie points, transformation, keys.
_GEO = frozenset({33550, 33922, 34264, 34735})
#: Of types of TIFF's values, those that are whole numbers.
_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_ASCII = 2
_MOST_TAGS = 4096


@dataclass(frozen=True)
class TiffHeader:
    """What is known of a TIFF.

    Attributes:
        height, width: in pixels.
        georeferenced: whether it holds coordinates.
        software: that wrote it, or "".
    """

    height: int
    width: int
    georeferenced: bool
    software: str


def tiff_header(path: str | Path) -> TiffHeader | None:
    """Return the header of a file, or None where it is no TIFF that can be read."""
    with suppress(OSError, struct.error, KeyError, ValueError), Path(path).open("rb") as stream:
        start = stream.read(16)
        order = {b"II": "<", b"MM": ">"}[start[:2]]
        (version,) = struct.unpack_from(f"{order}H", start, 2)
        big = {42: False, 43: True}[version]
        (place,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", start, 8 if big else 4)
        tags = _tags(stream, order, big, place)
        return TiffHeader(
            int(tags[_HEIGHT]),
            int(tags[_WIDTH]),
            not _GEO.isdisjoint(tags),
            str(tags.get(_SOFTWARE, "")),
        )
    return None


def _tags(stream: BinaryIO, order: str, big: bool, place: int) -> dict[int, int | str]:
    """Return the tags of one picture; values that are none of those asked for are 0."""
    count_form, entry_form, inline = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    stream.seek(place)
    size = struct.calcsize(order + count_form)
    (count,) = struct.unpack(order + count_form, stream.read(size))
    size = struct.calcsize(order + entry_form) + inline
    entries = stream.read(min(count, _MOST_TAGS) * size)
    tags: dict[int, int | str] = {}
    for begin in range(0, len(entries) - size + 1, size):
        tag, kind, length = struct.unpack_from(order + entry_form, entries, begin)
        value = entries[begin + size - inline : begin + size]
        tags[tag] = 0
        if tag in (_WIDTH, _HEIGHT):
            (tags[tag],) = struct.unpack_from(order + _NUMBERS[kind], value)
        elif tag == _SOFTWARE and kind == _ASCII:
            if length > inline:
                stream.seek(struct.unpack(f"{order}{'Q' if big else 'I'}", value)[0])
                value = stream.read(min(length, 64))
            tags[tag] = value.split(b"\0")[0].decode("ascii", "replace")
    return tags
