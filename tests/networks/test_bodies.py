"""Bodies that are no ResNets: torchvision's features, cut where the grids change."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from fcn_deploy.core.errors import ArchitectureError
from fcn_deploy.networks.architectures import build_model, with_output_stride
from fcn_deploy.networks.backbones import STAGE_STRIDES, body_of_backbone, channels_of
from fcn_deploy.networks.bodies import CUTS

OneLine = Callable[[Exception], str]


def theirs(backbone: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network: nn.Module = torchvision.models.get_model(backbone, weights=None)
        return network.eval()


def features_of(classifier: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What the classifier's head reads, before the pooling."""
    if hasattr(classifier, "trunk_output"):
        images = classifier.get_submodule("trunk_output")(classifier.get_submodule("stem")(images))
    else:
        images = classifier.get_submodule("features")(images)
    return images


@pytest.mark.parametrize("backbone", CUTS)
def test_a_body_has_torchvisions_features_and_weights(backbone: str, tmp_path: Path) -> None:
    classifier = theirs(backbone)
    torch.save({"model": classifier.state_dict()}, tmp_path / "weights.pth")
    body = body_of_backbone(backbone, tmp_path / "weights.pth").eval()
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(body(images), features_of(classifier, images))


@pytest.mark.parametrize("backbone", CUTS)
def test_stages_end_where_the_grid_changes(backbone: str) -> None:
    with torch.device("meta"):
        body = body_of_backbone(backbone, None).eval()
        for height, width in ((1, 1), (31, 33), (97, 131)):
            features = torch.empty(2, 3, height, width)
            for stage, module in body.named_children():
                features = module(features)
                stride = STAGE_STRIDES[stage]
                grid = (math.ceil(height / stride), math.ceil(width / stride))
                assert tuple(features.shape) == (2, channels_of(backbone)[stage], *grid)


def test_a_file_of_another_body_is_named(tmp_path: Path, one_line: OneLine) -> None:
    path = tmp_path / "small.pth"
    torch.save(theirs("mobilenet_v3_small").state_dict(), path)
    for architecture in ("fcn8s-mobilenet_v3_large", "fcn32s-resnet18"):
        with pytest.raises(ArchitectureError, match="mobilenet_v3_small") as caught:
            build_model(architecture, 2, weights=path)
        one_line(caught.value)


def test_resnets_alone_are_dilated(one_line: OneLine) -> None:
    with pytest.raises(ArchitectureError, match="ResNets alone") as caught:
        with_output_stride("fcn8s-efficientnet_b0", 16)
    one_line(caught.value)
    with pytest.raises(ArchitectureError, match="unknown architecture"):
        build_model("fcn8s-efficientnet_b0-os16", 2)
