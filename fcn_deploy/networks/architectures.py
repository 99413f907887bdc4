"""The table of architectures: a name such as ``fcn32s-resnet18`` to the network it builds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fcn_deploy.core.errors import ArchitectureError
from fcn_deploy.networks.backbones import (
    BACKBONES,
    RESNETS,
    STAGE_STRIDES,
    body_of_backbone,
    channels_of,
    dilate,
)
from fcn_deploy.networks.fcn import Fcn, SegmentationNetwork, TorchvisionFcn
from fcn_deploy.networks.fpn import FINEST, Fpn
from fcn_deploy.networks.python_networks import build_python_network
from fcn_deploy.networks.python_recipe import PREFIX, PythonRecipe, is_python

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
DEFAULT_ARCHITECTURE = "fcn32s-resnet18"


@dataclass(frozen=True)
class Architecture:
    """What a network's name says.

    Attributes:
        family: a key of ``FAMILIES``, ``fpn`` or ``tv-fcn``.
        backbone: of ``BACKBONES``.
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
    """Return what a name says.

    Raises:
        ArchitectureError: there is no such network; the message says how names are made.
    """
    if name not in ARCHITECTURES:
        raise ArchitectureError(
            f"unknown architecture {name!r}",
            f"choose {'|'.join((*FAMILIES, FPN))}-{'|'.join(BACKBONES)}, e.g. "
            f"{DEFAULT_ARCHITECTURE}, with -os16 or -os8 for a dilated ResNet, "
            f"{', '.join(TORCHVISION)}, or {PREFIX}module:name",
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
    architecture: str, num_classes: int, *, weights: Literal["imagenet"] | Path | None = None
) -> SegmentationNetwork:
    """Build a network by its name.

    Args:
        architecture: a name of ``ARCHITECTURES``, or one that ``PythonRecipe`` reads.
        num_classes: C.
        weights: what the body starts from: nothing, torchvision's ImageNet weights (downloaded by
            torchvision), or a file of torchvision's with such weights.

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
    if row.backbone in RESNETS:
        dilate(body, row.output_stride)
    channels = channels_of(row.backbone)
    if row.family == "tv-fcn":
        return TorchvisionFcn(body, channels["layer4"], num_classes)
    if row.family == FPN:
        finest, width = FINEST.get(row.backbone, (None, channels["layer2"] // 2))
        return Fpn(body, {**channels, "layer1": width}, finest, num_classes)
    strides = {stage: min(s, row.output_stride) for stage, s in STAGE_STRIDES.items()}
    return Fcn(body, channels, strides, FAMILIES[row.family], num_classes)
