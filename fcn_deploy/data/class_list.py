"""ClassList: the classes of a folder in VOC layout, and the colours that stand for them.

    classes.txt      ours: one name a line, in the order of the indices
    labelmap.txt     CVAT's: name:red,green,blue:parts:actions
    class_names.txt  as labelme2voc writes it: one name a line
    labels.txt       labelme's: the same, after a line ``__ignore__`` for void

The first that is there is read; where there is none, VOC's 21 classes are meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fcn_deploy.core.errors import DataError
from fcn_deploy.core.spec import MAX_CLASSES
from fcn_deploy.data.masks import VOC_CLASS_NAMES, voc_palette

Colour = tuple[int, int, int]
#: Files that may name the classes: the first that is there does.
CLASS_FILES = ("classes.txt", "labelmap.txt", "class_names.txt", "labels.txt")
_LABELMAP = "labelmap.txt"
#: labelme's name for void, the index 255.
_LABELME_VOID = "__ignore__"


@dataclass(frozen=True)
class ClassList:
    """Classes by index.

    Attributes:
        names: one per index.
        palette: RGB per index, by which masks that hold colours are read.
        file: what they were read from; None: they are VOC's.
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...]
    file: Path | None

    @property
    def notice(self) -> str | None:
        """What to say where classes.txt is missing: which classes were taken instead."""
        if self.file is None:
            return f"no classes.txt: the {len(self.names)} classes of PASCAL VOC are meant"
        if self.file.name == CLASS_FILES[0]:
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
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()  # Notepad writes a BOM
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file} ({error})", "save it as UTF-8") from error
    entries = [line.strip() for line in lines if line.strip()]
    colours: list[str] = []
    if file.name == _LABELMAP:
        fields = [f"{line}:".split(":") for line in entries if not line.startswith("#")]
        entries, colours = [name.strip() for name, *_ in fields], [row[1] for row in fields]
    elif file.name != CLASS_FILES[0]:
        entries = [name for name in entries if name != _LABELME_VOID]
    if not 2 <= len(entries) <= MAX_CLASSES - 1:  # index 255 is void
        raise DataError(
            f"{file} lists {len(entries)} classes", f"list 2 to {MAX_CLASSES - 1}, one name a line"
        )
    if len(set(entries)) != len(entries):
        raise DataError(f"{file} lists a class twice", "give every class its own name")
    palette = _palette(file, colours) if any(map(str.strip, colours)) else voc_palette(len(entries))
    return ClassList(tuple(entries), palette, file)


def _palette(file: Path, colours: list[str]) -> tuple[Colour, ...]:
    palette = tuple(_colour(file, text) for text in colours)
    if len(set(palette)) != len(palette):
        raise DataError(f"{file} gives two classes the same colour", "give each its own")
    return palette


def _colour(file: Path, text: str) -> Colour:
    try:
        red, green, blue = (int(channel) for channel in text.split(","))
    except ValueError:
        red = green = blue = -1
    if not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise DataError(
            f"{file} names the colour {text.strip()!r}", "write name:red,green,blue::, each 0-255"
        )
    return red, green, blue
