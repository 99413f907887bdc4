"""Labelled images: finds and checks image/mask pairs in VOC layout, and the built-in scenes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import DataError
from fcn_deploy.core.spec import IGNORE_INDEX, SizeRange


@dataclass(frozen=True)
class NamedImage:
    """One image, which need not be labelled.

    Attributes:
        name: for people, e.g. ``2007_000032``.
        image: uint8 [H, W, 3], RGB.
    """

    name: str
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class Sample(NamedImage):
    """One labelled image.

    Attributes:
        mask: uint8 [H, W], class indices, 255 = void.
    """

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


def check_and_cache(
    dataset: Dataset, on_sample: Callable[[], None] = lambda: None, *, least_classes: int = 1
) -> Dataset:
    """Decode every sample once, so that a broken file is found before hours of training.

    Args:
        dataset: what to check.
        on_sample: called after each sample, for a progress bar.
        least_classes: refuse labels of fewer classes, counted over all samples.

    Returns:
        The dataset with its decoded samples in memory if they fit in ``CACHE_BYTES``, else the
        dataset as it was.

    Raises:
        DataError: naming the first file that is broken; or see :func:`require_labels`.
    """
    samples: list[Sample] | None = []
    held = 0
    pixels = np.zeros(IGNORE_INDEX + 1, np.int64)
    for sample in iterate(dataset):
        held += sample.image.nbytes + sample.mask.nbytes
        pixels += np.bincount(sample.mask.ravel(), minlength=len(pixels))
        if held > CACHE_BYTES:
            samples = None
        if samples is not None:
            samples.append(sample)
        on_sample()
    if len(dataset):
        require_labels(dataset.source, dataset.class_names, pixels, least_classes)
    if samples is None:
        return dataset
    return CachedDataset(dataset.class_names, dataset.source, tuple(samples))


def require_labels(
    source: str, class_names: Sequence[str], pixels: NDArray[np.int64], least_classes: int
) -> None:
    """Refuse labels that teach nothing: none at all, or of too few classes.

    Args:
        source: where the masks are from.
        class_names: one per index.
        pixels: int64 [256], how often each value occurs in the masks.
        least_classes: how many classes must occur.

    Raises:
        DataError: fewer do.
    """
    present = [i for i in range(len(class_names)) if pixels[i]]
    if len(present) >= least_classes:
        return
    void = int(pixels[IGNORE_INDEX])
    absent = next(i for i in range(len(class_names)) if i not in present)
    meant = (
        f"{IGNORE_INDEX} is void, never a class: if it is meant as one, save it as that class's "
        f"index, e.g. {absent} for {class_names[absent]}"
    )
    if not present:
        raise DataError(f"nothing is labelled in {source}: every pixel is void", meant)
    words = f"the masks of {source} hold no class but {class_names[present[0]]}"
    if void:
        share = void / int(pixels.sum())
        raise DataError(f"{words}; {share:.0%} of their pixels are {IGNORE_INDEX}", meant)
    raise DataError(words, f"label the others, e.g. {class_names[absent]} with index {absent}")


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
