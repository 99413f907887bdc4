"""The contact sheet of a run's predictions: the pictures that a person should look at, small.

What has moved or changed since it was written is said beside what can still be shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
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

#: Classes named beside a picture; pictures are thinned out to about this size to be blended.
_SHARES, _BLENDED = 4, 1440


@dataclass(frozen=True)
class Card:
    """A picture on the sheet.

    Attributes:
        name: of the picture, without its folder.
        picture: the line of its journal.
        chosen_for: the rare class, or None.
        views: what is seen, and a ``data:`` URI; none where neither picture nor mask is there.
        shares: that of ``chosen_for``, then the largest ones.
        notes: what is missing or has changed.
    """

    name: str
    picture: PredictedPicture
    chosen_for: str | None
    views: tuple[tuple[str, str], ...]
    shares: tuple[tuple[ClassChip, float], ...]
    notes: tuple[str, ...]


def prediction_cards(predictions: Predictions) -> list[Card]:
    """Return the least certain ones, then those of rare classes, as far as they can be read."""
    return [_card(predictions, picture, why) for why, picture in predictions.chosen()]


def _card(predictions: Predictions, picture: PredictedPicture, why: str | None) -> Card:
    notes: list[str] = []
    mask, palette = _mask(predictions.folder / picture.mask, picture, notes)
    image = _image(picture, notes)
    shares = sorted(picture.shares.items(), key=lambda entry: (entry[0] != why, -entry[1]))
    colours = dict(zip(predictions.class_names, map(hex_colour, palette), strict=False))
    name = picture.source.rpartition("/")[2]
    return Card(
        name,
        picture,
        why,
        tuple(_views(name, image, mask, palette)),
        tuple((ClassChip(each, colours.get(each, "#000")), n) for each, n in shares[:_SHARES]),
        tuple(notes),
    )


def _mask(
    path: Path, picture: PredictedPicture, notes: list[str]
) -> tuple[NDArray[np.uint8] | None, Palette]:
    try:
        stored, channels = read_stored(path)
        triples = iter(channels)
        palette = tuple(zip(triples, triples, triples, strict=False)) or voc_palette()
        if stored.shape == picture.size and stored.dtype == np.uint8:
            return stored, palette
    except (DataError, ValueError):  # the latter: of a name that none can have
        pass
    notes.append("The mask is gone.")
    return None, voc_palette()


def _image(picture: PredictedPicture, notes: list[str]) -> NDArray[np.uint8] | None:
    path = Path(picture.source)
    try:
        status = path.stat()
        image = read_image(path)
    except (OSError, ValueError, DataError):
        archived = any(map(os.path.isfile, path.parents))  # Path.is_file may raise
        notes.append("It lies in an archive." if archived else "The picture cannot be read.")
        return None
    if f"{state_of(status.st_size, status.st_mtime_ns):016x}" != picture.state:
        notes.append("The picture has changed since.")
    return image if image.shape[:2] == picture.size else None


def _views(
    name: str, image: NDArray[np.uint8] | None, mask: NDArray[np.uint8] | None, palette: Palette
) -> Iterator[tuple[str, str]]:
    if image is not None and mask is not None:
        step = max(mask.shape) // _BLENDED or 1
        yield (
            f"{name}, with its mask",
            thumbnail(overlay(image[::step, ::step], mask[::step, ::step], palette)),
        )
    elif mask is not None:
        yield f"mask of {name}", thumbnail(mask_to_colour(mask, palette))
    elif image is not None:
        yield name, thumbnail(image)
