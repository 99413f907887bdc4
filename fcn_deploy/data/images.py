"""One picture on disk → uint8 RGB in memory: the single door through which pictures come in."""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from fcn_deploy.core.errors import ImageError

#: Refused beyond this: a small file may unfold to gigabytes (a decompression bomb).
MAX_PIXELS = 100_000_000
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
#: EXIF's tag, and its values for pictures that are stored on their side.
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)


class _SuppressWarnings:
    """No warnings while any thread is inside.

    Pillow warns of what it can repair (and of large pictures, which we limit ourselves).  Python's
    filters belong to the whole process: were two threads to save and restore them each for
    itself, the one that leaves last would restore the other's, and silence the process for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()  # each may be entered once
                self._filters.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


_suppress_warnings = _SuppressWarnings()


@contextmanager
def decoded(path: Path) -> Iterator[Image.Image]:
    """Open and fully decode a picture, turned upright by its EXIF orientation.

    Raises:
        ImageError: missing, not a picture, truncated, or larger than ``MAX_PIXELS``.
    """
    with _opened(path) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    yield image


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open a picture whose pixels are still to be decoded; what fails inside is explained."""
    try:
        with _suppress_warnings, Image.open(path) as image:
            _refuse_bomb(path, image.size)
            yield image
    except FileNotFoundError as error:
        raise ImageError(f"no such picture: {path}", "check the path") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path} is a folder, not a picture", "name the pictures in it") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} unfolds to too many pixels ({error})", "shrink it") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not a picture", "remove or replace it") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(
            f"{path} cannot be decoded ({reason})", "remove or replace the file"
        ) from error


def _refuse_bomb(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{path} has {width}×{height} pixels, more than {MAX_PIXELS:,}",
            "shrink the picture or cut it into tiles",
        )


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a picture of any common mode as RGB.

    Grey, palette, CMYK and alpha pictures are converted (alpha is dropped), 16-bit greys are
    scaled to 8 bits, EXIF orientation is applied.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ImageError: see :func:`decoded`; also 32-bit float pictures, whose range is unknown.
    """
    with decoded(path) as image:
        return _as_rgb(path, image)


def _as_rgb(path: Path, image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise ImageError(f"{path} holds 32-bit floats of unknown range", "save it as 8-bit")
    if image.mode.startswith("I"):  # "I;16*", or "I" from 16-bit PNGs in older Pillow
        grey16 = np.asarray(image).astype(np.int64).clip(0, 65535)
        grey = ((grey16 * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB would warn
    # Converting what is RGB already would copy it.
    return np.array(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) in pixels after EXIF rotation, reading the header alone.

    Raises:
        ImageError: the header cannot be read, or names more than ``MAX_PIXELS``; of a TIFF, see
            :func:`decoded`.
    """
    with _opened(path) as image:
        if image.format == "TIFF":
            image.load()  # turns it upright; before that, Pillow's versions disagree
        width, height = image.size
        sideways = image.getexif().get(_ORIENTATION, 1) in _SIDEWAYS
    return (width, height) if sideways else (height, width)


def exif_orientation(path: Path) -> int:
    """Return a picture's EXIF orientation: 1 is upright, 2 to 8 are mirrored or turned.

    Raises:
        ImageError: the header cannot be read.
    """
    with _opened(path) as image:
        orientation = image.getexif().get(_ORIENTATION)
    return orientation if isinstance(orientation, int) and 1 < orientation <= 8 else 1


def find_images(sources: list[Path]) -> list[Path]:
    """Return the pictures named by files and folders, folders searched one level, sorted.

    A file named by the user is taken whatever its suffix, so that a broken one is reported.

    Raises:
        ImageError: a source does not exist, or a folder holds no picture.
    """
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise ImageError(
                    f"no pictures in {source}", f"expected {', '.join(sorted(IMAGE_SUFFIXES))}"
                )
            found.extend(inside)
        elif source.exists():
            found.append(source)
        else:
            raise ImageError(f"no such file or folder: {source}", "check the path")
    return found


def image_content(image: NDArray[np.uint8]) -> bytes:
    """Return an image, uint8 [H, W, 3], as bytes that tell sizes apart, to be digested."""
    return repr(image.shape).encode() + image.tobytes()


def image_digest(image: NDArray[np.uint8]) -> str:
    """Return ``sha256:…`` of a decoded image, uint8 [H, W, 3]."""
    return f"sha256:{hashlib.sha256(image_content(image)).hexdigest()}"
