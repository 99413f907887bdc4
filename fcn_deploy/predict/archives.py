"""Pictures in tar and zip archives, read where they lie: nothing is extracted.

A member is read whole into memory and decoded there, within the bounds of any other picture.  Names
that lead out of the archive, links and devices are passed over and counted.
"""

from __future__ import annotations

import lzma
import os
import re
import shlex
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ImageError
from fcn_deploy.data.images import EncodedPicture, read_image, unread_suffix
from fcn_deploy.predict.items import (
    Before,
    Item,
    is_picture_name,
    last_change_ns,
    real_folder,
    unreadable,
)
from fcn_deploy.results.predictions import state_of

#: Most bytes of a member: as many as the largest picture has that is decoded, uncompressed with
#: four channels.  A member of a few kilobytes may unfold to any number.
MAX_MEMBER_BYTES = 400_000_000
#: Archives that cannot be read at any place without unpacking all that stands before it, and what
#: unpacks them.
_COMPRESSED = {
    ".tar.gz": "gunzip", ".tgz": "gunzip", ".tar.bz2": "bunzip2", ".tbz2": "bunzip2",
    ".tar.xz": "unxz", ".txz": "unxz", ".tar.zst": "unzstd",
}  # fmt: skip
_SEPARATORS = re.compile(r"[/\\]+")
LINKS, OUTSIDE = "links and devices", "with names that lead out of it"


def is_archive(name: str) -> bool:
    """Say whether a file is taken for an archive, by its name."""
    return name.lower().endswith((".tar", ".zip", *_COMPRESSED))


def open_archive(name: str) -> Archive:
    """Open an archive.

    Raises:
        ImageError: it is damaged, or compressed as a whole.
    """
    for ending, program in _COMPRESSED.items():
        if name.lower().endswith(ending):
            raise ImageError(
                f"{name} is compressed as a whole, so that its pictures cannot be read in place",
                f"unpack it to a .tar with `{program} {shlex.quote(name)}`, or pack a .zip",
            )
    return ZipArchive(name) if name.lower().endswith(".zip") else TarArchive(name)


class Archive(ABC):
    """An open archive.

    Attributes:
        name: as typed.
        passed_over: what of its pictures was not taken, counted anew by each :meth:`items`.
        unread: suffixes of pictures that are not read, likewise.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.root = f"{real_folder(os.path.dirname(name))}/{os.path.basename(name)}"  # noqa: PTH119, PTH120
        self.passed_over: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()

    def items(self) -> Iterator[Item]:
        """Yield the pictures, as they stand in the archive.

        Raises:
            ImageError: it is damaged.
        """
        self.passed_over.clear()
        self.unread.clear()
        return self._items()

    @abstractmethod
    def _items(self) -> Iterator[Item]:
        """Yield the pictures, and count what is passed over."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def _item_name(self, member: str, *, is_file: bool) -> str | None:
        """Return what a member is called, or None where it is passed over."""
        parts = [part for part in _SEPARATORS.split(member) if part not in ("", ".")]
        if not parts or not is_picture_name(parts[-1]):
            if parts and (suffix := unread_suffix(parts[-1])) is not None:
                self.unread[suffix] += 1
            return None
        if ".." in parts or re.match(r"[A-Za-z]:", parts[0]) or "\0" in member:
            self.passed_over[OUTSIDE] += 1
            return None
        if not is_file:
            self.passed_over[LINKS] += 1
            return None
        if any(part.startswith(".") for part in parts) or "__MACOSX" in parts:
            return None  # as hidden folders are
        return f"{self.name}/{'/'.join(parts)}"

    def _damaged(self, error: Exception) -> ImageError:
        reason = getattr(error, "strerror", None) or error
        return ImageError(f"{self.name} cannot be read ({reason})", "pack it anew")


class _Member(Item):
    """A picture in an archive."""

    __slots__ = ("archive", "size")

    def __init__(self, archive: Archive, name: str, size: int) -> None:
        super().__init__(name, len(archive.name) + 1)
        self.archive = archive
        self.size = size

    @property
    def folder(self) -> str:
        """The folder in the archive, behind the archive's own path."""
        inner = self.name[self.inside : self.name.rfind("/")]
        return f"{self.archive.root}/{inner}" if inner else self.archive.root

    def modified_ns(self) -> int:
        """Return the archive's time."""
        return last_change_ns(self.archive.name)

    def read(self, before: Before) -> NDArray[np.uint8]:
        """Return the decoded member."""
        if self.size > MAX_MEMBER_BYTES:
            raise ImageError(
                f"{self.name} unfolds to {self.size:,} bytes, more than {MAX_MEMBER_BYTES:,}",
                "shrink the picture",
            )
        return read_image(EncodedPicture(self._content(), self.name), before)

    def _content(self) -> bytes:
        raise NotImplementedError


class TarArchive(Archive):
    """A tar that is not compressed: its members are pieces of the file."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        try:
            self._file = Path(name).open("rb")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise self._damaged(error) from error
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _items(self) -> Iterator[Item]:
        try:
            with closing(tarfile.open(self.name, "r:")) as tar:
                while (member := tar.next()) is not None:
                    vars(tar)["members"].clear()  # it would keep all of them
                    if member.isdir():
                        continue
                    is_file = member.isreg() and not member.issparse()
                    name = self._item_name(member.name, is_file=is_file)
                    if name is not None:
                        yield _TarMember(self, name, member)
        except (tarfile.TarError, OSError, ValueError) as error:
            raise self._damaged(error) from error

    def content(self, offset: int, size: int) -> bytes:
        """Return a piece of the file; threads may ask for several at once."""
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), size, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(size)


class _TarMember(_Member):
    __slots__ = ("mtime", "offset")
    archive: TarArchive

    def __init__(self, archive: TarArchive, name: str, member: tarfile.TarInfo) -> None:
        super().__init__(archive, name, member.size)
        self.offset = member.offset_data
        self.mtime = member.mtime

    def state(self) -> int:
        """Return a number of the size and the time that the archive gives."""
        return state_of(self.size, int(self.mtime * 1e9) if isfinite(self.mtime) else 0)

    def _content(self) -> bytes:
        try:
            content = self.archive.content(self.offset, self.size)
        except (OSError, OverflowError) as error:  # the latter: beyond any file
            raise unreadable(self.name, error) from error
        if len(content) < self.size:
            raise unreadable(self.name, "the archive ends within it")
        return content


class ZipArchive(Archive):
    """A zip: its directory lies in memory, its members are unpacked one by one."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        try:
            self.zip = zipfile.ZipFile(name)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        """Close the file."""
        self.zip.close()

    def _items(self) -> Iterator[Item]:
        for member in self.zip.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.is_dir():
                continue
            is_file = kind in (0, stat.S_IFREG)  # many packers leave it out
            name = self._item_name(member.filename, is_file=is_file)
            if name is not None:
                yield _ZipMember(self, name, member)


class _ZipMember(_Member):
    __slots__ = ("member",)
    archive: ZipArchive

    def __init__(self, archive: ZipArchive, name: str, member: zipfile.ZipInfo) -> None:
        super().__init__(archive, name, member.file_size)
        self.member = member

    def state(self) -> int:
        """Return a number of the size and of the checksum that the archive gives."""
        return state_of(self.size, self.member.CRC)

    def _content(self) -> bytes:
        try:
            with self.archive.zip.open(self.member) as stream:
                return stream.read(self.size)
        except (
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            OSError,
            EOFError,
            RuntimeError,
            ValueError,
            struct.error,
        ) as error:  # RuntimeError: it is encrypted; the last two: a header is damaged
            raise unreadable(self.name, error) from error
