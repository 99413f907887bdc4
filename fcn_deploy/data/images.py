"""One picture, a file or its bytes → uint8 RGB: the single door through which pictures come in."""

import hashlib
import logging
import os
import stat
import struct
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError, features

from fcn_deploy.core.errors import ImageError, PixelLimitError

#: Refused beyond this: a small file may unfold to gigabytes (a decompression bomb).
MAX_PIXELS = 100_000_000
#: Pillow's name of a format → the suffixes of its files.  No other format is opened, whatever a
#: file's suffix says: Pillow would hand PostScript, for one, to a program that runs it.
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k"),
}
#: What Pillow may have been built without: a format → the feature that it needs.
_FEATURES = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}


def _is_supported(name: str) -> bool:
    feature = _FEATURES.get(name)
    if feature is None:
        return True
    # Of a feature that it does not know, an older Pillow warns.
    return feature in (*features.modules, *features.codecs) and bool(features.check(feature))


#: The formats that are read, and the suffixes by which pictures are found in folders.
IMAGE_FORMATS = tuple(name for name in _SUFFIXES if _is_supported(name))
IMAGE_SUFFIXES = frozenset(suffix for name in IMAGE_FORMATS for suffix in _SUFFIXES[name])
#: Suffixes of pictures that are not read; a folder's are counted, so that none is lost unnoticed.
_OTHER_SUFFIXES = frozenset(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes) | {
    ".heic", ".heif", ".hif", ".jxl", ".psd", ".svg", ".tga", ".ico", ".exr", ".hdr", ".eps",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw", ".dcm",
}  # fmt: skip
#: TIFF's tag of the channels of a pixel, and how such a file begins in both orders of bytes.
_CHANNELS = 0x0115
_TIFF_STARTS = (b"II*\0", b"MM\0*")
#: TIFF's tags of the sides of a tile.  A tile is decoded whole, however little of it the picture
#: takes, so one of a small file may unfold to gigabytes too; honest ones have up to this.
_TILE_SIDES = (0x0142, 0x0143)
_TILE_PIXELS = 4_000_000
#: What else Pillow's parsers raise of damaged files: one among a million must not end the work.
_DAMAGES = (
    LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, RuntimeError,
    MemoryError, struct.error, zlib.error,
)  # fmt: skip
#: EXIF's tag of the orientation, and its values that turn a picture by 90°.
_ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)


# What Pillow logs would go to stderr, where the error is one line of ours, were there no handler.
logging.getLogger("PIL").addHandler(logging.NullHandler())


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


suppress_warnings = _SuppressWarnings()


@dataclass(frozen=True)
class EncodedPicture:
    """A picture that is no file, as the bytes that its file would have.

    Attributes:
        content: these bytes.
        name: what errors call it.
    """

    content: bytes
    name: str

    def __str__(self) -> str:
        return self.name


@contextmanager
def decoded(
    path: Path | EncodedPicture, before: Callable[[tuple[int, int]], None] = lambda size: None
) -> Iterator[Image.Image]:
    """Open and fully decode a picture, turned upright by its EXIF orientation.

    Args:
        path: the file, or its bytes.
        before: called with (width, height) in pixels before they are decoded; an exception of its
            own kind that it raises is passed on.

    Raises:
        ImageError: see :func:`opened`; also a picture that is truncated.
    """
    with opened(path) as image:
        before(image.size)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    yield image


@contextmanager
def opened(path: Path | EncodedPicture) -> Iterator[ImageFile.ImageFile]:
    """Open a picture whose pixels are still to be decoded; what fails inside is explained.

    The only way to a picture: no format but :data:`IMAGE_FORMATS` is tried.

    Raises:
        ImageError: missing, not a file, or not a picture.
        PixelLimitError: larger than ``MAX_PIXELS``.
    """
    try:
        source = _stream_or_file(path)
        with suppress_warnings, Image.open(source, formats=IMAGE_FORMATS) as image:  # noqa: TID251
            _refuse_bomb(path, image.size)
            _refuse_large_tiles(path, image)
            yield image
    except FileNotFoundError as error:
        raise ImageError(f"no such picture: {path}", "check the path") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path} is a folder, not a picture", "name the pictures in it") from error
    except Image.DecompressionBombError as error:
        raise PixelLimitError(
            f"{path} unfolds to too many pixels ({error})", "shrink it"
        ) from error
    except UnidentifiedImageError as error:
        raise _unidentified(path) from error
    except (OSError, SyntaxError, ValueError, EOFError, *_DAMAGES) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(
            f"{path} cannot be decoded ({reason})", "remove or replace the file"
        ) from error


def _stream_or_file(path: Path | EncodedPicture) -> BytesIO | Path:
    if isinstance(path, EncodedPicture):
        return BytesIO(path.content)
    _refuse_pipe(path)
    return path


def _refuse_pipe(path: Path) -> None:
    kind = path.stat().st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # to open a pipe waits for whoever writes
        raise ImageError(f"{path} is a pipe or a device, not a picture", "name a file")


def _unidentified(path: Path | EncodedPicture) -> ImageError:
    """Say what a file is that Pillow does not know."""
    if (channels := _channels_of_tiff(path)) is not None:
        return ImageError(f"{path} holds {channels} channels", "save three of them as RGB")
    suffix = path.suffix.lower() if isinstance(path, Path) else ""
    if suffix in _OTHER_SUFFIXES - IMAGE_SUFFIXES:
        return ImageError(f"{path}: {suffix} files are not read", "save it as PNG or JPEG")
    return ImageError(f"{path} is not a picture", "remove or replace it")


def _channels_of_tiff(path: Path | EncodedPicture) -> int | None:
    """Return how many channels a TIFF has that cannot be opened, or None where more is wrong."""
    from PIL import TiffImagePlugin

    try:
        source = _stream_or_file(path)
        opened_source = source.open("rb") if isinstance(source, Path) else source
        with suppress_warnings, opened_source as stream:
            start = stream.read(8)
            if not start.startswith(_TIFF_STARTS):
                return None
            tags = TiffImagePlugin.ImageFileDirectory_v2(start)
            stream.seek(tags.next)
            tags.load(stream)
        channels = int(tags[_CHANNELS])
    except Exception:  # of a damaged file: Pillow's parser raises whatever comes of it
        return None
    return channels if channels > 4 else None


def _refuse_bomb(path: Path | EncodedPicture, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise PixelLimitError(
            f"{path} has {width}×{height} pixels, more than {MAX_PIXELS:,}",
            "shrink the picture or cut it into tiles",
        )


def _refuse_large_tiles(path: Path | EncodedPicture, image: ImageFile.ImageFile) -> None:
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    width, height = (tags.get(side, 0) for side in _TILE_SIDES)
    if not (isinstance(width, int) and isinstance(height, int)):
        raise ValueError("a tile's sides are no numbers")  # explained as all damage is
    if width * height > max(_TILE_PIXELS, image.width * image.height):
        raise PixelLimitError(
            f"{path} has {image.width}×{image.height} pixels in tiles of {width}×{height}",
            "save it without tiles",
        )


def read_image(
    path: Path | EncodedPicture, before: Callable[[tuple[int, int]], None] = lambda size: None
) -> NDArray[np.uint8]:
    """Read a picture of any common mode as RGB.

    Grey, palette, CMYK and alpha pictures are converted (alpha is dropped), 16-bit greys are
    scaled to 8 bits, EXIF orientation is applied.

    Args:
        path: the file, or its bytes.
        before: see :func:`decoded`.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ImageError: see :func:`decoded`; also 32-bit float pictures, whose range is unknown.
    """
    with decoded(path, before) as image:
        return _as_rgb(path, image)


def _as_rgb(path: Path | EncodedPicture, image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise ImageError(f"{path} holds 32-bit floats of unknown range", "save it as 8-bit")
    if image.mode.startswith("I"):  # "I;16*", or "I" from 16-bit PNGs in older Pillow
        grey = np.asarray(image).clip(0, 65535).astype(np.uint32)
        grey *= 255  # with the half that rounds: 65535·255 + 32767 is below 2^32
        grey += 32767
        grey //= 65535
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB would warn
    if image.mode == "RGB":  # converting it would copy it
        return np.array(image, dtype=np.uint8)
    try:
        return np.array(image.convert("RGB"), dtype=np.uint8)
    except ValueError as error:  # LAB, for one, where Pillow was built without LittleCMS
        raise ImageError(f"{path} is of mode {image.mode}", "save it as RGB") from error


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) in pixels after EXIF rotation, reading the header alone.

    Raises:
        ImageError: the header cannot be read, or names more than ``MAX_PIXELS``; of a TIFF, see
            :func:`decoded`.
    """
    with opened(path) as image:
        if image.format == "TIFF":
            image.load()  # turns it upright; before that, Pillow's versions disagree
        width, height = image.size
        sideways = image.getexif().get(_ORIENTATION, 1) in SIDEWAYS
    return (width, height) if sideways else (height, width)


def exif_orientation(path: Path) -> int:
    """Return a picture's EXIF orientation: 1 is upright, 2 to 8 are mirrored or turned.

    Raises:
        ImageError: the header cannot be read.
    """
    with opened(path) as image:
        orientation = image.getexif().get(_ORIENTATION)
    return orientation if isinstance(orientation, int) and 1 < orientation <= 8 else 1


def is_image_name(path: Path) -> bool:
    """Say whether a file of a folder is taken for a picture, by its name.

    Names that begin with a dot are not: macOS writes ``._photo.jpg`` beside ``photo.jpg``.
    """
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def find_images(sources: Sequence[Path]) -> list[Path]:
    """Return the pictures named by files and folders, folders searched one level, sorted.

    A file named by the user is taken whatever its name, so that a broken one is reported.  One
    that is named twice, by itself and by its folder for example, counts once.

    Raises:
        ImageError: a source does not exist, or a folder holds no picture.
    """
    found: dict[Path, Path] = {}
    for source in sources:
        if source.is_dir():
            inside = sorted(path for path in source.iterdir() if is_image_name(path))
            if not inside:
                raise ImageError(f"no pictures in {source}", _no_pictures_repair(source))
        elif source.exists():
            inside = [source]
        else:
            raise ImageError(f"no such file or folder: {source}", "check the path")
        for path in inside:
            # A link is a picture of its own: the folder that it lies in makes the difference.
            found.setdefault(path.parent.resolve() / path.name, path)
    return list(found.values())


def _no_pictures_repair(folder: Path) -> str:
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith(".")
        if path.is_dir() and not hidden and any(map(is_image_name, path.iterdir())):
            return f"sub-folders are not searched: name {path}"
    other = passed_over([folder])
    return f"expected {', '.join(sorted(IMAGE_SUFFIXES))}" + (f"; {other}" if other else "")


def passed_over(sources: Iterable[Path]) -> str | None:
    """Count a sentence's worth of the pictures in folders that :func:`find_images` does not take.

    Returns:
        "2 files passed over (.heic, .psd): save them as PNG or JPEG", or None where there are none.
    """
    return passed_over_words(
        Counter(
            suffix
            for source in sources
            if source.is_dir()
            for path in source.iterdir()
            if (suffix := unread_suffix(path.name)) is not None
        )
    )


def unread_suffix(name: str) -> str | None:
    """Return the suffix of a picture that is not read, or None for any other file."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (millions of names)
    unread = suffix in _OTHER_SUFFIXES and suffix not in IMAGE_SUFFIXES
    return suffix if unread and not name.startswith(".") else None


def passed_over_words(suffixes: Counter[str]) -> str | None:
    """Say how many pictures are not read, by their suffixes; None where there are none."""
    if not suffixes:
        return None
    files = "1 file" if suffixes.total() == 1 else f"{suffixes.total()} files"
    them = "it" if suffixes.total() == 1 else "them"
    kinds = ", ".join(sorted(suffixes))
    return f"{files} passed over ({kinds}): save {them} as PNG or JPEG"


def image_content(image: NDArray[np.uint8]) -> bytes:
    """Return an image, uint8 [H, W, 3], as bytes that tell sizes apart, to be digested."""
    return repr(image.shape).encode() + image.tobytes()


def image_digest(image: NDArray[np.uint8]) -> str:
    """Return ``sha256:…`` of a decoded image, uint8 [H, W, 3]."""
    return f"sha256:{hashlib.sha256(image_content(image)).hexdigest()}"
