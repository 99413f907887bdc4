"""How far a score would move on other pictures of the same kind: the percentile bootstrap.

    totals of each picture [P, C] ─┐
    draws [R, P] ──────────────────┴─▶ totals of each resample [R, C] ─▶ scores [R] ─▶ interval

A resample is as many pictures as there are, drawn with repetition.  Its confusion matrix is the sum
of theirs, so every score is computed as on the pictures themselves.  Pictures are drawn and not
pixels, because the pixels of a picture are right or wrong together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.metrics import ClassTotals
from fcn_deploy.results.evaluation import Bootstrap, Interval

#: How often the pictures are drawn.  The standard error of an end is then 1.5 % of the interval's
#: width (of a normal distribution: 0.06 of the 3.92 standard deviations).
RESAMPLES = 2000
LEVEL = 0.95
#: How many draws are in memory at once: 64 MiB of them as whole numbers, and as many as floats.
BLOCK_VALUES = 1 << 23


class Resamples:
    """The pictures drawn anew many times, the same draws for every row that is compared.

    Args:
        pictures: how many there are.
        seed: of the draws.
        resamples: how often they are drawn.
    """

    def __init__(self, pictures: int, *, seed: int = 0, resamples: int = RESAMPLES) -> None:
        self.settings = Bootstrap(resamples=resamples, seed=seed, level=LEVEL)
        self._pictures = pictures

    def totals(self, pictures: Sequence[ClassTotals]) -> ClassTotals:
        """Return the totals of every resample, [R, C], of those of each picture, [C]."""
        # As floats, for the product of whole numbers is slow; exact below 2^53 pixels.
        stacked = [
            np.stack([getattr(one, name) for one in pictures]).astype(np.float64)
            for name in ("hits", "labelled", "predicted")
        ]
        blocks = [[draws @ totals for totals in stacked] for draws in self._draws()]
        return ClassTotals(*map(np.concatenate, zip(*blocks, strict=True)))

    def _draws(self) -> Iterator[NDArray[np.float64]]:
        """Yield how often each picture is in each resample, [r, P]: blocks of them all, in order.

        They are drawn again for every row: of many pictures they are too many to be kept.
        """
        generator = np.random.default_rng(self.settings.seed)
        shares = np.full(self._pictures, 1 / self._pictures)
        step = max(1, BLOCK_VALUES // self._pictures)
        for start in range(0, self.settings.resamples, step):
            size = min(step, self.settings.resamples - start)
            yield generator.multinomial(self._pictures, shares, size=size).astype(np.float64)

    def interval(self, scores: NDArray[np.float64]) -> Interval | None:
        """Return the percentile interval of a score, one of each resample.

        None where there is a single picture, or where no resample has the score: a class may occur
        in none of its pictures.
        """
        known = scores[~np.isnan(scores)]
        if self._pictures < 2 or not known.size:
            return None
        tail = (1 - self.settings.level) / 2
        low, high = np.quantile(known, (tail, 1 - tail))
        return Interval(float(low), float(high))
