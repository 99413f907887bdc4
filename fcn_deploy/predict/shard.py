"""Shard: one of n equal parts of any number of pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import InputError
from fcn_deploy.predict.journal_lines import stable_hashes


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, chosen by a hash of each picture's name.

    So the workers of a cluster agree on who does what without asking one another, whatever order
    they list the pictures in and whichever pictures are added meanwhile.
    """

    index: int
    count: int

    @classmethod
    def from_text(cls, text: str) -> Shard:
        """Read ``0/4``.

        Raises:
            InputError: it is no such pair, or the first number is not below the second.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if found is None or int(found[1]) >= int(found[2]):
            raise InputError(
                f"--shard {text} is no part of a whole", "write I/N with I from 0 to N-1, e.g. 0/4"
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def which(self, names: Iterable[str]) -> NDArray[np.bool_]:
        """Say of each of some names whether its picture belongs to the part."""
        return np.asarray(stable_hashes(names) % np.uint64(self.count) == self.index)

    def has(self, name: str) -> bool:
        """Say whether a picture of that name belongs to the part."""
        return bool(self.which((name,))[0])
