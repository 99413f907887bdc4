"""Compressed bodies, decoded up to a bound."""

from __future__ import annotations

import zlib

from fcn_deploy.serve.errors import RequestError, TooLargeError, UnsupportedEncodingError

#: Content-Encoding → what zlib calls its format.
_WINDOW_BITS = {
    "gzip": 16 + zlib.MAX_WBITS,
    "x-gzip": 16 + zlib.MAX_WBITS,
    "deflate": zlib.MAX_WBITS,
}


def is_compressed(encoding: str) -> bool:
    """Say whether a body of this ``Content-Encoding`` has to be decoded.

    Raises:
        UnsupportedEncodingError: it is none that the server decodes.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return False
    if name not in _WINDOW_BITS:
        raise UnsupportedEncodingError(
            f"Content-Encoding {name[:40]} is not read here", "use gzip, deflate or none"
        )
    return True


def decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """Return what was compressed.

    Args:
        body: one member of gzip's, or one stream of zlib's.
        encoding: its ``Content-Encoding``, see :func:`is_compressed`.
        limit: bytes that it may decode to.

    Raises:
        TooLargeError: it decodes to more; no more than the limit was decoded.
        RequestError: it is damaged, or something follows.
    """
    name = encoding.strip().lower()
    decoder = zlib.decompressobj(_WINDOW_BITS[name])
    try:
        plain = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(f"the body is no {name} ({error})") from None
    if len(plain) > limit:
        raise TooLargeError(
            f"the body decodes to more than {limit} bytes", "send smaller or fewer pictures"
        )
    if not decoder.eof:
        raise RequestError(f"the {name} of the body is cut off")
    if decoder.unused_data:
        raise RequestError(f"something follows the {name} in the body")
    return plain
