"""Where candidate and reference differ: errors, flips, and what kind of pixels flip.

A flip is a pixel to which the candidate gives another class.  Pictures pass by one at a time;
what stays is counts, the flips with the widest margins, and the pictures with the most flips.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError
from fcn_deploy.data.dataset import NamedImage, Sample
from fcn_deploy.data.images import image_content
from fcn_deploy.data.metrics import ConfusionMatrix, edge_bands, margin_of
from fcn_deploy.parity.histogram import MarginHistogram
from fcn_deploy.results.parity_parts import Bucket, ClassFlips, Flip

#: Flips written out one by one, those with the widest margins first.
MAX_LISTED_FLIPS = 100
#: Pictures that are kept to be rendered.
MAX_RENDERED = 4
#: Pixels at most this far from a class edge are boundary pixels.
EDGE_DISTANCE = 3
#: Greatest Chebyshev distance to a class edge of each band, in pixels; the last band is beyond.
DISTANCES = (1, 2, 3, 8, 16)
#: Ends of the margin's buckets, in units of ε; the last bucket is beyond.
MARGIN_STEPS = (0.5, 1.0, 2.0)
#: Shortest side of pictures in which a shift can be told, in pixels.
SMALLEST_TELLING = 16
#: Pixels below which there is nothing to see.
_SMALLEST_RENDERED = 64 * 64


@dataclass(frozen=True)
class ReferenceOutput:
    """What the reference gives for a picture, and what follows from that alone.

    Attributes:
        picture: what it was given.
        mask: uint8 [H, W].
        logits: float32 [C, H, W].
        margin: top-1 minus top-2 logit, float32 [H, W].
        spread: largest difference between two logits of a pixel; 0 where it is not finite.
        bands: of each of ``DISTANCES``, which pixels lie within it of a class edge, bool [H, W].
    """

    picture: NamedImage
    mask: NDArray[np.uint8]
    logits: NDArray[np.float32]
    margin: NDArray[np.float32]
    spread: float
    bands: tuple[NDArray[np.bool_], ...]

    @classmethod
    def of(
        cls, picture: NamedImage, mask: NDArray[np.uint8], logits: NDArray[np.float32]
    ) -> ReferenceOutput:
        """Return a picture's output with margin and bands."""
        # A NaN in the reference fails the first check; here it must only stay writable as JSON.
        margin = np.nan_to_num(margin_of(logits[None])[0], posinf=0, neginf=0)
        with np.errstate(invalid="ignore"):  # infinity less infinity
            spread = float((logits.max(axis=0) - logits.min(axis=0)).max())
        spread = spread if math.isfinite(spread) else 0.0
        return cls(picture, mask, logits, margin, spread, tuple(edge_bands(mask, DISTANCES)))


@dataclass(frozen=True)
class WorstCandidate:
    """A picture that is kept for the report: the ones with the most flips.

    Attributes:
        name: of the picture.
        flips: pixels to which the candidate gives another class.
        pixels: in all.
        image: uint8 [H, W, 3].
        reference: its mask, uint8 [H, W].
        candidate: its mask, uint8 [H, W].
        margin: of the reference, float32 [H, W].
    """

    name: str
    flips: int
    pixels: int
    image: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    candidate: NDArray[np.uint8]
    margin: NDArray[np.float32]


@dataclass
class Tally:
    """What is counted while the pictures pass by.

    Attributes:
        num_classes: C.
        pictures: how many, odd sizes included.
        pixels: of them all.
        flips: pixels to which the candidate gives another class.
        epsilon: largest |Δlogit|; infinity once a logit is not finite.
        logit_scale: what ε is a share of: the reference's largest spread of a pixel's logits.  A
            number that is added to all of them changes no mask, and must not widen the limit.
        candidate_broken: pictures in which a logit of the candidate's is NaN or infinite.
        reference_broken: the same of the reference.
        classes: pixels by the reference's class (row) and the candidate's (column).
        own_classes: the same of the pictures that were given, without what was made of them.
        edge_pixels: pixels by band of ``DISTANCES``, the last beyond.
        edge_flips: flips by the same bands.
        margins: of all pixels.
        flip_margins: the reference's margins at the flips.
        widest_flip_margin: the widest of them; 0 where there is none.
        most_flipped: the picture with the largest share of flips, if any is large enough to show
            how they lie.
        least_alike: the same for the largest |Δlogit|.
    """

    num_classes: int
    pictures: int = 0
    pixels: int = 0
    flips: int = 0
    epsilon: float = 0.0
    logit_scale: float = 0.0
    candidate_broken: int = 0
    reference_broken: int = 0
    classes: NDArray[np.int64] = field(init=False)
    own_classes: NDArray[np.int64] = field(init=False)
    edge_pixels: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(len(DISTANCES) + 1, np.int64)
    )
    edge_flips: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(len(DISTANCES) + 1, np.int64)
    )
    margins: MarginHistogram = field(default_factory=MarginHistogram)
    flip_margins: MarginHistogram = field(default_factory=MarginHistogram)
    widest_flip_margin: float = 0.0
    most_flipped: NamedImage | None = None
    least_alike: NamedImage | None = None
    reference_confusion: ConfusionMatrix | None = None
    candidate_confusion: ConfusionMatrix | None = None
    _digest: Any = field(default_factory=hashlib.sha256)
    _order: Iterator[int] = field(default_factory=itertools.count)
    _widest_flips: list[tuple[float, int, Flip]] = field(default_factory=list)
    _worst_candidates: list[tuple[float, int, WorstCandidate]] = field(default_factory=list)
    _largest_share: float = 0.0
    _largest_error: float = 0.0

    def __post_init__(self) -> None:
        self.classes = np.zeros((self.num_classes, self.num_classes), dtype=np.int64)
        self.own_classes = np.zeros_like(self.classes)

    @property
    def finite(self) -> bool:
        """Whether every logit so far is a number."""
        return not (self.candidate_broken or self.reference_broken)

    @property
    def digest(self) -> str:
        """``sha256:…`` of the given images, in order."""
        return f"sha256:{self._digest.hexdigest()}"

    @property
    def boundary_pixels(self) -> int:
        """Pixels within ``EDGE_DISTANCE`` of a class edge."""
        return int(self.edge_pixels[: DISTANCES.index(EDGE_DISTANCE) + 1].sum())

    @property
    def boundary_flips(self) -> int:
        """Flips within ``EDGE_DISTANCE`` of a class edge."""
        return int(self.edge_flips[: DISTANCES.index(EDGE_DISTANCE) + 1].sum())

    def add(
        self,
        reference: ReferenceOutput,
        mask: NDArray[np.uint8],
        logits: NDArray[np.float32],
        *,
        is_extra: bool = False,
    ) -> None:
        """Count one picture.

        Args:
            reference: what it gives.
            mask: the candidate's, uint8 [H, W].
            logits: the candidate's, float32 [C, H, W].
            is_extra: whether the picture was made for the comparison, not given by the user.
        """
        picture, margin = reference.picture, reference.margin
        self.pictures += 1
        self.pixels += mask.size
        if not is_extra:
            self._digest.update(image_content(picture.image))
        error = self._count_errors(reference, logits)
        flipped = reference.mask != mask
        flips = int(np.count_nonzero(flipped))
        self.margins.add(margin)
        self.flips += flips
        self.flip_margins.add(margin[flipped])
        self._count_classes(reference.mask, mask, flipped, is_extra)
        self._count_bands(reference.bands, flipped)
        if flips:
            self.widest_flip_margin = max(self.widest_flip_margin, float(margin[flipped].max()))
            self._keep_widest(reference, mask, flipped)
        self._keep_worst(picture, flips, error)
        if mask.size >= _SMALLEST_RENDERED:
            worst = WorstCandidate(
                picture.name, flips, mask.size, picture.image, reference.mask, mask, margin
            )
            _push(self._worst_candidates, (flips / mask.size, -self.pictures, worst), MAX_RENDERED)
        if isinstance(picture, Sample):
            self._score(picture.mask, reference.mask, mask)

    def _count_errors(self, reference: ReferenceOutput, candidate: NDArray[np.float32]) -> float:
        """Count a picture's errors and return its largest |Δlogit|."""
        logits = reference.logits
        with np.errstate(invalid="ignore"):  # infinity less infinity
            difference = candidate - logits
        np.abs(difference, out=difference)
        error = float(difference.max())
        # NaN and infinity outlive the subtraction, so that most pictures need no further look.
        if not math.isfinite(error):
            self.reference_broken += not np.isfinite(logits).all()
            self.candidate_broken += not np.isfinite(candidate).all()
            error = math.inf
        self.epsilon = max(self.epsilon, error)
        self.logit_scale = max(self.logit_scale, reference.spread)
        return error

    def _count_classes(
        self,
        mask: NDArray[np.uint8],
        candidate: NDArray[np.uint8],
        flipped: NDArray[np.bool_],
        is_extra: bool,
    ) -> None:
        count = self.num_classes
        before = mask[flipped].astype(np.int64)
        after = candidate[flipped].astype(np.int64)
        beyond = max(int(before.max(initial=0)), int(after.max(initial=0)))
        if beyond >= count:
            raise BackendError(f"a mask holds class {beyond}, the network has {count} classes")
        cells = np.bincount(before * count + after, minlength=count * count)
        cells = cells.reshape(count, count)
        stayed = np.bincount(mask.ravel(), minlength=count) - cells.sum(axis=1)
        cells[np.diag_indices(count)] += stayed
        self.classes += cells
        if not is_extra:
            self.own_classes += cells

    def _count_bands(self, bands: Sequence[NDArray[np.bool_]], flipped: NDArray[np.bool_]) -> None:
        # Each band contains those before it, and everything lies within the last.
        pixels = [int(np.count_nonzero(band)) for band in bands]
        flips = [int(np.count_nonzero(band & flipped)) for band in bands]
        self.edge_pixels += np.diff([0, *pixels, flipped.size])
        self.edge_flips += np.diff([0, *flips, int(np.count_nonzero(flipped))])

    def _keep_widest(
        self,
        reference: ReferenceOutput,
        candidate: NDArray[np.uint8],
        flipped: NDArray[np.bool_],
    ) -> None:
        mask, margin = reference.mask, reference.margin
        edge = reference.bands[DISTANCES.index(EDGE_DISTANCE)]
        positions = np.argwhere(flipped)
        widest_first = np.argsort(-margin[flipped], kind="stable")[:MAX_LISTED_FLIPS]
        for row, column in positions[widest_first].tolist():
            flip = Flip(
                reference.picture.name,
                row,
                column,
                int(mask[row, column]),
                int(candidate[row, column]),
                float(margin[row, column]),
                bool(edge[row, column]),
            )
            # The running number keeps the heap from comparing flips, and earlier ones first.
            _push(self._widest_flips, (flip.margin, -next(self._order), flip), MAX_LISTED_FLIPS)

    def _keep_worst(self, picture: NamedImage, flips: int, error: float) -> None:
        height, width = picture.image.shape[:2]
        if min(height, width) < SMALLEST_TELLING:
            return
        share = flips / (height * width)
        if share > self._largest_share:
            self.most_flipped, self._largest_share = picture, share
        if error > self._largest_error:
            self.least_alike, self._largest_error = picture, error

    def _score(
        self,
        truth: NDArray[np.uint8],
        mask: NDArray[np.uint8],
        candidate: NDArray[np.uint8],
    ) -> None:
        empty = ConfusionMatrix.empty(self.num_classes)
        self.reference_confusion = (self.reference_confusion or empty) + ConfusionMatrix.of(
            truth, mask, self.num_classes
        )
        self.candidate_confusion = (self.candidate_confusion or empty) + ConfusionMatrix.of(
            truth, candidate, self.num_classes
        )

    def decided_flips(self) -> int:
        """Return how many flips have a reference margin beyond 2ε: none, or at least so many."""
        if self.widest_flip_margin <= 2 * self.epsilon:
            return 0
        return max(1, self.flip_margins.at_least(2 * self.epsilon))

    def widest_flips(self) -> tuple[Flip, ...]:
        """Return the flips with the widest margins, at most ``MAX_LISTED_FLIPS``."""
        return tuple(flip for _, _, flip in sorted(self._widest_flips, reverse=True))

    def worst_candidates(self) -> list[WorstCandidate]:
        """Return the pictures with the largest share of flips, worst first."""
        return [worst for _, _, worst in sorted(self._worst_candidates, reverse=True)]

    def flips_by_class(self) -> tuple[ClassFlips, ...]:
        """Return each pair of classes that occurs, most flips first."""
        flips = self.classes.copy()
        np.fill_diagonal(flips, 0)
        return tuple(
            ClassFlips(row, column, int(flips[row, column]))
            for row, column in sorted(np.argwhere(flips).tolist(), key=lambda at: -flips[tuple(at)])
        )

    def flips_by_margin(self) -> tuple[Bucket, ...]:
        """Return pixels and flips by the reference's margin, in steps of ε.

        Both come from histograms: each bound is rounded up to its next bin, by at most 1/16.
        Where ε is 0 or no number, there is a single bucket.
        """
        usable = math.isfinite(self.epsilon) and self.epsilon > 0
        bounds = [0.0, *(step * self.epsilon for step in MARGIN_STEPS)] if usable else [0.0]
        pixels = [*map(self.margins.at_least, bounds), 0]
        flips = [*map(self.flip_margins.at_least, bounds), 0]
        return tuple(
            Bucket(pixels[index] - pixels[index + 1], flips[index] - flips[index + 1], start, end)
            for index, (start, end) in enumerate(zip(bounds, [*bounds[1:], None], strict=True))
        )

    def flips_by_distance(self) -> tuple[Bucket, ...]:
        """Return pixels and flips by the distance to the next class edge."""
        starts = [1, *(distance + 1 for distance in DISTANCES)]
        counts = zip(self.edge_pixels.tolist(), self.edge_flips.tolist(), strict=True)
        return tuple(
            Bucket(pixels, flips, start, end)
            for start, end, (pixels, flips) in zip(starts, [*DISTANCES, None], counts, strict=True)
        )


def _push(heap: list[tuple[float, int, Any]], entry: tuple[float, int, Any], limit: int) -> None:
    if len(heap) < limit:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)
