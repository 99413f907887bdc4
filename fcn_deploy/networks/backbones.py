"""Bodies, their dilation, pretrained weights."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Literal

import torchvision
from torch import Tensor, nn

from fcn_deploy.core.errors import ArchitectureError
from fcn_deploy.networks.bodies import CUTS, body_in_stages, classifier_of
from fcn_deploy.networks.half_resnet import NAME as HALF_RESNET
from fcn_deploy.networks.torch_files import (
    backbone_of,
    body_of,
    first_misfit,
    is_of_body,
    read_tensors,
)

#: ResNets, torchvision's and one of ours → channels of the body's end.
RESNETS = {
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    HALF_RESNET: 256,
}
#: All that an FCN can stand on.
BACKBONES = (*RESNETS, *CUTS)
#: Pixels of the image per step of the grid that each of a ResNet's stages ends with.
STAGE_STRIDES = {"layer2": 8, "layer3": 16, "layer4": 32}


def body_of_backbone(backbone: str, weights: Literal["imagenet"] | Path | None) -> nn.Sequential:
    """Return a classifier without its pooling and head, with the weights asked for."""
    classifier = classifier_of(backbone)
    if weights is not None:
        _require_published(backbone, weights)
        classifier.load_state_dict(_weights(backbone, weights, classifier.state_dict()))
    if backbone in CUTS:
        return body_in_stages(backbone, classifier)
    # All stages but the last two: global average pooling and the classifier.
    return nn.Sequential(OrderedDict(list(classifier.named_children())[:-2]))


def _require_published(backbone: str, weights: object) -> None:
    """Refuse ImageNet weights of a body that only this project has.

    Raises:
        ArchitectureError: naming what can be done.
    """
    if weights == "imagenet" and backbone == HALF_RESNET:
        raise ArchitectureError(
            f"nobody has published ImageNet weights of {backbone}",
            "train from scratch with --weights none, or use an --arch on resnet18",
        )


def channels_of(backbone: str) -> dict[str, int]:
    """Return the channels that a body's stages of strides 8, 16 and 32 end with, by their names."""
    if backbone in CUTS:
        return dict(CUTS[backbone].channels)
    # Every stage of a ResNet has twice the channels of the one before.
    end = RESNETS[backbone]
    return {"layer2": end // 4, "layer3": end // 2, "layer4": end}


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


def _weights(
    backbone: str, weights: Literal["imagenet"] | Path, expected: dict[str, Tensor]
) -> dict[str, Tensor]:
    ways_out = (
        "train from scratch with --weights none, or give a downloaded file with --weights FILE"
    )
    try:
        if isinstance(weights, Path):
            given = read_tensors(weights)
        else:
            published = torchvision.models.get_model_weights(backbone).DEFAULT
            given = published.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # on foreign bytes torch's unpickler stumbles in any way
        what = weights if isinstance(weights, Path) else f"the ImageNet weights of {backbone}"
        # Its own words for a refused pickle explain how to run it all the same.
        spoken = isinstance(error, (OSError, RuntimeError)) and str(error)
        reason = str(error).splitlines()[0] if spoken else "not tensors saved by torch.save"
        raise ArchitectureError(f"cannot read {what} ({reason})", ways_out) from error
    body = body_of(given)
    if (misfit := first_misfit(body, expected)) is not None:
        other = backbone_of(body, BACKBONES)
        raise ArchitectureError(
            f"{weights} holds no {backbone} weights "
            + (f"but those of a {other}" if other else f"(first misfit: {misfit})"),
            f"use an --arch on {other}, or {ways_out}" if other else ways_out,
        )
    # The classifier is cut off; how many batches were counted decides nothing here.
    return {name: body[name] if is_of_body(name) else expected[name] for name in expected}
