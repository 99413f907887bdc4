"""ValueMap: which class each value of a mask means, where that is not the value itself."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import LabelError
from fcn_deploy.core.spec import IGNORE_INDEX

#: Values of masks go up to this: PNG has 16 bits at most.
MAX_VALUE = 65535
#: What the table holds for a value that means nothing; no class and not void.
_NONE = 256


@dataclass(frozen=True)
class ValueMap:
    """Stored values and the classes that they mean.

    Attributes:
        pairs: value (0 to 65535) and class index, 255 = void; each value once.
        others_void: whether all other values are void; otherwise they are refused.
    """

    pairs: tuple[tuple[int, int], ...]
    others_void: bool = False

    @cached_property
    def _table(self) -> NDArray[np.uint16]:
        table = np.full(MAX_VALUE + 1, IGNORE_INDEX if self.others_void else _NONE, np.uint16)
        for value, index in self.pairs:
            table[value] = index
        if table[IGNORE_INDEX] == _NONE:
            table[IGNORE_INDEX] = IGNORE_INDEX  # void, unless it is said to be a class
        return table

    @cached_property
    def _bytes(self) -> tuple[bytes, bytes]:
        """The table of the 8-bit values, and those of them that mean something."""
        low = self._table[: IGNORE_INDEX + 1]
        return low.astype(np.uint8).tobytes(), bytes(np.flatnonzero(low != _NONE).tolist())

    def classes(self, stored: NDArray[Any]) -> NDArray[np.uint8]:
        """Return class indices, uint8 [H, W], 255 = void.

        Args:
            stored: whole numbers [H, W], as they are in the file.

        Raises:
            LabelError: a value that means no class.
        """
        if stored.dtype == np.uint8:
            return self._of_bytes(stored)
        beyond = stored[(stored < 0) | (stored > MAX_VALUE)]
        if beyond.size:
            raise _unknown(int(beyond.flat[0]))
        found = self._table[stored.astype(np.uint16)]
        if found.size and int(found.max()) == _NONE:
            raise _unknown(int(stored[found == _NONE][0]))
        indices: NDArray[np.uint8] = found.astype(np.uint8)
        return indices

    def _of_bytes(self, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # Twice as fast as a table of numpy's.  A bytearray: torch wants arrays that can be written.
        table, known = self._bytes
        raw = bytearray(stored.tobytes())
        if unknown := raw.translate(None, known):
            raise _unknown(unknown[0])
        return np.frombuffer(raw.translate(table), np.uint8).reshape(stored.shape)


def _unknown(value: int) -> LabelError:
    return LabelError(
        f"holds value {value}, which means no class",
        "give it a class in classes.json, list it under void, or set others to void",
    )
