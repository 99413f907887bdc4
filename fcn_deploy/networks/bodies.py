"""Bodies of torchvision's other classifiers, in stages as a ResNet's: small ones, and ConvNeXt.

layer2  ends at stride 8, layer3 at 16, layer4 at 32, as the stages of a ResNet are called
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn

from fcn_deploy.networks.half_resnet import NAME as HALF_RESNET
from fcn_deploy.networks.half_resnet import HalfResNet14

_STAGES = ("layer2", "layer3", "layer4")


@dataclass(frozen=True)
class Cut:
    """Where a classifier is cut into stages.

    Attributes:
        ends: how many of its parts come before the end of each stage, by its name.
        channels: that each stage ends with, by its name.
    """

    ends: Mapping[str, int]
    channels: Mapping[str, int]

    @classmethod
    def at(cls, ends: tuple[int, int, int], channels: tuple[int, int, int]) -> Cut:
        """Return a cut of stages that end at strides 8, 16 and 32."""
        return cls(dict(zip(_STAGES, ends, strict=True)), dict(zip(_STAGES, channels, strict=True)))


#: torchvision's names of classifiers that are no ResNets → how they are cut.
CUTS = {
    "mobilenet_v3_small": Cut.at((4, 9, 13), (24, 48, 576)),
    "mobilenet_v3_large": Cut.at((7, 13, 17), (40, 112, 960)),
    "efficientnet_b0": Cut.at((4, 6, 9), (40, 112, 1280)),
    "regnet_y_400mf": Cut.at((3, 4, 5), (104, 208, 440)),
    "convnext_tiny": Cut.at((4, 6, 8), (192, 384, 768)),
}


class PaddedConv2d(nn.Conv2d):
    """A convolution whose windows do not overlap, with zeros where the last ones reach further.

    ConvNeXt's own would leave out the last rows and columns: its grid would not be ⌈H/s⌉, and an
    image smaller than a window would have none.
    """

    @classmethod
    def like(cls, plain: nn.Conv2d) -> PaddedConv2d:
        """Return one with a convolution's own weights."""
        step = plain.kernel_size[0]
        padded = cls(plain.in_channels, plain.out_channels, step, stride=step)
        padded.weight, padded.bias = plain.weight, plain.bias
        return padded

    def forward(self, input: Tensor) -> Tensor:
        """Return [N, K, ⌈H/s⌉, ⌈W/s⌉] of [N, C, H, W]."""
        step = self.stride[0]
        height = (input.shape[2] + step - 1) // step * step
        width = (input.shape[3] + step - 1) // step * step
        border = (0, width - input.shape[3], 0, height - input.shape[2])
        return super().forward(nn.functional.pad(input, border))


def classifier_of(backbone: str) -> nn.Module:
    """Return a classifier of a body with random weights, on the default device."""
    if backbone == HALF_RESNET:
        return HalfResNet14()
    device = torch.get_default_device()
    with torch.device("cpu" if backbone.startswith("regnet") else device):
        # RegNets compute their widths by tensors, which on the meta device have no values.
        classifier: nn.Module = torchvision.models.get_model(backbone, weights=None)
    return classifier.to(device)


def body_in_stages(backbone: str, classifier: nn.Module) -> nn.Sequential:
    """Return a classifier of ``CUTS`` without its head, one child per stage."""
    if backbone.startswith("regnet"):
        trunk = classifier.get_submodule("trunk_output")
        parts = [classifier.get_submodule("stem"), *trunk.children()]
    else:
        parts = list(classifier.get_submodule("features").children())
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    begin = 0
    for stage, end in CUTS[backbone].ends.items():
        stages[stage] = nn.Sequential(*parts[begin:end])
        begin = end
    body = nn.Sequential(stages)
    for name, module in list(body.named_modules()):
        # Those that overlap have padding of their own.
        if isinstance(module, nn.Conv2d) and 1 < module.kernel_size[0] == module.stride[0]:
            holder, _, child = name.rpartition(".")
            setattr(body.get_submodule(holder), child, PaddedConv2d.like(module))
    return body
