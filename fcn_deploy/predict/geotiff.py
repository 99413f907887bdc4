"""GeoTIFF by windows: pictures of the earth in, masks with the same coordinates out.

Neither is ever in memory as a whole.  Needs rasterio, the extra ``geo``.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ArtifactError, ImageError
from fcn_deploy.core.extras import require_extra
from fcn_deploy.core.spec import IGNORE_INDEX
from fcn_deploy.data.images import MAX_PIXELS
from fcn_deploy.data.masks import Palette, colour_table
from fcn_deploy.data.png import SOFTWARE
from fcn_deploy.data.tiff_header import tiff_header
from fcn_deploy.predict.items import unreadable
from fcn_deploy.predict.tiles import Tile

#: Height and width of the blocks of a mask's file.
_BLOCK = 512
#: Bytes of decoded blocks that GDAL keeps, of all files together: between these.
_LEAST_CACHE, _MOST_CACHE = 64 << 20, 512 << 20

# What GDAL logs would go to stderr, where the error is one line of ours.
logging.getLogger("rasterio").addHandler(logging.NullHandler())


def is_map(name: str) -> bool:
    """Say whether a TIFF is a map: it has coordinates, or more pixels than pictures may have."""
    header = tiff_header(name)
    return header is not None and (
        header.georeferenced or header.height * header.width > MAX_PIXELS
    )


def require_rasterio() -> None:
    """Import rasterio.

    Raises:
        MissingExtraError: it is not installed.
    """
    require_extra("GeoTIFF", "geo", "rasterio")
    from rasterio.errors import NotGeoreferencedWarning

    # Large pictures without coordinates are maps too.
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


def block_cache(width: int, rows: int) -> AbstractContextManager[Any]:
    """Return a context in which GDAL keeps the blocks of so many rows of a map, within bounds.

    Tiles side by side then decode none twice, and what two tiles fill of a mask is packed once.
    """
    import rasterio

    nbytes = min(max(width * rows * 4, _LEAST_CACHE), _MOST_CACHE)
    context: AbstractContextManager[Any] = rasterio.Env(GDAL_CACHEMAX=nbytes)
    return context


@dataclass(frozen=True)
class Bands:
    """Which bands of a map the network sees, and how.

    Attributes:
        numbers: of red, green and blue, from 1; None: the first three, or the one that there is.
        scale: values that become 0 and 255; None: values are bytes and stay as they are.
    """

    numbers: tuple[int, ...] | None = None
    scale: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class MapMask:
    """A mask of a map.

    Attributes:
        size: (height, width) in pixels.
        counts: of the pixels of each value, without those that stand for nothing; int64 [256].
        seconds: it took; None: not known.
    """

    size: tuple[int, int]
    counts: NDArray[np.int64]
    seconds: float | None = None


class MapReader(AbstractContextManager["MapReader"]):
    """An open map.

    Attributes:
        dataset: rasterio's.
        size: (height, width) in pixels.
        has_nodata: whether some of its pixels may stand for nothing.

    Raises:
        ImageError: it cannot be read, has no such bands, or values that are no bytes.
    """

    def __init__(self, path: Path, bands: Bands) -> None:
        import rasterio
        from rasterio.enums import ColorInterp, MaskFlags

        self._path = path
        self._scale = bands.scale
        with _reading(path):
            self.dataset: Any = rasterio.open(path)
        source = self.dataset
        self.size: tuple[int, int] = (source.height, source.width)
        self._indexes = list(bands.numbers or ((1, 2, 3) if source.count >= 3 else (1,)))
        try:
            self._require_bytes()
        except ImageError:
            source.close()
            raise
        self._table: NDArray[np.uint8] | None = None
        is_palette = source.colorinterp[0] == ColorInterp.palette
        if len(self._indexes) == 1 and is_palette and self._scale is None:
            colours = source.colormap(1)
            table = [colours.get(value, (0, 0, 0))[:3] for value in range(256)]
            self._table = np.array(table, np.uint8)
        # GDAL takes any fourth band of bytes for alpha; one that the network sees is a colour.
        seen = {source.colorinterp[index - 1] for index in self._indexes}
        sees_alpha = ColorInterp.alpha in seen
        self._by_alpha = ColorInterp.alpha in source.colorinterp and not sees_alpha
        self.has_nodata = self._by_alpha or not all(
            MaskFlags.all_valid in flags or (sees_alpha and MaskFlags.alpha in flags)
            for flags in (source.mask_flag_enums[index - 1] for index in self._indexes)
        )

    def _require_bytes(self) -> None:
        count = self.dataset.count
        if max(self._indexes) > count:
            raise ImageError(f"{self._path} has {count} bands", "name others with --bands R,G,B")
        other = {self.dataset.dtypes[index - 1] for index in self._indexes} - {"uint8"}
        if other and self._scale is None:
            raise ImageError(
                f"{self._path} holds values of {min(other)}, not bytes",
                "add --scale MIN MAX: the values that become 0 and 255",
            )

    def read(self, tile: Tile) -> NDArray[np.uint8]:
        """Return what is segmented in a tile, uint8 [h, w, 3]."""
        with _reading(self._path):
            values = self.dataset.read(self._indexes, window=_window(*tile.read))  # (bands, h, w)
        if self._table is not None:
            return np.asarray(self._table[values[0]])
        if self._scale is not None:
            low, high = self._scale
            with np.errstate(over="ignore"):  # values that stand for nothing may be huge
                scaled = (np.nan_to_num(values.astype(np.float32)) - low) * (255 / (high - low))
            values = scaled.round().clip(0, 255).astype(np.uint8)
        if len(values) == 1:
            values = np.repeat(values, 3, axis=0)
        return np.ascontiguousarray(values.transpose(1, 2, 0))

    def nothing(self, tile: Tile) -> NDArray[np.bool_] | None:
        """Say which pixels that are kept of a tile stand for nothing, bool [h, w]; None: none."""
        if not self.has_nodata:
            return None
        window = _window(*tile.kept)
        with _reading(self._path):
            if self._by_alpha:
                return np.asarray(self.dataset.dataset_mask(window=window) == 0)
            # Of the bands that are seen alone: others may lack values where these have some.
            masks = self.dataset.read_masks(self._indexes, window=window)
            return np.asarray((masks == 0).all(axis=0))

    def __exit__(self, *error: object) -> None:
        self.dataset.close()


class MapWriter(AbstractContextManager["MapWriter"]):
    """A mask that is written by windows: a tiled, packed GeoTIFF of class indices.

    It is whole when the block has ended.

    Args:
        path: to write.
        like: the map, whose coordinates it gets, and whose pixels that stand for nothing.
        palette: RGB per class.

    Attributes:
        counts: of the pixels of each value, without those that stand for nothing; int64 [256].

    Raises:
        ArtifactError: it cannot be written.
    """

    def __init__(self, path: Path, like: MapReader, palette: Palette) -> None:
        import rasterio

        self._path = path
        self._marks_nothing = like.has_nodata and len(palette) <= IGNORE_INDEX
        self.counts = np.zeros(256, np.int64)
        source = like.dataset
        profile: dict[str, Any] = {
            "driver": "GTiff", "dtype": "uint8", "count": 1, "height": like.size[0],
            "width": like.size[1], "nodata": IGNORE_INDEX if self._marks_nothing else None,
            "tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "compress": "deflate",
            "bigtiff": "if_safer",
        }  # fmt: skip
        points, points_crs = source.gcps
        if points:
            profile |= {"gcps": points, "crs": points_crs}
        else:
            profile |= {"transform": source.transform, "crs": source.crs}
        with _writing(path):
            self._dataset: Any = rasterio.open(path, "w", **profile)
            self._dataset.update_tags(TIFFTAG_SOFTWARE=SOFTWARE)
            self._dataset.write_colormap(1, dict(enumerate(colour_table(palette).tolist())))

    def write(self, tile: Tile, mask: NDArray[np.uint8], nothing: NDArray[np.bool_] | None) -> None:
        """Write what is kept of a tile, uint8 [h, w], and what of it stands for nothing."""
        if nothing is not None and self._marks_nothing:
            self.counts += np.bincount(mask[~nothing], minlength=256)
            mask = np.where(nothing, np.uint8(IGNORE_INDEX), mask)
        else:
            self.counts += np.bincount(mask.ravel(), minlength=256)
        with _writing(self._path):
            self._dataset.write(mask, 1, window=_window(*tile.kept))

    def __exit__(self, *error: object) -> None:
        with _writing(self._path):
            self._dataset.close()
        with self._path.open("rb+") as stream:
            os.fsync(stream.fileno())


def read_mask_of_map(path: Path) -> MapMask:
    """Return what is known of a mask that :class:`MapWriter` wrote."""
    import rasterio

    counts = np.zeros(256, np.int64)
    with _reading(path), rasterio.open(path) as mask:
        for _, window in mask.block_windows(1):
            counts += np.bincount(mask.read(1, window=window).ravel(), minlength=256)
        if mask.nodata is not None:
            counts[int(mask.nodata)] = 0
        return MapMask((mask.height, mask.width), counts)


def _window(rows: slice, columns: slice) -> Any:
    from rasterio.windows import Window

    return Window.from_slices(rows, columns)


@contextmanager
def _reading(path: Path, *, writing: bool = False) -> Iterator[None]:
    from rasterio.errors import RasterioError

    try:
        yield
    except (RasterioError, OSError) as error:
        reason = str(error.__cause__ or error)
        if not writing:
            raise unreadable(str(path), reason) from error
        raise ArtifactError(
            f"cannot write {path} ({reason})", "free some space, or choose another --out"
        ) from error


_writing = partial(_reading, writing=True)
