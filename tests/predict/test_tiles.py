"""Large pictures in tiles: how they are cut, put together, and when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy import open_runner
from fcn_deploy.commands.predict_tiles import TileOptions
from fcn_deploy.core.errors import ImageError, InputError
from fcn_deploy.core.input_shape import ANY_SHAPE, InputShape
from fcn_deploy.data.scenes.render import draw_scene
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.graph.receptive_field import ReceptiveField
from fcn_deploy.predict import tile_choice
from fcn_deploy.predict.tile_choice import TileChoice
from fcn_deploy.predict.tiled_runner import TiledRunner, checked_in_tiles
from fcn_deploy.predict.tiles import Tiling, batches_of
from tests.command_line import FcnDeploy
from tests.fakes import FakeRunner
from tests.predict import large_map


@settings(max_examples=25)
@given(
    stride=st.sampled_from([1, 2, 8, 32]),
    margin=st.integers(0, 70),
    extra=st.integers(8, 200),
    length=st.integers(1, 400),
)
def test_each_pixel_is_kept_once_and_lies_far_from_edges_that_are_none(
    stride: int, margin: int, extra: int, length: int
) -> None:
    tiling = Tiling.of(2 * -(-margin // stride) * stride + extra, margin, stride)
    kept = np.zeros((length, 3), np.uint8)
    for tile in tiling.tiles(length, 3):
        kept[tile.kept] += 1
        read, rows = tile.read[0], tile.kept[0]
        assert read.start % stride == 0
        assert read.start == 0 or rows.start - read.start >= margin
        assert read.stop == length or read.stop - rows.stop >= margin
        size = read.stop - read.start
        assert size == tiling.side if read.stop < length else size <= tiling.side
    assert (kept == 1).all()


def test_batches_are_of_one_shape() -> None:
    tiles = Tiling(32, 8).tiles(40, 100)
    batches = list(batches_of(tiles, 3))
    assert [tile for batch in batches for tile in batch] == tiles
    assert all(len({tile.shape for tile in batch}) == 1 for batch in batches)
    assert max(map(len, batches)) == 3


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def halves(size: tuple[int, int]) -> Tiling | None:
    return None if max(size) <= 24 else Tiling(24, 4)


def test_masks_are_put_together_in_order() -> None:
    inner = FakeRunner()
    sizes = [(1, 20, 24), (2, 50, 61), (1, 24, 70), (1, 3, 3)]
    batches = [np.stack([picture(h, w, seed) for seed in range(n)]) for n, h, w in sizes]
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


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return large_map.write_network(tmp_path_factory.mktemp("network") / "maps.onnx")


Choose = Callable[..., TileChoice]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def choose(network: Path, said: list[str]) -> Choose:
    def choose(taken: InputShape = ANY_SHAPE, **request: int) -> TileChoice:
        return TileChoice(lambda: OnnxFile(network), taken, said.append, **request)

    return choose


def test_a_picture_is_cut_where_it_does_not_fit_into_the_budget(
    choose: Choose, said: list[str]
) -> None:
    found = choose(max_memory=100 << 20)
    assert found.of_picture((300, 300)) is None
    tiling = found.of_picture((4000, 4000))
    assert tiling is not None
    assert found.of_picture((tiling.side, tiling.side)) is None
    assert f"tiles of {tiling.side}×{tiling.side}" in said[0]
    smaller = choose(max_memory=50 << 20).of_picture((4000, 4000))
    assert smaller is not None
    assert smaller.side < tiling.side


def test_tiles_give_the_mask_of_the_whole_and_say_when_they_do_not(
    network: Path, choose: Choose, said: list[str]
) -> None:
    with open_runner(network, "ort", threads=1) as runner:
        for size in [(431, 260), (200, 517)]:
            images = picture(*size)[None]
            whole = runner.run(images).mask
            assert len(np.unique(whole)) > 2
            tiled = TiledRunner(runner, choose(side=200).of_picture, 2)
            assert np.array_equal(tiled.run(images).mask, whole)
        cheap = TiledRunner(runner, choose(side=200, overlap=0).of_picture).run(images).mask
    assert 0 < np.count_nonzero(cheap != whole) < whole.size / 10
    assert "masks may differ" in said[-1]
    assert "without --overlap it is" in said[-1]


def test_what_cannot_be_cut_is_refused(
    choose: Choose, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="use --tile"):
        choose(side=16).require()
    with pytest.raises(InputError, match="run `fcn-deploy export` first"):
        TileChoice(lambda: None, ANY_SHAPE, said.append, 200).require()
    assert TileChoice(lambda: None, ANY_SHAPE, said.append).of_map((60, 64)).margin == 0
    assert choose(max_memory=1024).of_map((8, 8)) == Tiling(8, 0)
    fixed = InputShape(height=64, width=64)
    with pytest.raises(InputError, match="64×64 alone"):
        choose(fixed, side=200).require()
    assert choose(fixed, max_memory=1).of_picture((999, 999)) is None
    field = ReceptiveField(9, 9, 8, multiples_alone=True)
    monkeypatch.setattr(tile_choice, "receptive_field", lambda model: field)
    assert choose(side=200).of_picture((400, 800)) == Tiling(200, 16)
    with pytest.raises(ImageError, match="no multiples of 8"):
        choose(side=200).of_picture((400, 801))


def test_a_network_that_sees_the_whole_picture_is_cut_on_request_alone(
    choose: Choose, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    field = ReceptiveField(9, 9, 8, "its ReduceMean looks at the whole picture")
    monkeypatch.setattr(tile_choice, "receptive_field", lambda model: field)
    with pytest.raises(InputError, match=r"ReduceMean looks at the whole picture; add --overlap"):
        choose(side=200).require()
    unasked = choose(max_memory=50 << 20)
    assert unasked.of_picture((4000, 4000)) is unasked.of_picture((5000, 4000)) is None
    assert len(said) == 1
    assert "stay whole" in said[0]
    with pytest.raises(ImageError, match="add --overlap"):
        unasked.of_map((4000, 4000))
    assert choose(side=200, overlap=30).of_picture((400, 400)) == Tiling(200, 32)
    assert "masks may differ" in said[1]


def test_the_command_cuts_pictures_and_refuses_options_that_are_wrong(
    network: Path, fcn_deploy: FcnDeploy
) -> None:
    Image.fromarray(picture(300, 310)).save("a.png")
    words = ("predict", network, "a.png", "--backend", "ort", "--out")
    for option, said in (
        (("--tile", "no"), "give pixels, 2048, or auto"),
        (("--bands", "1,2"), "name three"),
        (("--scale", "5", "5"), "does not rise"),
        (("--tile", "64", "--max-memory", "1GiB"), "drop one of them"),
    ):
        done = fcn_deploy(*words, "out", *option)
        assert (done.code, said in done.err) == (2, True), done.err
        assert not Path("out/a.png").exists()
    tiled = fcn_deploy(*words, "out", "--tile", "128")
    assert "tiles of 128×128" in tiled.out, tiled.err
    assert "tiles" not in fcn_deploy(*words, "whole").out
    assert Path("out/a.png").read_bytes() == Path("whole/a.png").read_bytes()


def test_what_decides_the_masks_is_noted_as_it_is_typed() -> None:
    assert TileOptions("64", None, None, None, None).reading == ""
    assert TileOptions("auto", 4, 1 << 30, (3, 2, 1), (0.0, 1234567.0)).reading == (
        "--bands 3,2,1 --scale 0 1234567 --tile auto --overlap 4 --max-memory 1048576KiB"
    )


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["fcn32s-resnet18", "fcn8s-resnet18"])
def test_no_pixel_of_resnet18_differs(architecture: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="export needs PyTorch")
    from fcn_deploy.export.exporter import onnx_from_checkpoint
    from fcn_deploy.networks.checkpoint import save_checkpoint
    from tests.random_network import random_network

    model = tmp_path / "model.onnx"
    save_checkpoint(tmp_path / "model.safetensors", *random_network(architecture))
    onnx_from_checkpoint(tmp_path / "model.safetensors", model)
    image, _ = draw_scene(3, 1, (900, 1101))
    noise = np.random.default_rng(0).integers(-60, 61, image.shape)
    images = (image.astype(np.int64) + noise).clip(0, 255).astype(np.uint8)[None]
    with open_runner(model, "ort", threads=1) as runner:
        whole = runner.run(images).mask
        assert len(np.unique(whole)) > 2
        for overlap in (None, 0):
            found = TileChoice(lambda: OnnxFile(model), ANY_SHAPE, print, 832, overlap)
            mask = TiledRunner(runner, found.of_picture).run(images).mask
            assert np.array_equal(mask, whole) == (overlap is None)
