"""TileChoice: whether a picture is segmented in tiles, and in which."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from math import isqrt

from fcn_deploy.core.errors import FcnDeployError, ImageError, InputError
from fcn_deploy.core.input_shape import InputShape
from fcn_deploy.graph.cost import peak_bytes
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.graph.receptive_field import ReceptiveField, receptive_field
from fcn_deploy.machine.memory import available_memory
from fcn_deploy.predict.tiles import Tiling

#: Largest tile that is chosen unasked: beyond it hardly less is computed twice.
LARGEST_SIDE = 4096
#: Of the memory that is available, what the network may take.
SHARE = 0.5
#: No network takes more bytes for a pixel; a picture that fits by this is not looked at closer.
_MOST_BYTES = 4096
#: What ONNX Runtime took on a CPU, measured, for each byte of the tensors alive at once: its arena
#: grows by powers of two.
_OVERHEAD = 3.2
_COUNTED_AT = 1024


@dataclass(eq=False)
class TileChoice:
    """Says how pictures are cut.

    Attributes:
        find_file: gives the network's ONNX file, or None where there is none.
        taken: the batches that the network takes.
        say: called with a line for the user, once with each.
        side: of the tiles; None: chosen by the memory.
        overlap: pixels to throw away on each side; None: as many as it takes for the same mask.
        max_memory: bytes; None: ``SHARE`` of what is available.
        batch_size: most tiles to segment at once.
    """

    find_file: Callable[[], OnnxFile | None]
    taken: InputShape
    say: Callable[[str], None]
    side: int | None = None
    overlap: int | None = None
    max_memory: int | None = None
    batch_size: int = 1
    _said: set[str] = field(default_factory=set)

    def require(self) -> None:
        """Refuse tiles that were asked for and cannot be, before anything is computed.

        Raises:
            InputError: saying why.
        """
        if self.side is not None:
            self._tiling(self.side)

    def of_picture(self, size: tuple[int, int]) -> Tiling | None:
        """Return the tiling of a picture of (height, width); None: it is segmented as a whole.

        Raises:
            ImageError: tiles were asked for, and in tiles its mask would be another.
        """
        if self.side is not None:
            return None if max(size) <= self.side else self.of_map(size)
        budget, pixels = self._budget, self.batch_size * size[0] * size[1]
        if budget is None or pixels * _MOST_BYTES <= budget or self.taken.height is not None:
            return None
        weights, pixel = self._bytes
        if weights + pixels * pixel <= budget:
            return None
        try:
            return self.of_map(size)
        except ImageError as error:
            self._say_once(f"pictures beyond the memory budget stay whole: {error.message}")
            return None

    def of_map(self, size: tuple[int, int]) -> Tiling:
        """Return the tiling of a map, which is never held in memory as a whole.

        Raises:
            ImageError: in tiles its mask would be another, or no tile fits into the budget.
        """
        try:
            if self.side is None and max(size) <= self._fitting_side:
                return Tiling(self._fitting_side, 0)
            side = self.side or self._on_the_grid(self._fitting_side)
            return Tiling(side, 0) if max(size) <= side else self._tiling(side, size)
        except InputError as error:
            raise ImageError(error.message, error.repair) from error

    def _tiling(self, side: int, size: tuple[int, int] | None = None) -> Tiling:
        if not self.taken.takes((self.taken.batch or 1, side, side)):
            raise InputError(
                f"the network takes pictures of {self.taken.size_words}, no tiles of {side}",
                "import it with free sizes",
            )
        sees, overlap = self._field, self.overlap
        reason, stride = sees.unbounded, sees.stride
        if reason is None and sees.multiples_alone and size and any(n % stride for n in size):
            reason = f"it scales scores to sizes that are no multiples of {stride}"
        if overlap is None and reason is not None:
            raise InputError(
                f"in tiles the mask would be another: {reason}",
                "add --overlap N, pixels thrown away on each side, to have it nevertheless",
            )
        tiling = Tiling.of(side, sees.margin if overlap is None else overlap, stride)
        words = f"tiles of {tiling.side}×{tiling.side}, {tiling.margin} pixels thrown away per side"
        if reason is None and tiling.margin < sees.margin:
            reason = f"without --overlap it is {sees.margin}, and they do not"
        if reason is not None:
            words += f": masks may differ from those of whole pictures; {reason}"
        self._say_once(words)
        return tiling

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self.say(line)

    @cached_property
    def _file(self) -> OnnxFile | None:
        return self.find_file()

    @cached_property
    def _field(self) -> ReceptiveField:
        if self._file is None:
            raise InputError(
                "how far the network sees is read from its ONNX file, which is not there",
                "run `fcn-deploy export` first",
            )
        try:
            return receptive_field(self._file.model)
        except FcnDeployError as error:  # the package onnx is missing, for example
            raise InputError(error.message, error.repair) from error
        finally:
            self._file.release()

    @cached_property
    def _budget(self) -> int | None:
        if self.max_memory is not None:
            return self.max_memory
        available = available_memory()
        return None if available is None else int(SHARE * available)

    @cached_property
    def _bytes(self) -> tuple[float, float]:
        """The bytes of the weights, and of a pixel."""
        if self._file is not None:
            with suppress(FcnDeployError):  # its shapes cannot be followed
                image = (1, _COUNTED_AT, _COUNTED_AT, 3)
                peak = peak_bytes(self._file.model, {"image": image})
                self._file.release()
                return float(peak.weights), _OVERHEAD * peak.activations / _COUNTED_AT**2
        return 0, _MOST_BYTES

    @cached_property
    def _fitting_side(self) -> int:
        """The side of the largest square that fits into the budget."""
        if self._budget is None:
            return LARGEST_SIDE
        weights, pixel = self._bytes
        pixels = max(0, self._budget - weights) / (self.batch_size * pixel)
        return min(LARGEST_SIDE, isqrt(int(pixels)))

    def _on_the_grid(self, side: int) -> int:
        stride = self._field.stride
        return max(stride, side // stride * stride)
