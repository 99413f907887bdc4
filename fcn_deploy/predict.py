"""Pictures on disk → masks on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcn_deploy.errors import BackendError, ImageError, InputError
from fcn_deploy.images import read_image
from fcn_deploy.masks import overlay, write_mask, write_picture, written_by_us
from fcn_deploy.runners.base import Runner

#: Overlays lie apart from the masks, so that the folder of masks is one.
OVERLAY_FOLDER = "overlays"


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
    error: ImageError | BackendError | None = None


def predict(
    runner: Runner, pictures: Sequence[Path], out: Path, *, with_overlay: bool = False
) -> Iterator[Prediction]:
    """Segment pictures of any sizes and write palette PNG masks of the same size.

    Args:
        runner: an open runner.
        pictures: files; one that cannot be read is reported and the rest goes on.
        out: folder for ``NAME.png`` and, with overlays, ``overlays/NAME.png``.
        with_overlay: also write the mask blended over its picture.

    Yields:
        One :class:`Prediction` per picture, as it is done.

    Raises:
        InputError: two pictures would be written to one file, or a file that is none of ours
            would be overwritten; nothing has been written then.
        ArtifactError: ``out`` cannot be written.
    """
    targets = mask_paths(pictures, out)
    overlays = [out / OVERLAY_FOLDER / target.name for target in targets]
    _refuse_foreign(targets + (overlays if with_overlay else []))
    for source, target, blended_target in zip(pictures, targets, overlays, strict=True):
        try:
            image = read_image(source)
            mask = runner.run(image[None]).mask[0]
        except (ImageError, BackendError) as error:  # unreadable, or too large for the memory
            yield Prediction(source, None, error)
            continue
        write_mask(target, mask, runner.spec.palette)
        if with_overlay:
            write_picture(blended_target, overlay(image, mask, runner.spec.palette))
        yield Prediction(source, target)


def _refuse_foreign(targets: Sequence[Path]) -> None:
    for target in targets:
        if target.exists() and not written_by_us(target):
            raise InputError(
                f"{target} exists and was not written by fcn-deploy",
                "choose another folder with --out",
            )


def mask_paths(pictures: Sequence[Path], out: Path) -> list[Path]:
    """Return the mask's path for each picture.

    Raises:
        InputError: two would be the same, or one would replace a picture.
    """
    owner: dict[Path, Path] = {}
    sources = {picture.resolve() for picture in pictures}
    for picture in pictures:
        target = out / f"{picture.stem}.png"
        if target in owner:
            raise InputError(
                f"{owner[target]} and {picture} would both be written to {target}",
                "predict them into different folders with --out",
            )
        if target.resolve() in sources:
            raise InputError(
                f"the mask {target} would overwrite its picture", "choose another folder with --out"
            )
        owner[target] = picture
    return list(owner)
