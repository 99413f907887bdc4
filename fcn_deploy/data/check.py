"""What is wrong with a folder of labelled images: everything, not just the first thing.

    lists ─▶ samples ─decode─▶ sizes, classes, digests ─▶ DataReport(splits, counts, faults, notes)

Training stops at the first fault; here each is named with its file and its repair, once however
many lists name it.  Pictures are looked at one by one and not kept; two are the same if all their
pixels are: a copy that was resized or compressed anew is not found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import DataError, LabelError
from fcn_deploy.data.class_counts import ClassCounts, median_frequency
from fcn_deploy.data.dataset import Dataset, iterate
from fcn_deploy.data.images import image_digest, read_image
from fcn_deploy.data.masks import VOC_CLASS_NAMES, read_mask, voc_palette
from fcn_deploy.data.scenes.dataset import SceneDataset
from fcn_deploy.data.voc import (
    AUGMENTED,
    find_image,
    find_mask,
    find_voc_root,
    list_lines,
    list_path,
    mask_folder,
    read_classes,
)

#: Lists to learn from, and to score on: no sample may be in both kinds.
TRAINING, VALIDATION = ("train", AUGMENTED), ("val",)


@dataclass(frozen=True)
class Fault:
    """One thing to mend.

    Attributes:
        kind: e.g. ``missing image``.
        file: where.
        words: what is wrong.
        repair: what to do about it.
    """

    kind: str
    file: str
    words: str
    repair: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.words}; {self.repair}"


@dataclass(frozen=True)
class SplitReport:
    """One list.

    Attributes:
        name: e.g. ``train``.
        samples: lines of the list.
        readable: samples whose image and mask could be read and fit each other.
        sizes: (height, width) → how many of those.
    """

    name: str
    samples: int
    readable: int
    sizes: Counter[tuple[int, int]]


@dataclass(frozen=True)
class DataReport:
    """What a folder holds, and what is wrong with it.

    Attributes:
        source: the folder.
        class_names: one per index.
        splits: its lists, ``train`` and ``val`` first.
        counts: how often each class occurs, over all readable samples.
        faults: what has to be mended.
        notes: what may be as it should be.
    """

    source: str
    class_names: tuple[str, ...]
    splits: tuple[SplitReport, ...]
    counts: ClassCounts
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        weights = median_frequency(self.counts)
        return {
            "source": self.source,
            "splits": [
                {
                    "name": split.name,
                    "samples": split.samples,
                    "readable": split.readable,
                    "sizes": [[*size, count] for size, count in split.sizes.most_common()],
                }
                for split in self.splits
            ],
            "classes": [
                {
                    "name": name,
                    "pixels": int(self.counts.pixels[index]),
                    "images": int(self.counts.images[index]),
                    "median_frequency_weight": float(weights[index]),
                }
                for index, name in enumerate(self.class_names)
            ],
            "void_pixels": self.counts.void,
            "faults": [asdict(fault) for fault in self.faults],
            "notes": list(self.notes),
        }


def check_scenes(on_sample: Callable[[], None] = lambda: None) -> DataReport:
    """Report on the built-in scenes."""
    splits = {name: SceneDataset.open(name) for name in ("train", "val")}
    counts = _no_counts(len(splits["train"].class_names))
    for dataset in splits.values():
        for sample in _calling_after_each(iterate(dataset), on_sample):
            counts = counts + ClassCounts.of(sample.mask, len(dataset.class_names))
    return DataReport(
        "synthetic",
        splits["train"].class_names,
        tuple(_whole_split(name, dataset) for name, dataset in splits.items()),
        counts,
    )


def _whole_split(name: str, dataset: Dataset) -> SplitReport:
    return SplitReport(name, len(dataset), len(dataset), Counter(dataset.sizes()))


def _calling_after_each(samples: Iterable[Any], on_sample: Callable[[], None]) -> Iterator[Any]:
    """Yield the samples, and call ``on_sample`` when each has been dealt with."""
    for sample in samples:
        yield sample
        on_sample()


def _no_counts(num_classes: int) -> ClassCounts:
    zeros = np.zeros(num_classes, np.int64)
    return ClassCounts(zeros, zeros, zeros)


@dataclass
class _Findings:
    """What grows while the samples pass by."""

    root: Path
    class_names: tuple[str, ...]
    counts: ClassCounts
    faults: list[Fault] = field(default_factory=list)
    #: Digest of a picture → the lists and names under which it has been seen.
    seen: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    #: Kind and file of what has been said of samples: a sample may be in several lists.
    said: set[tuple[str, Path]] = field(default_factory=set)

    def add(self, kind: str, file: Path, error: DataError) -> None:
        self.faults.append(Fault(kind, str(file), error.message, error.repair or "mend the file"))

    def add_once(self, kind: str, file: Path, error: DataError) -> None:
        if (kind, file) not in self.said:
            self.said.add((kind, file))
            self.add(kind, file, error)


def lists_of(folder: Path) -> list[str]:
    """Return the names of a folder's lists, ``train`` and ``val`` first.

    Raises:
        DataError: the folder is not in VOC layout, or has no list.
    """
    lists = list_path(find_voc_root(folder), "x").parent
    names = sorted(path.stem for path in lists.glob("[!.]*.txt"))
    if not names:
        raise DataError(f"no lists in {lists}", "write train.txt and val.txt, one name a line")
    first = [name for name in (*TRAINING, *VALIDATION) if name in names]
    return first + [name for name in names if name not in first]


def count_samples(folder: Path) -> int:
    """Return how many samples :func:`check` will look at, for a progress bar."""
    root = find_voc_root(folder)
    total = 0
    for split in lists_of(folder):
        try:
            total += len(set(list_lines(root, split)))
        except DataError:
            continue
    return total


def check(folder: Path, on_sample: Callable[[], None] = lambda: None) -> DataReport:
    """Decode everything that a folder's lists name, and say what is wrong with it.

    Args:
        folder: in VOC layout.
        on_sample: called after each sample.

    Raises:
        DataError: the folder is not in VOC layout at all, or has no list.
    """
    root = find_voc_root(folder)
    names = lists_of(folder)
    found = _Findings(root, VOC_CLASS_NAMES, _no_counts(len(VOC_CLASS_NAMES)))
    try:
        found.class_names = read_classes(root)
    except DataError as error:
        found.add("classes", root / "classes.txt", error)
    found.counts = _no_counts(len(found.class_names))
    counted: set[str] = set()
    splits = [_check_split(found, split, counted, on_sample) for split in names]
    for needed in ("train", "val"):
        if needed not in names:
            words = f"no list {list_path(root, needed)}"
            repair = "write one name (without suffix) a line"
            found.faults.append(Fault("missing list", str(list_path(root, needed)), words, repair))
    found.faults += _in_both(found)
    return DataReport(
        str(root),
        found.class_names,
        tuple(splits),
        found.counts,
        tuple(found.faults),
        tuple(_notes(found, {name for split in names for name in _names(root, split)})),
    )


def _names(root: Path, split: str) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(list_lines(root, split)))
    except DataError:
        return ()


def _check_split(
    found: _Findings, split: str, counted: set[str], on_sample: Callable[[], None]
) -> SplitReport:
    path = list_path(found.root, split)
    try:
        lines = list_lines(found.root, split)
    except DataError as error:
        found.add("unreadable list", path, error)
        return SplitReport(split, 0, 0, Counter())
    if not lines:
        words, repair = f"the list {path} is empty", "write one name (without suffix) a line"
        found.faults.append(Fault("empty list", str(path), words, repair))
    for name, count in Counter(lines).items():
        if count > 1:
            words = f"{path} names {name} {count} times"
            found.faults.append(Fault("listed twice", str(path), words, "keep one line of each"))
    sizes: Counter[tuple[int, int]] = Counter()
    for name in _calling_after_each(dict.fromkeys(lines), on_sample):
        mask = _check_sample(found, split, name)
        if mask is not None:
            sizes[mask.shape[0], mask.shape[1]] += 1
            if name not in counted:
                found.counts = found.counts + ClassCounts.of(mask, len(found.class_names))
        counted.add(name)
    return SplitReport(split, len(lines), sizes.total(), sizes)


def _check_sample(found: _Findings, split: str, name: str) -> NDArray[np.uint8] | None:
    """Return the mask of a sample that is as it should be; name what is not, once."""
    image, mask = _image(found, split, name), _mask(found, split, name)
    path = _mask_path(found, split, name)
    differ = image is not None and mask is not None and image.shape[:2] != mask.shape
    if image is not None and mask is not None and differ:
        height, width = mask.shape
        words = (
            f"{name}: the image is {image.shape[0]}×{image.shape[1]}, its mask {height}×{width} "
            "(height×width)"
        )
        repair = "make the pair the same size or take it off the list"
        found.add_once("different sizes", path, DataError(words, repair))
    void = mask is not None and bool((mask >= len(found.class_names)).all())
    if void:
        words = f"{name}: every pixel of the mask is void"
        found.add_once("nothing labelled", path, DataError(words, "take it off the list"))
    return None if image is None or differ or void else mask


def _image(found: _Findings, split: str, name: str) -> NDArray[np.uint8] | None:
    try:
        path = find_image(found.root, name, split)
    except DataError as error:
        found.add_once("missing image", found.root / "JPEGImages" / name, error)
        return None
    try:
        image = read_image(path)
    except DataError as error:
        found.add_once("unreadable image", path, error)
        return None
    found.seen.setdefault(image_digest(image), []).append((split, name))
    return image


def _mask(found: _Findings, split: str, name: str) -> NDArray[np.uint8] | None:
    try:
        path = find_mask(found.root, name, split)
    except DataError as error:
        found.add_once("missing mask", _mask_path(found, split, name), error)
        return None
    try:
        return read_mask(path, voc_palette(len(found.class_names)))
    except LabelError as error:
        found.add_once("mask out of range", path, error)
    except DataError as error:
        found.add_once("unreadable mask", path, error)
    return None


def _mask_path(found: _Findings, split: str, name: str) -> Path:
    return mask_folder(found.root, split) / f"{name}.png"


def _in_both(found: _Findings) -> Iterator[Fault]:
    """Name pictures that are learned from and scored on: by name, and by their pixels."""
    learned, scored = (
        [(split, name) for split in kind for name in _names(found.root, split)]
        for kind in (TRAINING, VALIDATION)
    )
    validated = {name for _, name in scored}
    first_list = {name: split for split, name in reversed(learned)}
    for name, split in first_list.items():
        if name in validated:
            yield _overlap(found, f"{name} is in {split} and in val")
    for places in found.seen.values():
        others = [name for split, name in places if split in VALIDATION]
        for split, name in places:
            if split in TRAINING and others and name not in validated:
                yield _overlap(found, f"{name} of {split} is {others[0]} of val: same pixels")
                break


def _overlap(found: _Findings, words: str) -> Fault:
    file = str(list_path(found.root, "val"))
    return Fault("train and val overlap", file, words, "take it off one of the lists")


def _notes(found: _Findings, listed: set[str]) -> Iterator[str]:
    for folder in ("JPEGImages", "SegmentationClass"):
        files = (path for path in (found.root / folder).glob("[!.]*") if path.is_file())
        names = {path.stem for path in files}
        if unlisted := len(names - listed):
            yield f"{unlisted} files of {folder} are in no list"
    for name, images in zip(found.class_names, found.counts.images, strict=True):
        if not images:
            yield f"class {name} occurs in no image"
