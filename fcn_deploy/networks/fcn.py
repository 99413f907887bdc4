"""The networks: a ResNet body, 1×1 convolutions to class scores, an upsampling to the picture.

    fcn32s  body ─▶ scores ─────────────────────────────────▶ 32× transposed convolution
    fcn16s  body ─▶ scores ─2×─▶ + scores of stride 16 ─────▶ 16×
    fcn8s   body ─▶ scores ─2×─▶ + … 16 ─2×─▶ + … of stride 8 ─▶ 8×
    tv-fcn  body of stride 8 ─▶ torchvision's head ─▶ bilinear interpolation

Source: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation"
(CVPR 2015), on ResNets as in the FCN chapter of "Dive into Deep Learning" (Zhang et al.); dilated
bodies after Chen et al., "Rethinking Atrous Convolution" (2017), in torchvision's form.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead

from fcn_deploy.core.errors import ArchitectureError

#: Pixels of the image per step of the grid that each of a ResNet's stages ends with.
STAGE_STRIDES = {"layer2": 8, "layer3": 16, "layer4": 32}


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


class SegmentationNetwork(nn.Module):
    """A network that gives class scores on a coarse grid and brings them to the picture's size.

    What :class:`fcn_deploy.model.DeployGraph` needs to know of a network to put another tail in
    its last step's place.
    """

    def scores(self, images: Tensor) -> Tensor:
        """Return class scores [N, C, h, w] of normalised float images [N, 3, H, W]."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return logits for normalised images.

        Args:
            images: float [N, 3, H, W], any H, W ≥ 1.

        Returns:
            float [N, C, H, W].
        """
        raise NotImplementedError

    def drop_last_step(self) -> None:
        """Forget what only the last step needs: a tail does its work, ``forward`` no more."""

    def first_convolution(self) -> nn.Conv2d:
        """Return the convolution that reads the image: the first that was put in."""
        return next(module for module in self.modules() if isinstance(module, nn.Conv2d))


class UpsamplingNetwork(SegmentationNetwork):
    """A network whose last step is a transposed convolution, cropped at the top left.

    A subclass gives :meth:`scores` on a grid of h = ⌈H/s⌉ and sets ``upsample``, which is
    ``nn.ConvTranspose2d(C, C, 2 * s, stride=s, padding=s // 2, bias=False)`` with an even s.

    Attributes:
        upsample: scores [N, C, h, w] → logits [N, C, s·h, s·w].
    """

    upsample: nn.ConvTranspose2d

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, C, H, W]; see :meth:`SegmentationNetwork.forward`."""
        logits: Tensor = self.upsample(self.scores(images))  # (N, C, s·h, s·w)
        # The body's grid starts at the image's top left corner whatever its size, so that is
        # where the crop starts too.
        return cropped(logits, 0, images.shape[2], images.shape[3])  # (N, C, H, W)

    def drop_last_step(self) -> None:
        """Forget the transposed convolution."""
        del self.upsample


class InterpolatingNetwork(SegmentationNetwork):
    """A network whose last step stretches the scores over the picture, bilinearly."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, C, H, W]; see :meth:`SegmentationNetwork.forward`."""
        return interpolated(self.scores(images), images.shape[2], images.shape[3])


def cropped(grid: Tensor, start: int, height: int, width: int) -> Tensor:
    """Return ``height``×``width`` pixels of [N, K, ≥, ≥] from (start, start) on."""
    return grid[:, :, start : start + height, start : start + width]


def interpolated(scores: Tensor, height: int, width: int) -> Tensor:
    """Stretch [N, K, h, w] to [N, K, height, width], bilinearly, corners not aligned."""
    return nn.functional.interpolate(
        scores, size=(height, width), mode="bilinear", align_corners=False
    )


class Fcn(UpsamplingNetwork):
    """FCN-32s, -16s or -8s: scores of the body's end, joined by those of finer stages.

    Args:
        body: its children are the stages, each fed by the one before.
        channels: stage → channels that it ends with.
        strides: stage → pixels of the image per step of its grid.
        skips: finer stages whose scores are added, coarsest first.
        num_classes: C.
    """

    def __init__(
        self,
        body: nn.Sequential,
        channels: Mapping[str, int],
        strides: Mapping[str, int],
        skips: Sequence[str],
        num_classes: int,
    ) -> None:
        super().__init__()
        self.body = body
        self.score = nn.Conv2d(channels["layer4"], num_classes, kernel_size=1)
        nn.init.xavier_uniform_(self.score.weight)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]
        stride = strides["layer4"]
        self.skips = nn.ModuleDict()
        for stage in skips:
            factor = stride // strides[stage]
            self.skips[stage] = Skip(channels[stage], num_classes, factor)
            stride = strides[stage]
        self.upsample = bilinear_upsampling(num_classes, stride)

    def scores(self, images: Tensor) -> Tensor:
        """Return class scores [N, C, h, w] of normalised float images [N, 3, H, W].

        The grid is that of the finest stage used: h = ⌈H/s⌉ for its stride s.
        """
        features: dict[str, Tensor] = {}
        for stage, module in self.body.named_children():
            images = module(images)
            features[stage] = images
        scores: Tensor = self.score(images)  # (N, C, h, w) of the coarsest grid
        for stage, skip in self.skips.items():
            scores = skip(scores, features[stage])
        return scores


class Skip(nn.Module):
    """Adds a finer stage's scores to the coarser ones so far.

    Its scores start at zero, so that a network begins as the coarser one it extends.

    Args:
        channels: of the stage's features.
        num_classes: C.
        factor: how many times finer the stage's grid is, 1 or even.
    """

    def __init__(self, channels: int, num_classes: int, factor: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, num_classes, kernel_size=1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]
        self.upsample = bilinear_upsampling(num_classes, factor) if factor > 1 else None

    def forward(self, coarse: Tensor, features: Tensor) -> Tensor:
        """Return scores [N, C, h, w] from [N, C, ≤ h, ≤ w] and features [N, K, h, w]."""
        finer: Tensor = self.score(features)
        if self.upsample is not None:
            # Both grids start at the image's top left corner; the coarse one reaches further.
            coarse = cropped(self.upsample(coarse), 0, finer.shape[2], finer.shape[3])
        return coarse + finer


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


class TorchvisionFcn(InterpolatingNetwork):
    """torchvision's ``fcn_resnet50`` and ``fcn_resnet101`` without their auxiliary classifier.

    Args:
        body: of output stride 8.
        body_channels: channels that it ends with.
        num_classes: C.
    """

    def __init__(self, body: nn.Sequential, body_channels: int, num_classes: int) -> None:
        super().__init__()
        self.body = body
        self.classifier = FCNHead(body_channels, num_classes)

    def scores(self, images: Tensor) -> Tensor:
        """Return class scores [N, C, ⌈H/8⌉, ⌈W/8⌉] of normalised float images [N, 3, H, W]."""
        scores: Tensor = self.classifier(self.body(images))
        return scores


#: Family → stages whose scores are added to those of the body's end, coarsest first.
FAMILIES: dict[str, tuple[str, ...]] = {
    "fcn32s": (),
    "fcn16s": ("layer3",),
    "fcn8s": ("layer3", "layer2"),
}
#: torchvision's ResNets → channels of the body's end.
BACKBONES = {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048}
#: Pixels of the image per step of the body's last grid.
OUTPUT_STRIDES = (32, 16, 8)
#: Our names of torchvision's own networks → their backbone.
TORCHVISION = {"tv-fcn-resnet50": "resnet50", "tv-fcn-resnet101": "resnet101"}
DEFAULT_ARCHITECTURE = "fcn32s-resnet18"


@dataclass(frozen=True)
class Architecture:
    """What a network's name says.

    Attributes:
        family: a key of ``FAMILIES``, or ``tv-fcn``.
        backbone: a key of ``BACKBONES``.
        output_stride: of ``OUTPUT_STRIDES``.
    """

    family: str
    backbone: str
    output_stride: int = 32

    @property
    def name(self) -> str:
        """E.g. ``fcn8s-resnet18``, ``fcn32s-resnet50-os16``, ``tv-fcn-resnet50``."""
        dilated = self.family in FAMILIES and self.output_stride != 32
        suffix = f"-os{self.output_stride}" if dilated else ""
        return f"{self.family}-{self.backbone}{suffix}"


#: Every network that can be trained, by name.
ARCHITECTURES = {
    row.name: row
    for row in (
        *(
            Architecture(family, backbone, stride)
            for stride in OUTPUT_STRIDES
            for family in FAMILIES
            for backbone in BACKBONES
        ),
        *(Architecture("tv-fcn", backbone, 8) for backbone in TORCHVISION.values()),
    )
}


def architecture_names() -> list[str]:
    """Return the names of all networks, plain ones first."""
    return list(ARCHITECTURES)


def find_architecture(name: str) -> Architecture:
    """Return what a name says.

    Raises:
        ArchitectureError: there is no such network; the message says how names are made.
    """
    if name not in ARCHITECTURES:
        raise ArchitectureError(
            f"unknown architecture {name!r}",
            f"choose {'|'.join(FAMILIES)}-{'|'.join(BACKBONES)}, e.g. {DEFAULT_ARCHITECTURE}, with "
            f"-os16 or -os8 for a dilated body, or {' or '.join(TORCHVISION)}",
        )
    return ARCHITECTURES[name]


def with_output_stride(name: str, stride: int) -> str:
    """Return the name of the same network with another output stride, one of ``OUTPUT_STRIDES``.

    Raises:
        ArchitectureError: there is no such network.
    """
    row = find_architecture(name)
    if row.family not in FAMILIES:
        raise ArchitectureError(f"{name} has output stride 8", "drop --output-stride")
    return find_architecture(replace(row, output_stride=stride).name).name


def build_model(
    architecture: str, num_classes: int, *, weights: Literal["imagenet"] | Path | None = None
) -> SegmentationNetwork:
    """Build a network by its name.

    Args:
        architecture: a name of ``ARCHITECTURES``.
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
    dilate(body, row.output_stride)
    channels = {"layer4": BACKBONES[row.backbone]}
    if row.family == "tv-fcn":
        return TorchvisionFcn(body, channels["layer4"], num_classes)
    # Every stage of a ResNet has twice the channels of the one before.
    channels |= {"layer3": channels["layer4"] // 2, "layer2": channels["layer4"] // 4}
    strides = {stage: min(s, row.output_stride) for stage, s in STAGE_STRIDES.items()}
    return Fcn(body, channels, strides, FAMILIES[row.family], num_classes)


def _resnet_body(backbone: str, weights: Literal["imagenet"] | Path | None) -> nn.Sequential:
    resnet = torchvision.models.get_model(backbone, weights=None)
    if weights is not None:
        resnet.load_state_dict(_resnet_weights(backbone, weights, resnet.state_dict()))
    # All stages but the last two: global average pooling and the classifier.
    return nn.Sequential(OrderedDict(list(resnet.named_children())[:-2]))


def dilate(body: nn.Sequential, output_stride: int) -> None:
    """Make the last stages of a ResNet's body keep their grid, and look further apart instead.

    The convolution that had the stride still reads the grid before it, so it takes the dilation
    before it; those that follow take the new one.  So the features are those of the plain body
    where it has some, and more in between.  On bottleneck blocks this is torchvision's
    ``replace_stride_with_dilation``, which knows no others.
    """
    dilation = 1
    for stage, stride in STAGE_STRIDES.items():
        if stride <= output_stride:
            continue
        before, dilation = dilation, 2 * dilation
        for module in body.get_submodule(stage).modules():
            if not isinstance(module, nn.Conv2d):
                continue
            reach = dilation if module.stride == (1, 1) else before
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (reach, reach)


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
