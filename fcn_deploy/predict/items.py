"""Item: one picture to be segmented, by a stable name and a way to read it.

A file is one, and so is a member of an archive.  A further kind needs a subclass that says where
the picture lies, what tells that it has changed, and how it is read.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ImageError
from fcn_deploy.data.images import IMAGE_SUFFIXES, read_image
from fcn_deploy.results.predictions import state_of

Before = Callable[[tuple[int, int]], None]
#: How names of pictures end, in lower case.
PICTURE_ENDINGS = tuple(sorted(IMAGE_SUFFIXES))


class Item(ABC):
    """One picture.

    Attributes:
        name: what it was called by: journals know it, and shards choose it, by this.
        inside: where in the name the part begins after which the mask is named.
    """

    __slots__ = ("inside", "name")

    def __init__(self, name: str, inside: int) -> None:
        self.name = name
        self.inside = inside

    @property
    def path(self) -> Path:
        """The name as a path, for messages; there may be no such file."""
        return Path(self.name)

    @property
    def base(self) -> str:
        """The name without its folders."""
        return self.name[self.name.rfind("/") + 1 :]

    @property
    def identity(self) -> str:
        """What two names of one picture have in common.

        A link is a picture of its own: the folder that it lies in makes the difference.
        """
        return f"{self.folder}/{self.base}"

    @property
    @abstractmethod
    def folder(self) -> str:
        """The folder that it lies in, without links."""

    @abstractmethod
    def state(self) -> int:
        """Return 64 bits, never 0, that are others once the picture has changed.

        Raises:
            OSError: it is not there.
        """

    @abstractmethod
    def modified_ns(self) -> int:
        """Return when the file that holds it was modified, or put in its place, last.

        Raises:
            OSError: it is not there.
        """

    @abstractmethod
    def read(self, before: Before) -> NDArray[np.uint8]:
        """Return uint8 [H, W, 3], RGB; see :func:`fcn_deploy.data.images.read_image`."""


class FileItem(Item):
    """A picture that is a file."""

    __slots__ = ()

    @property
    def folder(self) -> str:
        """The folder of the file."""
        return real_folder(self.name[: self.name.rfind("/") + 1])

    def state(self) -> int:
        """Return a number of the file's size and time of change."""
        found = os.stat(self.name)  # noqa: PTH116 (millions of names)
        return state_of(found.st_size, found.st_mtime_ns)

    def modified_ns(self) -> int:
        """Return the file's own time."""
        return last_change_ns(self.name)

    def read(self, before: Before) -> NDArray[np.uint8]:
        """Return the decoded file."""
        return read_image(Path(self.name), before)


def file_item(name: str) -> FileItem:
    """Return a file by its name; its mask is named after the last part."""
    return FileItem(name, name.rfind("/") + 1)


def last_change_ns(name: str) -> int:
    """Return when a file was modified last, or changed otherwise: by `cp -p` or `mv`, which keep
    the time of the file that they put in its place."""
    found = os.stat(name)  # noqa: PTH116 (millions of names)
    return max(found.st_mtime_ns, found.st_ctime_ns)


@lru_cache(maxsize=1 << 16)
def real_folder(folder: str) -> str:
    """Return a folder's path from the root, without links."""
    return os.path.realpath(folder or ".")


def is_picture_name(base: str) -> bool:
    """Say whether a name without folders is a picture's, as of files in a folder."""
    return base.lower().endswith(PICTURE_ENDINGS) and base[0] != "."


def unreadable(name: str, reason: object) -> ImageError:
    """Return the error of a picture whose bytes cannot be had."""
    return ImageError(f"{name} cannot be read ({reason})", "remove or replace it")
