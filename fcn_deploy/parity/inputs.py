"""What a comparison is made on: pictures, and extras that every candidate is asked beside them.

Extras are sizes that no training crop has, one picture beyond 1024×2048, two batches of pictures of
one size, and a stream of batches of mixed sizes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fcn_deploy.core.errors import DataError
from fcn_deploy.core.input_shape import InputShape
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.dataset import Dataset, NamedImage
from fcn_deploy.data.images import find_images, image_content, read_image

#: Sizes (height, width) that every comparison includes: below, beside and beyond the stride, and so
#: narrow that the last layers see a single column, which some kernels get wrong.
ODD_SIZES = ((1, 1), (97, 131), (561, 728), (97, 7))
#: Beyond what most networks are tried on, where sums grow long and indices large.
LARGE_SIZE = (1025, 2049)
#: Logits that the large picture may have in all, C·H·W, a quarter of a gibibyte: a comparison holds
#: several times that.  A network of so many classes that there would be more is not asked about it.
MOST_LOGITS = 1 << 26
#: Extras are made of so many of the first pictures, or of as many as there are.
FIRST_PICTURES = len(ODD_SIZES)
#: Which of three pictures stands at each place of the first batch: none at its own.
_BATCH_ORDER = (2, 0, 1)
#: Size and number of the pictures of the second batch: more than the first has places for.
SMALL_BATCH = (8, (64, 96))
#: Number and size of the pictures of each batch that is streamed besides: neighbours of one size,
#: sizes that come again, and batches that are not full.
STREAMED = (
    (1, (96, 128)), (1, (96, 128)), (2, (64, 96)), (1, (97, 131)),
    (3, (64, 96)), (1, (128, 96)), (1, (96, 128)), (2, (33, 45)),
)  # fmt: skip
#: Batches of a stream that nothing is left out of.
STREAM_LENGTH = len(ODD_SIZES) + 1 + 2 + len(STREAMED)
#: Steps through rows and columns of a picture's copies, so that none is like another.
_MIRRORED = ((1, 1), (1, -1), (-1, 1), (-1, -1))
#: Columns by which further copies are rolled.
_ROLLED = 5


@dataclass(frozen=True)
class Extras:
    """What is asked beyond the pictures themselves.

    Attributes:
        odd_sizes: the first pictures at each of ``ODD_SIZES``.
        large: a picture of ``LARGE_SIZE``; None where none was recorded.
        batches: each of pictures of one size, no two alike, in the order of their places.
        streamed: further batches, for the stream alone.
    """

    odd_sizes: tuple[NamedImage, ...]
    large: NamedImage | None
    batches: tuple[tuple[NamedImage, ...], ...]
    streamed: tuple[tuple[NamedImage, ...], ...]

    def taken_by(self, shape: InputShape) -> Extras:
        """Return those that a network takes; where it takes no batches, its pictures one by one."""
        if shape.takes_all:
            return self
        large = self.large
        single = tuple((picture,) for batch in self.batches[:1] for picture in batch)
        return Extras(
            tuple(picture for picture in self.odd_sizes if _taken((picture,), shape)),
            large if large is not None and _taken((large,), shape) else None,
            tuple(batch for batch in self.batches if _taken(batch, shape)),
            tuple(batch for batch in (*self.streamed, *single) if _taken(batch, shape)),
        )

    def alone(self, *, with_large: bool) -> tuple[NamedImage, ...]:
        """Return the pictures that are asked one at a time."""
        return (*self.odd_sizes, self.large) if with_large and self.large else self.odd_sizes

    def stream(self, *, with_large: bool) -> list[tuple[NamedImage, ...]]:
        """Return all batches of the stream: large and small ones by turns."""
        return [
            *self.streamed[:3],
            *((picture,) for picture in self.alone(with_large=with_large)),
            *self.batches,
            *self.streamed[3:],
        ]


def _taken(batch: Sequence[NamedImage], shape: InputShape) -> bool:
    return shape.takes((len(batch), *batch[0].image.shape))


def within_memory(large: NamedImage, spec: ModelSpec) -> bool:
    """Say whether a network has so few classes that its logits of the large picture fit."""
    height, width = large.image.shape[:2]
    return bool(height * width * spec.num_classes <= MOST_LOGITS)


def made_extras(first: Sequence[NamedImage]) -> Extras:
    """Make the extras from the first pictures, of which there is at least one."""
    together = [
        resized(picture, first[0].image.shape[:2])
        for picture in _distinct(first, len(_BATCH_ORDER))
    ]
    count, size = SMALL_BATCH
    copies = iter(_distinct(first, count + sum(number for number, _ in STREAMED)))
    return Extras(
        odd_sizes=tuple(
            resized(picture, size)
            for size, picture in zip(ODD_SIZES, _cycled(first, len(ODD_SIZES)), strict=True)
        ),
        large=resized(first[0], LARGE_SIZE),
        batches=(
            tuple(together[index] for index in _BATCH_ORDER),
            tuple(resized(next(copies), size) for _ in range(count)),
        ),
        streamed=tuple(
            tuple(resized(next(copies), size) for _ in range(number)) for number, size in STREAMED
        ),
    )


def _distinct(pictures: Sequence[NamedImage], count: int) -> list[NamedImage]:
    """Return so many pictures; one that comes again is changed, as its copies show no mix-up."""
    found = []
    for index, picture in enumerate(_cycled(pictures, count)):
        copy = index // len(pictures)
        down, right = _MIRRORED[copy % len(_MIRRORED)]
        rolled = _ROLLED * (copy // len(_MIRRORED))
        image = np.roll(picture.image, rolled, axis=1)[::down, ::right]
        found.append(NamedImage(picture.name, np.ascontiguousarray(image)))
    return found


def _cycled(pictures: Sequence[NamedImage], count: int) -> list[NamedImage]:
    return [pictures[i % len(pictures)] for i in range(count)]


@dataclass(frozen=True)
class Pictures:
    """Pictures to compare on, decoded one at a time as they are asked for.

    Attributes:
        source: where they come from, for the record.
        count: how many.
        picture: index → image, a `Sample` where it is labelled.
        extras: the first ``FIRST_PICTURES`` pictures → what is asked beyond them.
    """

    source: str
    count: int
    picture: Callable[[int], NamedImage]
    extras: Callable[[Sequence[NamedImage]], Extras] = made_extras

    def __iter__(self) -> Iterator[NamedImage]:
        return (self.picture(index) for index in range(self.count))

    def digest(self) -> str:
        """Return ``sha256:…`` of them all, in order, as a comparison's file has it."""
        digest = hashlib.sha256()
        for picture in self:
            digest.update(image_content(picture.image))
        return f"sha256:{digest.hexdigest()}"


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
