"""Requests that are damaged in a way that a seed decides."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable
from typing import Any

from fcn_deploy.serve.tensors import HEADER_LENGTH
from tests.serve.clients import binary_request, pictures
from tests.serve.served import request

_ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 10**400, 1.5, float("nan"), "", "x" * 5000, [], {}, [[]],
    [1, 5, 7, 4], [1, 2**20, 2**20, 3], [1, 1, 1, 3], [0, 0, 0, 3], "FP32", "BYTES", "\u0000",
)  # fmt: skip


def damaged(seed: int) -> bytes:
    """One request over HTTP, of which nearly none is right."""
    source = random.Random(seed)
    kinds: tuple[Callable[[random.Random], bytes], ...] = (
        _cut_body, _odd_field, _flipped_json, _flipped_request, _wrong_length, _bad_gzip, _bomb,
        _noise, _wild_head, _bad_chunks, _deep, _short, _other_route,
    )  # fmt: skip
    return source.choice(kinds)(source)


def _good(**changes: Any) -> tuple[bytes, int]:
    return binary_request(pictures(), **changes)


def _infer(body: bytes, length: int | str, *lines: str) -> bytes:
    return request(body, f"{HEADER_LENGTH}: {length}", *lines)


def _cut_body(source: random.Random) -> bytes:
    """The head promises more than comes."""
    whole = _infer(*_good())
    return whole[: source.randrange(1, len(whole))]  # of nothing, nothing is said


def _odd_field(source: random.Random) -> bytes:
    body, length = _good()
    fields: Any = json.loads(body[:length])
    place: Any = fields
    while True:  # somewhere in the tree
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = source.choice(keys)
        if isinstance(place[key], (dict, list)) and place[key] and source.random() < 0.7:
            place = place[key]
            continue
        place[key] = source.choice(_ODD)
        break
    head = json.dumps(fields).encode()
    return _infer(head + body[length:], len(head))


def _flipped(source: random.Random, data: bytes, end: int) -> bytes:
    changed = bytearray(data)
    for _ in range(source.randint(1, 4)):
        changed[source.randrange(end)] ^= 1 << source.randrange(8)
    return bytes(changed)


def _flipped_json(source: random.Random) -> bytes:
    body, length = _good()
    return _infer(_flipped(source, body, length), length)


def _flipped_request(source: random.Random) -> bytes:
    whole = _infer(*_good())
    return _flipped(source, whole, len(whole))


def _wrong_length(source: random.Random) -> bytes:
    body, length = _good()
    wrong = source.choice([0, -1, length - 1, length + 1, len(body), 10**30, "x", "", " 1 1"])
    return _infer(body, wrong)


def _bad_gzip(source: random.Random) -> bytes:
    body, length = _good()
    encoding, packed = source.choice(
        [("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))]
    )
    damage = source.choice(
        [packed[: len(packed) // 2], _flipped(source, packed, 20), body, packed * 2]
    )
    return _infer(damage, length, f"Content-Encoding: {encoding}")


def _bomb(source: random.Random) -> bytes:
    packed = gzip.compress(bytes(source.choice([400_000, 4_000_000])), 9)
    return _infer(packed, 100, "Content-Encoding: gzip")


def _noise(source: random.Random) -> bytes:
    return source.randbytes(source.randint(1, 3000))


def _wild_head(source: random.Random) -> bytes:
    line = source.choice(
        [
            "Content-Length: 5",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: gzip",
            "Content-Encoding: " + "gzip, " * 50,
            "Expect: 200-ok",
            "X: " + "y" * source.choice([10, 50_000]),
            "\r\n".join(f"x-{index}: y" for index in range(200)),
            "Authorization: Bearer " + "\x7f" * 10,
            ": empty",
            "no colon",
        ]
    )
    return _infer(*_good(), line)


def _bad_chunks(source: random.Random) -> bytes:
    size = source.choice([b"zz", b"-1", b"ffffffffffffffffff", b"5", b"0"])
    head = b"POST /v2/models/fcn/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + size + b"\r\nabc\r\n0\r\n\r\n"


def _deep(source: random.Random) -> bytes:
    return request(source.choice([b"[", b'{"inputs":', b'{"a":[']) * source.choice([10, 10_000]))


def _short(source: random.Random) -> bytes:
    """The head is right about a body that is too short or too long for its tensor."""
    body, length = _good()
    kept = source.randrange(len(body))
    return _infer(body[:kept] if source.random() < 0.7 else body + bytes(kept), length)


def _other_route(source: random.Random) -> bytes:
    path = source.choice(
        ["/v2/models/x/infer", "/v2/models/fcn/versions/%00/infer", "/" + "a/" * 500, "/v2/%ff",
         "//", "/v2/models/fcn/../../etc", "/v2/models/fcn", "/v2/repository/models/fcn/unload"]
    )  # fmt: skip
    return request(b"{}", path=path)
