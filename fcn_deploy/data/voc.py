"""A folder in the VOC layout as a dataset, and writing one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.errors import DataError
from fcn_deploy.core.files import atomic_path, write_bytes
from fcn_deploy.core.spec import MAX_CLASSES
from fcn_deploy.data.dataset import Dataset, Sample, iterate
from fcn_deploy.data.images import image_size, read_image
from fcn_deploy.data.masks import VOC_CLASS_NAMES, read_mask, voc_palette, write_mask

#: The list that extends VOC 2012's ``train`` by the images of SBD, where somebody has put it.
AUGMENTED = "trainaug"
_LAYOUT = "expected JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/{train,val}.txt"


@dataclass(frozen=True)
class VocDataset:
    """One split of a folder in VOC layout.

    Attributes:
        root: the folder that holds ``JPEGImages/``.
        split: name of the list, e.g. ``train``.
        class_names: one per index.
        names: the samples, in the list's order.
        image_paths: one per sample.
        mask_paths: one per sample.
        image_sizes: (height, width) one per sample.
    """

    root: Path
    split: str
    class_names: tuple[str, ...]
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
            if image_size(mask) != size:
                raise DataError(
                    f"{image} is {_hw(size)} but its mask {mask} is {_hw(image_size(mask))} "
                    "(height×width)",
                    "make the pair the same size or take it off the list",
                )
        return cls(root, split, read_classes(root), names, images, masks, sizes)

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
        return read_mask(self.mask_paths[index], voc_palette(len(self.class_names)))

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


def read_classes(root: Path) -> tuple[str, ...]:
    """Return the names in ``classes.txt``; those of VOC where there is none.

    Raises:
        DataError: it is unreadable, or lists too few, too many, or a class twice.
    """
    path = root / "classes.txt"
    if not path.exists():
        return VOC_CLASS_NAMES
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # Notepad writes a BOM
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({error})", "save it as UTF-8") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not 2 <= len(names) <= MAX_CLASSES - 1:  # index 255 is void
        raise DataError(
            f"{path} lists {len(names)} classes", f"list 2 to {MAX_CLASSES - 1}, one name a line"
        )
    if len(set(names)) != len(names):
        raise DataError(f"{path} lists a class twice", "give every class its own name")
    return names


def find_image(root: Path, name: str, split: str) -> Path:
    """Return the image of a sample.

    Raises:
        DataError: there is none.
    """
    for suffix in (".jpg", ".png", ".jpeg", ".JPG", ".PNG", ".JPEG"):
        path = root / "JPEGImages" / f"{name}{suffix}"
        if path.is_file():
            return path
    raise DataError(
        f"{split}.txt names {name}, but there is no {root / 'JPEGImages' / name}.jpg (or .png)",
        "add the image or take the line off the list",
    )


def find_mask(root: Path, name: str, split: str) -> Path:
    """Return the mask of a sample.

    Raises:
        DataError: there is none.
    """
    path = mask_folder(root, split) / f"{name}.png"
    if not path.is_file():
        raise DataError(
            f"{split}.txt names {name}, but there is no mask {path}",
            "add the mask or take the line off the list",
        )
    return path


def mask_folder(root: Path, split: str) -> Path:
    """Return where a split's masks lie: those of SBD's list ``trainaug`` in a folder of their own.

    VOC's own folder would do for a part of them only, and with other labels.
    """
    augmented = root / "SegmentationClassAug"
    own = split == AUGMENTED and augmented.is_dir()
    return augmented if own else root / "SegmentationClass"


def _hw(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


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
