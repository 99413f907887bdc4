"""Tails of the deploy graph: resize and argmax in the order that costs least, with the proof."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fcn_deploy.core.errors import ArchitectureError, InputError
from fcn_deploy.core.spec import Tail
from fcn_deploy.networks.fcn import InterpolatingNetwork, SegmentationNetwork, UpsamplingNetwork
from fcn_deploy.networks.python_networks import PythonNetwork
from fcn_deploy.networks.upsampling import bilinear_kernel, cropped, interpolated


def outputs_from_logits(logits: Tensor, outputs: tuple[str, ...]) -> tuple[Tensor, ...]:
    """Return the outputs asked for, each made from logits [N, C, H, W]."""
    produced = []
    index = logits.argmax(dim=1)  # (N, H, W)
    if "mask" in outputs:
        produced.append(index.to(torch.uint8))
    if "logits" in outputs:
        produced.append(logits.to(torch.float32))
    if "margin" in outputs:
        produced.append(_lead(logits, index.to(torch.float32), dim=1))
    return tuple(produced)


def _lead(logits: Tensor, index: Tensor, dim: int) -> Tensor:
    """Return by how much the best class leads the second one, float32.

    Two maxima cost a fraction of a sort (ONNX Runtime's TopK).

    Args:
        logits: the classes stand along ``dim``.
        index: of the best class, float32: below 257 it is exact, and TensorRT compares no uint8.
        dim: of the classes; what is returned has no such axis, like ``index``.
    """
    axes = [1] * logits.dim()
    axes[dim] = logits.shape[dim]
    classes = torch.arange(logits.shape[dim], dtype=torch.float32, device=logits.device)
    chosen = index.unsqueeze(dim) == classes.view(axes)
    second = logits.masked_fill(chosen, -torch.inf).amax(dim=dim)
    return logits.amax(dim=dim).to(torch.float32) - second.to(torch.float32)


class LateArgmax(nn.Module):
    """The tail as it is drawn: upsample, crop, argmax.

        scores [N, C, h, w] ─upsample─▶ [N, C, ≥ H, ≥ W] ─crop─▶ logits ─ArgMax─▶ mask [N, H, W]

    Args:
        upsample: scores → logits on a grid that covers the picture.
        start: row and column of that grid where the picture begins.
        outputs: a subset of ``OUTPUT_NAMES`` in that order.
    """

    def __init__(self, upsample: nn.Module, start: int, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.upsample = upsample
        self.start = start
        self.outputs = outputs

    def forward(self, scores: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """Return what :meth:`DeployModel.forward` does, from scores [N, C, h, w]."""
        logits = cropped(self.upsample(scores), self.start, height, width)  # (N, C, H, W)
        return outputs_from_logits(logits, self.outputs)


class BilinearResize(nn.Module):
    """Bilinear interpolation, equal to the bilinear transposed convolution everywhere.

    Beyond the border the convolution sees zeros, an interpolation the border itself; so a frame of
    zeros is put around the scores, and the picture begins ``stride`` pixels further in.

    Args:
        stride: s.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, scores: Tensor) -> Tensor:
        """Scores float [N, C, h, w] → logits [N, C, s·(h + 2), s·(w + 2)]."""
        framed = nn.functional.pad(scores, (1, 1, 1, 1))  # (N, C, h + 2, w + 2)
        return nn.functional.interpolate(
            framed, scale_factor=float(self.stride), mode="bilinear", align_corners=False
        )


class EarlyArgmax(nn.Module):
    """The transposed convolution cell by cell, and the argmax before anything is put in place.

    Each s×s cell between four neighbouring scores depends on these four alone, so the transposed
    convolution is a 2×2 convolution that gives all C·s² logits of a cell at once.  Argmax looks at
    one pixel, putting pixels in place and cropping move them: these commute.  So C logits for each
    pixel are never moved, one index is.

        scores [N, C, h, w]
          │ corners: each cell's four scores            [N, 4C, h+1, w+1]
          │ MatMul: its logits                          [N, h+1, w+1, C·s²]
          │ ArgMax over C                               [N, h+1, w+1, s²]
          │ DepthToSpace: pixels in their places        [N, 1, s·(h+1), s·(w+1)]
          │ crop at s/2, the grid's first cell being half outside
        mask [N, H, W]

    Source of the rearrangement: Shi et al., "Is the deconvolution layer the same as a
    convolutional layer?" (2016).  The form was chosen by measuring ONNX Runtime's CPU kernels,
    see docs/numerics.md.

    Args:
        upsample: the transposed convolution; see
            :class:`~fcn_deploy.networks.fcn.UpsamplingNetwork`.
        outputs: a subset of ``OUTPUT_NAMES`` in that order.

    Raises:
        ArchitectureError: ``upsample`` is of another form.
    """

    def __init__(self, upsample: nn.ConvTranspose2d, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.stride = _stride_of(upsample)
        self.num_classes = upsample.out_channels
        self.outputs = outputs
        channels = upsample.in_channels
        # One 1 in each filter: the 2×2 scores around a cell become its channels, unchanged.
        self.corners = nn.Conv2d(
            channels, 4 * channels, kernel_size=2, padding=1, groups=channels, bias=False
        )
        self.weight: Tensor
        with torch.no_grad():
            self.corners.weight.copy_(torch.eye(4).view(4, 1, 2, 2).repeat(channels, 1, 1, 1))
            self.register_buffer("weight", _cell_weight(upsample.weight.detach(), self.stride))

    def forward(self, scores: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """Return what :meth:`DeployModel.forward` does, from scores [N, C, h, w]."""
        corners = self.corners(scores)  # (N, 4C, h + 1, w + 1)
        cells = corners.permute(0, 2, 3, 1) @ self.weight  # (N, h + 1, w + 1, C·s²)
        by_class = torch.unflatten(cells, 3, (self.num_classes, self.stride**2))  # (N, ·, ·, C, s²)
        # TensorRT moves no integers of 8 bits, and no 64; below 257 float32 is exact.
        index = by_class.argmax(dim=3).to(torch.float32)  # (N, h + 1, w + 1, s²)
        produced = []
        if "mask" in self.outputs:
            produced.append(self._in_place(index, height, width).to(torch.uint8))
        if "logits" in self.outputs:
            produced.append(self._logits(cells, height, width).to(torch.float32))
        if "margin" in self.outputs:
            margin = _lead(by_class, index, dim=3)  # (N, h + 1, w + 1, s²)
            produced.append(self._in_place(margin, height, width))
        return tuple(produced)

    def _in_place(self, cells: Tensor, height: int, width: int) -> Tensor:
        """One value per pixel, [N, h + 1, w + 1, s²], as a picture [N, H, W]."""
        channels = cells.permute(0, 3, 1, 2)  # (N, s², h + 1, w + 1)
        grid = nn.functional.pixel_shuffle(channels, self.stride)  # (N, 1, s(h + 1), s(w + 1))
        return cropped(grid, self.stride // 2, height, width).squeeze(1)

    def _logits(self, cells: Tensor, height: int, width: int) -> Tensor:
        """All logits, [N, h + 1, w + 1, C·s²], as [N, C, H, W]."""
        # Not by pixel_shuffle: runs of s pixels stay together here, which copies faster.
        rows, columns, s = cells.shape[1], cells.shape[2], self.stride
        grid = torch.unflatten(cells, 3, (self.num_classes, s, s)).permute(0, 3, 1, 4, 2, 5)
        whole = grid.reshape(cells.shape[0], self.num_classes, rows * s, columns * s)
        return cropped(whole, s // 2, height, width)


def _stride_of(upsample: nn.ConvTranspose2d) -> int:
    """Return s of a transposed convolution whose kernel is 2s and whose padding is s/2.

    Raises:
        ArchitectureError: it has another form.
    """
    stride = upsample.stride[0]
    expected = {
        "stride": (stride, stride),
        "kernel_size": (2 * stride, 2 * stride),
        "padding": (stride // 2, stride // 2),
        "output_padding": (0, 0),
        "dilation": (1, 1),
        "groups": 1,
        "bias": None,
    }
    other = [name for name, value in expected.items() if getattr(upsample, name) != value]
    if other or stride % 2:
        raise ArchitectureError(
            f"the upsampling {upsample} is not of kernel 2s, even stride s and padding s/2 without "
            "a bias, and cannot be rewritten",
            "use --tail deconv",
        )
    return stride


def _cell_weight(weight: Tensor, stride: int) -> Tensor:
    """Turn w[ci, co, s·a + ry, s·b + rx] into the matrix of :class:`EarlyArgmax`.

    A pixel (ry, rx) of cell (y, x) gets score (y - a, x - b) times that number, and this score is
    the cell's corner (1 - a, 1 - b).

    Args:
        weight: float [C, C, 2s, 2s], of the transposed convolution.
        stride: s.

    Returns:
        float [4C, C·s²]: rows by (ci, 1 - a, 1 - b), columns by (co, ry, rx).
    """
    parts = weight.view(*weight.shape[:2], 2, stride, 2, stride)  # (ci, co, a, ry, b, rx)
    corners = parts.flip(2, 4).permute(0, 2, 4, 1, 3, 5)  # (ci, 1 - a, 1 - b, co, ry, rx)
    return corners.reshape(4 * weight.shape[0], weight.shape[1] * stride**2).contiguous()


class Interpolated(nn.Module):
    """The tail of an :class:`~fcn_deploy.networks.fcn.InterpolatingNetwork`: stretch, argmax.

    Args:
        outputs: a subset of ``OUTPUT_NAMES`` in that order.
    """

    def __init__(self, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, scores: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """Return what :meth:`DeployModel.forward` does, from scores [N, C, h, w]."""
        return outputs_from_logits(interpolated(scores, height, width), self.outputs)


class PythonTail(nn.Module):
    """The tail of a :class:`~fcn_deploy.networks.python_networks.PythonNetwork`: its own, argmax.

    Args:
        network: which says whether its logits are stretched, and how far they are cropped.
        outputs: a subset of ``OUTPUT_NAMES`` in that order.
    """

    def __init__(self, network: PythonNetwork, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.logits = network.logits
        self.outputs = outputs

    def forward(self, scores: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """Return what :meth:`DeployModel.forward` does, from scores [N, C, h, w]."""
        return outputs_from_logits(self.logits(scores, height, width), self.outputs)


def _as_drawn(network: UpsamplingNetwork, outputs: tuple[str, ...]) -> nn.Module:
    return LateArgmax(copy.deepcopy(network.upsample), 0, outputs)


def _early(network: UpsamplingNetwork, outputs: tuple[str, ...]) -> nn.Module:
    return EarlyArgmax(network.upsample, outputs)


def _resized(network: UpsamplingNetwork, outputs: tuple[str, ...]) -> nn.Module:
    upsample = network.upsample
    stride = _stride_of(upsample)
    size = upsample.kernel_size[0]
    bilinear = bilinear_kernel(upsample.in_channels, upsample.out_channels, size)
    if not torch.equal(upsample.weight.detach().cpu(), bilinear):
        raise InputError(
            "the upsampling is trained: resize would give other masks (94 % agreement on CamVid)",
            "use --tail early-argmax",
        )
    return LateArgmax(BilinearResize(stride), stride, outputs)


def _stretched(_: InterpolatingNetwork, outputs: tuple[str, ...]) -> nn.Module:
    return Interpolated(outputs)


#: Makes a tail of a network of the right kind; the argument is the network, then the outputs.
MakeTail = Callable[[Any, tuple[str, ...]], nn.Module]
#: Kind of last step → the tails that can take its place, the cheapest exact one first.
TAILS: dict[type[SegmentationNetwork], dict[Tail, MakeTail]] = {
    UpsamplingNetwork: {
        Tail.EARLY_ARGMAX: _early,
        # The same function here: its file's argmax is written in comparisons by the export.
        Tail.TOURNAMENT: _early,
        Tail.DECONV: _as_drawn,
        Tail.RESIZE: _resized,
    },
    InterpolatingNetwork: {Tail.RESIZE: _stretched},
}


def tails_of(network: SegmentationNetwork) -> dict[Tail, MakeTail]:
    """Return the tails that a network can be exported with; ``--tail auto`` takes the first.

    Raises:
        ArchitectureError: its last step is of no known kind.
    """
    if isinstance(network, PythonNetwork):
        return {Tail.CROP if network.whole else Tail.RESIZE: PythonTail}
    for kind, tails in TAILS.items():
        if isinstance(network, kind):
            return tails
    raise ArchitectureError(
        f"the last step of {type(network).__name__} is of no kind that could be exported"
    )
