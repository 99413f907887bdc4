"""Dilated bodies: torchvision's, and the plain one's features with those between."""

import functools
import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fcn_deploy.networks.architectures import build_model


@pytest.mark.parametrize("output_stride", [16, 8])
def test_a_dilated_resnet50_is_torchvisions(output_stride: int) -> None:
    replaced = [False, output_stride == 8, True]
    theirs = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=replaced)
    ours = build_model(f"fcn32s-resnet50-os{output_stride}", 2).get_submodule("body")
    layers = dict(theirs.named_modules())
    for name, module in ours.named_modules():
        if isinstance(module, nn.Conv2d):
            assert str(module) == str(layers[name]), name
    ours.load_state_dict(theirs.state_dict(), strict=False)
    images = torch.randn(1, 3, 37, 50, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = images
        for module in list(theirs.eval().children())[:-2]:
            expected = module(expected)
        assert torch.equal(ours.eval()(images), expected)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@given(height=st.integers(1, 100), width=st.integers(1, 100))
@settings(max_examples=8)
def test_a_dilated_body_gives_the_plain_ones_features_and_those_between(
    backbone: str, height: int, width: int
) -> None:
    plain, *dilated = bodies(backbone)
    images = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height))
    with torch.inference_mode():
        expected = plain(images)
        for body, step in zip(dilated, (2, 4), strict=True):
            features = body(images)
            stride = 32 // step
            assert features.shape[2:] == (math.ceil(height / stride), math.ceil(width / stride))
            scale = float(expected.abs().max())
            assert scale > 0
            torch.testing.assert_close(
                features[:, :, ::step, ::step], expected, atol=1e-5 * scale, rtol=0
            )


@functools.cache
def bodies(backbone: str) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The same weights in a body of output stride 32, 16 and 8."""
    made = []
    with torch.random.fork_rng(devices=[]):
        for suffix in ("", "-os16", "-os8"):
            torch.manual_seed(0)
            network = build_model(f"fcn32s-{backbone}{suffix}", 2).eval()
            made.append(network.get_submodule("body"))
    return made[0], made[1], made[2]
