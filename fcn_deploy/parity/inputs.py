"""What a comparison is made on: pictures, their odd sizes, and a batch of them.

Every runner that is compared is asked about the same things: each picture by itself, the first
ones at sizes that no training crop has, and three of one size together in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from fcn_deploy.core.errors import DataError
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.dataset import Dataset, NamedImage
from fcn_deploy.data.images import find_images, read_image

#: Sizes (height, width) that every comparison includes: below, beside and beyond the stride, and so
#: narrow that the last layers see a single column, which some kernels get wrong.
ODD_SIZES = ((1, 1), (97, 131), (561, 728), (97, 7))
#: Which of three pictures stands at each place of the batch: none at its own.
_BATCH_ORDER = (2, 0, 1)
#: Steps through rows and columns where a picture stands in the batch once, again, and a third time.
_MIRRORED = ((1, 1), (1, -1), (-1, 1))


@dataclass(frozen=True)
class Extras:
    """What is asked beyond the pictures themselves.

    Attributes:
        odd_sizes: the first pictures at each of ``ODD_SIZES``.
        batch: pictures of one size, no two alike, in the order in which they stand in the batch.
    """

    odd_sizes: tuple[NamedImage, ...]
    batch: tuple[NamedImage, ...]


def made_extras(first: Sequence[NamedImage]) -> Extras:
    """Make the extras from the first pictures, of which there is at least one."""
    height, width = first[0].image.shape[:2]
    together = _distinct(first, len(_BATCH_ORDER))
    same_size = [resized(picture, (height, width)) for picture in together]
    return Extras(
        odd_sizes=tuple(
            resized(picture, size)
            for size, picture in zip(ODD_SIZES, _cycled(first, len(ODD_SIZES)), strict=True)
        ),
        batch=tuple(same_size[index] for index in _BATCH_ORDER),
    )


def _distinct(pictures: Sequence[NamedImage], count: int) -> list[NamedImage]:
    """Return so many pictures; one that comes again is mirrored, as its copies show no mix-up."""
    cycled = _cycled(pictures, count)
    steps = [_MIRRORED[index // len(pictures)] for index in range(count)]
    return [
        replace(picture, image=picture.image[::down, ::right])
        for picture, (down, right) in zip(cycled, steps, strict=True)
    ]


def _cycled(pictures: Sequence[NamedImage], count: int) -> list[NamedImage]:
    return [pictures[i % len(pictures)] for i in range(count)]


@dataclass(frozen=True)
class Pictures:
    """Pictures to compare on, decoded one at a time as they are asked for.

    Attributes:
        source: where they come from, for the record.
        count: how many.
        picture: index → image, a `Sample` where it is labelled.
        extras: the first ``len(ODD_SIZES)`` pictures → what is asked beyond them.
    """

    source: str
    count: int
    picture: Callable[[int], NamedImage]
    extras: Callable[[Sequence[NamedImage]], Extras] = made_extras

    def __iter__(self) -> Iterator[NamedImage]:
        return (self.picture(index) for index in range(self.count))


def labelled_pictures(dataset: Dataset, spec: ModelSpec, limit: int | None = None) -> Pictures:
    """Return a data set's samples as pictures.

    Args:
        dataset: of the classes that the model knows.
        spec: of the model.
        limit: take so many samples only.

    Raises:
        DataError: the data set has other classes than the model.
    """
    if dataset.class_names != spec.class_names:
        raise DataError(
            f"{dataset.source} has {_named(dataset.class_names)}, "
            f"the model {_named(spec.class_names)}",
            "compare on the model's own data with --data, or on unlabelled pictures with --images",
        )

    return Pictures(dataset.source, min(len(dataset), limit or len(dataset)), dataset.__getitem__)


def unlabelled_pictures(folder: Path, limit: int | None = None) -> Pictures:
    """Return the pictures in a folder, or one file.

    Raises:
        ImageError: there are none.
    """
    files = find_images([folder])[:limit]
    return Pictures(
        str(folder),
        len(files),
        lambda index: NamedImage(files[index].name, read_image(files[index])),
    )


def _named(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}, …)"


def resized(picture: NamedImage, size: tuple[int, int]) -> NamedImage:
    """Return the picture at another size (height, width), without its labels."""
    height, width = size
    image = Image.fromarray(picture.image).resize((width, height), Image.Resampling.BILINEAR)
    return NamedImage(f"{picture.name} at {height}×{width}", np.asarray(image, dtype=np.uint8))
