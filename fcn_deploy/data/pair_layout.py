"""PairLayout: a folder of images and a folder of masks that are paired by their names.

    images/NAME.jpg  masks/NAME.png          no lists: a share of the names is kept for validation
    images/train/NAME.jpg  masks/train/…     or train/images/, train/masks/: a folder for each list

Whether a name is kept for validation depends on the name alone, by a hash: it stays where it is,
whatever other files come and go.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fcn_deploy.core.errors import DataError
from fcn_deploy.data.class_list import ClassList, class_file, class_list_of
from fcn_deploy.data.images import is_image_name

#: The share of the images that is kept for validation, unless told otherwise.
HELD_OUT = 0.2
#: Lossless formats: JPEG alters labels.
MASK_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff", ".gif"})
#: What may follow an image's name in its mask's.
_ENDINGS = ("", "_mask", "-mask", "_masks", "_label", "_labels", "_gt", "_seg")
#: Names that are told, before the rest is only counted.
_TOLD = 3


def in_validation(name: str, share: float) -> bool:
    """Say whether a sample is kept for validation: of many names about ``share`` are."""
    # macOS spells an umlaut as two characters, others as one: it is the same image.
    text = unicodedata.normalize("NFC", name).encode("utf-8", "surrogatepass")
    place = int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
    return place < share * 2**64


def is_mask_name(path: Path) -> bool:
    """Say whether a file of a folder may be a mask, by its name."""
    return path.suffix.lower() in MASK_SUFFIXES and not path.name.startswith(".")


@dataclass(frozen=True)
class Part:
    """A folder of images and the folder of their masks.

    Attributes:
        images: the folder.
        masks: the folder; None where there is none.
        prefix: what stands before the names of its samples, e.g. ``train/``.
    """

    images: Path
    masks: Path | None
    prefix: str = ""


def no_classes(layout: PairLayout) -> ClassList:
    """Refuse a folder without a list of classes: no layout of its own tells them.

    Raises:
        DataError: always.
    """
    raise DataError(
        f"no classes.json or classes.txt in {layout.root}",
        f"write it from the masks: `fcn-deploy data check {layout.root} --write-classes`",
    )


@dataclass(frozen=True)
class PairLayout:
    """A folder of images and masks.

    Attributes:
        root: the folder.
        kind: of layout, for people.
        parts: list → its folders; ``all`` where there are no lists.
        share: of the images kept for validation; None where the folder has a list of its own.
        image_ending: what image names end in beyond the sample's name.
        mask_endings: what mask names may end in beyond the sample's name, best first.
        known_classes: of the layout, where no file of the folder names any.
    """

    root: Path
    kind: str
    parts: Mapping[str, Part]
    share: float | None = None
    image_ending: str = ""
    mask_endings: tuple[str, ...] = _ENDINGS
    known_classes: Callable[[PairLayout], ClassList] = field(default=no_classes)

    @property
    def _whole(self) -> str:
        """The part that is split by the hash."""
        return next(iter(self.parts))

    @cached_property
    def _images(self) -> dict[str, tuple[tuple[str, Path], ...]]:
        """Part → (name, file) of each image, sorted by name."""
        return {
            part: tuple(
                sorted((self._name(folders, path), path) for path in _files(folders.images))
            )
            for part, folders in self.parts.items()
        }

    def _name(self, part: Part, path: Path) -> str:
        stem = path.relative_to(part.images).with_suffix("").as_posix()
        return part.prefix + stem.removesuffix(self.image_ending)

    @cached_property
    def _masks(self) -> dict[Path, dict[str, Path]]:
        """Folder of masks → stem → file, each folder read once."""
        folders = {part.masks for part in self.parts.values() if part.masks is not None}
        return {
            folder: {
                path.relative_to(folder).with_suffix("").as_posix(): path
                for path in sorted(folder.rglob("*"))
                if is_mask_name(path)
            }
            for folder in folders
        }

    @cached_property
    def _members(self) -> dict[str, dict[str, Path]]:
        """List → name → image."""
        return {split: dict(self._pairs(split)) for split in self.lists()}

    def _pairs(self, split: str) -> tuple[tuple[str, Path], ...]:
        whole = self._whole
        if self.share is None or split not in (whole, "train", "val"):
            return self._images.get(split, ())
        held = split == "val"
        share = self.share
        return tuple(
            (name, path) for name, path in self._images[whole] if in_validation(name, share) == held
        )

    @property
    def notice(self) -> str:
        """What was recognised, in one line."""
        counts = ", ".join(f"{len(self._pairs(split))} {split}" for split in self.lists())
        words = f"{self.root} is read as {self.kind}: {counts}"
        if self.share is None:
            return words
        of = "images" if self._whole == "all" else f"images of {self._whole}/"
        return f"{words}; no val/, so {self.share:.0%} of the {of} by a hash of their names are val"

    @property
    def training_list(self) -> str:
        """``train``."""
        return "train"

    def lists(self) -> tuple[str, ...]:
        """Return the names of the lists, ``train`` and ``val`` first."""
        there = {*self.parts} - {"all"}
        if self.share is not None:
            there |= {"train", "val"}
        return tuple(split for split in ("train", "val", "test") if split in there)

    def list_place(self, split: str) -> Path:
        """Return the folder whose images are in a list."""
        return self._part(split).images

    def _part(self, split: str) -> Part:
        return self.parts.get(split, self.parts[self._whole])

    def lines(self, split: str) -> tuple[str, ...]:
        """Return the names of a list.

        Raises:
            DataError: there is no such list.
        """
        if split not in self.lists():
            lists = ", ".join(self.lists())
            raise DataError(
                f"no images for {split} in {self.root}, which has {lists}",
                f"make a folder {split}/ as there is for {self.lists()[0]}",
            )
        return tuple(name for name, _ in self._pairs(split))

    def names(self, split: str) -> tuple[str, ...]:
        """Return the names of a list, each of one image and at least one.

        Raises:
            DataError: see :meth:`lines`; there are none, or two images share a name.
        """
        names = self.lines(split)
        if not names and self.share is not None:
            raise DataError(
                f"none of the {len(self._images[self._whole])} images in {self.list_place(split)} "
                f"falls in {split} with --split {self.share:g}",
                "give another share, or make the folders train/ and val/",
            )
        if not names:
            raise DataError(f"no images in {self.list_place(split)}", "put the images there")
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise DataError(
                f"{self.list_place(split)} has two images called {repeated[0]}",
                "rename one of them",
            )
        return names

    def image(self, name: str, split: str) -> Path:
        """Return the image of a sample."""
        return self._members[split][name]

    def mask(self, name: str, split: str) -> Path:
        """Return the mask of a sample.

        Raises:
            DataError: there is none.
        """
        found = self.find_mask(name, split)
        if found is None:
            count = self._lacking[split]
            others = f" ({count} images of {split} have none)" if count > 1 else ""
            raise DataError(
                f"no mask for {self.image(name, split)} in {self.mask_folder(split)}{others}",
                f"add NAME{self.mask_endings[0]}.png for each NAME, or take the images out",
            )
        return found

    @cached_property
    def _lacking(self) -> dict[str, int]:
        """List → how many of its images have no mask."""
        return {
            split: sum(self.find_mask(name, split) is None for name in self._members[split])
            for split in self.lists()
        }

    def find_mask(self, name: str, split: str) -> Path | None:
        """Return the mask of a sample, or None."""
        part = self._part(split)
        if part.masks is None:
            return None
        stem = name.removeprefix(part.prefix)
        files = self._masks[part.masks]
        return next((files[stem + end] for end in self.mask_endings if stem + end in files), None)

    def mask_folder(self, split: str) -> Path:
        """Return where the masks of a list lie, or are to lie."""
        part = self._part(split)
        return part.masks or part.images.parent / "masks"

    def classes(self) -> ClassList:
        """Return the classes: of a file in the folder, else those that the layout has.

        Raises:
            DataError: there are none, or the file is unreadable.
        """
        file = class_file(self.root)
        return self.known_classes(self) if file is None else class_list_of(file)

    def source(self, split: str) -> str:
        """Return folder and list; where the list is a share, with the share."""
        if self.share is None or split not in ("train", "val"):
            return f"{self.root} ({split})"
        return f"{self.root} ({split}, {self.share:g} held out by name)"

    def unlisted(self) -> tuple[str, ...]:
        """Return a line on masks without an image, and on images beside the lists' folders."""
        used = {
            self.find_mask(name, split) for split in self.lists() for name, _ in self._pairs(split)
        }
        kinds = tuple(end for end in self.mask_endings if end)
        spare = [
            path
            for files in self._masks.values()
            for stem, path in files.items()
            if path not in used and ("" in self.mask_endings or stem.endswith(kinds))
        ]
        beside = {
            path
            for folder in {part.images.parent for part in self.parts.values()}
            for path in folder.iterdir()
            if is_image_name(path)
        }
        notes = []
        if spare:
            notes.append(f"{len(spare)} masks have no image: {_few(spare)}")
        if beside:
            notes.append(
                f"{len(beside)} images lie beside the folders of images and are in no list: "
                f"{_few(sorted(beside))}"
            )
        return tuple(notes)


def _few(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:_TOLD]) + (", …" if len(paths) > _TOLD else "")


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if is_image_name(path) and path.is_file()]
