"""What ``predict`` asks about large pictures and maps: tiles, memory, bands."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from fcn_deploy.commands.shared.console import console
from fcn_deploy.commands.shared.options import Bytes
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from fcn_deploy.core.input_shape import InputShape
    from fcn_deploy.graph.onnx_file import OnnxFile
    from fcn_deploy.predict.geotiff import Bands
    from fcn_deploy.predict.maps import MapOptions
    from fcn_deploy.predict.tile_choice import TileChoice

AUTO = "auto"
#: Seconds from one line on a map's tiles to the next.
_LINE_SECONDS = 60.0


@dataclass(frozen=True)
class TileOptions:
    """What was typed; see the options."""

    tile: str
    overlap: int | None
    max_memory: int | None
    bands: str | None
    scale: str | None

    def choice(
        self, source: Run, precision: Precision, taken: InputShape, batch_size: int
    ) -> TileChoice:
        """Return what says how pictures are cut.

        Args:
            source: the run.
            precision: of the file that is computed.
            taken: the batches that the network takes.
            batch_size: most tiles to segment at once.

        Raises:
            InputError: an option is wrong, or tiles of that size cannot be.
        """
        from fcn_deploy.predict.tile_choice import TileChoice, TileRequest

        request = TileRequest(self._side, self.overlap, self.max_memory, batch_size)
        choice = TileChoice(lambda: _onnx_file(source, precision), taken, request, console.print)
        choice.require()
        return choice

    @property
    def _side(self) -> int | None:
        if self.tile == AUTO:
            return None
        if not (self.tile.isascii() and self.tile.isdigit() and int(self.tile)):
            raise InputError(f"--tile {self.tile} is no size", "give pixels, 2048, or auto")
        return int(self.tile)

    def maps(self, choice: TileChoice) -> MapOptions:
        """Return how maps are segmented.

        Raises:
            InputError: an option is wrong.
        """
        from fcn_deploy.predict.maps import MapOptions

        return MapOptions(choice.of_map, self._bands(), _TileLines().say)

    def _bands(self) -> Bands:
        from fcn_deploy.predict.geotiff import Bands

        numbers = _numbers("--bands", self.bands, 3) or [1, 2, 3]
        scale = _numbers("--scale", self.scale, 2)
        if any(number < 1 or number != int(number) for number in numbers):
            raise InputError(f"--bands {self.bands} are none", "count from 1, e.g. 3,2,1")
        if scale is not None and not scale[0] < scale[1]:
            raise InputError(f"--scale {self.scale} does not rise", "give MIN,MAX, e.g. 0,3000")
        red, green, blue = map(int, numbers)
        return Bands(red, green, blue, None if scale is None else (scale[0], scale[1]))


def tile_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options on large pictures and maps; the command gets one ``tiles``."""
    options = (
        click.option(
            "--tile", default=AUTO, show_default=True, metavar="auto|N",
            help="Segment pictures beyond N×N pixels in tiles of that size, with the mask of the "
            "whole.  auto: those that do not fit into the memory budget.",
        ),
        click.option(
            "--overlap", type=click.IntRange(min=0), metavar="N",
            help="Throw away N pixels on each side of a tile; by default as many as the network "
            "sees, so that masks are those of whole pictures.",
        ),
        click.option(
            "--max-memory", type=Bytes(), metavar="SIZE",
            help="Memory budget of the network, e.g. 2GiB; by default half of what is available.",
        ),
        click.option(
            "--bands", metavar="R,G,B",
            help="Bands of a map to segment, counted from 1; by default the first three.",
        ),
        click.option(
            "--scale", metavar="MIN,MAX",
            help="Values of a map's bands that become 0 and 255; needed where they are no bytes.",
        ),
    )  # fmt: skip

    @functools.wraps(command)
    def with_tiles(**typed: Any) -> None:
        tiles = TileOptions(**{field.name: typed.pop(field.name) for field in fields(TileOptions)})
        command(tiles=tiles, **typed)

    for option in reversed(options):
        with_tiles = option(with_tiles)
    return with_tiles


class _TileLines:
    """Says how far a map is, once a minute."""

    def __init__(self) -> None:
        self._said = time.perf_counter()

    def say(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if done < total and now - self._said >= _LINE_SECONDS:
            self._said = now
            console.print(f"{done:,} of {total:,} tiles of the map")


def _onnx_file(source: Run, precision: Precision) -> OnnxFile | None:
    from fcn_deploy.graph.onnx_file import OnnxFile

    for path in (source.onnx(precision), source.onnx(Precision.FP32)):
        if path.is_file():
            return OnnxFile(path)
    return None


def _numbers(option: str, text: str | None, count: int) -> list[float] | None:
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(abs(number) < float("inf") for number in numbers):
        raise InputError(f"{option} {text} are not {count} numbers", "separate them by commas")
    return numbers
