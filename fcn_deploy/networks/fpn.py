"""FPN: a feature pyramid on a classifier's body, down to a grid of every fourth pixel.

    body's end, stride 32 ─1×1─▶ ─2×─▶ + stride 16 ─3×3─▶ ─2×─▶ + 8 ─3×3─▶ ─2×─▶ + 4 ─3×3─▶ scores

Where the FCNs add scores, this adds features, and looks at them together before they become scores.

Source: Lin et al., "Feature Pyramid Networks for Object Detection" (CVPR 2017); for segmentation
Kirillov et al., "Panoptic Feature Pyramid Networks" (CVPR 2019).  Here the finer a grid is the
fewer channels it has, so that no grid costs much more than another.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fcn_deploy.networks.fcn import InterpolatingNetwork
from fcn_deploy.networks.upsampling import cropped

#: Stages that are joined, coarsest first → channels that the pyramid has on their grid.
WIDTHS = {"layer4": 96, "layer3": 96, "layer2": 64, "layer1": 32}
#: Bodies without a stage ``layer1`` → the part of ``layer2`` that ends at stride 4, its channels.
FINEST = {
    "mobilenet_v3_small": ("1", 16),
    "mobilenet_v3_large": ("3", 24),
    "efficientnet_b0": ("2", 24),
    "regnet_y_400mf": ("1", 48),
    "convnext_tiny": ("1", 96),
}


class Fpn(InterpolatingNetwork):
    """A feature pyramid, its scores of stride 4 stretched over the picture.

    Args:
        body: its children are the stages, each fed by the one before.
        channels: of ``WIDTHS`` stage → channels that it ends with.
        finest: the part of ``layer2`` that ends at stride 4; None: there is a stage ``layer1``.
        num_classes: C.
    """

    def __init__(
        self,
        body: nn.Sequential,
        channels: Mapping[str, int],
        finest: str | None,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.body = body
        self.finest = finest
        self.top = convolution(channels["layer4"], WIDTHS["layer4"], 1)
        stages = list(WIDTHS)[1:]
        self.joins = nn.ModuleDict()
        for stage, after in zip(stages, [*stages[1:], stages[-1]], strict=True):
            self.joins[stage] = Join(channels[stage], WIDTHS[stage], WIDTHS[after])
        self.score = nn.Conv2d(WIDTHS["layer1"], num_classes, kernel_size=1)

    def scores(self, images: Tensor) -> Tensor:
        """Return class scores [N, C, ⌈H/4⌉, ⌈W/4⌉] of normalised float images [N, 3, H, W]."""
        return self.joined(self.features(images))

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Return what the stages end with; those of stride 4, 8, 16 and 32 are ``WIDTHS``'."""
        features: dict[str, Tensor] = {}
        for stage, module in self.body.named_children():
            if stage == "layer2" and self.finest is not None:
                for name, part in module.named_children():
                    images = part(images)
                    if name == self.finest:
                        features["layer1"] = images
            else:
                images = module(images)
            features[stage] = images
        return features

    def joined(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return class scores [N, C, ⌈H/4⌉, ⌈W/4⌉] of the features of ``WIDTHS``' stages."""
        coarse: Tensor = self.top(features["layer4"])
        for stage, join in self.joins.items():
            coarse = join(coarse, features[stage])
        scores: Tensor = self.score(coarse)
        return scores


class Join(nn.Module):
    """Adds a finer stage's features to the coarser ones so far, and looks at both.

    Args:
        channels: of the stage's features.
        width: of the coarser features, and of the sum.
        narrower: channels that it gives.
    """

    def __init__(self, channels: int, width: int, narrower: int) -> None:
        super().__init__()
        self.lateral = nn.Sequential(
            nn.Conv2d(channels, width, kernel_size=1, bias=False), nn.BatchNorm2d(width)
        )
        self.look = convolution(width, narrower, 3)

    def forward(self, coarse: Tensor, features: Tensor) -> Tensor:
        """Return [N, narrower, h, w] from [N, width, ≤ h, ≤ w] and features [N, K, h, w]."""
        finer: Tensor = self.lateral(features)
        # Both grids start at the image's top left corner; the coarse one reaches further.
        coarse = nn.functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        joined: Tensor = self.look(nn.functional.relu(cropped(coarse, 0, *finer.shape[2:]) + finer))
        return joined


def convolution(channels: int, width: int, kernel_size: int) -> nn.Sequential:
    """Return a convolution that keeps the grid, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
