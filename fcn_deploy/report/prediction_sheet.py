"""The contact sheet of a run's predictions: the pictures that a person should look at, small.

What has moved or changed since it was written is said beside what can still be shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import DataError
from fcn_deploy.data.images import read_image
from fcn_deploy.data.masks import Palette, mask_to_colour, overlay, read_stored, voc_palette
from fcn_deploy.report.tables import ClassChip, hex_colour
from fcn_deploy.report.thumbnails import thumbnail
from fcn_deploy.results.predictions import PredictedPicture, Predictions, state_of

#: Classes that are named beside a picture.
_SHARES = 4
#: Pictures are thinned out to about this longest side before they are blended.
_BLENDED = 1440


@dataclass(frozen=True)
class Card:
    """A picture on the sheet.

    Attributes:
        picture: the line of its journal.
        chosen_for: the rare class that it was chosen for, or None.
        views: what is seen, and a ``data:`` URI; none where neither picture nor mask is there.
        shares: that of ``chosen_for``, then the largest ones of its pixels.
        notes: what is missing or has changed.
    """

    picture: PredictedPicture
    chosen_for: str | None
    views: tuple[tuple[str, str], ...]
    shares: tuple[tuple[ClassChip, float], ...]
    notes: tuple[str, ...]

    @property
    def place(self) -> Sequence[str]:
        """The folder of the picture, a slash, and its name there."""
        return self.picture.source.rpartition("/")


def prediction_cards(predictions: Predictions) -> list[Card]:
    """Return the least certain ones, then those of rare classes, as far as they can be read."""
    chosen = [(None, picture) for picture in predictions.least_certain]
    return [_card(predictions, picture, why) for why, picture in (*chosen, *predictions.rarest)]


def _card(predictions: Predictions, picture: PredictedPicture, why: str | None) -> Card:
    notes: list[str] = []
    mask, palette = _mask(predictions.folder / picture.mask, picture, notes)
    image = _image(picture, notes)
    shares = sorted(picture.shares.items(), key=lambda entry: (entry[0] != why, -entry[1]))
    colours = dict(zip(predictions.class_names, map(hex_colour, palette), strict=False))
    return Card(
        picture,
        why,
        tuple(_views(picture.source.rpartition("/")[2], image, mask, palette)),
        tuple((ClassChip(name, colours.get(name, "#000")), n) for name, n in shares[:_SHARES]),
        tuple(notes),
    )


def _mask(
    path: Path, picture: PredictedPicture, notes: list[str]
) -> tuple[NDArray[np.uint8] | None, Palette]:
    """Return a mask and the colours that its file holds; note why there is none."""
    try:
        stored, channels = read_stored(path)
    except (DataError, ValueError):  # the latter: of a name that none can have
        notes.append("The mask is gone.")
        return None, voc_palette()
    triples = iter(channels)
    palette = tuple(zip(triples, triples, triples, strict=False)) or voc_palette()
    if stored.shape != picture.size or stored.dtype != np.uint8:
        notes.append("The mask is not the one that was written.")
        return None, palette
    return stored, palette


def _image(picture: PredictedPicture, notes: list[str]) -> NDArray[np.uint8] | None:
    """Return the picture where the mask fits it; note what is wrong."""
    path = Path(picture.source)
    try:
        status = path.stat()
        image = read_image(path)
    except (OSError, ValueError):
        archived = "\0" not in picture.source and any(map(Path.is_file, path.parents))
        notes.append("It lies in an archive." if archived else "The picture was not found.")
        return None
    except DataError:
        notes.append("The picture cannot be read any more.")
        return None
    if f"{state_of(status.st_size, status.st_mtime_ns):016x}" != picture.state:
        notes.append("The picture has changed since.")
    return image if image.shape[:2] == picture.size else None


def _views(
    name: str, image: NDArray[np.uint8] | None, mask: NDArray[np.uint8] | None, palette: Palette
) -> Iterator[tuple[str, str]]:
    if image is not None and mask is not None:
        blended = overlay(_thinned(image), _thinned(mask), palette)
        yield f"{name}, with its mask", thumbnail(blended)
    elif mask is not None:
        yield f"mask of {name}", thumbnail(mask_to_colour(_thinned(mask), palette))
    elif image is not None:
        yield name, thumbnail(_thinned(image))


def _thinned(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    step = max(1, max(pixels.shape[:2]) // _BLENDED)
    return np.ascontiguousarray(pixels[::step, ::step])
