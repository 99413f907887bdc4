"""Bodies, their dilation, pretrained weights."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fcn_deploy.core.errors import ArchitectureError
from fcn_deploy.networks.bodies import CUTS, body_in_stages, classifier_of
from fcn_deploy.networks.half_resnet import NAME as HALF_RESNET
from fcn_deploy.networks.timm_bodies import (
    TimmBody,
    TimmWeights,
    is_timm,
    plan_of,
    renamed,
    timm_body,
)
from fcn_deploy.networks.torch_files import (
    backbone_of,
    body_of,
    first_misfit,
    is_of_body,
    read_tensors,
)
from fcn_deploy.networks.weight_fit import Fit, fit_of, read_weights

#: What the body of a network may start from: nothing, torchvision's, timm's, or a file's weights.
Weights = Literal["imagenet"] | TimmWeights | Path | None
_WAYS_OUT = "train from scratch with --weights none, or give a downloaded file with --weights FILE"
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


def body_of_backbone(backbone: str, weights: Weights) -> nn.Sequential | TimmBody:
    """Return a classifier without its pooling and head, with the weights asked for.

    Raises:
        MissingExtraError: it is timm's, which is not installed.
        ArchitectureError: timm has no such body, or the weights cannot be had or are another's.
    """
    if is_timm(backbone):
        return _timm_body(backbone, weights)
    if isinstance(weights, TimmWeights):
        raise ArchitectureError(
            f"{weights} is for a body of timm's, not torchvision's {backbone}",
            f"use an --arch on timm:{weights.network}, or --weights imagenet",
        )
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
    if is_timm(backbone):
        return dict(plan_of(backbone).channels)
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
    """Return what a classifier of torchvision's is filled with; the head is not looked at.

    Raises:
        ArchitectureError: the weights cannot be fetched or read, or are another's.
    """
    given = _published(backbone) if weights == "imagenet" else _tensors_of(weights)
    body = body_of(given)
    if (misfit := first_misfit(body, expected)) is not None:
        other = backbone_of(body, BACKBONES)
        wanted = [name for name in expected if is_of_body(name)]
        fitting = [n for n in wanted if getattr(body.get(n), "shape", None) == expected[n].shape]
        raise ArchitectureError(
            f"{weights} holds no {backbone} weights "
            + (
                f"but those of a {other}"
                if other
                else f"({len(fitting)} of its body's {len(wanted)} tensors match, first misfit: "
                f"{misfit})"
            ),
            f"use an --arch on {other}, or {_WAYS_OUT}" if other else _WAYS_OUT,
        )
    # The classifier is cut off; how many batches were counted decides nothing here.
    return {name: body[name] if is_of_body(name) else expected[name] for name in expected}


def _tensors_of(path: Path) -> dict[str, Any]:
    try:
        return load_file(path) if path.suffix == ".safetensors" else read_tensors(path)
    except Exception as error:  # on foreign bytes torch's unpickler stumbles in any way
        raise ArchitectureError(f"cannot read {path} ({_reason(error)})", _WAYS_OUT) from error


def _published(backbone: str) -> dict[str, Any]:
    """Return torchvision's ImageNet weights, which it fetches once.

    Raises:
        ArchitectureError: it cannot; the message names the file, and where it looks for it.
    """
    published = torchvision.models.get_model_weights(backbone).DEFAULT
    try:
        return dict(published.get_state_dict(progress=False, check_hash=True))
    except Exception as error:  # of the network, of the disk, of what came
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ArchitectureError(
            f"cannot fetch the ImageNet weights of {backbone} ({_reason(error)})",
            f"bring {published.url} by other means and put it into {folder} or name it with "
            "--weights FILE, or train from scratch with --weights none",
        ) from error


def _timm_body(backbone: str, weights: Weights) -> TimmBody:
    if weights == "imagenet":
        raise ArchitectureError(
            f"--weights imagenet is for torchvision's bodies, not {backbone}",
            f"use --weights {backbone}",
        )
    if not isinstance(weights, Path):
        return timm_body(backbone, weights)
    body = timm_body(backbone)
    fit = fit_of_body(weights, body)
    if fit.missing or fit.reshaped:
        raise ArchitectureError(
            f"{weights} holds no {backbone} weights: {fit.words}",
            f"give a file of that network, e.g. by --weights {backbone}, or {_WAYS_OUT}",
        )
    body.features.load_state_dict(dict(fit.taken), strict=False)
    return body


def fit_of_body(path: Path, body: TimmBody) -> Fit:
    """Match a file of timm's classifier, of any kind, with a body of it.

    Raises:
        ArchitectureError: it holds no tensors.
    """
    return fit_of(renamed(read_weights(path), body), body.features)


def _reason(error: Exception) -> str:
    # torch's own words for a refused pickle explain how to run it all the same.
    spoken = isinstance(error, (OSError, RuntimeError, SafetensorError)) and str(error)
    return str(error).splitlines()[0] if spoken else "not tensors saved by torch.save"
