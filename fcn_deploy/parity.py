"""Are the masks the same?  Compares a candidate runner with the float32 reference.

    pictures ──▶ reference ─┐
         └─────▶ candidate ─┴─▶ Tally (errors, flips, counts) ──▶ checks ──▶ ParityResult

ε is the largest |Δlogit|.  A pixel whose reference margin exceeds 2ε is decided: no candidate
whose logits are within ε may flip it.  That alone proves little, as a broken candidate only makes
ε large and leaves no pixel decided; so ε itself is bounded, relative to the largest |logit|.
"""

from __future__ import annotations

import glob
import hashlib
import heapq
import itertools
import math
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.artifacts import write_json
from fcn_deploy.dataset import Dataset
from fcn_deploy.errors import DataError, InputError
from fcn_deploy.images import find_images, read_image
from fcn_deploy.machine import describe_machine, describe_versions, utc_now
from fcn_deploy.masks import mask_to_colour, write_picture
from fcn_deploy.metrics import ConfusionMatrix, margin_of, near_class_edge
from fcn_deploy.runners.base import Runner, RunnerDescription
from fcn_deploy.spec import ModelSpec, Precision

PARITY_SCHEMA = 1
#: Sizes (height, width) that every comparison includes: below, beside and beyond the stride.
ODD_SIZES = ((1, 1), (97, 131), (561, 728))
#: Flips written out one by one, those with the widest margins first.
MAX_LISTED_FLIPS = 1000
MAX_DRAWN = 4
#: Pixels at most this far from a class edge are boundary pixels.
EDGE_DISTANCE = 3
_FLIP_COLOUR = (255, 0, 160)


@dataclass(frozen=True)
class Gate:
    """What a candidate must keep to pass.

    Attributes:
        min_agreement: share of all pixels with the reference's class.
        max_relative_epsilon: largest |Δlogit| over the largest reference |logit|.
        max_miou_change: of the mean IoU, in points (hundredths), either way.
    """

    min_agreement: float
    max_relative_epsilon: float
    max_miou_change: float = 0.1


GATES = {Precision.FP32: Gate(0.9999, 1e-3), Precision.FP16: Gate(0.995, 1e-2)}


@dataclass(frozen=True)
class Picture:
    """One input of the comparison.

    Attributes:
        name: for people.
        image: uint8 [H, W, 3].
        truth: uint8 [H, W] with 255 = void, or None where the picture is not labelled.
    """

    name: str
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Pictures:
    """Pictures to compare on, decoded one at a time as they are asked for.

    Attributes:
        source: where they come from, for the record.
        count: how many.
        picture: index → picture.
    """

    source: str
    count: int
    picture: Callable[[int], Picture]

    def __iter__(self) -> Iterator[Picture]:
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

    def picture(index: int) -> Picture:
        sample = dataset[index]
        return Picture(sample.name, sample.image, sample.mask)

    return Pictures(dataset.source, min(len(dataset), limit or len(dataset)), picture)


def unlabelled_pictures(folder: Path, limit: int | None = None) -> Pictures:
    """Return the pictures in a folder, or one file.

    Raises:
        ImageError: there are none.
    """
    files = find_images([folder])[:limit]
    return Pictures(
        str(folder), len(files), lambda index: Picture(files[index].name, read_image(files[index]))
    )


def _named(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}, …)"


@dataclass(frozen=True)
class Flip:
    """A pixel to which the candidate gives another class.

    Attributes:
        picture: name of the picture.
        row: from the top, in pixels.
        column: from the left, in pixels.
        reference_class: index.
        candidate_class: index.
        margin: top-1 minus top-2 logit of the reference.
        boundary: whether it lies within ``EDGE_DISTANCE`` of a class edge.
    """

    picture: str
    row: int
    column: int
    reference_class: int
    candidate_class: int
    margin: float
    boundary: bool


@dataclass(frozen=True)
class Check:
    """One point of the gate.

    Attributes:
        name: short.
        passed: whether it holds.
        sentence: the figure, the limit and what it means.
    """

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Drawing:
    """A picture that is kept for the report: the ones with the most flips."""

    name: str
    flips: int
    pixels: int
    image: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    candidate: NDArray[np.uint8]


class MarginHistogram:
    """Counts margins in bins of an eighth of an octave, so that no margin has to be kept."""

    _EDGES = 2.0 ** np.arange(-48, 24, 0.125)

    def __init__(self) -> None:
        self._counts = np.zeros(len(self._EDGES) + 1, dtype=np.int64)

    def add(self, margins: NDArray[np.float32]) -> None:
        """Count margins of any shape."""
        bins = np.searchsorted(self._EDGES, margins.ravel(), side="right")
        self._counts += np.bincount(bins, minlength=len(self._counts))

    def at_least(self, threshold: float) -> int:
        """Return how many are surely ≥ ``threshold``: a lower bound, short by part of one bin."""
        first = int(np.searchsorted(self._EDGES, threshold, side="left"))
        return int(self._counts[first + 1 :].sum())


@dataclass
class Tally:
    """What is counted while the pictures pass by."""

    num_classes: int
    pictures: int = 0
    pixels: int = 0
    flips: int = 0
    boundary_pixels: int = 0
    boundary_flips: int = 0
    epsilon: float = 0.0
    logit_scale: float = 0.0
    finite: bool = True
    margins: MarginHistogram = field(default_factory=MarginHistogram)
    flip_margins: list[NDArray[np.float32]] = field(default_factory=list)
    widest_flips: list[tuple[float, int, Flip]] = field(default_factory=list)
    drawings: list[tuple[float, int, Drawing]] = field(default_factory=list)
    reference_confusion: ConfusionMatrix | None = None
    candidate_confusion: ConfusionMatrix | None = None
    digest: Any = field(default_factory=hashlib.sha256)
    order: Iterator[int] = field(default_factory=itertools.count)

    def add(
        self,
        picture: Picture,
        mask: NDArray[np.uint8],
        logits: NDArray[np.float32],
        candidate_mask: NDArray[np.uint8],
        candidate_logits: NDArray[np.float32],
    ) -> None:
        """Count one picture: masks uint8 [H, W], logits float32 [C, H, W]."""
        self.pictures += 1
        self.pixels += mask.size
        self.digest.update(repr(picture.image.shape).encode() + picture.image.tobytes())
        self.finite &= bool(np.isfinite(candidate_logits).all() and np.isfinite(logits).all())
        error = np.abs(candidate_logits - logits)
        self.epsilon = max(self.epsilon, float(error.max())) if self.finite else math.inf
        if self.finite:
            self.logit_scale = max(self.logit_scale, float(np.abs(logits).max()))

        # A NaN in the reference fails the first check; here it must only stay writable as JSON.
        margin = np.nan_to_num(margin_of(logits[None])[0], posinf=0, neginf=0)
        edge = near_class_edge(mask, EDGE_DISTANCE)
        flipped = mask != candidate_mask
        self.margins.add(margin)
        self.flips += int(flipped.sum())
        self.boundary_pixels += int(edge.sum())
        self.boundary_flips += int((flipped & edge).sum())
        self.flip_margins.append(margin[flipped])
        self._keep_widest(picture.name, mask, candidate_mask, margin, edge, flipped)
        self._keep_drawing(picture, mask, candidate_mask, flipped)
        if picture.truth is not None:
            self._score(picture.truth, mask, candidate_mask)

    def _keep_widest(
        self,
        name: str,
        mask: NDArray[np.uint8],
        candidate: NDArray[np.uint8],
        margin: NDArray[np.float32],
        edge: NDArray[np.bool_],
        flipped: NDArray[np.bool_],
    ) -> None:
        positions = np.argwhere(flipped)
        widest_first = np.argsort(-margin[flipped], kind="stable")[:MAX_LISTED_FLIPS]
        for row, column in positions[widest_first].tolist():
            flip = Flip(
                name,
                row,
                column,
                int(mask[row, column]),
                int(candidate[row, column]),
                float(margin[row, column]),
                bool(edge[row, column]),
            )
            # The running number keeps the heap from comparing flips, and earlier ones first.
            _push(self.widest_flips, (flip.margin, -next(self.order), flip), MAX_LISTED_FLIPS)

    def _keep_drawing(
        self,
        picture: Picture,
        mask: NDArray[np.uint8],
        candidate: NDArray[np.uint8],
        flipped: NDArray[np.bool_],
    ) -> None:
        if mask.size < 64 * 64:  # nothing to see
            return
        flips = int(flipped.sum())
        drawing = Drawing(picture.name, flips, mask.size, picture.image, mask, candidate)
        _push(self.drawings, (flips / mask.size, -self.pictures, drawing), MAX_DRAWN)

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
        """Return how many flips have a reference margin beyond 2ε."""
        return sum(int((margins > 2 * self.epsilon).sum()) for margins in self.flip_margins)

    def widest_flip_margin(self) -> float:
        """Return the widest reference margin among the flips, 0 where there is none."""
        return max((float(m.max()) for m in self.flip_margins if m.size), default=0.0)


def _push(heap: list[tuple[float, int, Any]], entry: tuple[float, int, Any], limit: int) -> None:
    if len(heap) < limit:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)


@dataclass(frozen=True)
class BatchCheck:
    """Whether masks depend on a picture's place in the batch.

    Attributes:
        pictures: in the batch.
        flips: pixels whose class differs between alone and in the batch.
        widest_margin: of the reference, among those flips.
    """

    pictures: int
    flips: int
    widest_margin: float


@dataclass(frozen=True)
class ParityResult:
    """A finished comparison; :meth:`to_json` is what is saved and reported.

    Attributes:
        reference: what the candidate was compared with.
        candidate: what was compared.
        spec: of the network.
        source: where the pictures come from.
        gate: the limits.
        tally: the counts.
        batch: the batch-place check.
        checks: the gate's points.
    """

    reference: RunnerDescription
    candidate: RunnerDescription
    spec: ModelSpec
    source: str
    gate: Gate
    tally: Tally
    batch: BatchCheck
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every point of the gate holds."""
        return all(check.passed for check in self.checks)

    @property
    def agreement(self) -> float:
        """Share of all pixels with the reference's class."""
        return 1 - self.tally.flips / self.tally.pixels

    def drawings(self) -> list[Drawing]:
        """Return the pictures with the largest share of flips, worst first."""
        return [drawing for _, _, drawing in sorted(self.tally.drawings, reverse=True)]

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values (:func:`save` writes the drawings as files)."""
        tally = self.tally
        flips = [flip for _, _, flip in sorted(tally.widest_flips, reverse=True)]
        return {
            "reference": self.reference.to_json(),
            "candidate": self.candidate.to_json(),
            "class_names": list(self.spec.class_names),
            "images": {
                "source": self.source,
                "count": tally.pictures - len(ODD_SIZES),
                "odd_sizes": [list(size) for size in ODD_SIZES],
                "pixels": tally.pixels,
                "digest": f"sha256:{tally.digest.hexdigest()}",
            },
            "gate": asdict(self.gate),
            "epsilon": _number(tally.epsilon),
            "logit_scale": _number(tally.logit_scale),
            "finite": tally.finite,
            "agreement": self.agreement,
            "flips": tally.flips,
            "decided_pixels": tally.margins.at_least(2 * tally.epsilon),
            "decided_flips": tally.decided_flips(),
            "widest_flip_margin": tally.widest_flip_margin(),
            "boundary": {"pixels": tally.boundary_pixels, "flips": tally.boundary_flips},
            "interior": {
                "pixels": tally.pixels - tally.boundary_pixels,
                "flips": tally.flips - tally.boundary_flips,
            },
            "scores": _scores(tally, self.spec),
            "batch": asdict(self.batch),
            "checks": [asdict(check) for check in self.checks],
            "passed": self.passed,
            "flip_list": [asdict(flip) for flip in flips],
            "flip_list_complete": len(flips) == tally.flips,
        }


def compare(
    reference: Runner,
    candidate: Runner,
    pictures: Pictures,
    *,
    gate: Gate | None = None,
    on_picture: Callable[[], None] = lambda: None,
) -> ParityResult:
    """Compare a candidate with the reference, picture by picture.

    Args:
        reference: float32, opened for ``mask`` and ``logits``.
        candidate: opened for ``mask`` and ``logits``.
        pictures: any sizes; the first ones are also resized to ``ODD_SIZES``.
        gate: the limits; by default those of the candidate's precision.
        on_picture: called after each picture.

    Raises:
        InputError: there are no pictures, or the two networks' classes differ.
    """
    spec = reference.spec
    if candidate.spec.class_names != spec.class_names:
        raise InputError("the candidate has other classes than the reference", "export it again")
    description = candidate.describe()
    gate = gate or GATES[Precision(description.precision)]
    tally = Tally(spec.num_classes)
    first: list[Picture] = []
    for picture in pictures:
        _add(tally, reference, candidate, picture)
        if len(first) < len(ODD_SIZES):
            first.append(picture)
        on_picture()
    if not first:
        raise InputError("no pictures to compare on", "name a folder of pictures with --images")
    for size, picture in zip(ODD_SIZES, _cycled(first, len(ODD_SIZES)), strict=True):
        _add(tally, reference, candidate, resized(picture, size))
    batch = _check_batch_place(reference, candidate, first)
    checks = tuple(_checks(tally, batch, gate))
    return ParityResult(
        reference.describe(), description, spec, pictures.source, gate, tally, batch, checks
    )


def _add(tally: Tally, reference: Runner, candidate: Runner, picture: Picture) -> None:
    expected = reference.run(picture.image[None])
    given = candidate.run(picture.image[None])
    if expected.logits is None or given.logits is None:
        raise InputError("parity needs runners that give logits", "open them with outputs=logits")
    tally.add(picture, expected.mask[0], expected.logits[0], given.mask[0], given.logits[0])


def resized(picture: Picture, size: tuple[int, int]) -> Picture:
    """Return the picture at another size (height, width), without its labels."""
    height, width = size
    image = Image.fromarray(picture.image).resize((width, height), Image.Resampling.BILINEAR)
    return Picture(f"{picture.name} at {height}×{width}", np.asarray(image, dtype=np.uint8))


def _cycled(pictures: Sequence[Picture], count: int) -> list[Picture]:
    return [pictures[i % len(pictures)] for i in range(count)]


def _check_batch_place(
    reference: Runner, candidate: Runner, pictures: Sequence[Picture]
) -> BatchCheck:
    # Distinct pictures of one size, each seen alone and then in another order as a batch.
    height, width = pictures[0].image.shape[:2]
    same_size = [resized(p, (height, width)) for p in _cycled(pictures, 3)]
    order = (2, 0, 1)
    batch = np.stack([same_size[i].image for i in order])
    together = candidate.run(batch).mask
    flips, widest = 0, 0.0
    for place, i in enumerate(order):
        alone = candidate.run(same_size[i].image[None]).mask[0]
        differ = alone != together[place]
        if differ.any():
            logits = reference.run(same_size[i].image[None]).logits
            assert logits is not None  # checked by _add
            flips += int(differ.sum())
            widest = max(widest, float(margin_of(logits)[0][differ].max()))
    return BatchCheck(len(order), flips, widest)


def _checks(tally: Tally, batch: BatchCheck, gate: Gate) -> Iterable[Check]:
    yield Check(
        "finite logits",
        tally.finite,
        "all logits are finite" if tally.finite else "some logits are NaN or infinite",
    )
    relative = tally.epsilon / tally.logit_scale if tally.logit_scale else math.inf
    yield Check(
        "logit error",
        relative <= gate.max_relative_epsilon,
        f"largest |Δlogit| ε = {tally.epsilon:.3g}, {relative:.2g} of the largest |logit|; "
        f"allowed {gate.max_relative_epsilon:g}",
    )
    decided, wrong = tally.margins.at_least(2 * tally.epsilon), tally.decided_flips()
    yield Check(
        "decided pixels",
        wrong == 0,
        f"{_flips(wrong)} among the {_share(decided, tally.pixels)} of pixels whose margin exceeds "
        "2ε; allowed 0",
    )
    agreement = 1 - tally.flips / tally.pixels
    yield Check(
        "all pixels",
        agreement >= gate.min_agreement,
        f"{_share(tally.pixels - tally.flips, tally.pixels)} of {tally.pixels:,} pixels agree "
        f"({_flips(tally.flips)}, "
        f"{tally.boundary_flips} of them within {EDGE_DISTANCE} px of a class edge); "
        f"required {gate.min_agreement:.2%}",
    )
    if tally.reference_confusion is not None and tally.candidate_confusion is not None:
        before = tally.reference_confusion.mean_iou()
        change = 100 * (tally.candidate_confusion.mean_iou() - before)
        yield Check(
            "mIoU",
            # Where no pixel is labelled there is nothing to lose.
            math.isnan(before) or abs(change) <= gate.max_miou_change,
            f"mIoU {100 * before:.2f} → {100 * before + change:.2f} ({change:+.3f} points); "
            f"allowed ±{gate.max_miou_change:g}",
        )
    yield Check(
        "place in batch",
        batch.flips == 0 or batch.widest_margin <= 2 * tally.epsilon,
        f"{batch.flips} pixels depend on the picture's place in a batch of {batch.pictures}; "
        "allowed only below 2ε",
    )


def _flips(count: int) -> str:
    return "1 flip" if count == 1 else f"{count:,} flips"


def _share(part: int, whole: int) -> str:
    """Return a percentage, rounded down, so that 100 % is said of all and of nothing less."""
    if part == whole:
        return "100 %"
    digits = 2
    while 10 ** (digits + 2) * (whole - part) < whole:  # until the missing part shows
        digits += 1
    return f"{math.floor(100 * 10**digits * part / whole) / 10**digits:.{digits}f} %"


def _scores(tally: Tally, spec: ModelSpec) -> dict[str, Any] | None:
    before, after = tally.reference_confusion, tally.candidate_confusion
    if before is None or after is None:
        return None
    classes = [
        {"name": name, "reference_iou": _number(b), "candidate_iou": _number(a)}
        for name, b, a in zip(spec.class_names, before.iou(), after.iou(), strict=True)
    ]
    # NaN: a class that does not occur has lost nothing.
    changes = np.nan_to_num(after.iou() - before.iou())
    worst = int(np.argmin(changes))
    return {
        "reference_miou": _number(before.mean_iou()),
        "candidate_miou": _number(after.mean_iou()),
        "reference_pixel_accuracy": _number(before.pixel_accuracy()),
        "candidate_pixel_accuracy": _number(after.pixel_accuracy()),
        "classes": classes,
        "worst_class": {
            "name": spec.class_names[worst],
            "change_points": 100 * float(changes[worst]),
        },
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def save(results: Sequence[ParityResult], target: Path) -> None:
    """Write comparisons made on this machine: one JSON file, and a folder with its worst pictures.

    The folder has a name of its own each time, so that an older result stays whole until the new
    one has replaced it; only then its pictures go.

    Raises:
        ArtifactError: the place cannot be written; what was there before stays.
    """
    token = secrets.token_hex(4)
    folders = [
        target.parent / f"{target.stem}-{result.candidate.backend}-{token}" for result in results
    ]
    older = [p for p in target.parent.glob(f"{glob.escape(target.stem)}-*-????????") if p.is_dir()]
    try:
        drawings = [
            _write_drawings(result, folder) for result, folder in zip(results, folders, strict=True)
        ]
        write_json(target, _document(results, drawings))
    except BaseException:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    for folder in older:
        shutil.rmtree(folder, ignore_errors=True)


def _document(
    results: Sequence[ParityResult], drawings: Sequence[list[dict[str, Any]]]
) -> dict[str, Any]:
    return {
        "schema": PARITY_SCHEMA,
        "kind": "parity",
        "created": utc_now(),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "results": [
            {**result.to_json(), "pictures": pictures}
            for result, pictures in zip(results, drawings, strict=True)
        ],
    }


def _write_drawings(result: ParityResult, folder: Path) -> list[dict[str, Any]]:
    """Write the worst pictures as PNGs; paths in the entries start from the folder's parent."""
    entries = []
    for number, drawing in enumerate(result.drawings()):
        views = {
            "image": drawing.image,
            "reference": mask_to_colour(drawing.reference, result.spec.palette),
            "candidate": mask_to_colour(drawing.candidate, result.spec.palette),
            "flips": _flips_over_image(drawing),
        }
        files = {}
        for view, picture in views.items():
            path = folder / f"worst-{number}-{view}.png"
            write_picture(path, picture)
            files[view] = path.relative_to(folder.parent).as_posix()
        entries.append(
            {
                "name": drawing.name,
                "flips": drawing.flips,
                "pixels": drawing.pixels,
                "files": files,
            }
        )
    return entries


def _flips_over_image(drawing: Drawing) -> NDArray[np.uint8]:
    grey = (drawing.image.mean(axis=2, keepdims=True) * 0.4).astype(np.uint8)
    picture = np.repeat(grey, 3, axis=2)
    flipped = drawing.reference != drawing.candidate
    # A single pixel is invisible at the size of a report: flips are drawn 3 px wide.
    picture[near_class_edge(flipped.astype(np.uint8), 1) | flipped] = _FLIP_COLOUR
    return picture
