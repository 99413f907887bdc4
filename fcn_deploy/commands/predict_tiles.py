"""What ``predict`` asks about large pictures and maps: tiles, memory, bands."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from fcn_deploy.commands.shared.console import console
from fcn_deploy.commands.shared.options import Bytes, Counts
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from fcn_deploy.core.input_shape import InputShape
    from fcn_deploy.graph.onnx_file import OnnxFile
    from fcn_deploy.predict.maps import MapOptions
    from fcn_deploy.predict.tile_choice import TileChoice

AUTO = "auto"


@dataclass(frozen=True)
class TileOptions:
    """What was typed; see the options."""

    tile: str
    overlap: int | None
    max_memory: int | None
    bands: tuple[int, ...] | None
    scale: tuple[float, float] | None

    @property
    def given(self) -> bool:
        """Whether anything was typed."""
        return self != TileOptions(AUTO, None, None, None, None)

    @property
    def reading(self) -> str:
        """What decides the masks beside the model, as it was typed.

        Tiles do with ``--overlap``; without it masks are those of whole pictures.
        """
        words = []
        if self.bands is not None:
            words.append(f"--bands {','.join(map(str, self.bands))}")
        if self.scale is not None:
            low, high = (str(value).removesuffix(".0") for value in self.scale)
            words.append(f"--scale {low} {high}")
        if self.overlap is not None:
            words.append(f"--tile {self.tile} --overlap {self.overlap}")
            if self.max_memory is not None:
                words.append(f"--max-memory {self.max_memory >> 10}KiB")
        return " ".join(words)

    def choice(
        self, source: Run, precision: Precision, taken: InputShape, batch_size: int
    ) -> TileChoice:
        """Return what says how pictures are cut.

        Raises:
            InputError: an option is wrong, or there can be no such tiles.
        """
        from fcn_deploy.predict.tile_choice import TileChoice

        if self.tile != AUTO and not (self.tile.isdecimal() and int(self.tile)):
            raise InputError(f"--tile {self.tile} is no size", "give pixels, 2048, or auto")
        side = None if self.tile == AUTO else int(self.tile)
        if side and self.max_memory:
            raise InputError("--max-memory chooses the tiles that --tile names", "drop one of them")
        choice = TileChoice(
            lambda: _onnx_file(source, precision),
            taken,
            console.print,
            side,
            self.overlap,
            self.max_memory,
            batch_size,
        )
        choice.require()
        return choice

    def maps(self, choice: TileChoice) -> MapOptions:
        """Return how maps are segmented.

        Raises:
            InputError: an option is wrong.
        """
        from fcn_deploy.predict.geotiff import Bands
        from fcn_deploy.predict.maps import MapOptions

        if self.bands is not None and len(self.bands) != 3:
            raise InputError(f"--bands names {len(self.bands)} bands", "name three, e.g. 4,3,2")
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            raise InputError("--scale does not rise", "give MIN and MAX, e.g. 0 3000")
        return MapOptions(choice.of_map, Bands(self.bands, self.scale), _say_progress)


_OPTIONS = (
    click.option(
        "--tile", default=AUTO, show_default=True, metavar="auto|N",
        help="Segment pictures beyond N×N pixels in tiles of that size, with the mask of the "
        "whole.  auto: those that do not fit into the memory budget.",
    ),
    click.option(
        "--overlap", type=click.IntRange(min=0), metavar="N",
        help="Throw away N pixels on each side of a tile; by default as many as the network sees, "
        "so that masks are those of whole pictures.",
    ),
    click.option(
        "--max-memory", type=Bytes(), metavar="SIZE",
        help="Memory budget of the network, e.g. 2GiB; by default half of what is available.",
    ),
    click.option(
        "--bands", type=Counts(), metavar="R,G,B",
        help="Bands of a map to segment, counted from 1; by default the first three.",
    ),
    click.option(
        "--scale", type=float, nargs=2, metavar="MIN MAX",
        help="Values of a map's bands that become 0 and 255; needed where they are no bytes.",
    ),
)  # fmt: skip


def tile_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options on large pictures and maps; the command gets one ``tiles``."""

    @functools.wraps(command)
    def with_tiles(**typed: Any) -> None:
        tiles = TileOptions(**{field.name: typed.pop(field.name) for field in fields(TileOptions)})
        command(tiles=tiles, **typed)

    for option in reversed(_OPTIONS):
        with_tiles = option(with_tiles)
    return with_tiles


def _say_progress(done: int, total: int) -> None:
    """Say how far a large map is, ten times."""
    if total >= 20 and done < total and done * 10 // total > (done - 1) * 10 // total:
        console.print(f"{done:,} of {total:,} tiles of the map")


def _onnx_file(source: Run, precision: Precision) -> OnnxFile | None:
    from fcn_deploy.graph.onnx_file import OnnxFile

    paths = (source.onnx(precision), source.onnx(Precision.FP32))
    return next((OnnxFile(path) for path in paths if path.is_file()), None)
