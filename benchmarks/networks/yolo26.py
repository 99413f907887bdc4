"""ultralytics' YOLO26 for semantic segmentation, with random weights, as `train --arch` takes it.

    python:networks.yolo26:semantic?scale=n&multiple-of=32

ultralytics is under AGPL-3.0 and no dependency of this project: whoever measures installs it.
"""

from __future__ import annotations

import importlib

from torch import Tensor, nn


class Semantic(nn.Module):
    """The network between the normalised picture and the scores of stride 8.

    Its auxiliary head is left out: it serves ultralytics' own loss alone, and no training here
    would reach its weights.

    Args:
        model: ultralytics' model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        head = model.get_submodule("model")[-1]  # type: ignore[index]
        head.aux_head = None

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, C, H/8, W/8] of float images [N, 3, H, W]."""
        logits: Tensor = self.model(images)
        return logits


def semantic(num_classes: int = 19, scale: str = "n") -> Semantic:
    """Return the network that ``yolo26{scale}-sem.yaml`` describes."""
    tasks = importlib.import_module("ultralytics.nn.tasks")
    model = tasks.SemanticSegmentationModel(
        f"yolo26{scale}-sem.yaml", nc=num_classes, verbose=False
    )
    return Semantic(model)
