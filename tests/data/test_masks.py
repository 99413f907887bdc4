"""Class indices and colours: VOC's palette, masks that are written, and pictures of them."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.errors import ArtifactError, DataError, InputError
from fcn_deploy.data.masks import (
    VOC_CLASS_NAMES,
    colour_table,
    colour_to_mask,
    grid,
    mask_to_colour,
    mask_to_image,
    overlay,
    prediction_grid,
    read_mask,
    voc_palette,
    write_mask,
    write_picture,
)
from tests.data.small_masks import MASK, VOC

OneLine = Callable[[Exception], str]
VOC_COLOURS = {
    0: (0, 0, 0),
    1: (128, 0, 0),
    2: (0, 128, 0),
    3: (128, 128, 0),
    4: (0, 0, 128),
    7: (128, 128, 128),
    8: (64, 0, 0),
    15: (192, 128, 128),
    16: (0, 64, 0),
    20: (0, 64, 128),
    64: (32, 0, 0),
    255: (224, 224, 192),
}


def voc_indices(highest: int = 20) -> st.SearchStrategy[NDArray[np.uint8]]:
    """Masks of VOC classes and void."""
    values = st.one_of(st.integers(0, highest), st.just(255))
    sides = npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
    return npst.arrays(np.uint8, sides, elements=values)


# -- palette ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("index", "colour"), VOC_COLOURS.items())
def test_the_palette_is_the_development_kits(index: int, colour: tuple[int, int, int]) -> None:
    assert voc_palette()[index] == colour


def test_the_palette_has_256_different_colours_and_can_be_cut_short() -> None:
    assert len(set(voc_palette())) == 256
    assert voc_palette(21) == voc_palette()[:21]
    assert len(VOC_CLASS_NAMES) == 21


def test_a_short_palette_is_filled_up_with_vocs_colours() -> None:
    table = colour_table([(1, 2, 3), (4, 5, 6)])
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8
    assert table[:3].tolist() == [[1, 2, 3], [4, 5, 6], [0, 128, 0]]
    assert table[255].tolist() == [224, 224, 192]
    assert colour_table([]).tolist() == [list(colour) for colour in voc_palette()]


# -- colours ------------------------------------------------------------------------------------


@given(mask=voc_indices())
def test_colours_and_back(mask: NDArray[np.uint8]) -> None:
    colours = mask_to_colour(mask, VOC)
    assert colours.dtype == np.uint8
    assert colours.shape == (*mask.shape, 3)
    np.testing.assert_array_equal(colour_to_mask(colours, VOC), mask)


@given(
    palette=st.lists(
        st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255)).filter(
            lambda colour: colour != (224, 224, 192)
        ),
        min_size=2,
        max_size=255,
        unique=True,
    ),
    seed=st.integers(0, 2**16),
)
def test_any_palette_of_different_colours_goes_there_and_back(
    palette: list[tuple[int, int, int]], seed: int
) -> None:
    mask = np.random.default_rng(seed).integers(0, len(palette), (9, 11)).astype(np.uint8)
    mask[0, 0] = 255
    np.testing.assert_array_equal(colour_to_mask(mask_to_colour(mask, palette), palette), mask)


def test_an_unknown_colour_is_named_with_its_place(one_line: OneLine) -> None:
    colours = mask_to_colour(MASK, VOC)
    colours[1, 2] = (1, 2, 3)
    with pytest.raises(DataError) as caught:
        colour_to_mask(colours, VOC)
    assert "(1, 2, 3) at row 1, column 2" in one_line(caught.value)
    assert caught.value.repair


# -- writing ------------------------------------------------------------------------------------


@given(mask=voc_indices(highest=255))
def test_a_written_mask_reads_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, mask: NDArray[np.uint8]
) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.png"
    write_mask(path, mask, VOC)
    np.testing.assert_array_equal(read_mask(path, voc_palette()), mask)


def test_a_written_mask_shows_its_colours_in_any_viewer(tmp_path: Path) -> None:
    write_mask(tmp_path / "mask.png", MASK, VOC)
    with Image.open(tmp_path / "mask.png") as image:
        image.verify()  # the checksums
    with Image.open(tmp_path / "mask.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "P", (4, 2))
        np.testing.assert_array_equal(np.array(image.convert("RGB")), mask_to_colour(MASK, VOC))


def test_a_mask_that_is_a_view_of_another_array(tmp_path: Path) -> None:
    turned = np.arange(12, dtype=np.uint8).reshape(3, 4).T[::-1]
    write_mask(tmp_path / "view.png", turned, VOC)
    np.testing.assert_array_equal(read_mask(tmp_path / "view.png", VOC), turned)
    write_mask(tmp_path / "copy.png", turned.copy(), VOC)
    assert (tmp_path / "view.png").read_bytes() == (tmp_path / "copy.png").read_bytes()


def test_flat_areas_take_next_to_nothing(tmp_path: Path) -> None:
    mask = np.zeros((400, 500), np.uint8)
    mask[100:300, 200:400] = 7
    write_mask(tmp_path / "flat.png", mask, VOC)
    assert (tmp_path / "flat.png").stat().st_size < 0.03 * mask.size


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((3, 4), np.int64),
        np.zeros((3, 4), bool),
        np.zeros((3, 4, 1), np.uint8),
        np.zeros((0, 4), np.uint8),
    ],
    ids=["int64", "bool", "rank 3", "empty"],
)
def test_what_is_no_mask_is_refused(
    tmp_path: Path, mask: NDArray[np.uint8], one_line: OneLine
) -> None:
    with pytest.raises(InputError, match=r"uint8 \[H, W\]") as caught:
        write_mask(tmp_path / "mask.png", mask, VOC)
    assert str(mask.dtype) in one_line(caught.value)
    assert caught.value.repair
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"uint8 \[H, W\]"):
        mask_to_image(mask, VOC)


@pytest.mark.parametrize(
    "write",
    [
        lambda target: write_mask(target, MASK, VOC),
        lambda target: write_picture(target, mask_to_colour(MASK, VOC)),
    ],
    ids=["mask", "picture"],
)
def test_a_folder_that_cannot_be_written(
    tmp_path: Path, write: Callable[[Path], None], one_line: OneLine
) -> None:
    (tmp_path / "out").write_text("a file where a folder should be")
    target = tmp_path / "out" / "mask.png"
    with pytest.raises(ArtifactError) as caught:
        write(target)
    assert str(target) in one_line(caught.value)
    assert "choose another place" in one_line(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
@pytest.mark.parametrize(
    "write",
    [
        lambda target: write_mask(target, np.zeros((900, 900), np.uint8), VOC),
        lambda target: write_picture(target, np.zeros((900, 900, 3), np.uint8)),
    ],
    ids=["mask", "picture"],
)
def test_a_full_disk_keeps_the_old_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path], None],
    one_line: OneLine,
) -> None:
    write_mask(tmp_path / "mask.png", MASK, VOC)
    monkeypatch.setattr("secrets.token_hex", lambda _: "here")
    (tmp_path / ".mask.here.png").symlink_to("/dev/full")
    with pytest.raises(ArtifactError, match="disk is full") as caught:
        write(tmp_path / "mask.png")
    assert str(tmp_path / "mask.png") in one_line(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", VOC), MASK)


# -- equal masks are equal files ----------------------------------------------------------------


def masks_of_many_sizes() -> list[NDArray[np.uint8]]:
    """Small masks of few classes: patterns that repeat, noise, and flat areas."""
    masks = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        height, width, classes = (int(n) for n in rng.integers((1, 1, 1), (70, 70, 22)))
        noise = rng.integers(0, classes, (height, width), np.uint8)
        pattern = (np.arange(height * width).reshape(height, width) % classes).astype(np.uint8)
        masks.append((noise, pattern, pattern // 7)[seed % 3])
    return masks


def digests_of_files(folder: Path) -> list[str]:
    """Write the masks and digest each file; freed memory is left full of something else."""
    folder.mkdir(exist_ok=True)
    digests = []
    for number, mask in enumerate(masks_of_many_sizes()):
        rng = np.random.default_rng([number, threading.get_ident(), os.getpid()])
        garbage = [rng.bytes(size) for size in (50, 700, 9_000, 70_000, 300_000)]
        del garbage
        write_mask(folder / "mask.png", mask, VOC)
        digests.append(hashlib.sha256((folder / "mask.png").read_bytes()).hexdigest())
    return digests


def test_equal_masks_are_equal_files_in_many_threads(tmp_path: Path) -> None:
    expected = digests_of_files(tmp_path)
    assert len(set(expected)) == len(expected)
    with ThreadPoolExecutor(8) as pool:
        for digests in pool.map(digests_of_files, [tmp_path / str(n) for n in range(8)]):
            assert digests == expected


@pytest.mark.parametrize("memory", [{}, {"PYTHONMALLOC": "malloc", "MALLOC_PERTURB_": "171"}])
def test_equal_masks_are_equal_files_in_another_process(
    tmp_path: Path, memory: dict[str, str]
) -> None:
    code = (
        "import pathlib, sys\n"
        "from tests.data.test_masks import digests_of_files\n"
        "print(*digests_of_files(pathlib.Path(sys.argv[1])))\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "there")],
        env={**os.environ, **memory},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.split() == digests_of_files(tmp_path / "here")


# -- pictures to look at ------------------------------------------------------------------------


def test_overlay_blends_by_opacity() -> None:
    image = np.full((1, 2, 3), 100, np.uint8)
    mask = np.array([[0, 1]], np.uint8)
    palette = [(0, 0, 0), (255, 50, 0)]
    np.testing.assert_array_equal(overlay(image, mask, palette, 0.0), image)
    np.testing.assert_array_equal(overlay(image, mask, palette, 1.0), mask_to_colour(mask, palette))
    np.testing.assert_array_equal(
        overlay(image, mask, palette, 0.25), [[[75, 75, 75], [139, 88, 75]]]
    )


def test_grid_lays_cells_out_on_white() -> None:
    small = np.full((2, 3, 3), 10, np.uint8)
    large = np.full((4, 5, 3), 20, np.uint8)
    picture = grid([[small, large], [large]], gap=1)
    assert picture.shape == (4 + 1 + 4, 5 + 1 + 5, 3)
    expected = np.full((9, 11), 255)
    expected[:2, :3] = 10
    expected[:4, 6:] = 20
    expected[5:, :5] = 20
    np.testing.assert_array_equal(picture[:, :, 0], expected)


@pytest.mark.parametrize("rows", [[], [[]]])
def test_a_grid_of_nothing_is_an_error(rows: list[list[NDArray[np.uint8]]]) -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        grid(rows)


def test_prediction_grid_is_image_prediction_truth() -> None:
    image = np.full((2, 2, 3), 9, np.uint8)
    prediction, truth = np.full((2, 2), 1, np.uint8), np.full((2, 2), 15, np.uint8)
    picture = prediction_grid([image], [prediction], [truth], VOC)
    assert picture[0, 0].tolist() == [9, 9, 9]
    middle = picture[0, picture.shape[1] // 2]
    assert middle.tolist() == [128, 0, 0]
    assert picture[0, -1].tolist() == [192, 128, 128]
