"""A pickle that must not be opened."""

from pathlib import Path
from typing import Any


class Bomb:
    """Unpickling it touches a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)
