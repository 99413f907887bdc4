"""Large pictures in tiles: how they are cut, put together, and when."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from benchmarks.maps import write_network
from fcn_deploy import open_runner
from fcn_deploy.core.errors import ImageError, InputError
from fcn_deploy.core.input_shape import ANY_SHAPE, InputShape
from fcn_deploy.data.scenes.render import draw_scene
from fcn_deploy.graph import receptive_field as field_module
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.graph.receptive_field import ReceptiveField
from fcn_deploy.predict import tile_choice
from fcn_deploy.predict.tile_choice import TileChoice, TileRequest
from fcn_deploy.predict.tiled_runner import TiledRunner, checked_in_tiles
from fcn_deploy.predict.tiles import Tiling, batches_of
from tests.command_line import FcnDeploy
from tests.fakes import FakeRunner


@settings(max_examples=60)
@given(
    stride=st.sampled_from([1, 2, 8, 32]),
    margin=st.integers(0, 70),
    extra=st.integers(8, 200),
    size=st.tuples(st.integers(1, 400), st.just(3)),
)
def test_each_pixel_is_kept_once_and_lies_far_from_edges_that_are_none(
    stride: int, margin: int, extra: int, size: tuple[int, int]
) -> None:
    tiling = Tiling.of(2 * -(-margin // stride) * stride + extra, margin, stride)
    kept = np.zeros(size, np.uint8)
    shapes = set()
    for tile in tiling.tiles(*size):
        kept[tile.kept] += 1
        for span, length in zip((tile.rows, tile.columns), size, strict=True):
            assert span.start % stride == 0
            assert span.size <= tiling.side
            assert span.start == 0 or span.keep_start - span.start >= margin
            assert span.stop == length or span.stop - span.keep_stop >= margin
            if span.stop < length:
                assert span.size == tiling.side
        shapes.add(tile.shape)
    assert (kept == 1).all()
    assert len(shapes) <= 2  # inside, and at the end


def test_margins_that_leave_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"use --tile 608 or more"):
        Tiling.of(576, 264, 32)


def test_batches_are_of_one_shape() -> None:
    tiles = Tiling(32, 8).tiles(40, 100)
    batches = list(batches_of(tiles, 3))
    assert [tile for batch in batches for tile in batch] == tiles
    assert all(len({tile.shape for tile in batch}) == 1 and len(batch) <= 3 for batch in batches)
    assert max(map(len, batches)) == 3


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def halves(size: tuple[int, int]) -> Tiling | None:
    return None if max(size) <= 24 else Tiling(24, 4, 4)


def test_masks_are_put_together_in_order() -> None:
    inner = FakeRunner()
    batches = [
        np.stack([picture(20, 24)]),
        np.stack([picture(50, 61, 1), picture(50, 61, 2)]),
        np.stack([picture(24, 70, 3)]),
        np.stack([picture(3, 3, 4)]),
    ]
    tiled = TiledRunner(inner, halves, 4)
    found = [outputs.mask for outputs in tiled.stream(batches)]
    assert max(shape[0] for shape in inner.shapes) == 4
    assert all(max(shape[1:3]) <= 24 for shape in inner.shapes)
    for images, mask in zip(batches, found, strict=True):
        assert np.array_equal(mask, FakeRunner().run(images).mask)
    assert np.array_equal(tiled.run(batches[1]).mask, found[1])


def test_logits_are_checked_tile_by_tile() -> None:
    seen: list[tuple[int, ...]] = []

    def check(image: NDArray[np.uint8]) -> bool:
        seen.append(image.shape)
        return len(seen) < 3

    checked = checked_in_tiles(check, halves)
    assert checked(picture(8, 8))
    assert not checked(picture(60, 60))
    assert seen == [(8, 8, 3), (24, 24, 3), (24, 24, 3)]


def choice(
    network: Path | None, request: TileRequest, said: list[str], taken: InputShape = ANY_SHAPE
) -> TileChoice:
    file = None if network is None else OnnxFile(network)
    return TileChoice(lambda: file, taken, request, said.append)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("network") / "maps.onnx")


def test_a_picture_is_cut_where_it_does_not_fit_into_the_budget(network: Path) -> None:
    said: list[str] = []
    found = choice(network, TileRequest(max_memory=100 << 20), said)
    assert found.of_picture((300, 300)) is None
    tiling = found.of_picture((4000, 4000))
    assert tiling is not None
    assert found.of_picture((3000, 9000)) == tiling
    assert found.of_picture((tiling.side, tiling.side)) is None
    (line,) = said
    assert f"tiles of {tiling.side}×{tiling.side}" in line
    smaller = choice(network, TileRequest(max_memory=50 << 20), said).of_picture((4000, 4000))
    assert smaller is not None
    assert smaller.side < tiling.side


def test_the_tiles_that_were_asked_for_give_the_mask_of_the_whole(network: Path) -> None:
    said: list[str] = []
    found = choice(network, TileRequest(side=200), said)
    with open_runner(network, "ort", threads=1) as runner:
        for size in [(431, 260), (200, 517)]:
            images = picture(*size)[None]
            whole = runner.run(images).mask
            assert len(np.unique(whole)) > 2
            assert np.array_equal(TiledRunner(runner, found.of_picture, 2).run(images).mask, whole)
        cheap = choice(network, TileRequest(side=200, overlap=0), said)
        mask = TiledRunner(runner, cheap.of_picture).run(images).mask
        assert 0 < np.count_nonzero(mask != whole) < whole.size / 10
    assert "masks may differ" in said[1]
    assert "without --overlap it is" in said[1]


@pytest.fixture
def sees_all(monkeypatch: pytest.MonkeyPatch) -> None:
    field = ReceptiveField(9, 9, 8, "its ReduceMean looks at the whole picture")
    monkeypatch.setattr(tile_choice, "receptive_field", lambda model: field)


@pytest.mark.usefixtures("sees_all")
def test_a_network_that_sees_the_whole_picture_is_cut_on_request_alone(network: Path) -> None:
    said: list[str] = []
    with pytest.raises(InputError, match=r"ReduceMean looks at the whole picture; add --overlap"):
        choice(network, TileRequest(side=200), said).require()
    unasked = choice(network, TileRequest(max_memory=50 << 20), said)
    assert unasked.of_picture((4000, 4000)) is None
    assert unasked.of_picture((5000, 4000)) is None
    assert len(said) == 1
    assert "stay whole" in said[0]
    with pytest.raises(ImageError, match="add --overlap"):
        unasked.of_map((4000, 4000))
    asked = choice(network, TileRequest(side=200, overlap=30), said)
    assert asked.of_picture((400, 400)) == Tiling(200, 32, 8)
    assert "masks may differ" in said[1]


def test_other_sizes_than_multiples_are_refused_where_scores_are_stretched(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = ReceptiveField(9, 9, 8, multiples_alone=True)
    monkeypatch.setattr(tile_choice, "receptive_field", lambda model: field)
    found = choice(network, TileRequest(side=200), [])
    assert found.of_picture((400, 800)) == Tiling(200, 16, 8)
    with pytest.raises(ImageError, match="no multiples of 8"):
        found.of_picture((400, 801))


def test_what_cannot_be_cut_is_refused(network: Path) -> None:
    with pytest.raises(InputError, match="run `fcn-deploy export` first"):
        choice(None, TileRequest(side=200), []).require()
    fixed = InputShape(height=64, width=64)
    with pytest.raises(InputError, match="64×64 alone"):
        choice(network, TileRequest(side=200), [], fixed).require()
    assert choice(network, TileRequest(max_memory=1), [], fixed).of_picture((999, 999)) is None


def test_options_that_are_wrong_are_refused_before_anything_is_written(
    network: Path, fcn_deploy: FcnDeploy
) -> None:
    Image.fromarray(picture(300, 310)).save("a.png")
    for words, said in (
        (("--tile", "no"), "give pixels, 2048, or auto"),
        (("--tile", "16"), "use --tile"),
        (("--bands", "1,2"), "are not 3 numbers"),
        (("--scale", "5,5"), "does not rise"),
    ):
        done = fcn_deploy("predict", network, "a.png", "--out", "out", "--backend", "ort", *words)
        assert (done.code, said in done.err) == (2, True), done.err
        assert not Path("out/a.png").exists()
    tiled = fcn_deploy(
        "predict", network, "a.png", "--out", "out", "--backend", "ort", "--tile", "128"
    )
    assert tiled.code == 0, tiled.err
    assert "tiles of 128×128" in tiled.out
    whole = fcn_deploy("predict", network, "a.png", "--out", "whole", "--backend", "ort")
    assert "tiles" not in whole.out
    assert Path("out/a.png").read_bytes() == Path("whole/a.png").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["fcn32s-resnet18", "fcn8s-resnet18"])
def test_no_pixel_of_resnet18_differs(architecture: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="export needs PyTorch")
    from fcn_deploy.export.exporter import onnx_from_checkpoint
    from fcn_deploy.networks.checkpoint import save_checkpoint
    from tests.random_network import random_network

    save_checkpoint(tmp_path / "model.safetensors", *random_network(architecture))
    model = tmp_path / "model.onnx"
    onnx_from_checkpoint(tmp_path / "model.safetensors", model)
    with open_runner(model, "ort", threads=1) as runner:
        image, _ = draw_scene(3, 1, (900, 1101))
        noise = np.random.default_rng(0).integers(-60, 61, image.shape)
        images = (image.astype(np.int64) + noise).clip(0, 255).astype(np.uint8)[None]
        whole = runner.run(images).mask
        assert len(np.unique(whole)) > 2
        for overlap in (None, 0):
            found = choice(model, TileRequest(side=832, overlap=overlap), [])
            mask = TiledRunner(runner, found.of_picture).run(images).mask
            assert np.array_equal(mask, whole) == (overlap is None)
    assert field_module.receptive_field(OnnxFile(model).model).margin == 288
