"""The worst pictures of a comparison as ``data:`` URIs, as the result file stores them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.data.masks import Palette, mask_to_image
from fcn_deploy.parity.tally import WorstCandidate
from fcn_deploy.results.fields import InlinePicture
from fcn_deploy.results.parity import MarginScale, WorstPicture

#: Widths tried one after the other, in pixels, until the pictures fit their budget.
WIDTHS = (960, 720, 480, 320, 160)
#: Of the margin's scale, from its low end to its high one, evenly spaced: viridis, whose steps
#: look equal and which stays readable to the colour-blind.
HEAT_COLOURS = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")
#: The margin's scale ends at this percentile: a few sure pixels would darken all the others.
HEAT_PERCENTILE = 95
_HEAT_LEVELS = 64
_FLIP_COLOUR = (255, 0, 160)
#: Grey levels behind the flips: few, as photographic noise is what does not compress.
_GREYS = 24
_BRIGHTEST_GREY = 0.4
_JPEG_QUALITY = 85


def rendered(
    worst_candidates: Sequence[WorstCandidate], palette: Palette, budget: int
) -> tuple[WorstPicture, ...]:
    """Return the pictures as they are stored in the result file.

    Args:
        worst_candidates: worst first.
        palette: RGB per class.
        budget: bytes that all of them may take together; wide pictures are shrunk until they do.
    """
    pictures: tuple[WorstPicture, ...] = ()
    for width in WIDTHS:
        pictures = tuple(_rendered(worst, palette, width) for worst in worst_candidates)
        views = (view for picture in pictures for view in picture.views.values())
        if sum(len(view.uri) for view in views) <= budget:
            break
    return pictures


def _rendered(worst: WorstCandidate, palette: Palette, widest: int) -> WorstPicture:
    height, width = worst.reference.shape
    shrunk_width = min(width, widest)
    size = (max(1, round(height * shrunk_width / width)), shrunk_width)
    # Stands in for a network whose every pixel is a tie.
    high = float(np.percentile(worst.margin, HEAT_PERCENTILE)) or 1.0
    uris = {
        "image": _jpeg(_shrunk_photograph(worst.image, size)),
        "reference": _png(mask_to_image(_nearest(worst.reference, size), palette)),
        "candidate": _png(mask_to_image(_nearest(worst.candidate, size), palette)),
        "flips": _png(_flips_over_image(worst, size)),
        "margin": _smaller(_heat(_nearest(worst.margin, size), high)),
    }
    return WorstPicture(
        name=worst.name,
        flips=worst.flips,
        pixels=worst.pixels,
        size=(height, width),
        views={view: InlinePicture(uri, size[1], size[0]) for view, uri in uris.items()},
        margin_scale=MarginScale(0.0, high, HEAT_COLOURS),
    )


def _nearest(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    rows, columns = (
        (np.arange(shrunk) * 2 + 1) * full // (2 * shrunk)
        for shrunk, full in zip(size, values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]


def _shrunk_photograph(image: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    photograph = Image.fromarray(image)
    if image.shape[:2] == size:
        return photograph
    return photograph.resize((size[1], size[0]), Image.Resampling.BOX)


def _flips_over_image(worst: WorstCandidate, size: tuple[int, int]) -> Image.Image:
    grey = np.asarray(_shrunk_photograph(worst.image, size).convert("L"), dtype=np.uint16)
    levels = (grey * _GREYS // 256).astype(np.uint8)
    # However much the picture shrinks, no flip is lost, and none is too small to be seen: each is
    # drawn 3 px wide.
    rows, columns = np.nonzero(worst.reference != worst.candidate)
    rows = rows * size[0] // worst.reference.shape[0]
    columns = columns * size[1] // worst.reference.shape[1]
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            at = (rows + down).clip(0, size[0] - 1), (columns + right).clip(0, size[1] - 1)
            levels[at] = _GREYS
    picture = Image.fromarray(levels)
    greys = np.linspace(0, 255 * _BRIGHTEST_GREY, _GREYS).round().astype(np.uint8)
    table = np.concatenate([np.repeat(greys[:, None], 3, axis=1), [_FLIP_COLOUR]])
    picture.putpalette(table.astype(np.uint8).tobytes(), "RGB")
    return picture


def _heat(margin: NDArray[np.float32], high: float) -> Image.Image:
    """Draw margins, float32 [H, W], from 0 to ``high``."""
    levels = (margin / high).clip(0, 1) * (_HEAT_LEVELS - 1)
    picture = Image.fromarray(levels.round().astype(np.uint8))
    picture.putpalette(_heat_table().tobytes(), "RGB")
    return picture


def _heat_table() -> NDArray[np.uint8]:
    anchors = np.array([tuple(bytes.fromhex(colour[1:])) for colour in HEAT_COLOURS])
    at = np.linspace(0, len(anchors) - 1, _HEAT_LEVELS)
    channels = [np.interp(at, range(len(anchors)), anchors[:, channel]) for channel in range(3)]
    table: NDArray[np.uint8] = np.stack(channels, axis=1).round().astype(np.uint8)
    return table


def _smaller(picture: Image.Image) -> str:
    # A smooth margin is smaller as a palette PNG, a grainy one as JPEG.
    return min(_png(picture), _jpeg(picture.convert("RGB")), key=len)


def _png(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True)
    return _data_uri("image/png", content)


def _jpeg(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
    return _data_uri("image/jpeg", content)


def _data_uri(media_type: str, content: io.BytesIO) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
