"""Labelled images: finds and checks image/mask pairs in VOC layout, and the built-in scenes."""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.errors import DataError
from fcn_deploy.core.files import atomic_path, write_bytes
from fcn_deploy.core.spec import MAX_CLASSES, SizeRange
from fcn_deploy.data.images import image_size, read_image
from fcn_deploy.data.masks import VOC_CLASS_NAMES, read_mask, voc_palette, write_mask
from fcn_deploy.data.scenes.render import SCENE_CLASS_NAMES, draw_scene

#: What `--data synthetic` draws: scenes per split, and their size (height, width).
SCENE_SIZE = (320, 480)
SCENE_COUNTS = {"train": 160, "val": 24}
# The two splits draw from different seeds, so that no scene is in both.
SCENE_SEEDS = {"train": 0, "val": 1}
#: The list that extends VOC 2012's ``train`` by the images of SBD, where somebody has put it.
AUGMENTED = "trainaug"
_LAYOUT = "expected JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/{train,val}.txt"


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        name: without suffix, e.g. ``2007_000032``.
        image: uint8 [H, W, 3], RGB.
        mask: uint8 [H, W], class indices, 255 = void.
    """

    name: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]


class Dataset(Protocol):
    """A sequence of samples that knows its classes and, without decoding, its sizes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class index."""
        ...

    @property
    def source(self) -> str:
        """Where the samples come from, for people to read."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The samples' names, in order."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Return a sample's mask alone, uint8 [H, W]."""
        ...

    def sizes(self) -> list[tuple[int, int]]:
        """Return (height, width) of every sample, in order."""
        ...

    def at_least(self, height: int, width: int) -> Dataset:
        """Return the dataset without the samples smaller than height × width."""
        ...


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


@dataclass(frozen=True)
class SceneDataset:
    """The built-in synthetic scenes: drawn on demand, the same for the same seed."""

    seed: int
    length: int
    size: tuple[int, int] = SCENE_SIZE

    @classmethod
    def open(cls, split: str) -> SceneDataset:
        """Return the scenes of ``train`` or ``val``."""
        return cls(SCENE_SEEDS[split], SCENE_COUNTS[split])

    @property
    def class_names(self) -> tuple[str, ...]:
        """The kinds of shape."""
        return SCENE_CLASS_NAMES

    @property
    def source(self) -> str:
        """What was drawn."""
        return f"built-in synthetic scenes (seed {self.seed})"

    @property
    def names(self) -> tuple[str, ...]:
        """Seed and number of each scene."""
        return tuple(map(self._name, range(self.length)))

    def _name(self, index: int) -> str:
        return f"scene_{self.seed}_{index:04d}"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(index)
        image, mask = draw_scene(self.seed, index, self.size)
        return Sample(self._name(index), image, mask)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Draw a scene for its mask, uint8 [H, W]."""
        return self[index].mask

    def sizes(self) -> list[tuple[int, int]]:
        """Return (height, width) of every scene."""
        return [self.size] * self.length

    def at_least(self, height: int, width: int) -> SceneDataset:
        """Return the scenes if they are at least height × width, else none of them."""
        fits = self.size[0] >= height and self.size[1] >= width
        return self if fits else replace(self, length=0)


def open_dataset(source: str | Path, split: str) -> Dataset:
    """Open one split of ``synthetic`` or of a folder in VOC layout.

    Raises:
        DataError: see :meth:`VocDataset.open`.
    """
    if str(source) == "synthetic":
        return SceneDataset.open(split)
    return VocDataset.open(Path(source), split)


def training_split(source: str | Path) -> str:
    """Return the list to learn from: ``trainaug`` where the folder has it, else ``train``."""
    if str(source) == "synthetic":
        return "train"
    root = find_voc_root(Path(source))
    return AUGMENTED if list_path(root, AUGMENTED).is_file() else "train"


def find_voc_root(folder: Path) -> Path:
    """Return the folder that holds ``JPEGImages/``: itself, or ``VOCdevkit/VOC2012`` below it.

    Raises:
        DataError: missing, empty, or not in VOC layout.
    """
    if not folder.is_dir():
        raise DataError(f"no data folder {folder}", f"{_LAYOUT}; or use --data synthetic")
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


#: Decoded samples are kept in memory up to this size.
CACHE_BYTES = 2 << 30


@dataclass(frozen=True)
class CachedDataset:
    """A dataset whose samples have been decoded and are kept in memory."""

    class_names: tuple[str, ...]
    source: str
    samples: tuple[Sample, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The samples' names, in order."""
        return tuple(sample.name for sample in self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Return a sample's mask, uint8 [H, W]."""
        return self.samples[index].mask

    def sizes(self) -> list[tuple[int, int]]:
        """Return (height, width) of every sample, in order."""
        return [(sample.mask.shape[0], sample.mask.shape[1]) for sample in self.samples]

    def at_least(self, height: int, width: int) -> CachedDataset:
        """Return the dataset without the samples smaller than height × width."""
        kept = (s for s in self.samples if s.mask.shape[0] >= height and s.mask.shape[1] >= width)
        return replace(self, samples=tuple(kept))


def check_and_cache(dataset: Dataset, on_sample: Callable[[], None] = lambda: None) -> Dataset:
    """Decode every sample once, so that a broken file is found before hours of training.

    Args:
        dataset: what to check.
        on_sample: called after each sample, for a progress bar.

    Returns:
        The dataset with its decoded samples in memory if they fit in ``CACHE_BYTES``, else the
        dataset as it was.

    Raises:
        DataError: naming the first file that is broken.
    """
    samples: list[Sample] | None = []
    held = 0
    for sample in iterate(dataset):
        held += sample.image.nbytes + sample.mask.nbytes
        if held > CACHE_BYTES:
            samples = None
        if samples is not None:
            samples.append(sample)
        on_sample()
    if samples is None:
        return dataset
    return CachedDataset(dataset.class_names, dataset.source, tuple(samples))


def require_disjoint(train_set: Dataset, val_set: Dataset) -> None:
    """Refuse a sample that is in both splits: its score would prove nothing.

    Only names are looked at; ``fcn-deploy data check`` compares the pictures themselves.

    Raises:
        DataError: naming the first.
    """
    known = set(val_set.names)
    shared = [name for name in train_set.names if name in known]
    if shared:
        raise DataError(
            f"{shared[0]} is both a training and a validation example ({len(shared)} of them are)",
            "take them off one of the lists",
        )


@dataclass(frozen=True)
class ClassCounts:
    """How often each class occurs.

    Attributes:
        pixels: int64 [C], of the class.
        around: int64 [C], labelled pixels of the images in which the class occurs.
        images: int64 [C], in which the class occurs.
        void: pixels that count for nothing.
    """

    pixels: NDArray[np.int64]
    around: NDArray[np.int64]
    images: NDArray[np.int64]
    void: int = 0

    @classmethod
    def of(cls, mask: NDArray[np.uint8], num_classes: int) -> ClassCounts:
        """Count one mask, uint8 [H, W]; values from C on are void."""
        counts = np.bincount(mask.ravel(), minlength=256)
        pixels = counts[:num_classes].astype(np.int64)
        present = (pixels > 0).astype(np.int64)
        return cls(pixels, present * pixels.sum(), present, int(counts[num_classes:].sum()))

    def __add__(self, other: ClassCounts) -> ClassCounts:
        return ClassCounts(
            self.pixels + other.pixels,
            self.around + other.around,
            self.images + other.images,
            self.void + other.void,
        )


def class_counts(dataset: Dataset) -> ClassCounts:
    """Count the classes of a data set that is not empty; of its files only masks are decoded."""
    num_classes = len(dataset.class_names)
    masks = (dataset.mask(index) for index in range(len(dataset)))
    return functools.reduce(operator.add, (ClassCounts.of(mask, num_classes) for mask in masks))


def median_frequency(counts: ClassCounts) -> NDArray[np.float32]:
    """Return a weight for each class: rare ones weigh more, the one in the middle weighs 1.

    A class's frequency is its share of the labelled pixels of the images in which it occurs; its
    weight is the median of the frequencies over its own.  A class that never occurs weighs 1, which
    changes nothing.

    Source: Eigen & Fergus, "Predicting Depth, Surface Normals and Semantic Labels" (2015).

    Returns:
        float32 [C].
    """
    present = counts.pixels > 0
    weights = np.ones(len(counts.pixels), np.float32)
    if present.any():
        frequency = counts.pixels[present] / counts.around[present]
        weights[present] = np.median(frequency) / frequency
    return weights


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


def iterate(dataset: Dataset) -> Iterator[Sample]:
    """Yield the samples in order."""
    for index in range(len(dataset)):
        yield dataset[index]


def size_range(dataset: Dataset) -> SizeRange:
    """Return the smallest, most frequent and largest size of a dataset that is not empty."""
    sizes = dataset.sizes()
    return SizeRange(
        smallest=min(sizes, key=lambda size: (size[0] * size[1], size)),
        typical=Counter(sizes).most_common(1)[0][0],
        largest=max(sizes, key=lambda size: (size[0] * size[1], size)),
    )
