"""How every PNG of ours is packed, as a file or in memory: equal pictures are equal bytes."""

import zlib
from io import BytesIO
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

#: What a PNG of ours says that it was made with.
SOFTWARE = "fcn-deploy"
#: Masks are flat areas, and an overlay's filtered rows hold little else: runs of equal bytes alone
#: are sought.  Beside Pillow's defaults (level 6, any repetition), on CamVid at 360×480: labels in
#: a third of the time at 1.21 of the size, masks of an FCN-32s in 0.4 at 1.03, overlays in a
#: quarter at 1.02.
_PACKING = {"compress_level": 1, "compress_type": zlib.Z_RLE}


def save_png(image: Image.Image, target: Path | BytesIO) -> None:
    """Write a picture as PNG; its bytes depend on the picture and the release of Pillow alone."""
    info = PngInfo()
    info.add_text("Software", SOFTWARE)
    image.save(target, format="PNG", pnginfo=info, **_PACKING)


def png_bytes(image: Image.Image) -> bytes:
    """Return the bytes of the file that :func:`save_png` would write."""
    stream = BytesIO()
    save_png(image, stream)
    return stream.getvalue()
