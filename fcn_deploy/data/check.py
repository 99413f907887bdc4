"""What is wrong with a folder of labelled images: everything, not just the first thing.

    lists ─▶ samples ─decode─▶ sizes, classes, digests ─▶ DataReport(splits, counts, faults, notes)

Training stops at the first fault; here each is named with its file and its repair, once however
many lists name it.  Pictures are looked at one by one and not kept; two are the same if all their
pixels are.  A copy that was resized or compressed anew is a near duplicate, which is a note.
"""

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
from fcn_deploy.data.class_list import ClassList, class_file
from fcn_deploy.data.dataset import Dataset, iterate, require_labels
from fcn_deploy.data.images import image_digest, read_image
from fcn_deploy.data.label_statistics import LabelStatistics
from fcn_deploy.data.layout import Layout
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.data.near_duplicates import Fingerprint, NearDuplicate, near_duplicates
from fcn_deploy.data.pairs import size_mismatch, turned_alone
from fcn_deploy.data.recognise import find_layout
from fcn_deploy.data.scenes.dataset import SceneDataset

#: What masks are read with where the classes are unknown: any index, VOC's colours.
_UNKNOWN = ClassList((), voc_palette(IGNORE_INDEX), None)


def check_scenes(on_sample: Callable[[], None] = lambda: None) -> DataReport:
    """Report on the built-in scenes."""
    splits = {name: SceneDataset.open(name) for name in ("train", "val")}
    num_classes = len(splits["train"].class_names)
    counts, statistics = _no_counts(num_classes), LabelStatistics.empty(num_classes)
    for dataset in splits.values():
        for sample in _calling_after_each(iterate(dataset), on_sample):
            counts = counts + ClassCounts.of(sample.mask, num_classes)
            statistics = statistics + LabelStatistics.of(sample.mask, num_classes)
    return DataReport(
        "synthetic",
        splits["train"].class_names,
        tuple(_whole_split(name, dataset) for name, dataset in splits.items()),
        counts,
        statistics,
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


def layout_with_lists(folder: Path, held_out: float | None = None) -> Layout:
    """Return the layout of a folder that has at least one list.

    Raises:
        DataError: it has none, or see :func:`fcn_deploy.data.recognise.find_layout`.
    """
    layout = find_layout(folder, held_out)
    if not layout.lists():
        place = layout.list_place("train").parent
        raise DataError(f"no lists in {place}", "write train.txt and val.txt, one name a line")
    return layout


def count_samples(folder: Path, held_out: float | None = None) -> int:
    """Return how many samples :func:`check` will look at, for a progress bar.

    Raises:
        DataError: see :func:`check`.
    """
    layout = layout_with_lists(folder, held_out)
    return sum(len(_names(layout, split)) for split in layout.lists())


def check(
    folder: Path,
    on_sample: Callable[[], None] = lambda: None,
    held_out: float | None = None,
) -> DataReport:
    """Decode everything that a folder's lists name, and say what is wrong with it.

    Args:
        folder: of labelled images, in any layout.
        on_sample: called after each sample.
        held_out: see :class:`fcn_deploy.data.sources.DataSource`.

    Raises:
        DataError: the folder is in no layout, or has no list.
    """
    layout = layout_with_lists(folder, held_out)
    lists = {split: _names(layout, split) for split in layout.lists()}
    nothing = _no_counts(0), LabelStatistics.empty(0)
    found = Findings(layout, lists, layout.training_list, _UNKNOWN, *nothing)
    try:
        found.classes = layout.classes()
    except DataError as error:
        found.add("classes", class_file(layout.root) or layout.root, error)
    num_classes = len(found.classes.names)
    found.counts, found.statistics = _no_counts(num_classes), LabelStatistics.empty(num_classes)
    counted: set[str] = set()
    splits = [_check_split(found, split, counted, on_sample) for split in lists]
    _check_labels(found)
    for needed in ("train", "val"):
        if needed not in lists:
            _add_missing_list(found, needed)
    found.faults += _in_both(found)
    alike = _near_duplicates(found)
    return DataReport(
        str(layout.root),
        found.classes.names,
        tuple(splits),
        found.counts,
        found.statistics,
        tuple(found.faults),
        tuple(notes_on(found, alike)),
        layout.notice,
        alike,
    )


def _add_missing_list(found: Findings, split: str) -> None:
    try:
        found.layout.lines(split)
    except DataError as error:
        found.add("missing list", found.layout.list_place(split), error)


def _names(layout: Layout, split: str) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(layout.lines(split)))
    except DataError:
        return ()


def _check_split(
    found: Findings, split: str, counted: set[str], on_sample: Callable[[], None]
) -> SplitReport:
    path = found.layout.list_place(split)
    try:
        lines = found.layout.lines(split)
    except DataError as error:
        found.add("unreadable list", path, error)
        return SplitReport(split, 0, 0, Counter())
    if not lines:
        try:
            found.layout.names(split)
        except DataError as error:
            found.add("empty list", path, error)
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
                num_classes = len(found.classes.names)
                found.counts = found.counts + ClassCounts.of(mask, num_classes)
                found.statistics = found.statistics + LabelStatistics.of(mask, num_classes)
        counted.add(name)
    return SplitReport(split, len(lines), sizes.total(), sizes)


def _check_sample(found: Findings, split: str, name: str) -> NDArray[np.uint8] | None:
    """Return the mask of a sample that is as it should be; name what is not, once."""
    try:
        image = _image(found, split, name)
        mask = _mask(found, split, name)
    except ListError as error:
        found.add_once("line of a list", found.layout.list_place(split), error, name)
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
        path = found.layout.image(name, split)
    except ListError:
        raise
    except DataError as error:
        found.add_once("missing image", found.layout.root / "JPEGImages" / name, error)
        return None
    try:
        image = read_image(path)
    except DataError as error:
        found.add_once("unreadable image", path, error)
        return None
    found.fingerprints.setdefault(split, {})[name] = Fingerprint.of(image)
    found.seen.setdefault(image_digest(image), []).append((split, name))
    return path, image


def _mask(found: Findings, split: str, name: str) -> tuple[Path, NDArray[np.uint8]] | None:
    try:
        path = found.layout.mask(name, split)
    except ListError:
        raise
    except DataError as error:
        missing = found.layout.mask_folder(split) / f"{name}.png"
        found.add_once("missing mask", missing, error)
        return None
    try:
        return path, found.classes.read_mask(path)
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
    path = found.layout.list_place(found.learned)
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


def _near_duplicates(found: Findings) -> tuple[NearDuplicate, ...]:
    """Return images that are learned from and look like images that are scored on.

    Those of one name or of equal pixels are left out: they are faults.
    """
    learned = {k: v for split in TRAINING for k, v in found.fingerprints.get(split, {}).items()}
    scored = {k: v for split in VALIDATION for k, v in found.fingerprints.get(split, {}).items()}
    for places in found.seen.values():
        names = dict(places)
        if {*names} & {*TRAINING} and {*names} & {*VALIDATION}:
            for split, name in places:
                (scored if split in VALIDATION else learned).pop(name, None)
    return near_duplicates(learned, {k: v for k, v in scored.items() if k not in learned})


def _overlap(found: Findings, words: str) -> Fault:
    file = str(found.layout.list_place("val"))
    return Fault("train and val overlap", file, words, "take it off one of the lists")
