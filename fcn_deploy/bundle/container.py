"""The archive of a bundle: a stored zip that has exactly one form for its content.

    local header, content | local header, content | … | directory entry, … | end record

Any zip tool unpacks it.  What is read back must be, byte for byte, what this module would have
written for the same names and contents: nothing is compressed, encrypted, linked, repeated or
overlapping, nothing stands before, between or behind.  So a reader needs no leniency, and a damaged
or hostile archive is refused before any of it is extracted.
"""

from __future__ import annotations

import re
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from fcn_deploy.core.errors import BundleError
from fcn_deploy.core.files import atomic_path

#: Members that an archive may have, bytes of a name, and bytes in all: what a zip holds without
#: the extension for larger ones.
MAX_MEMBERS, MAX_NAME, MAX_BYTES = 4096, 200, 0xFFFFFFFE
_LOCAL, _ENTRY, _END = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L"), "<4s4H2LH"
_LOCAL_MARK, _ENTRY_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END_BYTES = struct.calcsize(_END)
#: Version needed; made by: the same, on Unix; 1 January 1980, the first day of zip.
_VERSION, _MADE_BY, _DATE = 20, 20 | 3 << 8, 1 << 5 | 1
#: A regular file that its owner writes and all read.
_MODE = (stat.S_IFREG | 0o644) << 16
_BLOCK = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)?")
#: Names that are devices on Windows, whatever their suffix.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
REPAIR = "get the bundle again from where it was made"


@dataclass(frozen=True)
class Member:
    """One file in an archive.

    Attributes:
        name: with forward slashes, one folder deep at most.
        size: in bytes.
        crc: CRC-32 of the content.
        start: where its header stands in the archive.
    """

    name: str
    size: int
    crc: int
    start: int

    @property
    def header(self) -> bytes:
        """What stands before its content."""
        return _LOCAL.pack(
            _LOCAL_MARK, _VERSION, 0, 0, 0, _DATE, self.crc, self.size, self.size,
            len(self.name), 0,
        ) + self.name.encode("ascii")  # fmt: skip

    @property
    def entry(self) -> bytes:
        """What stands of it in the directory."""
        return _ENTRY.pack(
            _ENTRY_MARK, _MADE_BY, _VERSION, 0, 0, 0, _DATE, self.crc, self.size, self.size,
            len(self.name), 0, 0, 0, 0, _MODE, self.start,
        ) + self.name.encode("ascii")  # fmt: skip

    @property
    def end(self) -> int:
        """Where the next one's header stands."""
        return self.start + len(self.header) + self.size


def write_archive(target: Path, files: Mapping[str, Path]) -> None:
    """Write files as one archive, whole or not at all; equal files give equal bytes.

    Args:
        target: the archive.
        files: name → file, in the order of the archive.

    Raises:
        BundleError: a name that the archive does not take, or too many bytes.
        WriteError: the place cannot be written.
    """
    members, start = [], 0
    for name, path in files.items():
        if (reason := name_problem(name)) is not None:
            raise BundleError(f"{name!r} {reason}", "rename it")
        member = Member(name, path.stat().st_size, _crc_of(path), start)
        members.append(member)
        start = member.end
    directory = b"".join(member.entry for member in members)
    if start + len(directory) > MAX_BYTES or len(members) > MAX_MEMBERS:
        raise BundleError(
            f"{target} would hold {start:,} bytes in {len(members)} files",
            f"leave something out: it takes {MAX_BYTES:,} bytes and {MAX_MEMBERS} files",
        )
    with atomic_path(target, flags="--out") as temporary, temporary.open("wb") as stream:
        for member in members:
            stream.write(member.header)
            for block in _blocks(files[member.name]):
                stream.write(block)
        stream.write(directory + _end_record(len(members), len(directory), start))


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        yield from iter(lambda: stream.read(_BLOCK), b"")


def _crc_of(path: Path) -> int:
    crc = 0
    for block in _blocks(path):
        crc = zlib.crc32(block, crc)
    return crc


def _end_record(count: int, size: int, start: int) -> bytes:
    return struct.pack(_END, _END_MARK, 0, 0, count, count, size, start, 0)


def name_problem(name: str) -> str | None:
    """Return why a member may not have a name, or None; it follows the name in a sentence."""
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")):
        return "is an absolute path"
    if re.match(r"[A-Za-z]:", name):
        return "names a drive"
    if ".." in parts:
        return "leads out of its folder"
    if any(_DEVICES.fullmatch(part) for part in parts):
        return "is a device on Windows"
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME or name.endswith("."):
        return "is no name of a bundle's file"
    return None


class Archive:
    """An archive whose form has been checked; contents are read, and checked, when asked for.

    Args:
        path: for errors.
        stream: of the file.

    Raises:
        BundleError: it is no archive of this form, is damaged, or hostile.
    """

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path, self._stream = path, stream
        self.members: dict[str, Member] = {m.name: m for m in self._listed()}

    def blocks(self, name: str) -> Iterator[bytes]:
        """Yield a member's content.

        Raises:
            BundleError: it is not what was written, when the last block has been yielded.
        """
        member, crc = self.members[name], 0
        self._stream.seek(member.start + len(member.header))
        left = member.size
        while left:
            block = self._stream.read(min(left, _BLOCK))
            if not block:  # it was cut while it was read
                self._refuse(f"{name} is truncated")
            crc, left = zlib.crc32(block, crc), left - len(block)
            yield block
        if crc != member.crc:
            raise BundleError(
                f"{self._path}: {name} is damaged: expected CRC-32 {member.crc:08x}, found "
                f"{crc:08x}",
                REPAIR,
            )

    def content(self, name: str, most: int) -> bytes:
        """Return a member's content.

        Raises:
            BundleError: it is missing, larger than ``most`` bytes, or damaged.
        """
        if name not in self.members:
            self._refuse(f"it holds no {name}")
        if self.members[name].size > most:
            self._refuse(f"{name} is larger than {most:,} bytes")
        return b"".join(self.blocks(name))

    def _refuse(self, reason: str) -> NoReturn:
        raise BundleError(f"{self._path} is no bundle, or damaged: {reason}", REPAIR)

    def _at(self, place: int, size: int) -> bytes:
        self._stream.seek(place)
        return self._stream.read(size)

    def _listed(self) -> Iterable[Member]:
        whole = self._stream.seek(0, 2)
        if whole > MAX_BYTES + _END_BYTES:
            self._refuse(f"it has {whole:,} bytes, and a bundle {MAX_BYTES:,} at most")
        count, size, start = self._end(whole)
        directory, members, place, expected = self._at(start, size), list[Member](), 0, 0
        known: set[str] = set()
        for number in range(1, count + 1):
            member = self._entry(directory, place, number)
            if member.name.lower() in known:
                self._refuse(f"{member.name} is there twice (case does not tell names apart)")
            if member.start != expected:
                self._refuse(
                    f"{member.name} overlaps its neighbour, or leaves a gap: expected it at byte "
                    f"{expected}, found {member.start}"
                )
            if member.end > start:
                self._refuse(f"{member.name} reaches beyond the archive")
            known.add(member.name.lower())
            place, expected = place + len(member.entry), member.end
            members.append(member)
        if place != size or expected != start:
            self._refuse("its directory has another size than its entries, or data lies between")
        for member in members:
            if self._at(member.start, len(member.header)) != member.header:
                self._refuse(f"the header of {member.name} is not what the directory says")
        return members

    def _end(self, whole: int) -> tuple[int, int, int]:
        """Return the number of entries, and size and place of the directory."""
        record = self._at(max(0, whole - _END_BYTES), _END_BYTES)
        if len(record) < _END_BYTES or not record.startswith(_END_MARK):
            self._refuse("it is truncated, or no zip: it does not end with a zip's end record")
        _, _, _, _, count, size, start, _ = struct.unpack(_END, record)
        if count == 0xFFFF or 0xFFFFFFFF in (size, start):
            self._refuse("it is a zip64")
        if record != _end_record(count, size, start):
            self._refuse("its end record is not as it was written")
        if start + size + _END_BYTES != whole:
            self._refuse("it is truncated, or holds more than its directory says")
        if not 1 <= count <= MAX_MEMBERS or size > count * (_ENTRY.size + MAX_NAME):
            self._refuse(f"it says that it holds {count} files; 1 to {MAX_MEMBERS} are allowed")
        return count, size, start

    def _entry(self, directory: bytes, place: int, number: int) -> Member:
        raw = directory[place : place + _ENTRY.size]
        if len(raw) < _ENTRY.size or not raw.startswith(_ENTRY_MARK):
            self._refuse(f"entry {number} of its directory is damaged")
        fields = _ENTRY.unpack(raw)
        flags, method, crc, packed, size, name_bytes, extra = (
            fields[index] for index in (3, 4, 7, 8, 9, 10, 11)
        )
        raw_name = directory[place + _ENTRY.size : place + _ENTRY.size + name_bytes]
        name = raw_name.decode("ascii", errors="replace")
        shown = name if name.isprintable() and len(name) <= MAX_NAME else f"entry {number}"
        if (reason := name_problem(name)) is not None:
            self._refuse(f"{shown} {reason}")
        if flags & 1:
            self._refuse(f"{name} is encrypted")
        if method or packed != size:
            self._refuse(f"{name} is compressed, and a bundle stores its files as they are")
        if 0xFFFFFFFF in (size, fields[16]) or extra:
            self._refuse(f"{name} is a zip64 entry, or has extra fields")
        if fields[15] != _MODE:
            self._refuse(f"{name} {_kind_words(fields[15] >> 16)}")
        member = Member(name, size, crc, fields[16])
        if raw + raw_name != member.entry:
            self._refuse(f"the directory's entry of {name} is not as it was written")
        return member


def _kind_words(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "is a link"
    if stat.S_ISDIR(mode):
        return "is a folder"
    if mode and not stat.S_ISREG(mode):
        return "is a device"
    return "has other attributes than a bundle's file"
