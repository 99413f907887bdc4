"""A histogram of margins, so that pixels beyond a margin can be counted without keeping them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class MarginHistogram:
    """Counts margins in sixteenths of an octave, so that no margin has to be kept.

    A float32 above 0 grows with its bits.  Those of the exponent and the first four of the
    fraction are the bin: bins are at most 1/16 wide, relative to where they begin.
    """

    _SHIFT = 19

    def __init__(self) -> None:
        self._counts = np.zeros(1 << (31 - self._SHIFT), dtype=np.int64)

    def add(self, margins: NDArray[np.float32]) -> None:
        """Count finite margins ≥ 0, of any shape."""
        bits = np.ascontiguousarray(margins, dtype=np.float32).ravel().view(np.uint32)
        self._counts += np.bincount(bits >> self._SHIFT, minlength=len(self._counts))

    def at_least(self, threshold: float) -> int:
        """Return how many are surely ≥ ``threshold``: a lower bound, short by part of one bin."""
        if threshold <= 0:
            return int(self._counts.sum())
        if threshold > float(np.finfo(np.float32).max):
            return 0
        # The next float32 at or above it: rounding down would count too many.
        bound = np.float32(threshold)
        if float(bound) < threshold:
            bound = np.nextafter(bound, np.float32(np.inf))
        bits = int(np.array(bound, dtype=np.float32).view(np.uint32))
        first = -(-bits >> self._SHIFT)  # the first bin that begins there or above
        return int(self._counts[first:].sum())
