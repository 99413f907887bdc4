"""ResNet-14 with half the channels."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fcn_deploy.core.errors import ArchitectureError
from fcn_deploy.networks.architectures import build_model
from fcn_deploy.networks.backbones import body_of_backbone, channels_of
from fcn_deploy.networks.half_resnet import HalfResNet14

OneLine = Callable[[Exception], str]


def test_each_stage_has_resnet18s_grid_and_half_its_channels() -> None:
    with torch.device("meta"):
        half, whole = (
            body_of_backbone(name, None).eval() for name in ("resnet14_half", "resnet18")
        )
        narrow = wide = torch.empty(1, 3, 97, 131)
        for (name, part), (other, model) in zip(
            half.named_children(), whole.named_children(), strict=True
        ):
            narrow, wide = part(narrow), model(wide)
            assert name == other
            if name.startswith("layer"):
                assert narrow.shape[1] == wide.shape[1] // 2
            assert narrow.shape[2:] == wide.shape[2:]
            assert channels_of("resnet14_half").get(name, narrow.shape[1]) == narrow.shape[1]


def test_a_file_of_the_classifier_fills_the_body(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        classifier = HalfResNet14(num_classes=7).eval()
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    body = body_of_backbone("resnet14_half", tmp_path / "weights.pth").eval()
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pooled = body(images).mean((2, 3))
        assert torch.allclose(classifier.fc(pooled), classifier(images), atol=1e-5)


def test_weights_that_nobody_has_published(one_line: OneLine) -> None:
    with pytest.raises(ArchitectureError) as caught:
        build_model("fpn-resnet14_half", 5, weights="imagenet")
    assert "--weights none" in one_line(caught.value)
