"""Which form of an answer a client wants, by its ``Accept`` header (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: A quality: 0 to 1 with at most three digits behind the point.
_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


def preferred(accept: str, offered: Sequence[str]) -> str | None:
    """Return the offered media type that a client likes best, or None where it takes none of them.

    Of several that it likes equally, the one that is offered first.  The most specific range that
    names a type decides, wherever it stands; parameters but ``q`` are passed over.

    Args:
        accept: the header; where it is empty, the client takes everything.
        offered: media types, each ``type/subtype``.
    """
    ranges = dict(filter(None, map(_range, accept.lower().split(",")))) or {"*/*": 1.0}
    best, most = None, 0.0
    for media_type in offered:
        whole_type = f"{media_type.partition('/')[0]}/*"
        names = [name for name in (media_type, whole_type, "*/*") if name in ranges]
        quality = ranges[names[0]] if names else 0.0
        if quality > most:
            best, most = media_type, quality
    return best


def _range(text: str) -> tuple[str, float] | None:
    """Return a media range and its quality, or None of what is neither."""
    name, *parameters = (part.strip() for part in text.split(";"))
    if "/" not in name:
        return None
    quality = "1"
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            quality = value.strip()
    return (name, float(quality)) if _QUALITY.fullmatch(quality) else None
