"""What is wrong with a folder of labelled images: everything, not just the first thing.

    lists ─▶ samples ─decode─▶ sizes, classes, digests ─▶ DataReport(splits, counts, faults, notes)

Training stops at the first fault; here each is named with its file and its repair, once however
many lists name it.  Pictures are looked at one by one and not kept; two are the same if all their
pixels are: a copy that was resized or compressed anew is not found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import DataError, LabelError, ListError, PaletteError
from fcn_deploy.core.spec import IGNORE_INDEX
from fcn_deploy.data.check_findings import TRAINING, VALIDATION, Findings
from fcn_deploy.data.check_notes import notes_on
from fcn_deploy.data.check_report import DataReport, Fault, SplitReport
from fcn_deploy.data.class_counts import ClassCounts
from fcn_deploy.data.class_list import ClassList, class_file, read_class_list
from fcn_deploy.data.dataset import Dataset, iterate, require_labels
from fcn_deploy.data.images import image_digest, read_image
from fcn_deploy.data.masks import read_mask, voc_palette
from fcn_deploy.data.pairs import size_mismatch, turned_alone
from fcn_deploy.data.scenes.dataset import SceneDataset
from fcn_deploy.data.voc import (
    AUGMENTED,
    find_image,
    find_mask,
    find_voc_root,
    list_lines,
    list_path,
    mask_folder,
)

#: What masks are read with where the classes are unknown: any index, VOC's colours.
_UNKNOWN = ClassList((), voc_palette(IGNORE_INDEX), None)


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


def lists_of(folder: Path) -> list[str]:
    """Return the names of a folder's lists, ``train`` and ``val`` first.

    Raises:
        DataError: the folder is not in VOC layout, or has no list.
    """
    lists = list_path(find_voc_root(folder), "x").parent
    names = sorted(path.stem for path in lists.glob("*.txt") if not path.name.startswith("."))
    if not names:
        raise DataError(f"no lists in {lists}", "write train.txt and val.txt, one name a line")
    first = [name for name in (*TRAINING, *VALIDATION) if name in names]
    return first + [name for name in names if name not in first]


def count_samples(folder: Path) -> int:
    """Return how many samples :func:`check` will look at, for a progress bar."""
    root = find_voc_root(folder)
    return sum(len(_names(root, split)) for split in lists_of(folder))


def check(folder: Path, on_sample: Callable[[], None] = lambda: None) -> DataReport:
    """Decode everything that a folder's lists name, and say what is wrong with it.

    Args:
        folder: in VOC layout.
        on_sample: called after each sample.

    Raises:
        DataError: the folder is not in VOC layout at all, or has no list.
    """
    root = find_voc_root(folder)
    lists = {split: _names(root, split) for split in lists_of(folder)}
    learned = AUGMENTED if AUGMENTED in lists else "train"
    found = Findings(root, lists, learned, _UNKNOWN, _no_counts(0))
    try:
        found.classes = read_class_list(root)
    except DataError as error:
        found.add("classes", class_file(root) or root, error)
    found.counts = _no_counts(len(found.classes.names))
    counted: set[str] = set()
    splits = [_check_split(found, split, counted, on_sample) for split in lists]
    _check_labels(found)
    for needed in ("train", "val"):
        if needed not in lists:
            words = f"no list {list_path(root, needed)}"
            repair = "write one name (without suffix) a line"
            found.faults.append(Fault("missing list", str(list_path(root, needed)), words, repair))
    found.faults += _in_both(found)
    return DataReport(
        str(root),
        found.classes.names,
        tuple(splits),
        found.counts,
        tuple(found.faults),
        tuple(notes_on(found)),
    )


def _names(root: Path, split: str) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(list_lines(root, split)))
    except DataError:
        return ()


def _check_split(
    found: Findings, split: str, counted: set[str], on_sample: Callable[[], None]
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
    for name in _calling_after_each(found.lists[split], on_sample):
        mask = _check_sample(found, split, name)
        if mask is not None:
            sizes[mask.shape[0], mask.shape[1]] += 1
            if split == found.learned:
                found.pixels += np.bincount(mask.ravel(), minlength=256)
            if name not in counted:
                found.counts = found.counts + ClassCounts.of(mask, len(found.classes.names))
        counted.add(name)
    return SplitReport(split, len(lines), sizes.total(), sizes)


def _check_sample(found: Findings, split: str, name: str) -> NDArray[np.uint8] | None:
    """Return the mask of a sample that is as it should be; name what is not, once."""
    try:
        image = _image(found, split, name)
        mask = _mask(found, split, name)
    except ListError as error:
        found.add_once("line of a list", list_path(found.root, split), error, name)
        return None
    if mask is None:
        return None
    path, labels = mask
    if image is not None:
        size = image[1].shape[0], image[1].shape[1]
        mismatch = size_mismatch(image[0], size, path, (labels.shape[0], labels.shape[1]))
        if mismatch is not None:
            found.add_once("different sizes", path, mismatch)
            image = None
        elif turned_alone(image[0], path, size):
            found.turned[name] = image[0]
    values = np.bincount(labels.ravel(), minlength=256)
    if not values[:IGNORE_INDEX].any():
        words = f"{name}: every pixel of the mask is void"
        found.add_once("nothing labelled", path, DataError(words, "take it off the list"))
        return None
    if values[IGNORE_INDEX] and np.count_nonzero(values) == 2:
        found.void_beside_one[name] = path
    return None if image is None else labels


def _image(found: Findings, split: str, name: str) -> tuple[Path, NDArray[np.uint8]] | None:
    try:
        path = find_image(found.root, name, split)
    except ListError:
        raise
    except DataError as error:
        found.add_once("missing image", found.root / "JPEGImages" / name, error)
        return None
    try:
        image = read_image(path)
    except DataError as error:
        found.add_once("unreadable image", path, error)
        return None
    found.seen.setdefault(image_digest(image), []).append((split, name))
    return path, image


def _mask(found: Findings, split: str, name: str) -> tuple[Path, NDArray[np.uint8]] | None:
    try:
        path = find_mask(found.root, name, split)
    except ListError:
        raise
    except DataError as error:
        missing = mask_folder(found.root, split) / f"{name}.png"
        found.add_once("missing mask", missing, error)
        return None
    try:
        return path, read_mask(path, found.classes.palette)
    except LabelError as error:
        found.add_once("mask out of range", path, error)
    except PaletteError as error:
        found.add_once("palette out of order", path, error)
    except DataError as error:
        found.add_once("unreadable mask", path, error)
    return None


def _check_labels(found: Findings) -> None:
    """Name a training list whose masks hold one class alone."""
    if not found.classes.names or not found.pixels.any():
        return  # what could not be read has been named
    path = list_path(found.root, found.learned)
    try:
        require_labels(str(path), found.classes.names, found.pixels, 2)
    except DataError as error:
        found.add("one class alone", path, error)
        found.void_beside_one.clear()


def _in_both(found: Findings) -> Iterator[Fault]:
    """Name pictures that are learned from and scored on: by name, and by their pixels."""
    validated = {name for split in VALIDATION for name in found.lists.get(split, ())}
    learned = [(name, split) for split in TRAINING for name in found.lists.get(split, ())]
    first_list = dict(reversed(learned))
    for name, split in first_list.items():
        if name in validated:
            yield _overlap(found, f"{name} is in {split} and in val")
    for places in found.seen.values():
        others = [name for split, name in places if split in VALIDATION]
        for split, name in places:
            if split in TRAINING and others and name not in validated:
                yield _overlap(found, f"{name} of {split} is {others[0]} of val: same pixels")
                break


def _overlap(found: Findings, words: str) -> Fault:
    file = str(list_path(found.root, "val"))
    return Fault("train and val overlap", file, words, "take it off one of the lists")
