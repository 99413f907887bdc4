"""The bilinear kernel is the tutorial's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from fcn_deploy.data.images import read_image
from fcn_deploy.data.scenes.render import draw_scene
from fcn_deploy.networks.upsampling import bilinear_kernel

CATDOG = Path(__file__).parents[3] / "shared" / "images" / "catdog.jpg"


def tutorial_kernel(size: int) -> NDArray[np.float64]:
    """The chapter's formula, written out pixel by pixel."""
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    return np.array(
        [
            [(1 - abs(i - centre) / factor) * (1 - abs(j - centre) / factor) for j in range(size)]
            for i in range(size)
        ]
    )


@given(channels_in=st.integers(1, 5), channels_out=st.integers(1, 5), size=st.integers(1, 65))
@settings(max_examples=60)
def test_the_kernel_is_the_tutorials_on_the_diagonal_and_zero_beside_it(
    channels_in: int, channels_out: int, size: int
) -> None:
    weight = bilinear_kernel(channels_in, channels_out, size)
    assert weight.shape == (channels_in, channels_out, size, size)
    assert weight.dtype == torch.float32
    for i in range(channels_in):
        for j in range(channels_out):
            expected = tutorial_kernel(size) if i == j else np.zeros((size, size))
            np.testing.assert_allclose(weight[i, j].numpy(), expected, atol=1e-6)


def test_known_kernels() -> None:
    assert bilinear_kernel(1, 1, 1)[0, 0].tolist() == [[1.0]]
    assert bilinear_kernel(1, 1, 3)[0, 0, 1].tolist() == [0.5, 1.0, 0.5]
    assert (16 * bilinear_kernel(1, 1, 4)[0, 0]).tolist() == [
        [1, 3, 3, 1],
        [3, 9, 9, 3],
        [3, 9, 9, 3],
        [1, 3, 3, 1],
    ]


@pytest.mark.parametrize("arguments", [(0, 1, 4), (1, 0, 4), (1, 1, 0), (1, 1, -3)])
def test_a_kernel_of_nothing_is_an_error(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        bilinear_kernel(*arguments)


def generated_picture() -> NDArray[np.uint8]:
    return draw_scene(0, 0, (561, 728))[0]


def catdog() -> NDArray[np.uint8]:
    if not CATDOG.exists():
        pytest.skip(f"needs the tutorial's picture {CATDOG}")
    return read_image(CATDOG)


@pytest.mark.parametrize("picture", [catdog, generated_picture])
def test_the_tutorials_sanity_check(picture: Callable[[], NDArray[np.uint8]]) -> None:
    image = picture()
    assert image.shape == (561, 728, 3)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    upsample = nn.ConvTranspose2d(3, 3, kernel_size=4, stride=2, padding=1, bias=False)
    with torch.inference_mode():
        upsample.weight.copy_(bilinear_kernel(3, 3, 4))
        larger = upsample(pixels)
    assert larger[0].permute(1, 2, 0).shape == (1122, 1456, 3)
    expected = F.interpolate(pixels, scale_factor=2, mode="bilinear", align_corners=False)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(larger[inner], expected[inner], atol=1e-6, rtol=0)
    # Beyond the border the convolution sees zeros, the interpolation the border itself.
    assert not torch.allclose(larger[:, :, 0], expected[:, :, 0], atol=1e-3)
