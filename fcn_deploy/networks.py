"""The networks: a ResNet body, a 1×1 convolution to class scores, a learned upsampling.

Source: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation"
(CVPR 2015), in the form of the FCN chapter of "Dive into Deep Learning" (Zhang et al.).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torchvision
from torch import Tensor, nn

from fcn_deploy.errors import ArchitectureError

#: Pixels of the image per step of the body's grid.
STRIDE = 32


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


class UpsamplingNetwork(nn.Module):
    """A network whose last step is a transposed convolution, cropped at the top left.

    What :class:`fcn_deploy.model.DeployGraph` needs to know of a network to put another tail in
    that step's place.
    A subclass gives :meth:`scores` and sets ``upsample``, which is
    ``nn.ConvTranspose2d(C, C, 2 * s, stride=s, padding=s // 2, bias=False)`` with an even s.

    Attributes:
        upsample: scores [N, C, h, w] → logits [N, C, s·h, s·w].
    """

    upsample: nn.ConvTranspose2d

    def scores(self, images: Tensor) -> Tensor:
        """Return class scores [N, C, h, w], h = ⌈H/s⌉, of normalised float images [N, 3, H, W]."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return logits for normalised images.

        Args:
            images: float [N, 3, H, W], any H, W ≥ 1.

        Returns:
            float [N, C, H, W].
        """
        logits: Tensor = self.upsample(self.scores(images))  # (N, C, s·h, s·w)
        # The body's grid starts at the image's top left corner whatever its size, so that is
        # where the crop starts too.
        return cropped(logits, 0, images.shape[2], images.shape[3])  # (N, C, H, W)

    def first_convolution(self) -> nn.Conv2d:
        """Return the convolution that reads the image: the first that was put in."""
        return next(module for module in self.modules() if isinstance(module, nn.Conv2d))


def cropped(grid: Tensor, start: int, height: int, width: int) -> Tensor:
    """Return ``height``×``width`` pixels of [N, K, ≥, ≥] from (start, start) on."""
    return grid[:, :, start : start + height, start : start + width]


class Fcn32s(UpsamplingNetwork):
    """FCN-32s: class scores on the body's stride-32 grid, upsampled 32× in one step.

    Args:
        body: float [N, 3, H, W] → [N, body_channels, ⌈H/32⌉, ⌈W/32⌉].
        body_channels: channels that the body ends with.
        num_classes: C.
    """

    def __init__(self, body: nn.Module, body_channels: int, num_classes: int) -> None:
        super().__init__()
        self.body = body
        self.score = nn.Conv2d(body_channels, num_classes, kernel_size=1)
        self.upsample = nn.ConvTranspose2d(
            num_classes,
            num_classes,
            kernel_size=2 * STRIDE,
            stride=STRIDE,
            padding=STRIDE // 2,
            bias=False,
        )
        nn.init.xavier_uniform_(self.score.weight)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.upsample.weight.copy_(bilinear_kernel(num_classes, num_classes, 2 * STRIDE))

    def scores(self, images: Tensor) -> Tensor:
        """Return class scores [N, C, ⌈H/32⌉, ⌈W/32⌉] of normalised float images [N, 3, H, W]."""
        features = self.body(images)  # (N, body_channels, h, w), h = ⌈H/32⌉
        scores: Tensor = self.score(features)  # (N, C, h, w)
        return scores


@dataclass(frozen=True)
class Architecture:
    """One row of the table of networks.

    Attributes:
        head: the class that puts scores and upsampling onto a body.
        backbone: name of the torchvision ResNet whose body is used.
        body_channels: channels that body ends with.
    """

    head: Callable[[nn.Module, int, int], UpsamplingNetwork]
    backbone: str
    body_channels: int


#: Every network that can be trained, by name.
ARCHITECTURES: dict[str, Architecture] = {
    "fcn32s-resnet18": Architecture(Fcn32s, "resnet18", 512),
    "fcn32s-resnet34": Architecture(Fcn32s, "resnet34", 512),
    "fcn32s-resnet50": Architecture(Fcn32s, "resnet50", 2048),
    "fcn32s-resnet101": Architecture(Fcn32s, "resnet101", 2048),
}
DEFAULT_ARCHITECTURE = "fcn32s-resnet18"


def build_model(
    architecture: str, num_classes: int, *, weights: Literal["imagenet"] | Path | None = None
) -> UpsamplingNetwork:
    """Build a network by its name.

    Args:
        architecture: a key of ``ARCHITECTURES``.
        num_classes: C.
        weights: what the body starts from: nothing, torchvision's ImageNet weights (downloaded by
            torchvision), or a file of torchvision's with such weights.

    Returns:
        A module float [N, 3, H, W] → logits [N, C, H, W], in training mode.

    Raises:
        ArchitectureError: unknown name, or the weights cannot be fetched, read or fitted.
    """
    row = find_architecture(architecture)
    body = _resnet_body(row.backbone, weights)
    return row.head(body, row.body_channels, num_classes)


def find_architecture(name: str) -> Architecture:
    """Return the table's row.

    Raises:
        ArchitectureError: there is no such row; the message lists the names.
    """
    if name not in ARCHITECTURES:
        raise ArchitectureError(
            f"unknown architecture {name!r}", f"choose one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def _resnet_body(backbone: str, weights: Literal["imagenet"] | Path | None) -> nn.Sequential:
    resnet = torchvision.models.get_model(backbone, weights=None)
    if weights is not None:
        resnet.load_state_dict(_resnet_weights(backbone, weights, resnet.state_dict()))
    # All stages but the last two: global average pooling and the classifier.
    return nn.Sequential(OrderedDict(list(resnet.named_children())[:-2]))


def _resnet_weights(
    backbone: str, weights: Literal["imagenet"] | Path, expected: dict[str, Tensor]
) -> dict[str, Tensor]:
    ways_out = (
        "train from scratch with --weights none, or give a downloaded file with --weights FILE"
    )
    try:
        if isinstance(weights, Path):
            # weights_only: tensors and containers, nothing that runs code.
            given = torch.load(weights, map_location="cpu", weights_only=True)
        else:
            published = torchvision.models.get_model_weights(backbone).DEFAULT
            given = published.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # on foreign bytes torch's unpickler stumbles in any way
        what = weights if isinstance(weights, Path) else f"the ImageNet weights of {backbone}"
        # Its own words for a refused pickle explain how to run it all the same.
        spoken = isinstance(error, (OSError, RuntimeError)) and str(error)
        reason = str(error).splitlines()[0] if spoken else "not tensors saved by torch.save"
        raise ArchitectureError(f"cannot read {what} ({reason})", ways_out) from error
    # Files from before PyTorch 0.4.1 do not count batches; the count decides nothing here.
    body = {
        name
        for name in expected
        if not name.startswith("fc.") and not name.endswith(".num_batches_tracked")
    }
    unfit = sorted(
        name
        for name in body
        if not isinstance(given, dict)
        or name not in given
        or getattr(given[name], "shape", None) != expected[name].shape
    )
    if unfit:
        raise ArchitectureError(
            f"{weights} holds no {backbone} weights (first misfit: {unfit[0]})", ways_out
        )
    # The classifier is stripped afterwards, so its size does not matter.
    return {name: given[name] if name in body else expected[name] for name in expected}
