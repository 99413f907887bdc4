"""A small picture, and files that hold it."""

import struct
import zlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.data.scenes.render import draw_scene


def picture(height: int = 30, width: int = 42) -> NDArray[np.uint8]:
    return draw_scene(3, 1, (height, width))[0]


def encoded(format: str, image: Image.Image | None = None) -> bytes:
    stream = BytesIO()
    (image or Image.fromarray(picture())).save(stream, format=format)
    return stream.getvalue()


WHOLE = {
    name: encoded(name, image)
    for name, image in {
        "PNG": Image.fromarray(picture()),
        "JPEG": Image.fromarray(picture()),
        "BMP": Image.fromarray(picture()),
        "TIFF": Image.fromarray(picture()),
        "WEBP": Image.fromarray(picture()),
        "PPM": Image.fromarray(picture()),
        "GIF": Image.fromarray(picture()).quantize(),
    }.items()
}


def png_of(header: tuple[int, int, int, int], pixels: bytes) -> bytes:
    """Return a PNG of (width, height, bits, colour type), whatever its pixels are."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    )
