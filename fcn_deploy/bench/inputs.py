"""Pictures to measure with: one hashed set of a size, the same for all backends."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.files import write_error
from fcn_deploy.data.images import read_image

#: Pictures per size, all distinct where there are so many: one alone would measure warm caches.
NUM_INPUTS = 8


@dataclass(frozen=True)
class Inputs:
    """Pictures of one size, encoded on disk and decoded in memory.

    Attributes:
        size: (height, width) in pixels.
        files: JPEG files.
        images: uint8 [n, H, W, 3], what the files decode to.
        digest: of the decoded pixels.
    """

    size: tuple[int, int]
    files: tuple[Path, ...]
    images: NDArray[np.uint8]
    digest: str
    _batches: dict[tuple[int, ...], NDArray[np.uint8]] = field(default_factory=dict, repr=False)

    @property
    def distinct(self) -> int:
        """How many of the pictures differ: of a folder with fewer, some come again."""
        return len({image.tobytes() for image in self.images})

    def query(self, number: int, batch_size: int) -> list[int]:
        """Return which pictures a query asks for: queries walk through all of them."""
        return [(number * batch_size + k) % len(self.files) for k in range(batch_size)]

    def batch(self, picked: Sequence[int]) -> NDArray[np.uint8]:
        """Return pictures as uint8 [n, H, W, 3].

        Batches of neighbours, which queries ask for, are gathered once: a clock may be running.
        Those of a server are drawn at random; to keep all of them would fill the memory.
        """
        key = tuple(picked)
        neighbours = [(key[0] + k) % len(self.files) for k in range(len(key))]
        if list(key) != neighbours:
            return self.images[list(key)]
        if key not in self._batches:
            self._batches[key] = self.images[neighbours]
        return self._batches[key]


def make_inputs(
    pictures: Sequence[NDArray[np.uint8]], size: tuple[int, int], folder: Path
) -> Inputs:
    """Encode pictures at a size, for the end-to-end tier, and decode them for the host tier.

    Args:
        pictures: uint8 [h, w, 3] of any size, at least one.
        size: (height, width) in pixels to resize them to.
        folder: where the JPEG files go.

    Raises:
        InputError: there are no pictures.
        ArtifactError: the folder cannot be written.
    """
    if not pictures:
        raise InputError("no pictures to measure with", "name a folder with --images")
    height, width = size
    files = []
    for number in range(NUM_INPUTS):
        path = folder / f"{height}x{width}-{number}.jpg"
        picture = Image.fromarray(pictures[number % len(pictures)])
        try:
            picture.resize((width, height), Image.Resampling.BILINEAR).save(path, quality=92)
        except OSError as error:
            raise write_error(path, error) from error
        files.append(path)
    images = np.stack([read_image(path) for path in files])
    digest = hashlib.sha256(repr(images.shape).encode() + images.tobytes()).hexdigest()
    return Inputs(size, tuple(files), images, f"sha256:{digest}")


def one_picture_warnings(distinct: int) -> list[str]:
    """Return a warning where all pictures of a size are the same one; empty where they differ.

    Args:
        distinct: how many of the pictures differ, the fewest of a size.
    """
    if distinct > 1:
        return []
    return [
        "all inputs of a size are the same picture, which measures warm caches; name a folder of "
        "several with --images"
    ]
