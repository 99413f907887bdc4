"""What one film becomes: its masks, the shares of its classes over time, an overlay.

All of it is written in a hidden folder, and gets its name when it is whole, the masks last.
"""

from __future__ import annotations

import csv
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from fcn_deploy.core.errors import ImageError, InputError
from fcn_deploy.core.files import write_error
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.masks import overlay, write_mask, written_by_us
from fcn_deploy.predict.engine import class_shares
from fcn_deploy.predict.masks_on_disk import give_name, remove
from fcn_deploy.predict.selection import OVERLAY_FOLDER
from fcn_deploy.predict.stream import Failed, Segmented
from fcn_deploy.predict.video.decode import Film, Frame
from fcn_deploy.predict.video.encode import FilmWriter, MaskFilm, film_written_by_us, overlay_film

#: How a CSV of ours begins.
_FIRST_COLUMNS = ("frame", "seconds")
#: A frame and its mask, or why it has none.
Answered = tuple[Frame, Segmented | Failed]


@dataclass(frozen=True)
class FilmPlaces:
    """Where the masks of a film (or their folder), its CSV and its overlay get their names, all
    below one folder."""

    out: Path
    masks: Path
    shares: Path
    overlay: Path

    @classmethod
    def of(cls, out: Path, mask: str) -> FilmPlaces:
        """Return the places for a mask's path below a folder."""
        base = mask.removesuffix(".mkv")
        return cls(out, out / mask, out / f"{base}.csv", out / OVERLAY_FOLDER / f"{base}.mkv")

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
            remove(path)


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


class FilmOutputs:
    """Writes the results of one film, in a folder of its own, until they are whole."""

    def __init__(
        self, film: Film, folder: Path, places: FilmPlaces, spec: ModelSpec, *, with_overlay: bool
    ) -> None:
        self._film, self._folder, self._places = film, folder, places
        self._classes, self._palette = tuple(spec.class_names), spec.palette
        self._with_overlay = with_overlay
        self._as_frames = places.masks.suffix != ".mkv"
        self._masks = self._broken = 0
        self._size: tuple[int, int] | None = None
        self._first_error: str | None = None
        self._totals = np.zeros(len(self._classes))
        self._mask_film: MaskFilm | None = None
        self._overlay_film: FilmWriter | None = None
        try:
            (folder / "frames").mkdir(parents=True)
            self._csv: TextIO = (folder / "shares.csv").open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise write_error(folder, error, flags="--out") from error
        self._rows = csv.writer(self._csv, lineterminator="\n")
        self._rows.writerow((*_FIRST_COLUMNS, *self._classes, "error"))

    def prepare(self, frame: Frame, answer: Segmented | Failed) -> Answered:
        """Do what can be done on any thread and in any order; a picture becomes its overlay."""
        if isinstance(answer, Segmented):
            if self._as_frames:
                path = self._folder / "frames" / f"{frame.number:06}.png"
                write_mask(path, answer.mask, self._palette)
            if answer.image is not None:
                blended = overlay(answer.image, answer.mask, self._palette)
                answer = replace(answer, image=blended)
        return frame, answer

    def write(self, prepared: Answered) -> None:
        """Write a frame's results: in the order of the frames, never on two threads at once."""
        frame, answer = prepared
        seconds = self._film.seconds(frame.stamp)
        place = frame.number, "" if seconds is None else f"{seconds:.6f}"
        if isinstance(answer, Failed):
            error = frame.error or str(answer.error)
        elif self._as_frames or self._size in (None, answer.mask.shape):
            assert frame.stamp is not None  # only broken frames have none
            shares = self._write_mask(answer, frame.stamp)
            self._rows.writerow((*place, *shares, ""))
            return
        else:
            error = "its size is another than that of the frames before"
        self._broken += 1
        self._first_error = self._first_error or error
        self._rows.writerow((*place, *("" for _ in self._classes), error))

    def _write_mask(self, answer: Segmented, stamp: int) -> list[float]:
        """Write a mask and its overlay, and return the share of each class."""
        mask = answer.mask
        if self._size is None:
            size = mask.shape[0], mask.shape[1]
            pace = self._film.time_base, self._film.rate
            if not self._as_frames:
                self._mask_film = MaskFilm(self._folder / "masks.mkv", size, *pace)
            if self._with_overlay:
                self._overlay_film = overlay_film(self._folder / "overlay.mkv", size, *pace)
        self._size = mask.shape[0], mask.shape[1]
        if self._mask_film is not None:
            self._mask_film.write(mask, stamp)
        if self._overlay_film is not None and answer.image is not None:
            self._overlay_film.write(answer.image, stamp)
        found = class_shares(mask, self._classes)
        shares = [found.get(name, 0.0) for name in self._classes]
        self._totals += shares
        self._masks += 1
        return shares

    def values(self) -> dict[str, Any]:
        """Return what the journal says: size, numbers of frames, the mean share of each class."""
        assert self._size is not None
        shares = {
            name: round(total / self._masks, 6)
            for name, total in zip(self._classes, self._totals.tolist(), strict=True)
            if total
        }
        return {
            "size": list(self._size),
            "shares": shares,
            "frames": self._masks,
            "broken": self._broken,
        }

    def finish(self) -> None:
        """Give the results their names; those of an earlier run make room.

        Raises:
            ImageError: no frame has a mask, or the masks cannot have their name.
            ArtifactError: the masks are read back otherwise, or cannot be named.
        """
        if not self._masks:
            raise ImageError(
                f"no frame of {self._film.name} has a mask "
                f"({self._first_error or self._film.ended_early or 'it has none'})"
            )
        self._csv.close()
        if self._mask_film is not None:
            self._mask_film.close()
        if self._overlay_film is not None:
            self._overlay_film.close()
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
        except OSError as error:
            raise write_error(written, error, flags="--out") from error
        if self._as_frames and target == self._places.masks:
            self._make_room(target)
        give_name(written, target, self._places.out)

    def _make_room(self, frames: Path) -> None:
        """Take the frames of an earlier run away: a folder that is not empty is not replaced."""
        try:
            os.replace(frames, self._folder / "before")
        except OSError:  # there is none, or it lies on another file system
            remove(frames)

    def abandon(self) -> None:
        """Remove what was written, where it is not to be named."""
        for film in (self._mask_film, self._overlay_film):
            if film is not None:
                film.abandon()
        self._csv.close()
        shutil.rmtree(self._folder, ignore_errors=True)
