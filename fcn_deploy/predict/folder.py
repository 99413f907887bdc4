"""Pictures on disk → masks on disk.

decode (threads) ──▶ batches of one size ──▶ runner.stream ──▶ write (threads) ──▶ Prediction
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import (
    BackendError,
    BatchShapeError,
    DeviceMemoryError,
    FcnDeployError,
    ImageError,
    InputError,
)
from fcn_deploy.data.masks import overlay, write_mask, write_picture, written_by_us
from fcn_deploy.data.pipeline import (
    Batch,
    Picture,
    Unreadable,
    batches_of_one_size,
    decoded_ahead,
    in_order,
    lookahead,
    picture_threads,
    written_behind,
)
from fcn_deploy.runners.base import Runner

#: Overlays lie apart from the masks, so that the folder of masks is one.
OVERLAY_FOLDER = "overlays"
#: Why one picture gets no mask while the others do: unreadable, beyond the backend's memory, or of
#: a size that the engine was not built for.
PredictionError = ImageError | BackendError | DeviceMemoryError | BatchShapeError


@dataclass(frozen=True)
class Prediction:
    """What became of one picture.

    Attributes:
        source: the picture.
        mask: the file written, or None where the picture could not be read or segmented.
        error: why not, or None.
    """

    source: Path
    mask: Path | None
    error: PredictionError | None = None


def predict(
    runner: Runner,
    pictures: Sequence[Path],
    out: Path,
    *,
    with_overlay: bool = False,
    full_names: bool = False,
    batch_size: int = 1,
    has_finite_logits: Callable[[NDArray[np.uint8]], bool] = lambda image: True,
) -> Iterator[Prediction]:
    """Segment pictures of any sizes and write palette PNG masks of the same size.

    Args:
        runner: an open runner.
        pictures: files; one that cannot be read is reported and the rest goes on.
        out: folder for ``NAME.png`` and, with overlays, ``overlays/NAME.png``.
        with_overlay: also write the mask blended over its picture.
        full_names: name each mask after its picture's folder and suffix too; see
            :func:`mask_paths`.
        batch_size: most pictures to segment at once; those of a batch are of one size.
        has_finite_logits: asked of an image, uint8 [H, W, 3], whose mask is of class 0 alone: that
            is what the argmax of numbers that are none gives.  Where it says no, the picture gets
            no mask.

    Yields:
        One :class:`Prediction` per picture, in the order of the pictures, as it is done.

    Raises:
        InputError: two pictures would be written to one file, or a file that is none of ours
            would be overwritten; nothing has been written then.
        ArtifactError: ``out`` cannot be written.
    """
    targets = mask_paths(pictures, out, full_names=full_names)
    overlays = _overlay_paths(targets, out) if with_overlay else []
    _refuse_foreign([*targets, *overlays])

    def write(answer: _Segmented | _Failed) -> tuple[int, Prediction]:
        source, target = pictures[answer.place], targets[answer.place]
        if isinstance(answer, _Failed):
            return answer.place, Prediction(source, None, answer.error)
        palette = runner.spec.palette
        write_mask(target, answer.mask, palette)
        if answer.image is not None:
            blended = overlay(answer.image, answer.mask, palette)
            write_picture(overlays[answer.place], blended)
        return answer.place, Prediction(source, target)

    ahead = lookahead(batch_size)
    # Threads of their own for writing: each write waits for the disk, and must hold up no decoding.
    with picture_threads() as readers, picture_threads() as writers:
        decoded = decoded_ahead(pictures, readers, ahead)
        answers = (
            _checked(answer, has_finite_logits, keep_image=with_overlay)
            for answer in _answers(runner, decoded, batch_size)
        )
        # What is put in order are predictions, not masks: those are on the disk by then.
        yield from in_order(written_behind(answers, write, writers, ahead, _nbytes))


@dataclass(frozen=True, eq=False)
class _Segmented:
    """A mask, with its picture where an overlay is wanted."""

    place: int
    image: NDArray[np.uint8] | None
    mask: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class _Failed:
    """A picture that gets no mask."""

    place: int
    error: PredictionError


#: Bytes of a pixel while its mask is written, and while an overlay is: the mask, the picture and
#: the overlay, once as arrays and once as Pillow's pictures.
_MASK_BYTES, _OVERLAY_BYTES = 2, 12


def _nbytes(answer: _Segmented | _Failed) -> int:
    if isinstance(answer, _Failed):
        return 0
    return answer.mask.size * (_MASK_BYTES if answer.image is None else _OVERLAY_BYTES)


def _checked(
    answer: _Segmented | _Failed,
    has_finite_logits: Callable[[NDArray[np.uint8]], bool],
    *,
    keep_image: bool,
) -> _Segmented | _Failed:
    """Refuse a mask of logits that are not finite; let go of a picture that is needed no more."""
    if isinstance(answer, _Failed):
        return answer
    assert answer.image is not None
    if not answer.mask.any() and not has_finite_logits(answer.image):
        return _Failed(answer.place, _not_finite())
    return answer if keep_image else replace(answer, image=None)


def _not_finite() -> BackendError:
    return BackendError(
        "the network's logits are not finite",
        "use float32 if that was half precision, else train anew with a smaller --lr",
    )


def _answers(
    runner: Runner, decoded: Iterable[Picture | Unreadable], batch_size: int
) -> Iterator[_Segmented | _Failed]:
    """Segment what can be read, and pass by the network what cannot."""
    unreadable: deque[_Failed] = deque()

    def readable() -> Iterator[Picture]:
        for picture in decoded:
            if isinstance(picture, Unreadable):
                unreadable.append(_Failed(picture.place, picture.error))
            else:
                yield picture

    for answer in _segmented(runner, batches_of_one_size(readable(), batch_size)):
        while unreadable:
            yield unreadable.popleft()
        yield answer
    yield from unreadable


def _segmented(runner: Runner, batches: Iterator[Batch]) -> Iterator[_Segmented | _Failed]:
    """Stream batches through the runner; after one that it refuses, go on with the next."""
    while True:
        in_flight: deque[Batch] = deque()
        try:
            for outputs in runner.stream(_images(batches, in_flight)):
                yield from _with_masks(in_flight.popleft(), outputs.mask)
            return
        except FcnDeployError as error:
            if not in_flight:
                raise
            # A stream raises in the place of the batch that it refuses, or that failed in it.
            refused, reason = in_flight.popleft(), error
        yield from _one_by_one(runner, refused, reason)
        if in_flight:
            batches = itertools.chain(in_flight, batches)


def _images(batches: Iterable[Batch], in_flight: deque[Batch]) -> Iterator[NDArray[np.uint8]]:
    for batch in batches:
        in_flight.append(batch)
        yield batch.images


def _with_masks(batch: Batch, masks: NDArray[np.uint8]) -> Iterator[_Segmented]:
    for place, image, mask in zip(batch.places, batch.images, masks, strict=True):
        yield _Segmented(place, image, mask)


def _one_by_one(
    runner: Runner, batch: Batch, reason: FcnDeployError
) -> Iterator[_Segmented | _Failed]:
    """Segment the pictures of a batch that was refused: each may be small enough by itself."""
    if len(batch.places) == 1:
        yield _failed(batch.places[0], reason)
        return
    for place, image in zip(batch.places, batch.images, strict=True):
        try:
            mask = runner.run(image[None]).mask[0]
        except FcnDeployError as error:
            yield _failed(place, error)
        else:
            yield _Segmented(place, image, mask)


def _failed(place: int, error: FcnDeployError) -> _Failed:
    """Report what concerns one picture; raise what concerns them all."""
    if not isinstance(error, PredictionError):
        raise error
    return _Failed(place, error)


def _overlay_paths(targets: Sequence[Path], out: Path) -> list[Path]:
    overlays = [out / OVERLAY_FOLDER / target.relative_to(out) for target in targets]
    if both := set(targets).intersection(overlays):
        raise InputError(
            f"a mask and an overlay would both be written to {min(both)}",
            f"rename the folder {OVERLAY_FOLDER} of the pictures",
        )
    return overlays


def _refuse_foreign(targets: Sequence[Path]) -> None:
    for target in targets:
        if target.exists() and not written_by_us(target):
            raise InputError(
                f"{target} exists and was not written by fcn-deploy",
                "choose another folder with --out",
            )


def mask_paths(pictures: Sequence[Path], out: Path, *, full_names: bool = False) -> list[Path]:
    """Return the mask's path for each picture.

    Args:
        pictures: files, each once.
        out: the folder of the masks.
        full_names: ``a.jpg.png`` in place of ``a.png``; where the pictures come from several
            folders, in folders that lie below ``out`` as theirs do below the one they share.

    Raises:
        InputError: two would be the same, or one would replace a picture.
    """
    if full_names:
        folders = [picture.parent.resolve() for picture in pictures]
        shared = os.path.commonpath(folders) if folders else ""
        names = [
            folder.relative_to(shared) / f"{picture.name}.png"
            for folder, picture in zip(folders, pictures, strict=True)
        ]
    else:
        names = [Path(f"{picture.stem}.png") for picture in pictures]
    owner: dict[Path, Path] = {}
    sources = {picture.resolve() for picture in pictures}
    for picture, name in zip(pictures, names, strict=True):
        target = out / name
        if target in owner:
            raise InputError(
                f"{owner[target]} and {picture} would both be written to {target}",
                "add --full-names, which tells suffixes and folders apart",
            )
        if target.resolve() in sources:
            raise InputError(
                f"the mask {target} would overwrite its picture", "choose another folder with --out"
            )
        owner[target] = picture
    return list(owner)
