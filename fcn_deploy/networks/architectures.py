"""The table of architectures: a name such as ``fcn32s-resnet18`` to the network it builds."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from torch import nn

from fcn_deploy.core.errors import ArchitectureError
from fcn_deploy.networks.backbones import (
    BACKBONES,
    RESNETS,
    STAGE_STRIDES,
    Weights,
    body_of_backbone,
    channels_of,
    dilate,
)
from fcn_deploy.networks.fcn import Fcn, SegmentationNetwork, TorchvisionFcn
from fcn_deploy.networks.fpn import FINEST, Fpn
from fcn_deploy.networks.python_networks import build_python_network
from fcn_deploy.networks.python_recipe import PREFIX, PythonRecipe, is_python
from fcn_deploy.networks.timm_bodies import PREFIX as TIMM
from fcn_deploy.networks.timm_bodies import is_timm, plan_of

#: Family → stages whose scores are added to those of the body's end, coarsest first.
FAMILIES: dict[str, tuple[str, ...]] = {
    "fcn32s": (),
    "fcn16s": ("layer3",),
    "fcn8s": ("layer3", "layer2"),
}
#: The family of :class:`Fpn`.
FPN = "fpn"
#: Pixels of the image per step of the body's last grid.
OUTPUT_STRIDES = (32, 16, 8)
#: Our names of torchvision's own networks → their backbone.
TORCHVISION = {"tv-fcn-resnet50": "resnet50", "tv-fcn-resnet101": "resnet101"}
DEFAULT_FAMILY = "fcn32s"
DEFAULT_ARCHITECTURE = f"{DEFAULT_FAMILY}-resnet18"
#: Names of timm's networks; those of files and of the hub have other letters too.
_TIMM_NAME = re.compile(f"{TIMM}[A-Za-z0-9_]+")


@dataclass(frozen=True)
class Architecture:
    """What a network's name says.

    Attributes:
        family: a key of ``FAMILIES``, ``fpn`` or ``tv-fcn``.
        backbone: of ``BACKBONES``, or ``timm:`` and the name of one of timm's networks.
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


#: Every network that can be trained, by name, but for those on bodies of timm's.
ARCHITECTURES = {
    row.name: row
    for row in (
        *(
            Architecture(family, backbone, stride)
            for stride in OUTPUT_STRIDES
            for family in FAMILIES
            for backbone in (BACKBONES if stride == 32 else RESNETS)
        ),
        *(Architecture(FPN, backbone) for backbone in BACKBONES),
        *(Architecture("tv-fcn", backbone, 8) for backbone in TORCHVISION.values()),
    )
}


def architecture_names() -> list[str]:
    """Return the names of all networks, plain ones first."""
    return list(ARCHITECTURES)


def find_architecture(name: str) -> Architecture:
    """Return what a name says; whether timm has a body of that name is asked when it is built.

    Raises:
        ArchitectureError: there is no such network; the message says how names are made.
    """
    family, _, backbone = name.partition("-")
    if family in FAMILIES and _TIMM_NAME.fullmatch(backbone):
        return Architecture(family, backbone)
    if name not in ARCHITECTURES:
        raise ArchitectureError(
            f"unknown architecture {name!r}",
            f"choose {'|'.join((*FAMILIES, FPN))}-{'|'.join(BACKBONES)}, e.g. "
            f"{DEFAULT_ARCHITECTURE}, with -os16 or -os8 for a dilated ResNet, "
            f"{', '.join(TORCHVISION)}, {DEFAULT_FAMILY}-{TIMM}name, or {PREFIX}module:name",
        )
    return ARCHITECTURES[name]


def with_output_stride(name: str, stride: int) -> str:
    """Return the name of the same network with another output stride, one of ``OUTPUT_STRIDES``.

    Raises:
        ArchitectureError: there is no such network.
    """
    if is_python(name):
        raise ArchitectureError(
            f"{PythonRecipe.from_name(name).callee} chooses its own output stride",
            "drop --output-stride, or see --arg",
        )
    row = find_architecture(name)
    if row.family not in FAMILIES:
        raise ArchitectureError(
            f"{name} has output stride {row.output_stride}", "drop --output-stride"
        )
    if row.backbone not in RESNETS:
        raise ArchitectureError(
            f"{row.backbone} has output stride 32; ResNets alone are dilated",
            "drop --output-stride",
        )
    return find_architecture(replace(row, output_stride=stride).name).name


def build_model(
    architecture: str, num_classes: int, *, weights: Weights = None
) -> SegmentationNetwork:
    """Build a network by its name.

    Args:
        architecture: a name of ``ARCHITECTURES``, or one that ``PythonRecipe`` reads.
        num_classes: C.
        weights: what the body starts from: nothing, torchvision's ImageNet weights (downloaded by
            torchvision), timm's (by timm), or a file of either's with such weights.

    Returns:
        A module float [N, 3, H, W] → logits [N, C, H, W], in training mode.

    Raises:
        ArchitectureError: unknown name, or the weights cannot be fetched, read or fitted.
    """
    if is_python(architecture):
        if weights is not None:
            raise ArchitectureError(
                f"{architecture} has no body of ours to put {weights} into",
                "its library may have weights of its own: see --arg, e.g. encoder_weights=imagenet",
            )
        return build_python_network(architecture, num_classes)
    row = find_architecture(architecture)
    body = body_of_backbone(row.backbone, weights)
    if is_timm(row.backbone):
        _require_stages(row)
    if row.backbone in RESNETS and isinstance(body, nn.Sequential):
        dilate(body, row.output_stride)
    channels = channels_of(row.backbone)
    if row.family == "tv-fcn":
        assert isinstance(body, nn.Sequential)  # torchvision's ResNets alone have this head
        return TorchvisionFcn(body, channels["layer4"], num_classes)
    if row.family == FPN:
        assert isinstance(body, nn.Sequential)  # names of this family have no body of timm's
        finest, width = FINEST.get(row.backbone, (None, channels["layer2"] // 2))
        return Fpn(body, {**channels, "layer1": width}, finest, num_classes)
    strides = {stage: min(s, row.output_stride) for stage, s in STAGE_STRIDES.items()}
    return Fcn(body, channels, strides, FAMILIES[row.family], num_classes)


def _require_stages(row: Architecture) -> None:
    """Refuse a family whose skips a body of timm's cannot give.

    Raises:
        ArchitectureError: naming the family that it can be.
    """
    stages = plan_of(row.backbone).channels
    absent = [STAGE_STRIDES[stage] for stage in FAMILIES[row.family] if stage not in stages]
    if absent:
        fit = next(name for name, skips in reversed(FAMILIES.items()) if {*skips} <= {*stages})
        raise ArchitectureError(
            f"{row.backbone} has no features on a grid of {max(absent)} pixels, which "
            f"{row.family} adds",
            f"use --arch {fit}-{row.backbone}",
        )
