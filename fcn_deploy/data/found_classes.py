"""found_classes: a classes.json for a folder, from what its masks hold."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import DataError
from fcn_deploy.core.spec import IGNORE_INDEX
from fcn_deploy.data.class_json import Colour, class_json
from fcn_deploy.data.class_list import ClassList, class_file, class_list_of
from fcn_deploy.data.layout import Layout
from fcn_deploy.data.mask_values import MAX_VALUE, ValueMap
from fcn_deploy.data.masks import VOID_COLOUR, read_stored, voc_palette
from fcn_deploy.data.pair_layout import PairLayout, no_classes

#: More classes do not fit beside void in eight bits.
_MOST = IGNORE_INDEX


@dataclass
class _Stored:
    """What the masks hold, as it is read one by one."""

    values: dict[int, Path] = field(default_factory=dict)
    colours: dict[Colour, Path] = field(default_factory=dict)
    palette: tuple[Colour, ...] = ()

    def add(self, path: Path) -> None:
        stored, palette = read_stored(path)
        if stored.ndim == 3:
            for packed in np.unique(_packed(stored)).tolist():
                self.colours.setdefault((packed >> 16, packed >> 8 & 255, packed & 255), path)
            return
        for value in _distinct(stored):
            if not 0 <= value <= MAX_VALUE:
                raise DataError(
                    f"mask {path} holds value {value}", f"save masks with values 0 to {MAX_VALUE}"
                )
            self.values.setdefault(value, path)
        if palette and not self.palette:
            self.palette = tuple(zip(palette[::3], palette[1::3], palette[2::3], strict=True))


def _packed(colours: NDArray[np.uint8]) -> NDArray[np.int32]:
    wide = colours.astype(np.int32)
    packed: NDArray[np.int32] = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return packed


def _distinct(stored: NDArray[Any]) -> list[int]:
    if stored.dtype == np.uint8:
        return [int(value) for value in np.flatnonzero(np.bincount(stored.ravel(), minlength=256))]
    return [int(value) for value in np.unique(stored)]


def masks_of(layout: Layout) -> list[Path]:
    """Return the masks of all lists of a folder."""
    return sorted({path for path in _masks_of(layout) if path is not None})


def _masks_of(layout: Layout) -> Iterator[Path | None]:
    for split in layout.lists():
        for name in dict.fromkeys(layout.lines(split)):
            yield layout.find_mask(name, split)


def found_classes(layout: Layout, on_mask: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Return the content of a classes.json that fits the masks of a folder.

    The classes of a published data set are taken as they are.  Otherwise each value or colour that
    occurs is a class, by size; 255 is void, unless 0 and 255 are all that there is.  Names are
    those of another list of classes in the folder if there are as many.

    Args:
        layout: of the folder.
        on_mask: called after each mask.

    Raises:
        DataError: there are no masks, one is unreadable, some hold values and some colours, or
            there are fewer than two classes or too many.
    """
    file = class_file(layout.root)
    if file is None and isinstance(layout, PairLayout) and layout.known_classes is not no_classes:
        return _content(layout.classes())
    stored, masks = _Stored(), masks_of(layout)
    if not masks:
        raise DataError(f"no masks in {layout.root}", "add the masks first")
    for path in masks:
        stored.add(path)
        on_mask()
    listed = None if file is None else class_list_of(file)
    if any(len({*colour}) > 1 for colour in stored.colours):
        return _content(_of_colours(stored, listed))
    for (value, _, _), path in stored.colours.items():  # three equal channels
        stored.values.setdefault(value, path)
    return _content(_of_values(stored, listed))


def _content(classes: ClassList) -> dict[str, Any]:
    return class_json(classes.names, classes.palette, classes.values, classes.void_colours)


def _of_colours(stored: _Stored, listed: ClassList | None) -> ClassList:
    if stored.values:
        value, path = next(iter(stored.values.items()))
        colour, other = next(iter(stored.colours.items()))
        raise DataError(
            f"mask {path} holds values (e.g. {value}), mask {other} colours (e.g. {colour})",
            "save all masks alike",
        )
    colours = sorted({*stored.colours} - {VOID_COLOUR})
    _require_count(len(colours), "colours", next(iter(stored.colours.values())))
    if listed is not None and {*colours} <= {*listed.palette, *listed.void_colours}:
        return listed
    names = tuple(f"colour {red},{green},{blue}" for red, green, blue in colours)
    return ClassList(_names(listed, names), tuple(colours), None)


def _of_values(stored: _Stored, listed: ClassList | None) -> ClassList:
    values = sorted(stored.values)
    binary = values == [0, IGNORE_INDEX]
    if not binary:
        values = [value for value in values if value != IGNORE_INDEX]
    _require_count(len(values), "values", next(iter(stored.values.values())))
    if listed is not None and len(listed.names) > values[-1]:
        return listed  # each value is an index already
    own = ("background", "object") if binary else tuple(f"class {value}" for value in values)
    names = _names(listed, own)
    if values == list(range(len(values))):
        return ClassList(names, _colours(stored, values), None)
    pairs = tuple((value, index) for index, value in enumerate(values))
    void = () if binary else ((IGNORE_INDEX, IGNORE_INDEX),)
    return ClassList(names, _colours(stored, values), None, ValueMap((*pairs, *void)))


def _names(listed: ClassList | None, names: tuple[str, ...]) -> tuple[str, ...]:
    return listed.names if listed is not None and len(listed.names) == len(names) else names


def _colours(stored: _Stored, values: list[int]) -> tuple[Colour, ...]:
    """Return the colours that the masks' palettes show the values in, VOC's where they do not."""
    shown = tuple(stored.palette[value] for value in values if value < len(stored.palette))
    return shown if len({*shown}) == len(values) else voc_palette(len(values))


def _require_count(count: int, kind: str, example: Path) -> None:
    if count < 2:
        raise DataError(
            f"the masks hold {count} {kind} beside void (e.g. {example})",
            "label at least two classes",
        )
    if count > _MOST:
        raise DataError(
            f"the masks hold {count} {kind} (e.g. {example}), more than {_MOST} classes",
            "save masks without loss (JPEG alters labels), and classes instead of instances",
        )
