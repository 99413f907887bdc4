"""The page of `data check --html`: what a folder holds, and images with their masks over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import DataError
from fcn_deploy.core.files import write_bytes
from fcn_deploy.core.spec import IGNORE_INDEX
from fcn_deploy.data.check_report import DataReport
from fcn_deploy.data.class_json import Colour
from fcn_deploy.data.class_list import ClassList
from fcn_deploy.data.dataset import Dataset
from fcn_deploy.data.images import read_image
from fcn_deploy.data.label_statistics import TINY
from fcn_deploy.data.layout import Layout
from fcn_deploy.data.masks import overlay, voc_palette
from fcn_deploy.data.sources import DataSource
from fcn_deploy.report.page import stylesheet, templates
from fcn_deploy.report.tables import hex_colour
from fcn_deploy.report.thumbnails import thumbnail
from fcn_deploy.results import format

#: Samples of each list on the sheet, evenly spread, and pairs that look alike.
SAMPLES, PAIRS = 24, 12
#: Faults that are written out.
_FAULTS = 200


@dataclass(frozen=True)
class _Thumbnail:
    """A sample on the sheet.

    Attributes:
        name: of the sample.
        views: the image alone, and with its mask: what is seen, and a ``data:`` URI.
        classes: that are in it.
    """

    name: str
    views: tuple[tuple[str, str], ...]
    classes: str


def write_contact_sheet(report: DataReport, source: DataSource, target: Path) -> None:
    """Write a self-contained page on a folder of labelled images.

    Args:
        report: what the check has found.
        source: where the images are.
        target: the file.

    Raises:
        ArtifactError: it cannot be written.
    """
    layout = source.layout
    palette = _palette(layout, len(report.class_names))
    lists = {
        split.name: tuple(_sheet(source, layout, split.name, report.class_names, palette))
        for split in report.splits
    }
    page = (
        templates({"percent": format.percent})
        .get_template("contact_sheet.html.j2")
        .render(
            report=report,
            lists=lists,
            pairs=tuple(_pairs(report, layout)),
            legend=tuple(_legend(report.class_names, palette)),
            labelled=max(1, int(report.counts.pixels.sum())),
            faults=report.faults[:_FAULTS],
            tiny=TINY,
            css=stylesheet(),
        )
    )
    write_bytes(target, page.encode("utf-8", errors="replace"))


def _palette(layout: Layout | None, num_classes: int) -> tuple[Colour, ...]:
    try:
        return voc_palette(num_classes) if layout is None else layout.classes().palette
    except DataError:  # named among the faults
        return voc_palette(IGNORE_INDEX)


def _legend(names: tuple[str, ...], palette: tuple[Colour, ...]) -> Iterator[tuple[str, str]]:
    yield from zip(names, map(hex_colour, palette), strict=False)


def _sheet(
    source: DataSource,
    layout: Layout | None,
    split: str,
    class_names: tuple[str, ...],
    palette: tuple[Colour, ...],
) -> Iterator[_Thumbnail]:
    """Yield samples of a list that can be read, evenly spread over it."""
    scenes = source.open(split) if layout is None else None
    names = scenes.names if scenes is not None else _readable_names(layout, split)
    for place in range(0, len(names), max(1, -(-len(names) // SAMPLES))):
        try:
            image, mask = _sample(scenes, layout, split, names[place], place, palette)
            blended = overlay(image, mask, palette)
        except (DataError, ValueError):  # named among the faults
            continue
        present = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[: len(class_names)])
        yield _Thumbnail(
            names[place],
            (
                (names[place], thumbnail(image)),
                (f"{names[place]}, with its mask", thumbnail(blended)),
            ),
            ", ".join(class_names[index] for index in present.tolist()),
        )


def _readable_names(layout: Layout | None, split: str) -> tuple[str, ...]:
    assert layout is not None  # only the built-in scenes have none
    try:
        return tuple(dict.fromkeys(layout.lines(split)))
    except DataError:
        return ()


def _sample(
    scenes: Dataset | None,
    layout: Layout | None,
    split: str,
    name: str,
    place: int,
    palette: tuple[Colour, ...],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    if scenes is not None:
        sample = scenes[place]
        return sample.image, sample.mask
    assert layout is not None
    image, mask = read_image(layout.image(name, split)), layout.mask(name, split)
    try:
        return image, layout.classes().read_mask(mask)
    except DataError:
        return image, ClassList((), palette, None).read_mask(mask)


def _pairs(report: DataReport, layout: Layout | None) -> Iterator[Mapping[str, object]]:
    """Yield pairs of images that look alike."""
    if layout is None:
        return
    for pair in report.near_duplicates[:PAIRS]:
        learned = next(one for one in layout.lists() if pair.name in _readable_names(layout, one))
        images = layout.image(pair.name, learned), layout.image(pair.other, "val")
        yield {"pair": pair, "views": tuple(("", thumbnail(read_image(path))) for path in images)}
