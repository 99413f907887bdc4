"""torchvision's published segmentation networks as checkpoints of ours.

    fcn-deploy import torchvision:fcn_resnet50 --weights FILE|default

Their weights were learned on COCO, with the 21 labels of VOC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

from fcn_deploy.core.errors import ArchitectureError
from fcn_deploy.core.spec import ModelSpec, SizeRange
from fcn_deploy.data.masks import VOC_CLASS_NAMES, voc_palette
from fcn_deploy.networks.architectures import build_model
from fcn_deploy.networks.checkpoint import save_checkpoint

#: What they were trained at, in torchvision's references: (height, width) in pixels.
TRAINED_AT = SizeRange((520, 520), (520, 520), (520, 520))
_AUXILIARY = "aux_classifier."
#: The layer that gives the classes' scores: torchvision counts its head's layers.
_SCORE_WEIGHT, _SCORE_BIAS = "classifier.4.weight", "classifier.4.bias"


@dataclass(frozen=True)
class Published:
    """A network that somebody else has trained.

    Attributes:
        name: as the user types it.
        model: torchvision's name of it.
        architecture: ours.
    """

    name: str
    model: str
    architecture: str

    @property
    def url(self) -> str:
        """Where its weights lie."""
        return str(torchvision.models.get_model_weights(self.model).DEFAULT.url)


PUBLISHED = {
    published.name: published
    for published in (
        Published("torchvision:fcn_resnet50", "fcn_resnet50", "tv-fcn-resnet50"),
        Published("torchvision:fcn_resnet101", "fcn_resnet101", "tv-fcn-resnet101"),
    )
}


def import_published(published: Published, weights: Path | None, target: Path) -> ModelSpec:
    """Write a published network as a checkpoint of ours.

    Args:
        published: which one.
        weights: a file of torchvision's; None fetches it.
        target: the checkpoint.

    Raises:
        ArchitectureError: the weights cannot be fetched or read, or are another network's or of
            other classes than VOC's 21.
        ArtifactError: the checkpoint cannot be written.
    """
    tensors = _renamed(_published_tensors(published, weights))
    network = build_model(published.architecture, len(VOC_CLASS_NAMES))
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    given = {name: getattr(tensor, "shape", None) for name, tensor in tensors.items()}
    misfits = sorted(n for n in shapes.keys() | given.keys() if shapes.get(n) != given.get(n))
    if misfits:
        counted = given.get(_SCORE_BIAS)
        if set(misfits) == {_SCORE_BIAS, _SCORE_WEIGHT} and counted:
            found = f"{published.model} with {counted[0]} classes, not {len(VOC_CLASS_NAMES)}"
        else:
            found = f"no {published.model} (first misfit of {len(misfits)}: {misfits[0]})"
        raise ArchitectureError(
            f"{weights or published.url} holds {found}", f"give the file of {published.url}"
        )
    network.load_state_dict(tensors)
    spec = ModelSpec(
        architecture=published.architecture,
        class_names=VOC_CLASS_NAMES,
        palette=voc_palette(len(VOC_CLASS_NAMES)),
        image_sizes=TRAINED_AT,
    )
    save_checkpoint(target, network, spec)
    return spec


def _published_tensors(published: Published, weights: Path | None) -> Mapping[str, Any]:
    try:
        if weights is None:
            row = torchvision.models.get_model_weights(published.model).DEFAULT
            return dict(row.get_state_dict(progress=False, check_hash=True))
        # weights_only: tensors and containers, nothing that runs code.
        content = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # on foreign bytes torch's unpickler stumbles in any way
        what = f"the weights of {published.name}" if weights is None else weights
        # Its own words for a refused pickle explain how to run it all the same.
        spoken = isinstance(error, (OSError, RuntimeError)) and str(error)
        reason = str(error).splitlines()[0] if spoken else "not tensors saved by torch.save"
        raise ArchitectureError(
            f"cannot read {what} ({reason})",
            f"fetch {published.url} by other means and name it with --weights FILE",
        ) from error
    return content if isinstance(content, Mapping) else {}


def _renamed(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors under our names; the auxiliary classifier helped to train, no more."""
    return {
        name.replace("backbone.", "body.", 1) if name.startswith("backbone.") else name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(_AUXILIARY)
    }
