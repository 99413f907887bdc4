"""A folder in the VOC layout as a dataset, and writing one."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.errors import DataError, ListError
from fcn_deploy.core.files import atomic_path, write_bytes
from fcn_deploy.data.class_list import ClassList, read_class_list
from fcn_deploy.data.dataset import Dataset, Sample, iterate
from fcn_deploy.data.images import IMAGE_SUFFIXES, image_size, read_image
from fcn_deploy.data.masks import read_mask, voc_palette, write_mask
from fcn_deploy.data.pairs import size_mismatch

#: The list that extends VOC 2012's ``train`` by the images of SBD, where somebody has put it.
AUGMENTED = "trainaug"
#: Suffixes of images in the order in which they are tried, the usual ones first.
_COMMON = (".jpg", ".png", ".jpeg")
_LAYOUT = "expected JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/{train,val}.txt"


@dataclass(frozen=True)
class VocDataset:
    """One split of a folder in VOC layout.

    Attributes:
        root: the folder that holds ``JPEGImages/``.
        split: name of the list, e.g. ``train``.
        classes: names and colours.
        names: the samples, in the list's order.
        image_paths: one per sample.
        mask_paths: one per sample.
        image_sizes: (height, width) one per sample.
    """

    root: Path
    split: str
    classes: ClassList
    names: tuple[str, ...]
    image_paths: tuple[Path, ...]
    mask_paths: tuple[Path, ...]
    image_sizes: tuple[tuple[int, int], ...]

    @classmethod
    def open(cls, folder: Path, split: str) -> VocDataset:
        """Find the split's pairs and check that every file is there and sizes agree.

        Only headers are read; :func:`check_and_cache` decodes everything.

        Raises:
            DataError: the folder, the list or a file is missing, empty or contradictory.
        """
        root = find_voc_root(folder)
        names = read_list(root, split)
        images = tuple(find_image(root, name, split) for name in names)
        masks = tuple(find_mask(root, name, split) for name in names)
        sizes = tuple(image_size(path) for path in images)
        for image, mask, size in zip(images, masks, sizes, strict=True):
            if (error := size_mismatch(image, size, mask, image_size(mask))) is not None:
                raise error
        return cls(root, split, read_class_list(root), names, images, masks, sizes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per index."""
        return self.classes.names

    @property
    def source(self) -> str:
        """Folder and split."""
        return f"{self.root} ({self.split})"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        image = read_image(self.image_paths[index])
        return Sample(self.names[index], image, self.mask(index))

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Decode a sample's mask alone, uint8 [H, W]."""
        return read_mask(self.mask_paths[index], self.classes.palette)

    def sizes(self) -> list[tuple[int, int]]:
        """Return (height, width) of every sample, in order."""
        return list(self.image_sizes)

    def at_least(self, height: int, width: int) -> VocDataset:
        """Return the split without the samples smaller than height × width."""
        kept = [i for i, (h, w) in enumerate(self.image_sizes) if h >= height and w >= width]
        return replace(
            self,
            names=tuple(self.names[i] for i in kept),
            image_paths=tuple(self.image_paths[i] for i in kept),
            mask_paths=tuple(self.mask_paths[i] for i in kept),
            image_sizes=tuple(self.image_sizes[i] for i in kept),
        )


def find_voc_root(folder: Path) -> Path:
    """Return the folder that holds ``JPEGImages/``: itself, or ``VOCdevkit/VOC2012`` below it.

    Raises:
        DataError: missing, empty, or not in VOC layout.
    """
    if not folder.is_dir():
        raise DataError(f"no data folder {folder}", f"{_LAYOUT}; or give `synthetic`")
    candidates = [folder, folder / "VOC2012", folder / "VOCdevkit" / "VOC2012"]
    candidates += sorted(folder.glob("VOCdevkit/VOC*"), reverse=True)
    for candidate in candidates:
        if (candidate / "JPEGImages").is_dir():
            return candidate
    state = "is empty" if not any(folder.iterdir()) else "is not in VOC layout"
    raise DataError(f"data folder {folder} {state}", _LAYOUT)


def list_path(root: Path, split: str) -> Path:
    """Return where a split's list lies."""
    return root / "ImageSets" / "Segmentation" / f"{split}.txt"


def read_list(root: Path, split: str) -> tuple[str, ...]:
    """Return the names of a split, in order.

    Raises:
        DataError: the list is missing, unreadable, empty, or names a sample more than once.
    """
    names = list_lines(root, split)
    path = list_path(root, split)
    if not names:
        raise DataError(f"the list {path} is empty", "write one name (without suffix) a line")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{path} names {repeated[0]} more than once", "keep one line of each")
    return names


def list_lines(root: Path, split: str) -> tuple[str, ...]:
    """Return a list's lines that are not empty, as they stand.

    Raises:
        DataError: the list is missing or unreadable.
    """
    path = list_path(root, split)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # Notepad writes a BOM
    except FileNotFoundError as error:
        raise DataError(f"no list {path}", "write one name (without suffix) a line") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list {path} ({error})", "save it as UTF-8") from error
    return tuple(line.strip() for line in lines if line.strip())


def find_image(root: Path, name: str, split: str) -> Path:
    """Return the image of a sample.

    Raises:
        ListError: the list's line is not the name of a sample alone, or leads out of the folder.
        DataError: there is no such image.
    """
    _require_inside(root, name, split)
    path = _located(root / "JPEGImages" / name, _IMAGE_SUFFIXES)
    if path is None:
        _refuse_more_than_a_name(root, name, split)
        raise DataError(
            f"{split}.txt names {name}, but there is no {root / 'JPEGImages' / name}.jpg (or .png)",
            "add the image or take the line off the list",
        )
    return path


def find_mask(root: Path, name: str, split: str) -> Path:
    """Return the mask of a sample.

    Raises:
        ListError: see :func:`find_image`.
        DataError: there is none.
    """
    _require_inside(root, name, split)
    path = mask_path(root, name, split)
    if path is None:
        folder = mask_folder(root, split)
        others = sorted(folder.glob(f"{glob.escape(name)}.*"))
        raise DataError(
            f"{split}.txt names {name}, but there is no mask {folder / name}.png",
            f"save {others[0]} as PNG, its pixels the class indices"
            if others
            else "add the mask or take the line off the list",
        )
    return path


def mask_path(root: Path, name: str, split: str) -> Path | None:
    """Return the mask of a sample, ``NAME.png`` or ``NAME.PNG``; None where there is none."""
    return _located(mask_folder(root, split) / name, _MASK_SUFFIXES)


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


def mask_folder(root: Path, split: str) -> Path:
    """Return where a split's masks lie: those of SBD's list ``trainaug`` in a folder of their own.

    VOC's own folder would do for a part of them only, and with other labels.
    """
    augmented = root / "SegmentationClassAug"
    own = split == AUGMENTED and augmented.is_dir()
    return augmented if own else root / "SegmentationClass"


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
