"""FPN: features of four strides, joined from the coarsest to the finest."""

import math

import pytest
import torch

from fcn_deploy.networks.architectures import build_model
from fcn_deploy.networks.backbones import BACKBONES
from fcn_deploy.networks.fpn import WIDTHS, Fpn
from tests.random_network import random_network

#: Each takes a second to build; `make test` sends all through their shapes elsewhere.
FAST = ("resnet14_half", "mobilenet_v3_small")
STRIDES = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}


def built(backbone: str) -> Fpn:
    network = build_model(f"fpn-{backbone}", 5)
    assert isinstance(network, Fpn)
    return network.eval()


@pytest.mark.parametrize(
    "backbone",
    [
        pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow])
        for name in BACKBONES
        if name != "resnet101"
    ],
)
def test_scores_and_features_stand_on_grids_that_begin_at_the_corner(backbone: str) -> None:
    with torch.device("meta"):
        network = built(backbone)
        for height, width in ((1, 1), (31, 33), (97, 131)):
            images = torch.empty(2, 3, height, width)
            features = network.features(images)
            for stage, stride in STRIDES.items():
                grid = math.ceil(height / stride), math.ceil(width / stride)
                assert tuple(features[stage].shape[2:]) == grid
            finest = math.ceil(height / 4), math.ceil(width / 4)
            assert tuple(network.scores(images).shape) == (2, 5, *finest)


def test_every_stage_takes_part_in_the_scores() -> None:
    network, _ = random_network("fpn-mobilenet_v3_small")
    assert isinstance(network, Fpn)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = network.features(images)
        scores = network.joined(features)
        assert torch.equal(network.scores(images), scores)
        for stage in WIDTHS:
            without = {**features, stage: torch.zeros_like(features[stage])}
            assert not torch.equal(network.joined(without), scores)


def test_a_change_of_the_image_stays_where_it_is() -> None:
    # The coarse grids are laid over the finer ones from the same corner, at odd sizes too.
    network, _ = random_network("fpn-resnet18")
    images = torch.zeros(1, 3, 97, 131)
    with torch.no_grad():
        features = network.features(images)  # type: ignore[operator]
        marked = {stage: tensor.clone() for stage, tensor in features.items()}
        marked["layer4"][:, :, 2, 3] += 10
        change = network.joined(marked) - network.joined(features)  # type: ignore[operator]
    rows, columns = torch.nonzero(change[0].abs().sum(0), as_tuple=True)
    # Cell (2, 3) of stride 32 covers rows 16 to 23 and columns 24 to 31 of stride 4; three looks
    # at 3×3 neighbours, on strides 16, 8 and 4, reach 4 + 2 + 1 cells further.
    assert (rows.min(), columns.min()) == (16 - 7, 24 - 7)
    assert rows.max() == min(23 + 7, change.shape[2] - 1)
    assert columns.max() == min(31 + 7, change.shape[3] - 1)
