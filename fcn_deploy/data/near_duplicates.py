"""Fingerprints of images by which near duplicates are found: resized, recompressed, next frames.

    image ─grey, 17×16─▶ is each pixel brighter than its left neighbour? ─▶ 256 bits

Images of which few bits differ look alike (difference hash, dHash).  Bits tell little of flat
images, so the small grey images are compared as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Rows of the small image; it has one column more.
_SIDE = 16
#: Bits that may differ, of 256, and grey levels, on the average.  On CamVid, copies at 0.4 to 1.6
#: of the size and JPEG quality 30 to 95 differ in 45 bits and 5.2 levels at most, images of `val`
#: from all of `train` in 75 bits and 16 levels at least.
MOST_BITS, MOST_LEVELS = 56, 8.0
_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of an image.

    Attributes:
        bits: uint8 [32], the difference hash.
        grey: float32 [16 * 17], the small image.
    """

    bits: NDArray[np.uint8]
    grey: NDArray[np.float32]

    @classmethod
    def of(cls, image: NDArray[np.uint8]) -> Fingerprint:
        """Return the fingerprint of an image, uint8 [H, W, 3]."""
        grey = Image.fromarray(image).convert("L")
        small = grey.resize((_SIDE + 1, _SIDE), Image.Resampling.BOX, reducing_gap=2.0)
        levels = np.asarray(small, np.float32)
        return cls(np.packbits(levels[:, 1:] > levels[:, :-1]), levels.ravel())


@dataclass(frozen=True)
class NearDuplicate:
    """Two images that look alike.

    Attributes:
        name: of the image to learn from.
        other: of the image to score on.
        bits: that differ, of 256.
    """

    name: str
    other: str
    bits: int


def near_duplicates(
    learned: Mapping[str, Fingerprint], scored: Mapping[str, Fingerprint]
) -> tuple[NearDuplicate, ...]:
    """Return, for each image to score on, the image to learn from that looks most like it.

    Images to score on to which none is alike are left out; those that are most alike come first.

    Args:
        learned: name → image to learn from.
        scored: name → image to score on.
    """
    if not learned or not scored:
        return ()
    names = list(learned)
    bits = np.stack([one.bits for one in learned.values()])
    grey = np.stack([one.grey for one in learned.values()])
    found = []
    for other, print_ in scored.items():
        differing = _ONES[bits ^ print_.bits].sum(1, dtype=np.int64)
        alike = np.flatnonzero(differing <= MOST_BITS)
        alike = alike[np.abs(grey[alike] - print_.grey).mean(1) <= MOST_LEVELS]
        if alike.size:
            best = int(alike[differing[alike].argmin()])
            found.append(NearDuplicate(names[best], other, int(differing[best])))
    return tuple(sorted(found, key=lambda one: (one.bits, one.other)))
