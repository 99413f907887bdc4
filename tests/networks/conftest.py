"""Fixtures that the tests of the networks share."""

import pytest
import torch
from torch import nn

from fcn_deploy.networks.architectures import build_model


@pytest.fixture(scope="session")
def network() -> nn.Module:
    """fcn32s-resnet18 with 21 classes, random, in evaluation mode; do not change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model("fcn32s-resnet18", 21).eval()
