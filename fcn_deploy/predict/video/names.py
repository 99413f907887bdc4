"""Which words name a film or a live source, and what their masks are called.

film.mp4, film.mov, …             a film, by its suffix
camera:0, /dev/video0             a webcam
rtsp://…, http://…, https://…     a stream
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ImageError, InputError
from fcn_deploy.predict.batches import MaskNames
from fcn_deploy.predict.items import Before, FileItem, Item, unreadable
from fcn_deploy.results.predictions import state_of

#: How names of films end, in lower case.
FILM_SUFFIXES = frozenset(
    (
        ".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts",
        ".wmv", ".flv", ".ogv", ".3gp", ".y4m",
    )
)  # fmt: skip
_STREAM = re.compile(r"(rtsps?|https?)://", re.IGNORECASE)
_CAMERA = re.compile(r"(?:camera:|/dev/video)(\d+)")


def is_live(word: str) -> bool:
    """Say whether a word names a webcam or a stream."""
    return bool(_STREAM.match(word) or _CAMERA.fullmatch(word))


def is_film(word: str) -> bool:
    """Say whether a word names a film or a live source."""
    path = Path(word)
    return is_live(word) or (path.suffix.lower() in FILM_SUFFIXES and not path.is_dir())


def films_of(words: Sequence[str]) -> list[FilmItem | LiveItem]:
    """Return the films that a run's sources are; none where these are pictures.

    Raises:
        InputError: both are or a live source is not alone.
        ImageError: a film is not there.
    """
    films = [word for word in words if is_film(word)]
    if not films:
        return []
    if len(films) < len(words):
        other = next(word for word in words if word not in films)
        raise InputError(
            f"{_item(films[0]).name} is a film and {other} is none",
            "name films and pictures in runs of their own, each with its --out",
        )
    if any(map(is_live, films)) and len(films) > 1:
        raise InputError("a live source is a run of its own", "name one source")
    return [_item(word) for word in films]


def _item(word: str) -> FilmItem | LiveItem:
    if is_live(word):
        return LiveItem(word)
    if not Path(word).exists():
        raise ImageError(f"no such file or folder: {word}", "check the path")
    name = Path(word).as_posix()
    return FilmItem(name, name.rfind("/") + 1)


class FilmItem(FileItem):
    """A film that is a file."""

    __slots__ = ()

    format = None

    @property
    def address(self) -> str:
        """What is opened: a name with a colon must not be taken for a protocol."""
        return f"file:{self.name}"


class LiveItem(Item):
    """A webcam or a stream, named without user, password and query; its masks by the time too."""

    __slots__ = ("address", "format")

    def __init__(self, word: str) -> None:
        self.address, self.format = word, None
        if camera := _CAMERA.fullmatch(word):
            self.address, self.format = f"/dev/video{int(camera[1])}", "v4l2"
            name = f"camera:{camera[1]}"
        else:
            try:
                parts = urlsplit(word)
                port = "" if parts.port is None else f":{parts.port}"
            except ValueError:
                parts = None
            if parts is None or not parts.hostname:
                raise InputError(
                    "the address of the stream is none",
                    "write rtsp://HOST:PORT/PATH, with / # ? @ of a password as %2F %23 %3F %40",
                )
            name = f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
        super().__init__(name, 0)

    @property
    def base(self) -> str:
        """The name as a file's, with the time in UTC."""
        words = re.sub(r"[^A-Za-z0-9]+", "-", self.name.partition("://")[2] or self.name)
        return f"{words.strip('-')}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"

    @property
    def folder(self) -> str:
        """The current folder."""
        return str(Path.cwd())

    def state(self) -> int:
        """Return a number that no other recording has."""
        return state_of(0, time.time_ns())

    def modified_ns(self) -> int:
        """Return the time."""
        return time.time_ns()

    def read(self, before: Before) -> NDArray[np.uint8]:
        """Raise: it is no picture."""
        raise unreadable(self.name, "it is a live source")


class FilmNames(MaskNames):
    """The path of each film's masks: ``film.mkv``, or the folder ``film`` with one PNG a frame."""

    def __init__(self, items: Iterable[Item], *, as_frames: bool, full_names: bool) -> None:
        folders = {item.folder for item in items} if full_names else ()
        super().__init__(os.path.commonpath(folders) if folders else None)
        self._suffix = "" if as_frames else ".mkv"
        self._live: dict[str, str] = {}  # named once, since time passes

    def of(self, item: Item) -> str:
        """Return the path of a film's masks."""
        if isinstance(item, LiveItem):
            return self._live.setdefault(item.name, item.base) + self._suffix
        name = super().of(item).removesuffix(".png")
        if not self._suffix and name.endswith(".mkv"):
            name += ".frames"  # a name with .mkv is that of a film of masks
        return name + self._suffix
