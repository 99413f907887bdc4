"""ClassList: the classes of a labelled folder, and the values and colours that stand for them.

    classes.json      ours: names, colours, values (class_json.py)
    classes.txt       ours: one name a line, in the order of the indices
    labelmap.txt      CVAT's: name:red,green,blue:parts:actions
    class_names.txt   as labelme2voc writes it: one name a line
    labels.txt        labelme's: the same, after a line ``__ignore__`` for void
    label_colors.txt  CamVid's: red green blue name; the name Void is void
    class_dict.csv    the same as name,red,green,blue after a line of titles

The first that is there is read; where there is none, VOC's 21 classes are meant.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import DataError
from fcn_deploy.core.spec import MAX_CLASSES
from fcn_deploy.data import masks
from fcn_deploy.data.class_json import CLASS_JSON, Colour, read_class_json
from fcn_deploy.data.mask_values import ValueMap
from fcn_deploy.data.masks import VOC_CLASS_NAMES, voc_palette

_CLASSES, _LABELMAP = "classes.txt", "labelmap.txt"
_LABEL_COLOURS, _CLASS_DICT = "label_colors.txt", "class_dict.csv"
#: Files that may name the classes: the first that is there does.
CLASS_FILES = (
    CLASS_JSON, _CLASSES, _LABELMAP, "class_names.txt", "labels.txt", _LABEL_COLOURS, _CLASS_DICT,
)  # fmt: skip
#: How a colour is written, where that is not as in CVAT's list.
_COLOUR_REPAIRS = {
    _LABEL_COLOURS: "write red green blue name, each 0-255",
    _CLASS_DICT: "write name,red,green,blue, each 0-255",
}
#: Names of void: labelme's, the index 255; CamVid's, in any case.
_LABELME_VOID, _CAMVID_VOID = "__ignore__", "void"


@dataclass(frozen=True)
class ClassList:
    """Classes by index.

    Attributes:
        names: one per index.
        palette: RGB per index, by which masks that hold colours are read.
        file: what they were read from; None: they are VOC's, or those that the layout has.
        values: which class each value of a mask means; None: each value is an index.
        void_colours: colours that stand for void, beside VOC's own.
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...]
    file: Path | None
    values: ValueMap | None = None
    void_colours: tuple[Colour, ...] = ()

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        """Read a mask as indices of these classes; see :func:`fcn_deploy.data.masks.read_mask`."""
        return masks.read_mask(path, self.palette, self.values, self.void_colours)

    @property
    def notice(self) -> str | None:
        """What to say where classes.txt is missing: which classes were taken instead."""
        if self.file is None:
            return f"no classes.txt: the {len(self.names)} classes of PASCAL VOC are meant"
        if self.file.name in (CLASS_JSON, _CLASSES):
            return None
        few = ", ".join(self.names[:3]) + (", …" if len(self.names) > 3 else "")
        return f"no classes.txt: the {len(self.names)} classes of {self.file} are taken ({few})"


def class_file(root: Path) -> Path | None:
    """Return the file that names a folder's classes, or None."""
    return next((root / name for name in CLASS_FILES if (root / name).exists()), None)


def read_class_list(root: Path) -> ClassList:
    """Return the classes of a folder; those of VOC where no file names any.

    Raises:
        DataError: the file is unreadable, or lists too few, too many, or a class twice.
    """
    file = class_file(root)
    if file is None:
        return ClassList(VOC_CLASS_NAMES, voc_palette(len(VOC_CLASS_NAMES)), None)
    return class_list_of(file)


def class_list_of(file: Path) -> ClassList:
    """Read a file that names classes.

    Raises:
        DataError: see :func:`read_class_list`.
    """
    if file.suffix == ".json":
        names, given, values, void_colours = read_class_json(file)
        _require_names(file, names)
        own = voc_palette(len(names))
        colours = tuple(one or other for one, other in zip(given, own, strict=True))
        if any(given):
            _require_colours(file, [*colours, *void_colours])
        return ClassList(names, colours, file, values, void_colours)
    lines = [line.strip() for line in _text(file).splitlines() if line.strip()]
    if file.name in (_LABEL_COLOURS, _CLASS_DICT):
        return _coloured(file, lines)
    entries, texts = lines, [""] * len(lines)
    if file.name == _LABELMAP:
        fields = [f"{line}:".split(":") for line in entries if not line.startswith("#")]
        entries, texts = [name.strip() for name, *_ in fields], [row[1] for row in fields]
    elif file.name != _CLASSES:
        entries = [name for name in entries if name != _LABELME_VOID]
    _require_names(file, entries)
    palette = voc_palette(len(entries))
    if any(map(str.strip, texts)):
        palette = tuple(_colour(file, text) for text in texts)
        _require_colours(file, palette)
    return ClassList(tuple(entries), palette, file)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # Notepad writes a BOM
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file} ({error})", "save it as UTF-8") from error


def _coloured(file: Path, lines: list[str]) -> ClassList:
    """Read CamVid's lists of names and colours."""
    rows: list[tuple[str, Colour]] = []
    for line in lines[1:] if file.name == _CLASS_DICT else lines:
        if file.name == _CLASS_DICT:
            name, *channels = line.split(",")
        else:
            *channels, name = re.split(r"\s+", line, maxsplit=3)
        rows.append((name.strip(), _colour(file, ",".join(channels))))
    void = tuple(colour for name, colour in rows if name.lower() == _CAMVID_VOID)
    rows = [row for row in rows if row[0].lower() != _CAMVID_VOID]
    names, palette = tuple(name for name, _ in rows), tuple(colour for _, colour in rows)
    _require_names(file, names)
    _require_colours(file, [*palette, *void])
    return ClassList(names, palette, file, None, void)


def _require_names(file: Path, names: Sequence[str]) -> None:
    if not 2 <= len(names) <= MAX_CLASSES - 1:  # index 255 is void
        raise DataError(
            f"{file} lists {len(names)} classes", f"list 2 to {MAX_CLASSES - 1}, one name a line"
        )
    if len(set(names)) != len(names):
        raise DataError(f"{file} lists a class twice", "give every class its own name")


def _require_colours(file: Path, colours: Sequence[Colour]) -> None:
    if len({*colours}) != len(colours):
        raise DataError(f"{file} gives two classes the same colour", "give each its own")


def _colour(file: Path, text: str) -> Colour:
    try:
        red, green, blue = (int(channel) for channel in text.split(","))
    except ValueError:
        red = green = blue = -1
    if not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise DataError(
            f"{file} names the colour {text.strip()!r}",
            _COLOUR_REPAIRS.get(file.name, "write name:red,green,blue::, each 0-255"),
        )
    return red, green, blue
