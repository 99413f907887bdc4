"""What one film becomes: its masks, the shares of its classes over time, an overlay.

All of it is written in a hidden folder, and gets its name when it is whole, the masks last.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ImageError, InputError
from fcn_deploy.core.files import write_error
from fcn_deploy.data.masks import Palette, overlay, write_mask, written_by_us
from fcn_deploy.predict.engine import class_shares
from fcn_deploy.predict.selection import OVERLAY_FOLDER
from fcn_deploy.predict.stream import Failed, Segmented
from fcn_deploy.predict.video.decode import Film, Frame
from fcn_deploy.predict.video.encode import MaskFilm, OverlayFilm, film_written_by_us

#: How a CSV of ours begins.
_FIRST_COLUMNS = ("frame", "seconds")


@dataclass(frozen=True)
class FilmPlaces:
    """Where the masks of a film (or their folder), its CSV and its overlay get their names."""

    masks: Path
    shares: Path
    overlay: Path

    @classmethod
    def of(cls, out: Path, mask: str) -> FilmPlaces:
        """Return the places for a mask's path below a folder."""
        base = mask.removesuffix(".mkv")
        return cls(out / mask, out / f"{base}.csv", out / OVERLAY_FOLDER / f"{base}.mkv")

    def require_ours(self) -> None:
        """Refuse to replace what we have not written."""
        for path, ours in (
            (self.masks, _masks_are_ours),
            (self.shares, _shares_are_ours),
            (self.overlay, film_written_by_us),
        ):
            if os.path.lexists(path) and not ours(path):
                raise InputError(
                    f"{path} exists and was not written by fcn-deploy",
                    "choose another folder with --out",
                )

    def remove(self) -> None:
        """Remove what an earlier run wrote."""
        for path in (self.masks, self.shares, self.overlay):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):  # there is none
                path.unlink()


def _masks_are_ours(path: Path) -> bool:
    if not path.is_dir():
        return path.suffix == ".mkv" and film_written_by_us(path)
    names = sorted(os.listdir(path))  # noqa: PTH208 (names alone)
    return all(name.endswith(".png") and name[:-4].isdigit() for name in names) and (
        not names or written_by_us(path / names[0])
    )


def _shares_are_ours(path: Path) -> bool:
    with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8") as stream:
        return stream.readline().startswith(",".join(_FIRST_COLUMNS) + ",")
    return False


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a frame became, before it is written in its turn."""

    frame: Frame
    mask: NDArray[np.uint8] | None = None
    shares: Mapping[str, float] | None = None
    blended: NDArray[np.uint8] | None = None
    error: str | None = None

    def nbytes(self) -> int:
        """Return how many bytes it holds until it is written."""
        return sum(array.nbytes for array in (self.mask, self.blended) if array is not None)


class FilmOutputs:
    """Writes the results of one film, in a folder of its own, until they are whole.

    Attributes:
        masks, broken: how many frames have a mask, and none.
        size: (height, width) of the masks, or None.
    """

    def __init__(
        self,
        film: Film,
        folder: Path,
        places: FilmPlaces,
        classes: Sequence[str],
        palette: Palette,
        *,
        with_overlay: bool,
    ) -> None:
        self._film, self._folder, self._places = film, folder, places
        self._classes, self._palette = tuple(classes), palette
        self._with_overlay = with_overlay
        self._as_frames = places.masks.suffix != ".mkv"
        self.masks = self.broken = 0
        self.first_error: str | None = None
        self.size: tuple[int, int] | None = None
        self._totals = np.zeros(len(self._classes))
        self._mask_film: MaskFilm | None = None
        self._overlay_film: OverlayFilm | None = None
        try:
            (folder / "frames").mkdir(parents=True)
            self._csv: TextIO = (folder / "shares.csv").open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise write_error(folder, error, flags="--out") from error
        self._rows = csv.writer(self._csv, lineterminator="\n")
        self._rows.writerow((*_FIRST_COLUMNS, *self._classes, "error"))

    def prepare(self, frame: Frame, answer: Segmented | Failed) -> Prepared:
        """Do what can be done on any thread and in any order."""
        if isinstance(answer, Failed):
            return Prepared(frame, error=frame.error or str(answer.error))
        blended = None
        if self._with_overlay and answer.image is not None:
            blended = overlay(answer.image, answer.mask, self._palette)
        if self._as_frames:
            write_mask(
                self._folder / "frames" / f"{frame.number:06}.png", answer.mask, self._palette
            )
        return Prepared(frame, answer.mask, class_shares(answer.mask, self._classes), blended)

    def add(self, prepared: Prepared) -> Prepared:
        """Write a frame's results: in the order of the frames, never on two threads at once."""
        frame, mask, error = prepared.frame, prepared.mask, prepared.error
        if mask is not None and not self._as_frames and self.size not in (None, mask.shape):
            error = "its size is another than that of the frames before"
        seconds = self._film.seconds(frame.stamp)
        time = "" if seconds is None else f"{seconds:.6f}"
        if mask is None or error is not None:
            self.broken += 1
            self.first_error = self.first_error or error
            self._rows.writerow((frame.number, time, *("" for _ in self._classes), error))
            return prepared
        assert prepared.shares is not None
        assert frame.stamp is not None  # only broken frames have none
        shares = [prepared.shares.get(name, 0.0) for name in self._classes]
        self._rows.writerow((frame.number, time, *shares, ""))
        self._totals += shares
        self.size = mask.shape[0], mask.shape[1]
        self.masks += 1
        if not self._as_frames:
            self._masks_to(self.size).write(mask, frame.stamp)
        if prepared.blended is not None:
            self._overlays_to(self.size).write(prepared.blended, frame.stamp)
        return prepared

    def _masks_to(self, size: tuple[int, int]) -> MaskFilm:
        if self._mask_film is None:
            self._mask_film = MaskFilm(
                self._folder / "masks.mkv",
                size, self._film.time_base, self._film.rate,
            )  # fmt: skip
        return self._mask_film

    def _overlays_to(self, size: tuple[int, int]) -> OverlayFilm:
        if self._overlay_film is None:
            self._overlay_film = OverlayFilm(
                self._folder / "overlay.mkv", size, self._film.time_base, self._film.rate
            )
        return self._overlay_film

    def shares(self) -> dict[str, float]:
        """Return the mean share of each class that occurs."""
        return {
            name: round(total / self.masks, 6)
            for name, total in zip(self._classes, self._totals.tolist(), strict=True)
            if total
        }

    def finish(self) -> None:
        """Give the results their names; those of an earlier run make room.

        Raises:
            ImageError: no frame has a mask.
            ArtifactError: the masks are read back otherwise, or cannot be named.
        """
        if not self.masks:
            raise ImageError(
                f"no frame of {self._film.name} has a mask "
                f"({self.first_error or self._film.ended_early or 'it has none'})"
            )
        self._csv.close()
        if self._mask_film is not None:
            self._mask_film.close()
        if self._overlay_film is not None:
            self._overlay_film.close()
        if self._overlay_film is not None:
            self._named("overlay.mkv", self._places.overlay)
        self._named("shares.csv", self._places.shares)
        self._named("frames" if self._as_frames else "masks.mkv", self._places.masks)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _named(self, name: str, target: Path) -> None:
        written = self._folder / name
        try:
            if written.is_file():
                with written.open("rb+") as stream:
                    os.fsync(stream.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            if written.is_dir() and target.is_dir():
                os.replace(target, self._folder / "before")
            os.replace(written, target)
        except OSError as error:
            raise write_error(target, error, flags="--out") from error

    def abandon(self) -> None:
        """Remove what was written, where it is not to be named."""
        for film in (self._mask_film, self._overlay_film):
            if film is not None:
                film.abandon()
        self._csv.close()
        shutil.rmtree(self._folder, ignore_errors=True)
