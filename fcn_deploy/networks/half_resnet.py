"""ResNet-14 with half the channels: dense convolutions throughout, for CPUs.

    image ─3×3, stride 2─▶ 16 ─pool─▶ layer1 32 ─▶ layer2 64 ─▶ layer3 128 ─▶ layer4 256
    blocks                                    1            2             2              1

It has no depthwise convolutions, in which a CPU waits for memory most of the time.

Source: He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), with a first
convolution of 3×3 instead of 7×7, and one block less than ResNet-18 at either end; blocks are
torchvision's.  Nobody has published weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

NAME = "resnet14_half"
#: Channels behind the first convolution, and behind each stage.
STEM = 16
WIDTHS = (32, 64, 128, 256)
BLOCKS = (1, 2, 2, 1)


class HalfResNet14(nn.Module):
    """A classifier whose parts have the names of torchvision's ResNets.

    Args:
        num_classes: of the classifier.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = _stage(STEM, WIDTHS[0], 1, BLOCKS[0])
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], 2, BLOCKS[1])
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], 2, BLOCKS[2])
        self.layer4 = _stage(WIDTHS[2], WIDTHS[3], 2, BLOCKS[3])
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(WIDTHS[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return scores [N, C] of normalised float images [N, 3, H, W]."""
        parts = list(self.children())
        for part in parts[:-1]:
            images = part(images)
        scores: Tensor = parts[-1](torch.flatten(images, 1))
        return scores


def _stage(before: int, width: int, stride: int, blocks: int) -> nn.Sequential:
    shortcut: nn.Module | None = None
    if stride != 1 or before != width:
        shortcut = nn.Sequential(
            nn.Conv2d(before, width, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm2d(width),
        )
    others = (BasicBlock(width, width) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(before, width, stride, shortcut), *others)
