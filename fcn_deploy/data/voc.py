"""A folder in the VOC layout as a dataset, and writing one."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from PIL import Image

from fcn_deploy.core.errors import DataError, ListError
from fcn_deploy.core.files import atomic_path, write_bytes
from fcn_deploy.data.class_list import ClassList, read_class_list
from fcn_deploy.data.dataset import Dataset, iterate
from fcn_deploy.data.folder_dataset import FolderDataset
from fcn_deploy.data.images import IMAGE_SUFFIXES
from fcn_deploy.data.masks import voc_palette, write_mask

if TYPE_CHECKING:
    from typing_extensions import Self

#: The list that extends VOC 2012's ``train`` by the images of SBD, where somebody has put it.
AUGMENTED = "trainaug"
#: Suffixes of images in the order in which they are tried, the usual ones first.
_COMMON = (".jpg", ".png", ".jpeg")
_LAYOUT = "expected JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/{train,val}.txt"


@dataclass(frozen=True)
class VocLayout:
    """A folder in VOC layout.

    Attributes:
        root: the folder that holds ``JPEGImages/``.
    """

    root: Path

    @property
    def notice(self) -> None:
        """Nothing: the lists tell what is in them."""
        return

    @property
    def training_list(self) -> str:
        """``trainaug`` where the folder has it, else ``train``."""
        return AUGMENTED if self.list_place(AUGMENTED).is_file() else "train"

    def lists(self) -> tuple[str, ...]:
        """Return the names of the lists, those of training and ``val`` first."""
        folder = self.list_place("x").parent
        names = sorted(path.stem for path in folder.glob("*.txt") if not path.name.startswith("."))
        first = [name for name in ("train", AUGMENTED, "val") if name in names]
        return (*first, *(name for name in names if name not in first))

    def list_place(self, split: str) -> Path:
        """Return the list's file."""
        return self.root / "ImageSets" / "Segmentation" / f"{split}.txt"

    def lines(self, split: str) -> tuple[str, ...]:
        """Return a list's lines that are not empty, as they stand.

        Raises:
            DataError: the list is missing or unreadable.
        """
        path = self.list_place(split)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()  # Notepad writes a BOM
        except FileNotFoundError as error:
            raise DataError(f"no list {path}", "write one name (without suffix) a line") from error
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the list {path} ({error})", "save it as UTF-8") from error
        return tuple(line.strip() for line in lines if line.strip())

    def names(self, split: str) -> tuple[str, ...]:
        """Return the names of a list, in order.

        Raises:
            DataError: the list is missing, unreadable, empty, or names a sample more than once.
        """
        names, path = self.lines(split), self.list_place(split)
        if not names:
            raise DataError(f"the list {path} is empty", "write one name (without suffix) a line")
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise DataError(f"{path} names {repeated[0]} more than once", "keep one line of each")
        return names

    def image(self, name: str, split: str) -> Path:
        """Return the image of a sample.

        Raises:
            ListError: the list's line is not the name of a sample alone, or leads out of the
                folder.
            DataError: there is no such image.
        """
        _require_inside(self.root, name, split)
        folder = self.root / "JPEGImages"
        path = _located(folder / name, _IMAGE_SUFFIXES)
        if path is None:
            _refuse_more_than_a_name(self.root, name, split)
            raise DataError(
                f"{split}.txt names {name}, but there is no {folder / name}.jpg (or .png)",
                "add the image or take the line off the list",
            )
        return path

    def mask(self, name: str, split: str) -> Path:
        """Return the mask of a sample.

        Raises:
            ListError: see :meth:`image`.
            DataError: there is none.
        """
        _require_inside(self.root, name, split)
        path = self.find_mask(name, split)
        if path is None:
            folder = self.mask_folder(split)
            others = sorted(folder.glob(f"{glob.escape(name)}.*"))
            raise DataError(
                f"{split}.txt names {name}, but there is no mask {folder / name}.png",
                f"save {others[0]} as PNG, its pixels the class indices"
                if others
                else "add the mask or take the line off the list",
            )
        return path

    def find_mask(self, name: str, split: str) -> Path | None:
        """Return the mask of a sample, ``NAME.png`` or ``NAME.PNG``; None where there is none."""
        return _located(self.mask_folder(split) / name, _MASK_SUFFIXES)

    def mask_folder(self, split: str) -> Path:
        """Return where a list's masks lie: those of SBD's ``trainaug`` in a folder of their own.

        VOC's own folder would do for a part of them only, and with other labels.
        """
        augmented = self.root / "SegmentationClassAug"
        own = split == AUGMENTED and augmented.is_dir()
        return augmented if own else self.root / "SegmentationClass"

    def classes(self) -> ClassList:
        """Return the classes; see :func:`read_class_list`."""
        return read_class_list(self.root)

    def source(self, split: str) -> str:
        """Return folder and list."""
        return f"{self.root} ({split})"

    def unlisted(self) -> tuple[str, ...]:
        """Return how many files are in no list, of each folder."""
        listed = {name for split in self.lists() for name in self._readable_lines(split)}
        notes = []
        for folder in ("JPEGImages", "SegmentationClass"):
            if count := len(_stored(self.root / folder) - listed):
                notes.append(f"{count} files of {folder} are in no list")
        return tuple(notes)

    def _readable_lines(self, split: str) -> tuple[str, ...]:
        try:
            return self.lines(split)
        except DataError:  # named as a fault of its own
            return ()


def _stored(folder: Path) -> set[str]:
    """Return the names of a folder's files, those in sub-folders with these."""
    return {
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.rglob("*")
        if not path.name.startswith(".") and path.is_file()
    }


class VocDataset(FolderDataset):
    """One list of a folder in VOC layout."""

    @classmethod
    def open(cls, folder: Path, split: str) -> Self:
        """Open a list; see :meth:`FolderDataset.of`.

        Raises:
            DataError: the folder is not in VOC layout; the list or a file is missing, empty or
                contradictory.
        """
        return cls.of(VocLayout(find_voc_root(folder)), split)


def voc_root(folder: Path) -> Path | None:
    """Return the folder that holds ``JPEGImages/``, or None where there is none.

    It is ``folder`` itself, or a year of VOCdevkit below it.
    """
    candidates = [folder, folder / "VOC2012", folder / "VOCdevkit" / "VOC2012"]
    candidates += sorted(folder.glob("VOCdevkit/VOC*"), reverse=True)
    return next((one for one in candidates if (one / "JPEGImages").is_dir()), None)


def find_voc_root(folder: Path) -> Path:
    """Return the folder that holds ``JPEGImages/``: itself, or ``VOCdevkit/VOC2012`` below it.

    Raises:
        DataError: missing, empty, or not in VOC layout.
    """
    if not folder.is_dir():
        raise DataError(f"no data folder {folder}", f"{_LAYOUT}; or give `synthetic`")
    if (root := voc_root(folder)) is not None:
        return root
    state = "is empty" if not any(folder.iterdir()) else "is not in VOC layout"
    raise DataError(f"data folder {folder} {state}", _LAYOUT)


def _in_any_case(suffixes: Iterable[str]) -> tuple[str, ...]:
    known = tuple(suffixes)
    cases = (known, map(str.upper, known), map(str.title, known))
    return tuple(dict.fromkeys(suffix for case in cases for suffix in case))


_IMAGE_SUFFIXES = _in_any_case((*_COMMON, *sorted(IMAGE_SUFFIXES - {*_COMMON})))
_MASK_SUFFIXES = _in_any_case([".png"])


def _located(stem: Path, suffixes: Sequence[str]) -> Path | None:
    """Return the first file of these suffixes, or None."""
    try:
        paths = (stem.parent / f"{stem.name}{suffix}" for suffix in suffixes)
        return next((path for path in paths if path.is_file()), None)
    except OSError:  # a name that is too long for the file system
        return None


def _require_inside(root: Path, name: str, split: str) -> None:
    """Refuse a list's line that leads elsewhere than below the folder's own images.

    Raises:
        ListError: it does.
    """
    path = PurePosixPath(name)
    if str(path) != name or path.is_absolute() or ".." in path.parts:
        _refuse_more_than_a_name(root, name, split)
        raise ListError(
            f"{split}.txt: {name} leads out of {root / 'JPEGImages'}",
            "names stay inside the folder: copy image and mask there",
        )


def _refuse_more_than_a_name(root: Path, line: str, split: str) -> None:
    """Refuse a line that holds a name among other things: a suffix, a folder, a second column.

    Raises:
        ListError: there is an image of that name.
    """
    for text in (line, re.split(r"[\s,;]+", line)[0]):
        path = PurePosixPath(text.strip("\"'").replace("\\", "/"))
        suffixed = path.suffix.lower() in IMAGE_SUFFIXES
        parts = (path.with_suffix("") if suffixed else path).parts
        for start in range(len(parts)):
            name = "/".join(parts[start:])
            outside = name.startswith("/") or ".." in parts[start:]
            if outside or name == line or not _located(root / "JPEGImages" / name, _IMAGE_SUFFIXES):
                continue
            raise ListError(
                f"{split}.txt: {line!r} is not a name, {name} is",
                "write the name alone: no suffix, no folder, no second column",
            )


def write_voc_layout(folder: Path, splits: Mapping[str, Dataset]) -> None:
    """Write data sets as one folder in VOC layout: JPEG images, palette PNG masks, lists, classes.

    Args:
        folder: a new or empty folder.
        splits: list name, e.g. ``train`` → its samples; all of the same classes.

    Raises:
        DataError: the folder is not empty.
        ArtifactError: it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not empty", "name a new folder")
    class_names: tuple[str, ...] = ()
    for split, dataset in splits.items():
        class_names, names = dataset.class_names, []
        for sample in iterate(dataset):
            names.append(sample.name)
            mask_path = folder / "SegmentationClass" / f"{sample.name}.png"
            write_mask(mask_path, sample.mask, voc_palette(len(class_names)))
            with atomic_path(folder / "JPEGImages" / f"{sample.name}.jpg") as temporary:
                Image.fromarray(sample.image).save(temporary, quality=95)
        _write_lines(folder / "ImageSets" / "Segmentation" / f"{split}.txt", names)
    _write_lines(folder / "classes.txt", class_names)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
