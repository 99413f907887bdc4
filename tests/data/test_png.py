"""Index pictures as PNG files: any reader finds the same pixels, whoever packed them."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.errors import InputError
from fcn_deploy.data import png
from fcn_deploy.data.png import indexed_png

OneLine = Callable[[Exception], str]

COLOURS = np.arange(256 * 3, dtype=np.int64).astype(np.uint8).reshape(256, 3)
PACKERS = ["zlib"] if png.isal_zlib is None else ["isal", "zlib"]


def written(indices: NDArray[np.uint8], packer: str) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        if packer == "zlib":
            patch.setattr(png, "isal_zlib", None)
        return indexed_png(indices, COLOURS, software="a test")


@given(
    packer=st.sampled_from(PACKERS),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    classes=st.integers(1, 256),
    seed=st.integers(0, 2**16),
)
def test_every_size_is_read_as_it_was_written(
    packer: str, height: int, width: int, classes: int, seed: int
) -> None:
    indices = np.random.default_rng(seed).integers(0, classes, (height, width), np.uint8)
    content = written(indices, packer)
    with Image.open(BytesIO(content)) as image:
        image.verify()  # the checksums
    with Image.open(BytesIO(content)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "P", (width, height))
        assert image.info["Software"] == "a test"
        np.testing.assert_array_equal(np.array(image), indices)
        np.testing.assert_array_equal(np.array(image.convert("RGB")), COLOURS[indices])


@pytest.mark.parametrize("packer", PACKERS)
def test_flat_areas_take_next_to_nothing(packer: str) -> None:
    indices = np.zeros((400, 500), np.uint8)
    indices[100:300, 200:400] = 7
    assert len(written(indices, packer)) < 0.03 * indices.size


@pytest.mark.parametrize("packer", PACKERS)
def test_a_mask_that_is_a_view_of_another_array(packer: str) -> None:
    turned = np.arange(12, dtype=np.uint8).reshape(3, 4).T[::-1]
    with Image.open(BytesIO(written(turned, packer))) as image:
        np.testing.assert_array_equal(np.array(image), turned)


@pytest.mark.parametrize(
    "indices",
    [
        np.zeros((3, 4), np.int64),
        np.zeros((3, 4), bool),
        np.zeros((3, 4, 1), np.uint8),
        np.zeros((0, 4), np.uint8),
    ],
    ids=["int64", "bool", "rank 3", "empty"],
)
def test_what_is_no_mask_is_refused(indices: NDArray[np.uint8], one_line: OneLine) -> None:
    with pytest.raises(InputError, match=r"uint8 \[H, W\]") as caught:
        indexed_png(indices, COLOURS, software="a test")
    assert str(indices.dtype) in one_line(caught.value)
    assert caught.value.repair
