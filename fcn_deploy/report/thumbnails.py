"""Small pictures inside a page."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Longest side.
_PIXELS = 360


def thumbnail(pixels: NDArray[np.uint8]) -> str:
    """Return a picture, uint8 [H, W, 3], shrunk, as a ``data:`` URI."""
    image = Image.fromarray(pixels)
    image.thumbnail((_PIXELS, _PIXELS), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
