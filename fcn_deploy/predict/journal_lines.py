"""Lines of a journal: written one by one, read by the million.

    {"key":"0123456789abcdef","state":"0123456789abcdef","source":"a.jpg","mask":"a.png",…}

``key`` and ``state`` stand at the same place of every line, so that numpy finds them in a block of
the file without parsing JSON: what is finished is two arrays of 8 bytes a line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
#: Bytes of a file that are read at once.
BLOCK_BYTES = 1 << 25
_BEFORE_KEY, _BEFORE_STATE, _BEHIND_STATE = b'{"key":"', b'","state":"', b'",'
_KEY = len(_BEFORE_KEY)
_STATE = _KEY + 16 + len(_BEFORE_STATE)
_REST = _STATE + 16 + len(_BEHIND_STATE)
_EMPTY = blake2b(digest_size=8)
_NEWLINE, _CLOSING, _NO_DIGIT = ord("\n"), ord("}"), 255
_MASK = re.compile(rb'"mask":"(?:[^"\\]|\\.)*"')
#: Up to so many masks are sought one by one, which is faster than to look at every line's.
_FEW_MASKS = 16


def _digit_values() -> NDArray[np.uint8]:
    values = np.full(256, _NO_DIGIT, np.uint8)
    for value, digit in enumerate(b"0123456789abcdef"):
        values[digit] = value
    return values


_DIGITS = _digit_values()


def key_of(source: str, mask: str) -> bytes:
    """Return the 8 bytes by which a journal knows a picture: a hash of its name and its mask's."""
    return _digests((f"{source}\0{mask}",))


def keys_of(sources: Sequence[str], masks: Sequence[str]) -> Hashes:
    """Return the keys of many pictures."""
    joined = _digests(map("\0".join, zip(sources, masks, strict=True)))
    return np.frombuffer(joined, dtype=">u8").astype(np.uint64)


def stable_hashes(names: Iterable[str]) -> Hashes:
    """Return 64 bits of each name, the same on every machine."""
    return np.frombuffer(_digests(names), dtype=">u8").astype(np.uint64)


def _digests(texts: Iterable[str]) -> bytes:
    digests: list[bytes] = []
    for text in texts:
        digest = _EMPTY.copy()  # half the time of a new one
        digest.update(text.encode("utf-8", "surrogatepass"))  # names of files may be no UTF-8
        digests.append(digest.digest())
    return b"".join(digests)


def line_of(key: bytes, state: int, values: dict[str, Any]) -> bytes:
    """Return a picture's line, with its end.

    Args:
        key: see :func:`key_of`.
        state: of the picture that was read; 0 where it has no mask.
        values: JSON values by name; at least one.
    """
    rest = json.dumps(values, separators=(",", ":"), allow_nan=False)[1:]
    return b"".join(
        (
            _BEFORE_KEY, key.hex().encode(), _BEFORE_STATE, f"{state:016x}".encode(),
            _BEHIND_STATE, rest.encode(), b"\n",
        )
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Lines:
    """The lines of one block.

    Attributes:
        content: the block, which ends with a line's end.
        starts, ends: of each line; the end is behind its newline.
        whole: whether it has the form of a picture's line.
        keys, states: of each line; 0 where it is not whole.
    """

    content: bytes
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    whole: NDArray[np.bool_]
    keys: Hashes
    states: Hashes


def read_blocks(stream: BinaryIO) -> Iterator[Lines]:
    """Read lines from where a stream stands to its last newline."""
    return map(_lines, _whole_lines(stream))


def _whole_lines(stream: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(BLOCK_BYTES):
        end = block.rfind(b"\n") + 1
        if not end:
            rest += block
            continue
        yield rest + block[:end]
        rest = block[end:]


def listed_mask(stream: BinaryIO, masks: Collection[str]) -> tuple[str, str] | None:
    """Return a picture's name and its mask, from a line that lists one of some masks, or None."""
    wanted = {b'"mask":' + json.dumps(mask).encode() for mask in masks}
    for content in _whole_lines(stream):
        for place in _places(content, wanted):
            line = content[content.rfind(b"\n", 0, place) + 1 : content.find(b"\n", place) + 1]
            if not _lines(line).whole[0]:
                continue
            with suppress(ValueError, KeyError):  # it is damaged further behind
                values = json.loads(line)
                return values["source"], values["mask"]
    return None


def _places(content: bytes, wanted: set[bytes]) -> Iterator[int]:
    if len(wanted) > _FEW_MASKS:
        yield from (found.start() for found in _MASK.finditer(content) if found[0] in wanted)
        return
    for text in wanted:
        place = content.find(text)
        while place >= 0:
            yield place
            place = content.find(text, place + 1)


def _lines(content: bytes) -> Lines:
    data = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(data == _NEWLINE) + 1
    starts = np.concatenate((np.zeros(1, np.int64), ends[:-1]))
    whole = np.zeros(len(starts), bool)
    keys, states = np.zeros(len(starts), np.uint64), np.zeros(len(starts), np.uint64)
    (long,) = np.nonzero(ends - starts > _REST + 1)
    if len(long):
        heads = sliding_window_view(data, _REST)[starts[long]]  # (lines, _REST)
        formed = data[ends[long] - 2] == _CLOSING
        for at, text in (
            (0, _BEFORE_KEY), (_STATE - len(_BEFORE_STATE), _BEFORE_STATE),
            (_STATE + 16, _BEHIND_STATE),
        ):  # fmt: skip
            formed &= (heads[:, at : at + len(text)] == np.frombuffer(text, np.uint8)).all(1)
        found, digits = _hashes(heads[:, _KEY : _KEY + 16])
        told, more_digits = _hashes(heads[:, _STATE : _STATE + 16])
        formed &= digits & more_digits
        whole[long] = formed
        keys[long], states[long] = np.where(formed, found, 0), np.where(formed, told, 0)
    return Lines(content, starts, ends, whole, keys, states)


def _hashes(text: NDArray[np.uint8]) -> tuple[Hashes, NDArray[np.bool_]]:
    """Return the numbers that 16 hexadecimal digits each mean, and whether they are digits."""
    digits = _DIGITS[text]
    pairs = np.ascontiguousarray((digits[:, 0::2] << 4) | (digits[:, 1::2] & 15))
    numbers = pairs.view(">u8").ravel().astype(np.uint64)
    return numbers, (digits != _NO_DIGIT).all(1)


class Finished:
    """The pictures that journals have lines of: 16 bytes each, in order of their keys."""

    def __init__(self, keys: Hashes, states: Hashes) -> None:
        order = np.argsort(keys, kind="stable")
        self._keys, self._states = keys[order], states[order]

    def __len__(self) -> int:
        return len(self._keys)

    def look_up(self, keys: Hashes) -> tuple[NDArray[np.bool_], Hashes]:
        """Say which keys have a line, and the state in the last line of each; 0 where none."""
        if not len(self._keys):
            return np.zeros(len(keys), bool), np.zeros(len(keys), np.uint64)
        order = np.argsort(keys)  # neighbours are looked up from the cache
        places = np.empty(len(keys), np.int64)
        places[order] = np.searchsorted(self._keys, keys[order], side="right") - 1
        known = (places >= 0) & (self._keys[places] == keys)
        return known, np.where(known, self._states[places], np.uint64(0))
