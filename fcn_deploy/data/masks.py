"""Class indices ↔ colours, and the pictures people look at: masks, overlays, grids."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.errors import DataError, ImageError, InputError, LabelError, PaletteError
from fcn_deploy.core.files import atomic_path
from fcn_deploy.core.spec import IGNORE_INDEX
from fcn_deploy.data.images import decoded, opened
from fcn_deploy.data.mask_values import ValueMap
from fcn_deploy.data.png import SOFTWARE, save_png
from fcn_deploy.data.tiff_header import tiff_header

Palette = Sequence[tuple[int, int, int]]
#: Pixels that are blended at once: as floats, those of a whole picture take gigabytes.
_BLENDED_AT_ONCE = 1 << 20
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

#: The 21 classes of PASCAL VOC, in the order of their indices.
VOC_CLASS_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa",
    "train", "tv/monitor",
)  # fmt: skip


@cache
def voc_palette(num_classes: int = 256) -> tuple[tuple[int, int, int], ...]:
    """Return the VOC colour of each index, by the development kit's bit interleaving.

    Bits 0, 3, 6 of the index become the high bits of red, 1, 4, 7 of green, 2, 5 of blue.
    Index 255 is (224, 224, 192), the colour of the void border.

    Source: VOCcode/VOClabelcolormap.m of the PASCAL VOC development kit.
    """
    return tuple(
        (_channel(index, 0), _channel(index, 1), _channel(index, 2)) for index in range(num_classes)
    )


#: What void looks like in VOC's masks.
VOID_COLOUR = (224, 224, 192)
#: What programs fill palettes up with.
_FILLING = (0, 0, 0)


def _channel(index: int, first_bit: int) -> int:
    return sum(((index >> (first_bit + 3 * k)) & 1) << (7 - k) for k in range(8))


def colour_table(palette: Palette) -> NDArray[np.uint8]:
    """Return uint8 [256, 3]: the palette's colours, VOC's for the indices beyond it."""
    table: NDArray[np.uint8] = _voc_table().copy()
    if len(palette):
        table[: len(palette)] = np.array(palette, dtype=np.uint8)
    return table


@cache
def _voc_table() -> NDArray[np.uint8]:
    return np.array(voc_palette(), dtype=np.uint8)


def mask_to_colour(mask: NDArray[np.uint8], palette: Palette) -> NDArray[np.uint8]:
    """Colour a mask.

    Args:
        mask: uint8 [H, W] class indices, 255 = void.
        palette: RGB per class.

    Returns:
        uint8 [H, W, 3].
    """
    colours: NDArray[np.uint8] = colour_table(palette)[mask]
    return colours


def colour_to_mask(
    colours: NDArray[np.uint8], palette: Palette, void_colours: Palette = ()
) -> NDArray[np.uint8]:
    """Turn an RGB mask into class indices.

    Args:
        colours: uint8 [H, W, 3].
        palette: RGB per class; void's colour (224, 224, 192) is understood as well.
        void_colours: what else stands for void.

    Returns:
        uint8 [H, W].

    Raises:
        DataError: a colour is in neither; the message names it and where it stands.
    """
    index_of_colour = np.full(1 << 24, -1, dtype=np.int16)
    voids = [(IGNORE_INDEX, colour) for colour in (VOID_COLOUR, *void_colours)]
    void_and_classes = [*voids, *enumerate(palette)]
    for index, (red, green, blue) in void_and_classes:
        index_of_colour[red << 16 | green << 8 | blue] = index
    wide = colours.astype(np.int32)
    indices = index_of_colour[wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]]
    if (indices < 0).any():
        row, column = (int(i) for i in np.argwhere(indices < 0)[0])
        red, green, blue = (int(channel) for channel in colours[row, column])
        grey = bool((colours == colours[..., :1]).all())
        raise DataError(
            f"colour ({red}, {green}, {blue}) at row {row}, column {column} is no class",
            "its three channels are equal: if they are class indices, save one channel alone"
            if grey
            else "save masks as palette or index PNG, or in the VOC colours (JPEG alters colours)",
        )
    mask: NDArray[np.uint8] = indices.astype(np.uint8)
    return mask


def read_mask(
    path: Path,
    palette: Palette,
    values: ValueMap | None = None,
    void_colours: Palette = (),
) -> NDArray[np.uint8]:
    """Read a mask: palette PNG, index PNG, or RGB in the palette's colours.

    The indices of a palette PNG count, whatever its colours are; but if these are the classes' own
    in another order, a program has sorted the palette, and changed the indices with it.

    Args:
        path: the file.
        palette: RGB per class.
        values: which class each stored value means; None: each value is the index of its class.
        void_colours: of RGB masks, beside void's own.

    Returns:
        uint8 [H, W] class indices, 255 = void.

    Raises:
        DataError: unreadable, or an unknown colour.
        LabelError: a value beyond the classes.
        PaletteError: the colours of a palette PNG are the classes' in another order.
    """
    with decoded(path) as image:
        try:
            if values is None or (stored := stored_values(image, _bit_depth(path))) is None:
                mask = _indices(image, palette, _bit_depth(path), void_colours)
            else:
                return values.classes(stored)
        except DataError as error:
            raise type(error)(f"mask {path}: {error.message}", error.repair) from error
    labelled = mask[mask != IGNORE_INDEX]
    if labelled.size and int(labelled.max()) >= len(palette):
        raise LabelError(
            f"mask {path} holds class {int(labelled.max())}, but the data has {len(palette)} "
            f"classes (0 to {len(palette) - 1}, {IGNORE_INDEX} = void)",
            "mend the mask, or add the class to classes.txt or its value to classes.json",
        )
    return mask


def _indices(
    image: Image.Image, palette: Palette, bit_depth: int, void_colours: Palette
) -> NDArray[np.uint8]:
    if image.mode == "P":
        mask: NDArray[np.uint8] = np.array(image, dtype=np.uint8)
        _require_order(mask, image.getpalette("RGB") or [], palette)
        return mask
    if image.mode in ("L", "1", "LA"):
        return _grey(image, bit_depth)
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        beyond = wide[(wide < 0) | (wide > IGNORE_INDEX)]
        if beyond.size:
            raise LabelError(
                f"holds value {int(beyond[0])}, not a class index (0 to {IGNORE_INDEX})",
                "save masks as 8-bit palette or index PNG",
            )
        return wide.astype(np.uint8)
    return colour_to_mask(np.array(image.convert("RGB"), dtype=np.uint8), palette, void_colours)


def _grey(image: Image.Image, bit_depth: int) -> NDArray[np.uint8]:
    if image.mode == "L":
        # Pillow stretches grey of 2 and 4 bits to 0..255: index 1 would become class 85 or 17.
        stretch = 255 // (2**bit_depth - 1) if bit_depth in (2, 4) else 1
        return np.array(image, dtype=np.uint8) // stretch
    return np.array(image.convert("L"), dtype=np.uint8) // (255 if image.mode == "1" else 1)


def stored_values(image: Image.Image, bit_depth: int) -> NDArray[Any] | None:
    """Return the values that a mask's pixels hold, of any whole type [H, W].

    Args:
        image: decoded.
        bit_depth: of the file.

    Returns:
        None where the pixels hold colours; three equal channels are values.
    """
    if image.mode == "P":
        return np.array(image, dtype=np.uint8)
    if image.mode in ("L", "1", "LA"):
        return _grey(image, bit_depth)
    if image.mode.startswith("I"):
        return np.asarray(image)
    colours = np.array(image.convert("RGB"), dtype=np.uint8)
    return colours[..., 0] if bool((colours == colours[..., :1]).all()) else None


def read_stored(path: Path) -> tuple[NDArray[Any], list[int]]:
    """Return what a mask's file holds before any class is sought, and its palette.

    Returns:
        Whole numbers [H, W], or RGB as uint8 [H, W, 3]; the palette's channels one after another,
        none where there is no palette.

    Raises:
        ImageError: it cannot be decoded.
    """
    with decoded(path) as image:
        if image.mode == "P" or image.mode in ("L", "1", "LA") or image.mode.startswith("I"):
            stored = stored_values(image, _bit_depth(path))
            assert stored is not None  # these modes hold values
            return stored, image.getpalette("RGB") or []
        return np.array(image.convert("RGB"), dtype=np.uint8), []


def _require_order(mask: NDArray[np.uint8], stored: list[int], palette: Palette) -> None:
    """Refuse the classes' own colours at other indices than theirs.

    A palette with a colour that is neither VOC's nor a class's is one of its own, of which only the
    indices count.

    Raises:
        PaletteError: naming the first index of another class's colour.
    """
    colours = list(zip(stored[::3], stored[1::3], stored[2::3], strict=True))
    class_of = {VOID_COLOUR: IGNORE_INDEX, **{colour: i for i, colour in enumerate(palette)}}
    filled = {i for i in range(len(palette), len(colours)) if colours[i] == _FILLING}
    moved = {i for i, colour in enumerate(colours) if class_of.get(colour, i) != i} - filled
    if not moved or not {*colours} <= {*voc_palette(), *class_of, _FILLING}:
        return
    used = {*np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()} - filled
    shown = [colours[i] for i in used if i < len(colours)]
    if len({*shown}) < len(shown):
        return  # one colour for two indices tells nothing of either
    for index in sorted(moved & used):
        meant = class_of[colours[index]]
        name = "void" if meant == IGNORE_INDEX else f"class {meant}"
        raise PaletteError(
            f"index {index} has the colour of {name}, {colours[index]}: the palette is not in the "
            "order of the classes",
            "save it as RGB, which is read by its colours; if its indices are right, save it "
            "without a palette",
        )


def _bit_depth(path: Path) -> int:
    """Return the bits per sample that a PNG's header names; 8 for any other file."""
    with path.open("rb") as stream:
        header = stream.read(26)
    # Signature (8), chunk length and name (8), width and height (8), then the depth.
    return header[24] if header.startswith(_PNG_SIGNATURE) and len(header) == 26 else 8


def mask_to_image(mask: NDArray[np.uint8], palette: Palette) -> Image.Image:
    """Return a palette ("P") picture whose pixel values are the class indices.

    Args:
        mask: uint8 [H, W] class indices, 255 = void.
        palette: RGB per class.

    Raises:
        InputError: another dtype or rank, or no pixels.
    """
    if mask.dtype != np.uint8 or mask.ndim != 2 or mask.size == 0:
        raise InputError(
            f"a mask is uint8 [H, W] with H, W ≥ 1, not {mask.dtype} {list(mask.shape)}",
            "pass class indices 0 to 255, e.g. logits.argmax(0).astype(np.uint8)",
        )
    image = Image.fromarray(mask)
    image.putpalette(colour_table(palette).tobytes(), "RGB")
    return image


def write_mask(path: Path, mask: NDArray[np.uint8], palette: Palette) -> None:
    """Write a mask as palette PNG, whole or not at all.

    The file's bytes depend on the mask and the palette alone (and on the release of Pillow): equal
    masks are equal files, whichever thread or process writes them.

    Args:
        path: the file; its folder is made where it is missing.
        mask: uint8 [H, W] class indices, 255 = void.
        palette: RGB per class.

    Raises:
        InputError: another dtype or rank, or no pixels.
        ArtifactError: the file cannot be written.
    """
    _write_png(path, mask_to_image(mask, palette))


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write an RGB picture, uint8 [H, W, 3], as PNG, whole or not at all."""
    _write_png(path, Image.fromarray(picture))


def _write_png(path: Path, image: Image.Image) -> None:
    with atomic_path(path) as temporary:
        save_png(image, temporary)


def written_by_us(path: Path) -> bool:
    """Say whether a file is a PNG that :func:`write_mask` or :func:`write_picture` wrote, or a
    mask of a map."""
    if path.suffix == ".tif":
        header = tiff_header(path)
        return header is not None and header.software == SOFTWARE
    try:
        with opened(path) as image:
            return image.format == "PNG" and bool(image.info.get("Software") == SOFTWARE)
    except ImageError:
        return False


def overlay(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], palette: Palette, opacity: float = 0.5
) -> NDArray[np.uint8]:
    """Blend a mask's colours over its image.

    Args:
        image: uint8 [H, W, 3].
        mask: uint8 [H, W].
        palette: RGB per class.
        opacity: weight of the mask's colours, 0 to 1.

    Returns:
        uint8 [H, W, 3].
    """
    blended = np.empty_like(image)
    rows = max(1, _BLENDED_AT_ONCE // image.shape[1])
    for top in range(0, len(image), rows):
        strip = slice(top, top + rows)
        colours = mask_to_colour(mask[strip], palette).astype(np.float32)
        blended[strip] = image[strip].astype(np.float32) * (1 - opacity) + colours * opacity + 0.5
    return blended


def grid(rows: Sequence[Sequence[NDArray[np.uint8]]], gap: int = 4) -> NDArray[np.uint8]:
    """Lay pictures out in rows and columns on white, e.g. image | prediction | truth.

    Args:
        rows: pictures, each uint8 [h, w, 3]; sizes may differ, cells are as large as the largest.
        gap: pixels between cells.

    Returns:
        uint8 [H, W, 3].
    """
    if not rows or not rows[0]:
        raise ValueError("a grid needs at least one picture")
    cell_height = max(picture.shape[0] for row in rows for picture in row)
    cell_width = max(picture.shape[1] for row in rows for picture in row)
    columns = max(len(row) for row in rows)
    height = len(rows) * (cell_height + gap) - gap
    width = columns * (cell_width + gap) - gap
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = i * (cell_height + gap), j * (cell_width + gap)
            canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas


def prediction_grid(
    images: Sequence[NDArray[np.uint8]],
    predictions: Sequence[NDArray[np.uint8]],
    truths: Sequence[NDArray[np.uint8]],
    palette: Palette,
) -> NDArray[np.uint8]:
    """Return the grid image | prediction | truth, one row per image, uint8 [H, W, 3]."""
    return grid(
        [
            [image, mask_to_colour(prediction, palette), mask_to_colour(truth, palette)]
            for image, prediction, truth in zip(images, predictions, truths, strict=True)
        ]
    )
