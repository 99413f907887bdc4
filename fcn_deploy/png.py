"""An index picture → a PNG file in memory, packed by the quickest deflate at hand."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

try:
    from isal import isal_zlib
except ImportError:  # a target that does without the package: zlib's files hold the same pixels
    isal_zlib = None  # type: ignore[assignment]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BITS, _INDEXED = 8, 3


def indexed_png(indices: NDArray[np.uint8], colours: NDArray[np.uint8], *, software: str) -> bytes:
    """Write an indexed-colour PNG of 8 bits, rows unfiltered.

    Pillow would take three times as long (360×480): here nothing is copied but the rows once, and
    ISA-L's deflate packs in a quarter of zlib's time, at 1.1 to 1.25 of its size.

    Args:
        indices: uint8 [H, W].
        colours: uint8 [n, 3], RGB, n ≤ 256 and above every index.
        software: what the file's "Software" text says, Latin-1.

    Source: PNG specification, third edition, sections 5 and 11.
    """
    height, width = indices.shape
    return b"".join(
        [
            _SIGNATURE,
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, _BITS, _INDEXED, 0, 0, 0)),
            _chunk(b"PLTE", colours.tobytes()),
            _chunk(b"tEXt", b"Software\0" + software.encode("latin-1")),
            _chunk(b"IDAT", _packed(_unfiltered_rows(indices))),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _unfiltered_rows(indices: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put before each row the byte that names its filter: 0, none."""
    height, width = indices.shape
    rows = np.empty((height, 1 + width), np.uint8)
    rows[:, 0] = 0
    rows[:, 1:] = indices
    return rows


def _packed(rows: NDArray[np.uint8]) -> bytes:
    if isal_zlib is not None:
        return isal_zlib.compress(rows, 1)
    # By runs alone: masks are flat areas.  Level 1 without it takes as long, for more bytes.
    packer = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    return packer.compress(rows) + packer.flush()
