"""The header of a TIFF: its size, whether it lies somewhere on the earth, who wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fcn_deploy.data.images import suppress_warnings

_WIDTH, _HEIGHT, _SOFTWARE = 256, 257, 305
#: GeoTIFF: scale, tie points, transformation, keys.
_GEO = (33550, 33922, 34264, 34735)
_BIG = (b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class TiffHeader:
    """What is known of the first picture of a TIFF.

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
    from PIL import TiffImagePlugin

    try:
        with suppress_warnings, Path(path).open("rb") as stream:
            start = stream.read(8)
            start += stream.read(8) if start[:4] in _BIG else b""
            tags = TiffImagePlugin.ImageFileDirectory_v2(start)
            stream.seek(tags.next)
            tags.load(stream)
        geo = any(tag in tags for tag in _GEO)
        return TiffHeader(int(tags[_HEIGHT]), int(tags[_WIDTH]), geo, str(tags.get(_SOFTWARE, "")))
    except Exception:  # of a damaged file: Pillow's parser raises whatever comes of it
        return None
