"""PNG files of indices: packed in memory by the quickest deflate at hand; what a header says."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import InputError

isal_zlib: Any = None  # a target may do without the package: zlib's files hold the same pixels
with suppress(ImportError):
    from isal import isal_zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BITS, _INDEXED = 8, 3
_DEFLATE, _FIVE_FILTERS, _NOT_INTERLACED = 0, 0, 0
_UNFILTERED = 0


def indexed_png(indices: NDArray[np.uint8], colours: NDArray[np.uint8], *, software: str) -> bytes:
    """Return a mask as a PNG file: indexed colour, 8 bits, rows unfiltered.

    Why not by Pillow: docs/architecture.md, "Reading and writing pictures".

    Args:
        indices: uint8 [H, W].
        colours: uint8 [256, 3], RGB of each index.
        software: what the file's "Software" text says, Latin-1.

    Raises:
        InputError: ``indices`` are of another dtype or rank, or empty.

    Source: PNG specification, third edition, sections 5 and 11.
    """
    if indices.dtype != np.uint8 or indices.ndim != 2 or indices.size == 0:
        raise InputError(
            f"a mask is uint8 [H, W] with H, W ≥ 1, not {indices.dtype} {list(indices.shape)}",
            "pass class indices 0 to 255, e.g. logits.argmax(0).astype(np.uint8)",
        )
    height, width = indices.shape
    form = (_BITS, _INDEXED, _DEFLATE, _FIVE_FILTERS, _NOT_INTERLACED)
    return b"".join(
        [
            _SIGNATURE,
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *form)),
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
    """Put before each row the byte that names its filter."""
    height, width = indices.shape
    rows = np.empty((height, 1 + width), np.uint8)
    rows[:, 0] = _UNFILTERED
    rows[:, 1:] = indices
    return rows


def _packed(rows: NDArray[np.uint8]) -> bytes:
    if isal_zlib is not None:
        return bytes(isal_zlib.compress(rows, 1))
    # By runs alone: masks are flat areas.  Level 1 without it takes as long, for more bytes.
    packer = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    return packer.compress(rows.tobytes()) + packer.flush()


def png_bit_depth(path: Path) -> int:
    """Return the bits per sample that a PNG's header names; 8 for any other file."""
    with path.open("rb") as stream:
        header = stream.read(26)
    # Signature (8), chunk length and name (8), width and height (8), then the depth.
    return header[24] if header.startswith(_SIGNATURE) and len(header) == 26 else 8
