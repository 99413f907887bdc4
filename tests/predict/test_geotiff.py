"""Maps: GeoTIFF by windows, with coordinates, nodata and palette."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.errors import MissingExtraError
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.masks import voc_palette, written_by_us
from fcn_deploy.data.tiff_header import tiff_header
from fcn_deploy.predict import geotiff
from fcn_deploy.predict.folder import Prediction
from fcn_deploy.predict.geotiff import Bands, is_map, require_rasterio
from fcn_deploy.predict.job import PredictJob
from fcn_deploy.predict.maps import MapOptions
from fcn_deploy.predict.sources import Sources
from fcn_deploy.predict.tiles import Tiling
from tests.fakes import FAKE_SPEC, FakeRunner
from tests.predict.jobs import draw, journal_lines

rasterio = pytest.importorskip("rasterio", reason="maps need the extra geo")
require_rasterio()

SIZE = (75, 110)
TRANSFORM = rasterio.transform.from_origin(500_000, 5_400_000, 0.5, 0.5)
COLOURS = np.array(FAKE_SPEC.palette, np.uint8)


def write_map(path: Path, values: NDArray[Any], **profile: Any) -> Path:
    """Write bands [C, H, W] as a GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    usual = {
        "driver": "GTiff", "dtype": values.dtype, "count": count, "height": height,
        "width": width, "crs": "EPSG:32632", "transform": TRANSFORM,
    }  # fmt: skip
    with rasterio.open(path, "w", **{**usual, **profile}) as out:
        out.write(values)
    return path


def truth(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(1, 5, SIZE).astype(np.uint8)


def coloured(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return COLOURS[mask].transpose(2, 0, 1)


def run_maps(
    words: list[str | Path],
    out: Path,
    *,
    runner: FakeRunner | None = None,
    bands: Bands | None = None,
    batch_size: int = 2,
    **options: Any,
) -> list[Prediction]:
    runner = runner or FakeRunner()
    maps = MapOptions(lambda size: Tiling(32, 4, 4), bands)
    with (
        Sources([str(word) for word in words]) as sources,
        PredictJob(sources, out, **options) as job,
    ):
        job.begin(runner)
        return list(job.predictions(runner, batch_size=batch_size, maps=maps))


def read(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as mask:
        found: NDArray[np.uint8] = mask.read(1)
    return found


def test_a_map_gets_a_mask_with_its_coordinates_and_the_palette(tmp_path: Path) -> None:
    source = write_map(tmp_path / "in" / "a.tif", coloured(truth()))
    draw(tmp_path / "in" / "b.png", 1)
    runner = FakeRunner()
    done = run_maps([tmp_path / "in"], tmp_path / "out", runner=runner)
    assert [one.mask and one.mask.name for one in done] == ["a.tif", "b.png"]
    with rasterio.open(tmp_path / "out" / "a.tif") as mask:
        assert (mask.crs, mask.transform) == (rasterio.CRS.from_epsg(32632), TRANSFORM)
        assert (mask.dtypes, mask.count, mask.nodata) == (("uint8",), 1, None)
        assert (mask.profile["tiled"], mask.compression.value) == (True, "DEFLATE")
        colours = mask.colormap(1)
        assert [colours[index][:3] for index in range(5)] == list(voc_palette(5))
        assert np.array_equal(mask.read(1), truth())
    assert max(shape[0] for shape in runner.shapes) == 2
    assert all(max(shape[1:3]) <= 32 for shape in runner.shapes)
    line = journal_lines(tmp_path / "out")[0]
    assert (line["source"], line["mask"], line["size"]) == (str(source), "a.tif", [*SIZE])
    assert line["shares"]["red"] == pytest.approx((truth() == 1).mean(), abs=1e-6)
    assert written_by_us(tmp_path / "out" / "a.tif")
    assert not written_by_us(source)


@pytest.mark.parametrize("layout", ["nodata", "alpha"])
def test_what_stands_for_nothing_is_void_in_the_mask(tmp_path: Path, layout: str) -> None:
    bands = coloured(truth())
    hole = np.zeros(SIZE, bool)
    hole[20:50, 30:90] = True
    bands[:, hole] = 0
    if layout == "nodata":
        source = write_map(tmp_path / "a.tif", bands, nodata=0)
    else:
        alpha = np.where(hole, 0, 255).astype(np.uint8)[None]
        source = write_map(tmp_path / "a.tif", np.concatenate([bands, alpha]))
    run_maps([source], tmp_path / "out")
    with rasterio.open(tmp_path / "out" / "a.tif") as mask:
        assert mask.nodata == 255
        assert np.array_equal(mask.read(1), np.where(hole, 255, truth()))
    shares = journal_lines(tmp_path / "out")[0]["shares"]
    assert sum(shares.values()) == pytest.approx(1)
    assert "background" not in shares


def test_with_256_classes_no_value_is_left_for_nothing(tmp_path: Path) -> None:
    spec = ModelSpec(
        FAKE_SPEC.architecture, tuple(map(str, range(256))), voc_palette(256), FAKE_SPEC.image_sizes
    )
    source = write_map(tmp_path / "a.tif", coloured(truth())[:, :5, :6], nodata=0)
    run_maps([source], tmp_path / "out", runner=FakeRunner(spec))
    with rasterio.open(tmp_path / "out" / "a.tif") as mask:
        assert mask.nodata is None


def test_other_bands_and_other_values_are_read_as_asked(tmp_path: Path) -> None:
    bands = coloured(truth())
    infrared = np.concatenate([np.full((1, *SIZE), 7, np.uint8), bands[::-1]])
    first = write_map(tmp_path / "a.tif", infrared)
    run_maps([first], tmp_path / "out", bands=Bands(4, 3, 2))
    assert np.array_equal(read(tmp_path / "out" / "a.tif"), truth())
    wide = write_map(tmp_path / "b.tif", 100 + 4 * bands.astype(np.uint16))
    (refused,) = run_maps([wide], tmp_path / "wide")
    assert "b.tif holds values of uint16, not bytes; add --scale MIN,MAX" in str(refused.error)
    assert journal_lines(tmp_path / "wide")[0]["mask"] is None
    run_maps([wide], tmp_path / "scaled", bands=Bands(scale=(100, 1120)))
    assert np.array_equal(read(tmp_path / "scaled" / "b.tif"), truth())
    (missing,) = run_maps([wide], tmp_path / "none", bands=Bands(1, 2, 9, (0, 1)))
    assert "has 3 bands; name others with --bands" in str(missing.error)


def test_grey_and_palette_maps_are_read_as_pictures_of_that_kind_are(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (1, *SIZE), np.uint8)
    run_maps([write_map(tmp_path / "a.tif", grey)], tmp_path / "out")
    as_picture = FakeRunner().run(np.repeat(grey[0][None, ..., None], 3, axis=3)).mask[0]
    assert np.array_equal(read(tmp_path / "out" / "a.tif"), as_picture)
    source = write_map(tmp_path / "b.tif", truth()[None])
    with rasterio.open(source, "r+") as indexed:
        indexed.write_colormap(1, dict(enumerate(FAKE_SPEC.palette)))
    run_maps([source], tmp_path / "indexed")
    assert np.array_equal(read(tmp_path / "indexed" / "b.tif"), truth())


def test_a_tiff_without_coordinates_stays_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(COLOURS[truth()]).save(tmp_path / "a.tif")
    done = run_maps([tmp_path / "a.tif"], tmp_path / "out")
    assert done[0].mask == tmp_path / "out" / "a.png"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), truth())
    # One that has too many pixels to be decoded as a whole is read by windows.
    monkeypatch.setattr(geotiff, "MAX_PIXELS", 1000)
    done = run_maps([tmp_path / "a.tif"], tmp_path / "large")
    assert done[0].mask == tmp_path / "large" / "a.tif"
    assert np.array_equal(read(tmp_path / "large" / "a.tif"), truth())


def test_headers_of_any_kind_are_read_and_damaged_ones_are_none(tmp_path: Path) -> None:
    for name, profile in (("big", {"BIGTIFF": "YES"}), ("order", {"ENDIANNESS": "BIG"})):
        path = write_map(tmp_path / f"{name}.tif", coloured(truth()), **profile)
        header = tiff_header(path)
        assert header is not None
        assert (header.height, header.width, header.georeferenced) == (*SIZE, True)
    content = path.read_bytes()
    for end in (0, 3, 8, 20, 60):
        (tmp_path / "cut.tif").write_bytes(content[:end])
        assert not is_map(str(tmp_path / "cut.tif"))
    assert not is_map(str(tmp_path / "none.tif"))
    assert not is_map(str(tmp_path))


def test_a_damaged_map_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    source = write_map(tmp_path / "in" / "a.tif", coloured(truth()), compress="deflate")
    content = bytearray(source.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)
    source.write_bytes(content)
    write_map(tmp_path / "in" / "b.tif", coloured(truth()))
    first, second = run_maps([tmp_path / "in"], tmp_path / "out")
    assert "a.tif cannot be read" in str(first.error)
    assert second.error is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "b.tif", "predictions.jsonl",
    ]  # fmt: skip


def test_a_resumed_run_leaves_finished_maps_and_its_own_masks(tmp_path: Path) -> None:
    for name in "ab":
        write_map(tmp_path / "in" / f"{name}.tif", coloured(truth()))
    out = tmp_path / "in" / "masks"
    runner = FakeRunner()
    assert len(run_maps([tmp_path / "in"], out, resume=True)) == 2
    assert run_maps([tmp_path / "in"], out, resume=True, runner=runner) == []
    assert runner.shapes == []
    (out / "b.tif").unlink()
    assert len(run_maps([tmp_path / "in"], out, resume=True)) == 1
    # A kill between the mask and its line: the mask is taken over, and its pixels are counted.
    journal = out / "predictions.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))
    assert run_maps([tmp_path / "in"], out, resume=True, runner=runner) == []
    last = journal_lines(out)[-1]
    assert (last["mask"], last["ms"]) == ("b.tif", None)
    assert last["shares"] == journal_lines(out)[0]["shares"]
    with Sources([str(out)], recursive=False) as sources:  # masks are no pictures of ours
        assert PredictJob(sources, out).selection.items == []


def test_without_rasterio_maps_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(MissingExtraError, match=r"fcn-deploy\[geo\]"):
        require_rasterio()
