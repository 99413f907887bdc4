"""The loss by its definitions, and where its numbers cease to be finite."""

import math

import torch
import torch.nn.functional as F

from fcn_deploy.core.spec import IGNORE_INDEX
from fcn_deploy.networks.architectures import build_model
from fcn_deploy.training.loss import first_not_finite, segmentation_loss


def test_loss_ignores_void_and_matches_its_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 7, generator=generator)
    masks = torch.randint(0, 3, (2, 5, 7), generator=generator, dtype=torch.uint8)
    masks[0, :2] = IGNORE_INDEX
    labelled = masks != IGNORE_INDEX
    per_pixel = -torch.log_softmax(logits, 1).gather(1, (masks.long() % 255)[:, None])[:, 0]
    per_pixel = per_pixel * labelled
    torch.testing.assert_close(
        segmentation_loss(logits, masks, "pixel-mean"), per_pixel.sum() / labelled.sum()
    )
    torch.testing.assert_close(
        segmentation_loss(logits, masks, "image-sum"), per_pixel.mean((1, 2)).sum()
    )
    weights = torch.tensor([0.5, 1.0, 4.0])
    torch.testing.assert_close(
        segmentation_loss(logits, masks, "pixel-mean", weights),
        F.cross_entropy(logits, masks.long(), weights, ignore_index=IGNORE_INDEX),
    )
    void = torch.full_like(masks, IGNORE_INDEX)
    for given in (None, weights):
        assert segmentation_loss(logits, void, "pixel-mean", given) == 0
    tutorial = F.cross_entropy(logits, masks.long() % 3, reduction="none").mean(1).mean(1).sum()
    torch.testing.assert_close(segmentation_loss(logits, masks % 3, "image-sum"), tutorial)


def test_where_the_numbers_end_is_named() -> None:
    torch.manual_seed(0)
    network = build_model("fcn32s-resnet18", 3).eval()
    images = torch.randn(1, 3, 64, 64)
    assert first_not_finite(network, images) is None
    with torch.no_grad():
        network.get_parameter("body.layer2.0.conv1.weight").fill_(3e38)
    found = first_not_finite(network, images)
    assert found == "body.layer2.0.conv1 is the first layer that gives NaN or infinity"
    with torch.no_grad():
        network.get_parameter("score.bias").fill_(math.nan)
    assert first_not_finite(network, images) == "the weights score.bias are no longer finite"
