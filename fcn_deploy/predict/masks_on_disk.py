"""MasksOnDisk: a palette PNG for each picture, whole or not at all, and overlays."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fcn_deploy.core.errors import ImageError, InputError
from fcn_deploy.core.files import write_error
from fcn_deploy.data.masks import Palette, overlay, write_mask, write_picture, written_by_us
from fcn_deploy.predict.selection import OVERLAY_FOLDER
from fcn_deploy.predict.stream import Failed, Segmented

#: What is wrong with one name alone: it is too long, or a folder and a mask would be one.
_NAME_ERRORS = (
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY,
)  # fmt: skip


class MasksOnDisk:
    """Writes masks, and beside them overlays where pictures are kept.

    Args:
        out: the folder of the masks.
        masks: the path of each picture's mask below it.
        palette: RGB per class.
        unfinished: a folder in ``out`` for files that have no name yet, so that what a kill leaves
            lies in one place; None: beside the masks.
    """

    def __init__(
        self, out: Path, masks: Sequence[str], palette: Palette, unfinished: Path | None = None
    ) -> None:
        self._out = out
        self._masks = masks
        self._palette = palette
        self._unfinished = unfinished
        self._made: set[str] = set()

    def write(self, answer: Segmented) -> Path:
        """Write the mask of one picture and return its path.

        The overlay is written first: where there is a mask, there is its overlay.

        Raises:
            ImageError: its name cannot be one.
            ArtifactError: it cannot be written.
        """
        name = self._masks[answer.place]
        if answer.image is not None:
            blended = overlay(answer.image, answer.mask, self._palette)
            place = self._place(f"{OVERLAY_FOLDER}/{name}", answer.place)
            write_picture(place, blended)
            self._moved(place, f"{OVERLAY_FOLDER}/{name}")
        place = self._place(name, answer.place)
        write_mask(place, answer.mask, self._palette)
        return self._moved(place, name)

    def _place(self, name: str, number: int) -> Path:
        if self._unfinished is None:
            return self._out / name
        return self._unfinished / f"{number}{name[-4:]}"

    def _moved(self, written: Path, name: str) -> Path:
        target = self._out / name
        if self._unfinished is None:
            return target
        folder = name.rpartition("/")[0]
        give_name(written, target, self._out, make_folder=folder not in self._made)
        self._made.add(folder)
        return target

    @contextmanager
    def written_in_parts(self, place: int) -> Iterator[Path]:
        """Yield where to write the mask of a map; it gets its name if the block succeeds.

        Raises:
            ImageError: its name cannot be one.
            ArtifactError: it cannot be written.
        """
        name = self._masks[place]
        path = self._place(name, place)
        try:
            yield path
            self._moved(path, name)
        finally:
            if self._unfinished is not None:
                path.unlink(missing_ok=True)

    def write_or_fail(self, answer: Segmented | Failed) -> Path | Failed:
        """Write a mask and return its path; or return why there is none.

        Of a picture without a mask, that of an earlier run is removed: it is of another picture,
        or of another model.

        Raises:
            ArtifactError: it cannot be written.
        """
        if isinstance(answer, Segmented):
            try:
                return self.write(answer)
            except ImageError as error:
                answer = Failed(answer.place, error)
        name = self._masks[answer.place]
        for path in (self._out / name, self._out / OVERLAY_FOLDER / name):
            with suppress(OSError):  # there is none
                path.unlink()
        return answer


def give_name(written: Path, target: Path, out: Path, *, make_folder: bool = True) -> None:
    """Give what is whole its name below the folder of the masks.

    Raises:
        ImageError: it cannot have this name.
        ArtifactError: it cannot be written.
    """
    try:
        if make_folder:
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(written, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # The folder is a link to another file system: there it is made whole once more.
            _copy_under(written, target)
    except OSError as error:
        if error.errno in _NAME_ERRORS and out.is_dir():
            raise ImageError(
                f"the mask cannot be called {target} ({error.strerror})",
                "rename the picture, or choose other names with --full-names or without",
            ) from error
        raise write_error(target, error, flags="--out") from error


def _copy_under(written: Path, target: Path) -> None:
    """Move a file, or a folder of files, to another file system, whole or not at all."""
    copy = target.with_name(f".{secrets.token_hex(4)}{target.suffix}")
    try:
        if written.is_dir():
            copy.mkdir()
            for file in written.iterdir():
                shutil.copyfile(file, copy / file.name)
        else:
            shutil.copyfile(written, copy)
            with copy.open("rb+") as stream:
                os.fsync(stream.fileno())
        os.replace(copy, target)
    except BaseException:
        remove(copy)
        raise
    remove(written)


def remove(path: Path) -> None:
    """Remove a file or a folder, where there is one; a name may be too long to be one."""
    if os.path.isdir(path):  # noqa: PTH112 (Path.is_dir raises for such names)
        shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):  # there is none
        path.unlink()


def existing_masks(out: Path, masks: Sequence[str], *, with_overlay: bool) -> list[int]:
    """Return the places of the masks that are there already and were written by us.

    Raises:
        InputError: a file that is none of ours would be replaced, or a mask and an overlay are one.
    """
    if with_overlay:
        _refuse_both(out, masks)
    if not out.exists():
        return []
    found: list[int] = []
    folder = str(out)
    for place, mask in enumerate(masks):
        if os.path.lexists(f"{folder}/{mask}"):
            _require_ours(out / mask)
            found.append(place)
        if with_overlay:
            _require_ours(out / OVERLAY_FOLDER / mask)
    return found


def _refuse_both(out: Path, masks: Sequence[str]) -> None:
    inside = [mask for mask in masks if mask.startswith(f"{OVERLAY_FOLDER}/")]
    if inside and (both := {mask.partition("/")[2] for mask in inside}.intersection(masks)):
        raise InputError(
            f"a mask and an overlay would both be written to {out / OVERLAY_FOLDER / min(both)}",
            f"rename the folder {OVERLAY_FOLDER} of the pictures",
        )


def _require_ours(target: Path) -> None:
    if target.is_file() and not written_by_us(target):
        raise InputError(
            f"{target} exists and was not written by fcn-deploy",
            "choose another folder with --out",
        )
