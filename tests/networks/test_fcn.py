"""The networks: their shapes, their layers' first weights, their skips."""

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fcn_deploy.networks.architectures import build_model


def test_the_networks_upsampling_starts_as_bilinear_interpolation(network: nn.Module) -> None:
    upsample = network.get_submodule("upsample")
    scores = torch.randn(1, 21, 4, 5, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        larger = upsample(scores)
    expected = F.interpolate(scores, scale_factor=32, mode="bilinear", align_corners=False)
    assert larger.shape == (1, 21, 128, 160)
    inner = (slice(None), slice(None), slice(16, -16), slice(16, -16))
    torch.testing.assert_close(larger[inner], expected[inner], atol=1e-5, rtol=0)


def test_the_tutorials_shapes(network: nn.Module) -> None:
    with torch.inference_mode():
        images = torch.zeros(1, 3, 320, 480)
        assert network.get_submodule("body")(images).shape == (1, 512, 10, 15)
        assert network(images).shape == (1, 21, 320, 480)


@given(height=st.integers(1, 80), width=st.integers(1, 80), batch=st.integers(1, 2))
@settings(max_examples=15)
def test_any_size_in_the_same_size_out(
    network: nn.Module, height: int, width: int, batch: int
) -> None:
    with torch.inference_mode():
        logits = network(torch.zeros(batch, 3, height, width))
    assert logits.shape == (batch, 21, height, width)
    assert torch.isfinite(logits).all()


def test_a_pixel_row_or_column_and_the_strides_neighbours(network: nn.Module) -> None:
    with torch.inference_mode():
        for size in ((1, 1), (1, 33), (33, 1), (31, 32), (32, 33), (64, 65)):
            assert network(torch.zeros(1, 3, *size)).shape[2:] == size


def test_the_crop_keeps_the_logits_over_their_pixels(network: nn.Module) -> None:
    images = torch.randn(1, 3, 70, 75, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = network(images)
        scores = network.get_submodule("score")(network.get_submodule("body")(images))
    # The grid's first cell lies over the first 32 pixels, whatever the size of the image.
    expected = F.interpolate(scores, scale_factor=32, mode="bilinear", align_corners=False)
    assert expected.shape[2:] == (96, 96)
    inner = (slice(None), slice(None), slice(16, 70), slice(16, 75))
    torch.testing.assert_close(logits[inner], expected[inner], atol=1e-4, rtol=1e-4)


def test_the_score_layer_is_a_xavier_initialised_1x1_convolution(network: nn.Module) -> None:
    score = network.get_submodule("score")
    assert isinstance(score, nn.Conv2d)
    assert score.kernel_size == (1, 1)
    limit = (6 / (512 + 21)) ** 0.5
    assert 0.95 * limit < score.weight.abs().max().item() <= limit


def test_the_names_of_an_fcn32s_weights_are_those_of_every_checkpoint() -> None:
    names = set(build_model("fcn32s-resnet18", 3).state_dict())
    assert {name for name in names if not name.startswith("body.")} == {
        "score.weight",
        "score.bias",
        "upsample.weight",
    }
    resnet = torchvision.models.resnet18(weights=None).state_dict()
    assert {name for name in names if name.startswith("body.")} == {
        f"body.{name}" for name in resnet if not name.startswith("fc.")
    }


# -- skips --------------------------------------------------------------------------------------


def stretched(scores: Tensor, factor: int, height: int, width: int) -> Tensor:
    """Scores brought to a finer grid bilinearly, cropped at the top left."""
    framed = F.pad(scores, (1, 1, 1, 1))  # beyond the border are zeros
    larger = F.interpolate(framed, scale_factor=factor, mode="bilinear", align_corners=False)
    return larger[:, :, factor : factor + height, factor : factor + width]


@pytest.mark.parametrize("suffix", ["", "-os16", "-os8"])
@pytest.mark.parametrize(
    ("fine", "coarse", "stride", "coarse_stride"),
    [("fcn16s", "fcn32s", 16, 32), ("fcn8s", "fcn16s", 8, 16)],
)
def test_a_network_with_one_skip_more_begins_as_the_one_without(
    fine: str, coarse: str, stride: int, coarse_stride: int, suffix: str
) -> None:
    networks = [build_model(f"{name}-resnet18{suffix}", 4).eval() for name in (fine, coarse)]
    # What the finer network has more, its new skip, is not among the coarser one's weights.
    shared = {
        name: tensor
        for name, tensor in networks[1].state_dict().items()
        if not name.startswith("upsample.")
    }
    left = networks[0].load_state_dict(shared, strict=False)
    assert not left.unexpected_keys
    images = torch.randn(2, 3, 70, 91, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, before = (network.scores(images) for network in networks)
    stride, coarse_stride = (min(s, int(suffix[3:] or 32)) for s in (stride, coarse_stride))
    assert found.shape[2:] == (math.ceil(70 / stride), math.ceil(91 / stride))
    if stride == coarse_stride:
        assert torch.equal(found, before)
        return
    expected = stretched(before, 2, found.shape[2], found.shape[3])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("layer", "stride"), [("layer3", 16), ("layer2", 8)])
def test_a_skip_adds_the_scores_of_its_stage_over_their_pixels(layer: str, stride: int) -> None:
    network = build_model("fcn8s-resnet18", 2).eval()
    for parameter in network.score.parameters():
        nn.init.zeros_(parameter)
    skip = network.get_submodule(f"skips.{layer}.score")
    assert isinstance(skip, nn.Conv2d)
    assert not skip.weight.any()
    nn.init.normal_(skip.weight, generator=torch.Generator().manual_seed(2))
    images = torch.randn(1, 3, 61, 83, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = images
        for stage, module in network.get_submodule("body").named_children():
            features = module(features)
            if stage == layer:
                break
        expected = skip(features)
        found = network(images)
    assert expected.shape[2:] == (math.ceil(61 / stride), math.ceil(83 / stride))
    if stride == 16:
        expected = stretched(expected, 2, math.ceil(61 / 8), math.ceil(83 / 8))
    expected = stretched(expected, 8, 61, 83)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=1e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize("number", [50, 101])
def test_torchvisions_networks_give_torchvisions_logits(number: int) -> None:
    segmentation = torchvision.models.segmentation
    theirs = {50: segmentation.fcn_resnet50, 101: segmentation.fcn_resnet101}[number](
        weights=None, weights_backbone=None, num_classes=3, aux_loss=False
    ).eval()
    ours = build_model(f"tv-fcn-resnet{number}", 3).eval()
    weights = {name.replace("backbone.", "body."): t for name, t in theirs.state_dict().items()}
    ours.load_state_dict(weights)
    for size in ((1, 1), (37, 50)):
        images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            assert torch.equal(ours(images), theirs(images)["out"])
