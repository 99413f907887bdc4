"""The networks that are compared, and what they are trained by.  Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

#: Multiples of 32 at half size too: no network has to pad its crops.
CROP = (256, 320)
BATCH = 8
#: Share of the epochs, the first ones, on pictures of half the size; as the recipe `scratch` says.
HALF_SIZE = 0.7
#: What a training may take, without validation, on two cores that do nothing else.
SECONDS = 1200.0


@dataclass(frozen=True)
class Compared:
    """A network that is compared.

    Attributes:
        name: of its run, and in the page.
        architecture: as ``train --arch`` takes it.
        family: ``fcn-deploy`` or the library that it comes from.
    """

    name: str
    architecture: str
    family: str = "fcn-deploy"


def ours(name: str) -> Compared:
    """Return one of the project's own networks."""
    return Compared(name, name)


COMPARED = (
    Compared(
        "yolo26n-sem", "python:networks.yolo26:semantic?scale=n&multiple-of=32", "ultralytics"
    ),
    ours("fcn8s-mobilenet_v3_large"),
    ours("fpn-resnet14_half"),
    ours("fcn8s-resnet18"),
    Compared(
        "smp-unet-resnet18",
        "python:segmentation_models_pytorch:Unet?encoder_name=resnet18&encoder_weights=none"
        "&multiple-of=32",
        "segmentation_models_pytorch",
    ),
    ours("fcn8s-mobilenet_v3_small"),
    Compared(
        "lraspp-mobilenet_v3_large",
        "python:torchvision.models.segmentation:lraspp_mobilenet_v3_large?weights=none"
        "&weights_backbone=none",
        "torchvision",
    ),
    ours("fcn8s-efficientnet_b0"),
    ours("fcn32s-resnet18"),
)


def find(name: str) -> Compared:
    """Return the network of a name.

    Raises:
        KeyError: there is none.
    """
    return {row.name: row for row in COMPARED}[name]
