"""torchvision's ``fcn_resnet50``: how large our network is, beside one that people know.

Its weights are random, so its masks mean nothing; what it computes does not depend on them.
"""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn

from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec, SizeRange
from fcn_deploy.data.masks import voc_palette
from peers.eager import EagerPeer

#: The VOC classes, which torchvision's own weights are for.
NUM_CLASSES = 21
_SIZE = (520, 520)  # that torchvision trains it with; nothing here depends on it


def unavailable_reason() -> str | None:
    """Return None: whoever measures peers has PyTorch and torchvision."""
    return None


def open_peer(_run: Run, threads: int) -> FcnResnet50Peer:
    """Draw the weights; nothing of the run is used."""
    spec = ModelSpec(
        architecture="torchvision/fcn_resnet50",
        class_names=tuple(f"random {index}" for index in range(NUM_CLASSES)),
        palette=voc_palette(NUM_CLASSES),
        image_sizes=SizeRange(_SIZE, _SIZE, _SIZE),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.segmentation.fcn_resnet50(
            weights=None, weights_backbone=None, num_classes=NUM_CLASSES, aux_loss=False
        )
    library = f"torchvision {torchvision.__version__} fcn_resnet50, random weights, eager"
    return FcnResnet50Peer("peer:fcn_resnet50", network.eval(), spec, threads, library=library)


class FcnResnet50Peer(EagerPeer):
    """Another network than ours, run as the eager peer runs ours."""

    def _logits(self, network: nn.Module, batch: Tensor) -> Tensor:
        logits: Tensor = network(batch)["out"]
        return logits
