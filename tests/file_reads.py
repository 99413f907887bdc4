"""How often Python code opens files for reading, for tests of what is read once."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_counters: list[Counter[str]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _counters and isinstance(arguments[0], (str, os.PathLike)):
        mode = arguments[1]
        if mode is None or not set("wxa").intersection(mode):
            for counter in _counters:
                counter[os.path.realpath(arguments[0])] += 1


sys.addaudithook(_hook)  # there is no way to remove one: it looks at a list that is mostly empty


@contextmanager
def counted_reads() -> Iterator[Counter[Path]]:
    """Yield path → number of times that it was opened for reading; complete when the block ends."""
    opened: Counter[str] = Counter()
    found: Counter[Path] = Counter()
    _counters.append(opened)
    try:
        yield found
    finally:
        _counters.remove(opened)
        found.update({Path(name): count for name, count in opened.items()})
