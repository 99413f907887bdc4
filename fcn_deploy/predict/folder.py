"""Files on disk → masks on disk: :func:`predict`, for whoever has a list of pictures.

With a journal, so that the work can be resumed and shared out: :mod:`fcn_deploy.predict.job`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcn_deploy.core.errors import InputError
from fcn_deploy.predict.batches import ItemBatch, MaskNames
from fcn_deploy.predict.items import FileItem, file_item
from fcn_deploy.predict.masks_on_disk import MasksOnDisk, existing_masks
from fcn_deploy.predict.selection import select
from fcn_deploy.predict.stream import (
    Failed,
    FiniteCheck,
    PredictionError,
    Segmented,
    segment,
)
from fcn_deploy.runners.base import Runner


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
    has_finite_logits: FiniteCheck = lambda image: True,
) -> Iterator[Prediction]:
    """Segment pictures of any sizes and write palette PNG masks of the same size.

    Args:
        runner: an open runner.
        pictures: files, each once; one that cannot be read is reported and the rest goes on.
        out: folder for ``NAME.png`` and, with overlays, ``overlays/NAME.png``.
        with_overlay: also write the mask blended over its picture.
        full_names: ``a.jpg.png`` in place of ``a.png``; where the pictures come from several
            folders, in folders that lie below ``out`` as theirs do below the one they share.
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
    masks = _mask_names(pictures, out, full_names=full_names)
    existing_masks(out, masks, with_overlay=with_overlay)
    sink = MasksOnDisk(out, masks, runner.spec.palette)

    def write(answer: Segmented | Failed) -> Prediction:
        source, written = pictures[answer.place], sink.write_or_fail(answer)
        if isinstance(written, Failed):
            return Prediction(source, None, written.error)
        return Prediction(source, written)

    yield from segment(
        runner,
        pictures,
        write,
        keep_images=with_overlay,
        batch_size=batch_size,
        has_finite_logits=has_finite_logits,
    )


def _mask_names(pictures: Sequence[Path], out: Path, *, full_names: bool) -> list[str]:
    items = [file_item(picture.as_posix()) for picture in pictures]
    names = MaskNames(_shared_folder(items) if full_names else None)
    masks = select(lambda: [ItemBatch(items)], names, out).masks
    if len(masks) < len(pictures):
        raise InputError(
            f"a picture was named twice, or is a mask in {out}", "name each picture once"
        )
    return masks


def _shared_folder(items: Sequence[FileItem]) -> str:
    return os.path.commonpath({item.folder for item in items}) if items else ""
