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
from tests.predict import large_map
from tests.predict.jobs import draw, journal_lines

rasterio = pytest.importorskip("rasterio", reason="maps need the extra geo")
require_rasterio()
ColorInterp = rasterio.enums.ColorInterp

SIZE = (45, 70)
TRANSFORM = rasterio.transform.from_origin(500_000, 5_400_000, 0.5, 0.5)
TRUTH = np.random.default_rng(0).integers(1, 5, SIZE).astype(np.uint8)
COLOURED = np.array(FAKE_SPEC.palette, np.uint8)[TRUTH].transpose(2, 0, 1)


def write_map(path: Path, values: NDArray[Any] = COLOURED, **profile: Any) -> Path:
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


def run_maps(
    source: Path, out: Path, runner: FakeRunner | None = None, *, resume: bool = False, **bands: Any
) -> list[Prediction]:
    runner = runner or FakeRunner()
    maps = MapOptions(lambda size: Tiling(32, 4), Bands(**bands))
    with Sources([str(source)]) as sources, PredictJob(sources, out, resume=resume) as job:
        job.begin(runner)
        return list(job.predictions(runner, batch_size=2, maps=maps))


def read(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as mask:
        found: NDArray[np.uint8] = mask.read(1)
    return found


def test_a_map_gets_a_mask_with_its_coordinates_and_the_palette(tmp_path: Path) -> None:
    source, out, runner = write_map(tmp_path / "in" / "a.tif"), tmp_path / "out", FakeRunner()
    draw(tmp_path / "in" / "b.png", 1)
    done = run_maps(tmp_path / "in", out, runner)
    assert [one.mask for one in done] == [out / "a.tif", out / "b.png"]
    with rasterio.open(out / "a.tif") as mask:
        assert (mask.crs, mask.transform) == (rasterio.CRS.from_epsg(32632), TRANSFORM)
        assert (mask.dtypes, mask.count, mask.nodata) == (("uint8",), 1, None)
        assert (mask.profile["tiled"], mask.compression.value) == (True, "DEFLATE")
        colours = mask.colormap(1)
        assert [colours[index][:3] for index in range(5)] == list(voc_palette(5))
        assert np.array_equal(mask.read(1), TRUTH)
    assert max(shape[0] for shape in runner.shapes) == 2
    assert all(max(shape[1:3]) <= 32 for shape in runner.shapes)
    line = journal_lines(out)[0]
    assert (line["source"], line["mask"], line["size"]) == (str(source), "a.tif", [*SIZE])
    assert line["shares"]["red"] == pytest.approx((TRUTH == 1).mean(), abs=1e-6)
    assert (written_by_us(out / "a.tif"), written_by_us(source)) == (True, False)


@pytest.mark.parametrize("layout", ["nodata", "alpha"])
def test_what_stands_for_nothing_is_void_in_the_mask(tmp_path: Path, layout: str) -> None:
    hole = np.zeros(SIZE, bool)
    hole[20:40, 30:60] = True
    bands = np.where(hole, np.uint8(0), COLOURED)
    if layout == "alpha":
        bands = np.concatenate([bands, np.where(hole, 0, 255).astype(np.uint8)[None]])
    source = write_map(tmp_path / "a.tif", bands, nodata=0 if layout == "nodata" else None)
    run_maps(source, tmp_path / "out")
    with rasterio.open(tmp_path / "out" / "a.tif") as mask:
        assert mask.nodata == 255
        assert np.array_equal(mask.read(1), np.where(hole, 255, TRUTH))
    shares = journal_lines(tmp_path / "out")[0]["shares"]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert "background" not in shares
    every = tuple(map(str, range(256)))  # then no value is left for nothing
    spec = ModelSpec(FAKE_SPEC.architecture, every, voc_palette(256), FAKE_SPEC.image_sizes)
    write_map(source, bands[:, :5, :6], nodata=0)
    run_maps(source, tmp_path / "full", FakeRunner(spec))
    with rasterio.open(tmp_path / "full" / "a.tif") as mask:
        assert mask.nodata is None


def test_a_band_that_is_not_seen_makes_nothing_void(tmp_path: Path) -> None:
    water = np.zeros((1, *SIZE), np.uint8)  # infrared, of which 0 is a value that occurs
    source = write_map(tmp_path / "a.tif", np.concatenate([COLOURED, water]), nodata=0)
    with rasterio.open(source, "r+") as out:
        red, green, blue = (getattr(ColorInterp, name) for name in ("red", "green", "blue"))
        out.colorinterp = (red, green, blue, ColorInterp.undefined)
    run_maps(source, tmp_path / "out")
    assert np.array_equal(read(tmp_path / "out" / "a.tif"), TRUTH)


def test_other_bands_and_values_are_read_as_asked(tmp_path: Path) -> None:
    source, out = tmp_path / "a.tif", tmp_path / "out"
    write_map(source, np.concatenate([np.full((1, *SIZE), 7, np.uint8), COLOURED[::-1]]))
    run_maps(source, out, numbers=(4, 3, 2))
    assert np.array_equal(read(out / "a.tif"), TRUTH)
    write_map(source, 100 + 4 * COLOURED.astype(np.uint16))
    (refused,) = run_maps(source, out)
    assert "a.tif holds values of uint16, not bytes; add --scale MIN MAX" in str(refused.error)
    assert journal_lines(out)[0]["mask"] is None
    assert not (out / "a.tif").exists()
    run_maps(source, out, scale=(100, 1120))
    assert np.array_equal(read(out / "a.tif"), TRUTH)
    (missing,) = run_maps(source, out, numbers=(1, 2, 9), scale=(0, 1))
    assert "has 3 bands; name others with --bands" in str(missing.error)


def test_grey_and_palette_maps_are_read_as_pictures_of_that_kind_are(tmp_path: Path) -> None:
    source, out = write_map(tmp_path / "a.tif", COLOURED[:1]), tmp_path / "out"
    run_maps(source, out)
    grey = np.repeat(COLOURED[0][None, ..., None], 3, axis=3)
    assert np.array_equal(read(out / "a.tif"), FakeRunner().run(grey).mask[0])
    write_map(source, TRUTH[None])
    with rasterio.open(source, "r+") as indexed:
        indexed.write_colormap(1, dict(enumerate(FAKE_SPEC.palette)))
    run_maps(source, out)
    assert np.array_equal(read(out / "a.tif"), TRUTH)


def test_a_tiff_without_coordinates_is_a_picture_unless_it_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "a.tif", tmp_path / "out"
    Image.fromarray(COLOURED.transpose(1, 2, 0)).save(source)
    assert run_maps(source, out)[0].mask == out / "a.png"
    assert np.array_equal(np.asarray(Image.open(out / "a.png")), TRUTH)
    monkeypatch.setattr(geotiff, "MAX_PIXELS", 1000)
    assert run_maps(source, out)[0].mask == out / "a.tif"
    assert np.array_equal(read(out / "a.tif"), TRUTH)


def test_headers_of_any_kind_are_read_and_damaged_ones_are_none(tmp_path: Path) -> None:
    for profile in ({"BIGTIFF": "YES"}, {"ENDIANNESS": "BIG"}):
        path = write_map(tmp_path / "a.tif", **profile)
        header = tiff_header(path)
        assert header is not None
        assert (header.height, header.width, header.georeferenced) == (*SIZE, True)
    content = path.read_bytes()
    for end in (0, 3, 8, 20, 60):
        path.write_bytes(content[:end])
        assert not is_map(str(path))
    assert not is_map(str(tmp_path))


def test_a_damaged_map_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    source, out = write_map(tmp_path / "in" / "a.tif", compress="deflate"), tmp_path / "out"
    content = bytearray(source.read_bytes())
    content[-1000:] = bytes(1000)
    source.write_bytes(content)
    write_map(tmp_path / "in" / "b.tif")
    first, second = run_maps(tmp_path / "in", out)
    assert "a.tif cannot be read" in str(first.error)
    assert second.error is None
    assert {path.name for path in out.iterdir()} == {"b.tif", "predictions.jsonl"}


def test_a_resumed_run_leaves_finished_maps_and_its_own_masks(tmp_path: Path) -> None:
    folder, out, runner = tmp_path / "in", tmp_path / "in" / "masks", FakeRunner()
    for name in "ab":
        write_map(folder / f"{name}.tif")
    assert len(run_maps(folder, out, resume=True)) == 2
    assert run_maps(folder, out, runner, resume=True) == []
    (out / "b.tif").unlink()
    assert len(run_maps(folder, out, resume=True)) == 1
    # A kill between the mask and its line: the mask is taken over, and its pixels are counted.
    journal = out / "predictions.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))
    assert run_maps(folder, out, runner, resume=True) == []
    assert runner.shapes == []
    first, last = journal_lines(out)
    assert (last["mask"], last["ms"], last["shares"]) == ("b.tif", None, first["shares"])
    with Sources([str(out)]) as sources, PredictJob(sources, out) as job:
        assert job.selection.items == []  # masks are no pictures of ours


def test_without_rasterio_maps_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(MissingExtraError, match=r"\[geo\]"):
        require_rasterio()


@pytest.mark.slow
def test_a_large_map_is_never_in_memory_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side, out = 3000, tmp_path / "out"
    network = large_map.write_network(tmp_path / "maps.onnx")
    source = large_map.write_large_map(tmp_path / "map.tif", side)
    peak, said = large_map.predict_in_a_child(network, source, out, "--tile", "1024")
    assert "tiles of 1024×1024" in said
    assert peak < 600e6  # in one tile it took 1,436 MB
    monkeypatch.setattr(large_map, "PART", side)
    assert large_map.differing_pixels(network, source, out / "map.tif", 0, 0) == 0
    (line,) = journal_lines(out)
    assert (line["size"], len(line["shares"])) == ([side, side], 5)
