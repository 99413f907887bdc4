"""Every form a mask may be stored in gives its indices, or one error that names the file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.errors import DataError
from fcn_deploy.data.masks import colour_table, mask_to_colour, read_mask
from tests.data.pictures import png_of
from tests.data.small_masks import MASK, VOC

OneLine = Callable[[Exception], str]


def as_palette_png(mask: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(mask)
    image.putpalette(colour_table(VOC).tobytes())
    return image


def refused(path: Path, match: str, one_line: OneLine) -> str:
    """Read a mask; return the text of the DataError that must come."""
    with pytest.raises(DataError, match=match) as caught:
        read_mask(path, VOC)
    assert caught.value.repair
    assert str(path) in one_line(caught.value)
    return one_line(caught.value)


STORED = {
    "palette": as_palette_png,
    "index": Image.fromarray,
    "RGB": lambda mask: Image.fromarray(mask_to_colour(mask, VOC)),
    "RGBA": lambda mask: Image.fromarray(mask_to_colour(mask, VOC)).convert("RGBA"),
    "16-bit": lambda mask: Image.fromarray(mask.astype(np.uint16)),
    "grey with alpha": lambda mask: Image.fromarray(mask).convert("LA"),
}


@pytest.mark.parametrize("form", STORED)
def test_every_form_of_a_mask_gives_its_indices(tmp_path: Path, form: str) -> None:
    path = tmp_path / "mask.png"
    STORED[form](MASK).save(path)
    mask = read_mask(path, VOC)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, MASK)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_grey_pngs_of_fewer_bits_keep_their_indices(tmp_path: Path, bits: int) -> None:
    # Pillow cannot write these, annotation tools do: a hand-made PNG of 1×(8/bits) pixels.
    values = list(range(8 // bits))
    packed = sum(value << (8 - bits * (i + 1)) for i, value in enumerate(values))

    png = png_of((len(values), 1, bits, 0), bytes([0, packed]))
    (tmp_path / "mask.png").write_bytes(png)
    assert read_mask(tmp_path / "mask.png", VOC).tolist() == [values]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palette_pngs_of_fewer_bits(tmp_path: Path, bits: int) -> None:
    indices = (np.arange(12, dtype=np.uint8).reshape(3, 4) % 2**bits).astype(np.uint8)
    as_palette_png(indices).save(tmp_path / "mask.png", bits=bits)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", VOC), indices)


def test_a_black_and_white_mask_is_classes_0_and_1(tmp_path: Path) -> None:
    bits = np.array([[True, False], [False, False]])
    Image.fromarray(bits).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", VOC[:2]), bits.astype(np.uint8))


def test_the_indices_count_not_the_colours_of_a_palette_png(tmp_path: Path) -> None:
    image = Image.fromarray(MASK)
    image.putpalette(np.random.default_rng(0).bytes(768))
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", VOC), MASK)


def test_a_mask_of_void_alone_is_read(tmp_path: Path) -> None:
    void = np.full((3, 3), 255, np.uint8)
    Image.fromarray(void).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", VOC), void)


@pytest.mark.parametrize("form", ["palette", "index", "16-bit"])
def test_a_value_beyond_the_classes(tmp_path: Path, form: str, one_line: OneLine) -> None:
    path = tmp_path / "mask.png"
    STORED[form](np.array([[0, 21], [255, 3]], np.uint8)).save(path)
    text = refused(path, "class 21", one_line)
    assert "21 classes" in text
    assert "classes.txt" in text


def test_a_sixteen_bit_value_that_is_no_index(tmp_path: Path, one_line: OneLine) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([[0, 1000]], np.uint16)).save(path)
    refused(path, "1000", one_line)


def test_a_negative_value_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    Image.fromarray(np.array([[0, -7, 3]], np.int32)).save(path)
    with pytest.raises(DataError, match="value -7"):
        read_mask(path, VOC)


def test_an_unknown_colour_in_a_file(tmp_path: Path, one_line: OneLine) -> None:
    path = tmp_path / "mask.jpg"
    Image.fromarray(mask_to_colour(MASK, VOC).repeat(8, 0).repeat(8, 1)).save(path, quality=60)
    assert "PNG" in refused(path, "is no class", one_line)


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_mask_that_is_no_picture(tmp_path: Path, content: bytes, one_line: OneLine) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(content)
    refused(path, "mask", one_line)
