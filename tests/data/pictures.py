"""A small picture, and files that hold it."""

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
