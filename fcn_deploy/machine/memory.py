"""How much memory this process may still take."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Return the bytes that are free, within a container's limit; None where that is not known."""
    found: list[int] = []
    with suppress(OSError):
        line = re.search(r"MemAvailable:\s+(\d+)", _MEMINFO.read_text(encoding="ascii"))
        found += [int(line[1]) << 10] if line else []
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # without a limit: max
            found.append(int((_GROUP / limit).read_text()) - int((_GROUP / used).read_text()))
    return max(0, min(found)) if found else None
