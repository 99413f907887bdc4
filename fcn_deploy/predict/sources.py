"""Sources: what was typed → the pictures that it names, one after the other.

    a.jpg             a file, taken whatever its name
    photos/           a folder; with ``recursive`` its sub-folders as well, links to them excepted
    'photos/*.jpg'    a pattern; ``**`` stands for any folders
    photos.zip        an archive, .tar or .zip, read in place
    @list.txt         names of files, one a line
    -                 such a list on standard input, read to its end before the work begins

Pictures are listed anew by each iteration, so that millions of them need not be kept.
"""

from __future__ import annotations

import glob
import io
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from fcn_deploy.core.errors import ImageError
from fcn_deploy.data.images import find_images, passed_over_words, unread_suffix
from fcn_deploy.predict.archives import Archive, is_archive, open_archive
from fcn_deploy.predict.batches import BATCH_SIZE, Batch, FolderBatch, ItemBatch, NameBatch
from fcn_deploy.predict.items import PICTURE_ENDINGS, Item, file_item, is_picture_name, real_folder


class Sources(AbstractContextManager["Sources"]):
    """The pictures that some words name, in their order.

    Args:
        words: see the module.
        recursive: whether sub-folders of folders are searched.
        stdin: what ``-`` reads.

    Raises:
        ImageError: a word names nothing, or an archive cannot be read.
    """

    def __init__(
        self, words: Sequence[str], *, recursive: bool = False, stdin: BinaryIO | None = None
    ) -> None:
        real_folder.cache_clear()  # links, and the current folder, may have changed
        self._unread: Counter[str] = Counter()
        self._sources: list[_Source] = []
        try:
            for word in words:
                self._sources.append(_source(word, self._unread, recursive, stdin))
        except BaseException:
            self.close()
            raise

    def batches(self) -> Iterator[Batch]:
        """List the pictures; one that several words name comes several times.

        Raises:
            ImageError: a folder, an archive or a list holds none, or cannot be read.
        """
        self._unread.clear()
        for source in self._sources:
            found = False
            for batch in source.batches():
                found = True
                yield batch
            if not found:
                raise source.empty()

    def __iter__(self) -> Iterator[Item]:
        """List the pictures one by one; see :meth:`batches`."""
        for batch in self.batches():
            yield from map(batch.item, range(len(batch.names)))

    def shared_folder(self) -> str:
        """Return the folder, without links, below which all pictures lie."""
        folders = [folder for source in self._sources for folder in source.folders()]
        return os.path.commonpath(folders) if folders else ""

    def notes(self) -> list[str]:
        """Return a line each on what the last iteration has passed over."""
        unread = passed_over_words(self._unread)
        archived = [note for source in self._sources for note in source.notes()]
        return [*([unread] if unread else []), *archived]

    def close(self) -> None:
        """Close archives and lists."""
        for source in self._sources:
            source.close()

    def __exit__(self, *error: object) -> None:
        self.close()


class _Source(ABC):
    """What one word names."""

    def __init__(self, word: str) -> None:
        self.word = word

    def batches(self) -> Iterator[Batch]:
        """List the pictures, none of the batches empty."""
        items = self.items()
        while some := list(islice(items, BATCH_SIZE)):
            yield ItemBatch(some)

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """List the pictures one by one."""

    @abstractmethod
    def folders(self) -> Iterator[str]:
        """List folders, without links, below which the pictures lie."""

    def empty(self) -> ImageError:
        """Return the error where there is no picture."""
        return ImageError(f"no pictures in {self.word}", "name pictures, or folders of them")

    def notes(self) -> list[str]:
        """Return a line each on what the last listing has passed over."""
        return []

    def close(self) -> None:  # noqa: B027 (most hold nothing open)
        """Close what is open."""


def _source(word: str, unread: Counter[str], recursive: bool, stdin: BinaryIO | None) -> _Source:
    if word == "-" and stdin is not None:
        return _NameList(word, stdin)
    path = Path(word)
    if path.is_dir():
        return _Folder(path.as_posix(), unread, recursive)
    if path.exists():
        if is_archive(word):
            return _ArchiveSource(path.as_posix(), unread)
        return _OneFile(path.as_posix())
    if word.startswith("@"):
        return _NameList(word)
    if glob.has_magic(word):
        return _Pattern(word)
    raise ImageError(f"no such file or folder: {word}", "check the path")


class _OneFile(_Source):
    def items(self) -> Iterator[Item]:
        yield file_item(self.word)

    def folders(self) -> Iterator[str]:
        yield file_item(self.word).folder


class _Folder(_Source):
    def __init__(self, word: str, unread: Counter[str], recursive: bool) -> None:
        super().__init__(word)
        self._unread = unread
        self._recursive = recursive

    def batches(self) -> Iterator[Batch]:
        inside = 0 if self.word == "." else len(self.word.rstrip("/")) + 1
        waiting = [(self.word, real_folder(self.word))]
        while waiting:
            folder, real = waiting.pop()
            names, folders = self._listed(folder)
            prefix = "" if folder == "." else f"{folder.rstrip('/')}/"
            for begin in range(0, len(names), BATCH_SIZE):
                yield FolderBatch(prefix, names[begin : begin + BATCH_SIZE], inside, real)
            # Links to folders are not followed: the real path goes on as the name does.
            waiting += [(prefix + name, f"{real}/{name}") for name in reversed(folders)]

    def items(self) -> Iterator[Item]:
        for batch in self.batches():
            yield from map(batch.item, range(len(batch.names)))

    def _listed(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the names of a folder's pictures and of its folders, sorted."""
        names: list[str] = []
        folders: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if self._recursive and entry.is_dir(follow_symlinks=False):
                        if name[0] != ".":
                            folders.append(name)
                    elif name.lower().endswith(PICTURE_ENDINGS) and name[0] != ".":
                        names.append(name)  # is_picture_name, for millions
                    elif (suffix := unread_suffix(entry.name)) is not None:
                        self._unread[suffix] += 1
        except OSError as error:
            raise ImageError(f"cannot list {folder}: {error.strerror}", "check the path") from error
        return sorted(names), sorted(folders)

    def folders(self) -> Iterator[str]:
        yield real_folder(self.word)

    def empty(self) -> ImageError:
        if self._recursive:
            return super().empty()
        try:
            find_images([Path(self.word)])
        except ImageError as error:
            return error
        return super().empty()


class _Pattern(_Source):
    def items(self) -> Iterator[Item]:
        for name in sorted(glob.glob(self.word, recursive=True)):  # noqa: PTH207
            if is_picture_name(name[name.rfind("/") + 1 :]):
                yield file_item(name)

    def folders(self) -> Iterator[str]:
        return iter({item.folder for item in self.items()})


class _NameList(_Source):
    """Names of files, one a line, from the current folder on."""

    def __init__(self, word: str, stream: BinaryIO | None = None) -> None:
        super().__init__(word)
        self._file: BinaryIO
        try:
            if stream is None:
                self._file = Path(word[1:]).open("rb")  # noqa: SIM115 (closed by close)
            if stream is not None or not self._file.seekable():  # a pipe is read once
                spooled = tempfile.TemporaryFile()  # noqa: SIM115
                shutil.copyfileobj(stream or self._file, spooled)
                self._file = spooled
        except OSError as error:
            raise ImageError(
                f"cannot read the list {word[1:] or word}: {error.strerror}", "check the path"
            ) from error

    def batches(self) -> Iterator[Batch]:
        self._file.seek(0)
        text = io.TextIOWrapper(self._file, encoding="utf-8-sig", errors="surrogateescape")
        try:
            while lines := list(islice(text, BATCH_SIZE)):
                if "\0" in "".join(lines):
                    raise ImageError(
                        f"the list {self.word} holds bytes of zero",
                        "write it in UTF-8, one name a line, as find does without -print0",
                    )
                names = [line.rstrip("\r\n").removeprefix("./") for line in lines]
                if names := list(filter(None, names)):
                    yield NameBatch(names)
        finally:
            text.detach()

    def items(self) -> Iterator[Item]:
        for batch in self.batches():
            yield from map(batch.item, range(len(batch.names)))

    def folders(self) -> Iterator[str]:
        prefixes = {name[: name.rfind("/") + 1] for b in self.batches() for name in b.names}
        return map(real_folder, prefixes)

    def empty(self) -> ImageError:
        return ImageError(f"no names in the list {self.word}", "give one name a line")

    def close(self) -> None:
        self._file.close()


class _ArchiveSource(_Source):
    def __init__(self, word: str, unread: Counter[str]) -> None:
        super().__init__(word)
        self._unread = unread
        self._archive: Archive = open_archive(word)

    def items(self) -> Iterator[Item]:
        yield from self._archive.items()
        self._unread.update(self._archive.unread)

    def folders(self) -> Iterator[str]:
        yield self._archive.root

    def notes(self) -> list[str]:
        return [
            f"{count} passed over in {self.word}: {what}"
            for what, count in sorted(self._archive.passed_over.items())
        ]

    def close(self) -> None:
        self._archive.close()
