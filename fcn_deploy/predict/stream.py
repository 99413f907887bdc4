"""Pictures → masks, whatever they come from and wherever they go.

decode (threads) ──▶ batches of one size ──▶ runner.stream ──▶ write (threads) ──▶ in order

A picture comes as a file or as anything that can be read; what becomes of its mask is said by the
function that is called on a thread for each.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import (
    BackendError,
    BatchShapeError,
    DeviceMemoryError,
    FcnDeployError,
    ImageError,
)
from fcn_deploy.data.metrics import uncertainty_of
from fcn_deploy.data.pipeline import (
    Batch,
    Picture,
    Readable,
    Unreadable,
    batches_of_one_size,
    decoded_ahead,
    in_order,
    lookahead,
    picture_threads,
    written_behind,
)
from fcn_deploy.runners.base import Outputs, Runner

#: Why one picture gets no mask while the others do: unreadable, beyond the backend's memory, or of
#: a size that the engine was not built for.
PredictionError = ImageError | BackendError | DeviceMemoryError | BatchShapeError
PREDICTION_ERRORS = (ImageError, BackendError, DeviceMemoryError, BatchShapeError)
#: Asked of an image, uint8 [H, W, 3], whose mask is of class 0 alone.
FiniteCheck = Callable[[NDArray[np.uint8]], bool]
_Done = TypeVar("_Done")


@dataclass(frozen=True, eq=False)
class Segmented:
    """A mask, with its picture where an overlay is wanted.

    Attributes:
        place: of the picture among the pictures, from 0.
        image: uint8 [H, W, 3], RGB, or None.
        mask: uint8 [H, W].
        seconds: since the network gave the mask before; all together are the time of the run.
        uncertainty: see ``uncertainty_of``; None where the runner gives no margin.
    """

    place: int
    image: NDArray[np.uint8] | None
    mask: NDArray[np.uint8]
    seconds: float
    uncertainty: float | None = None


@dataclass(frozen=True, eq=False)
class Failed:
    """A picture that gets no mask.

    Attributes:
        place: of the picture among the pictures, from 0.
        error: why.
    """

    place: int
    error: PredictionError


def segment(
    runner: Runner,
    pictures: Iterable[Path | Readable],
    write: Callable[[Segmented | Failed], _Done],
    *,
    keep_images: bool = False,
    batch_size: int = 1,
    has_finite_logits: FiniteCheck = lambda image: True,
) -> Iterator[_Done]:
    """Yield what ``write`` returns for each picture, in the order of the pictures.

    Args:
        runner: an open runner, asked from the caller's thread alone.
        pictures: of any sizes.
        write: called on a thread for each picture, with its mask or with why it has none.
        keep_images: whether ``write`` needs the pictures too.
        batch_size: most pictures to segment at once; those of a batch are of one size.
        has_finite_logits: see :func:`fcn_deploy.predict.folder.predict`.

    Raises:
        FcnDeployError: the runner failed in what concerns all pictures, or ``write`` did.
    """

    def written(answer: Segmented | Failed) -> tuple[int, _Done]:
        return answer.place, write(answer)

    ahead = lookahead(batch_size)
    # Threads of their own for writing: each write waits for the disk, and must hold up no decoding.
    with picture_threads() as readers, picture_threads() as writers:
        decoded = decoded_ahead(pictures, readers, ahead)
        answers = (
            _checked(answer, has_finite_logits, keep_image=keep_images)
            for answer in _answers(runner, decoded, batch_size)
        )
        # What is put in order has been written: no masks wait there.
        yield from in_order(written_behind(answers, written, writers, ahead, _nbytes))


#: Bytes of a pixel while its mask is written, and while an overlay is: the mask, the picture and
#: the overlay, once as arrays and once as Pillow's pictures.
_MASK_BYTES, _OVERLAY_BYTES = 2, 12


def _nbytes(answer: Segmented | Failed) -> int:
    if isinstance(answer, Failed):
        return 0
    return answer.mask.size * (_MASK_BYTES if answer.image is None else _OVERLAY_BYTES)


def _checked(
    answer: Segmented | Failed,
    has_finite_logits: FiniteCheck,
    *,
    keep_image: bool,
) -> Segmented | Failed:
    """Refuse a mask of logits that are not finite; let go of a picture that is needed no more."""
    if isinstance(answer, Failed):
        return answer
    assert answer.image is not None
    if not answer.mask.any() and not has_finite_logits(answer.image):
        return Failed(answer.place, not_finite())
    return answer if keep_image else replace(answer, image=None)


def not_finite() -> BackendError:
    """Return the error of a picture whose logits are not finite: a mask of them means nothing."""
    return BackendError(
        "the network's logits are not finite",
        "use float32 if that was half precision, else train anew with a smaller --lr",
    )


def _answers(
    runner: Runner, decoded: Iterable[Picture | Unreadable], batch_size: int
) -> Iterator[Segmented | Failed]:
    """Segment what can be read, and pass by the network what cannot."""
    unreadable: deque[Failed] = deque()

    def readable() -> Iterator[Picture]:
        for picture in decoded:
            if isinstance(picture, Unreadable):
                unreadable.append(Failed(picture.place, picture.error))
            else:
                yield picture

    for answer in _segmented(runner, batches_of_one_size(readable(), batch_size)):
        while unreadable:
            yield unreadable.popleft()
        yield answer
    yield from unreadable


def _segmented(runner: Runner, batches: Iterator[Batch]) -> Iterator[Segmented | Failed]:
    """Stream batches through the runner; after one that it refuses, go on with the next."""
    pace = _Pace()
    while True:
        in_flight: deque[Batch] = deque()
        try:
            for outputs in runner.stream(_images(batches, in_flight)):
                yield from _with_masks(in_flight.popleft(), outputs, pace)
            return
        except FcnDeployError as error:
            if not in_flight:
                raise
            # A stream raises in the place of the batch that it refuses, or that failed in it.
            refused, reason = in_flight.popleft(), error
        yield from _one_by_one(runner, refused, reason, pace)
        if in_flight:
            batches = itertools.chain(in_flight, batches)


class _Pace:
    """Seconds between one mask and the next."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def since_last(self) -> float:
        """Return the seconds since this was called last."""
        before, self._last = self._last, time.perf_counter()
        return self._last - before


def _images(batches: Iterable[Batch], in_flight: deque[Batch]) -> Iterator[NDArray[np.uint8]]:
    for batch in batches:
        in_flight.append(batch)
        yield batch.images


def _with_masks(batch: Batch, outputs: Outputs, pace: _Pace) -> Iterator[Segmented]:
    seconds = pace.since_last() / len(batch.places)
    each = zip(batch.places, batch.images, outputs.mask, strict=True)
    for at, (place, image, mask) in enumerate(each):
        uncertainty = None if outputs.margin is None else uncertainty_of(outputs.margin[at])
        yield Segmented(place, image, mask, seconds, uncertainty)


def _one_by_one(
    runner: Runner, batch: Batch, reason: FcnDeployError, pace: _Pace
) -> Iterator[Segmented | Failed]:
    """Segment the pictures of a batch that was refused: each may be small enough by itself."""
    if len(batch.places) == 1:
        yield _failed(batch.places[0], reason)
        return
    for place, image in zip(batch.places, batch.images, strict=True):
        try:
            outputs = runner.run(image[None])
        except FcnDeployError as error:
            yield _failed(place, error)
        else:
            yield from _with_masks(Batch((place,), image[None]), outputs, pace)


def _failed(place: int, error: FcnDeployError) -> Failed:
    """Report what concerns one picture; raise what concerns them all."""
    if not isinstance(error, PredictionError):
        raise error
    return Failed(place, error)
