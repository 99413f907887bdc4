"""Bilinear upsampling of class scores: transposed convolution, interpolation, crop."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def bilinear_kernel(in_channels: int, out_channels: int, kernel_size: int) -> Tensor:
    """Return transposed-convolution weights that upsample each channel bilinearly.

    The value at (i, j) is (1 - |i - c| / f) (1 - |j - c| / f) with f = ⌊(k + 1) / 2⌋ and centre
    c = f - 1 for odd k, f - 0.5 for even k; it stands on the diagonal of the channels, all other
    weights are 0.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; the diagonal ends at the smaller of the two.
        kernel_size: k, in pixels.

    Returns:
        float32 [in_channels, out_channels, k, k], the layout of ``nn.ConvTranspose2d.weight``.

    Raises:
        ValueError: an argument is below 1.
    """
    if min(in_channels, out_channels, kernel_size) < 1:
        raise ValueError("channels and kernel_size must be at least 1")
    factor = (kernel_size + 1) // 2
    centre = factor - 1 if kernel_size % 2 == 1 else factor - 0.5
    ramp = 1 - (torch.arange(kernel_size, dtype=torch.float32) - centre).abs() / factor  # (k,)
    kernel = ramp[:, None] * ramp[None, :]  # (k, 1) * (1, k) -> (k, k)
    weight = torch.zeros(in_channels, out_channels, kernel_size, kernel_size)
    diagonal = torch.arange(min(in_channels, out_channels))
    weight[diagonal, diagonal] = kernel
    return weight


def cropped(grid: Tensor, start: int, height: int, width: int) -> Tensor:
    """Return ``height``×``width`` pixels of [N, K, ≥, ≥] from (start, start) on."""
    return grid[:, :, start : start + height, start : start + width]


def interpolated(scores: Tensor, height: int, width: int) -> Tensor:
    """Stretch [N, K, h, w] to [N, K, height, width], bilinearly, corners not aligned."""
    return nn.functional.interpolate(
        scores, size=(height, width), mode="bilinear", align_corners=False
    )


def bilinear_upsampling(channels: int, stride: int) -> nn.ConvTranspose2d:
    """Return the transposed convolution that upsamples ``stride`` times, bilinearly at first."""
    upsample = nn.ConvTranspose2d(
        channels,
        channels,
        kernel_size=2 * stride,
        stride=stride,
        padding=stride // 2,
        bias=False,
    )
    with torch.no_grad():
        upsample.weight.copy_(bilinear_kernel(channels, channels, 2 * stride))
    return upsample
