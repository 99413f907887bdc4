"""torchvision's published segmentation networks as checkpoints of ours.

    fcn-deploy import torchvision:fcn_resnet50 --weights FILE|default --classes FILE

Their weights were learned on COCO, with the 21 labels of VOC; a network of one's own may know other
classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor

from fcn_deploy.core.errors import ArchitectureError
from fcn_deploy.core.spec import ModelSpec, SizeRange
from fcn_deploy.data.masks import VOC_CLASS_NAMES, voc_palette
from fcn_deploy.networks.architectures import build_model
from fcn_deploy.networks.backbones import BACKBONES
from fcn_deploy.networks.checkpoint import save_checkpoint
from fcn_deploy.networks.torch_files import BACKBONE, backbone_of, read_tensors

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


def import_published(
    published: Published,
    weights: Path | None,
    target: Path,
    class_names: Sequence[str] = VOC_CLASS_NAMES,
) -> ModelSpec:
    """Write a published network, or one of the same kind, as a checkpoint of ours.

    Args:
        published: which one.
        weights: a file of torch.save with its tensors, bare or as a training script wraps them;
            None fetches torchvision's.
        target: the checkpoint.
        class_names: one per index, as many as the network has.

    Raises:
        ArchitectureError: the weights cannot be fetched or read, or are another network's or of
            another number of classes.
        ArtifactError: the checkpoint cannot be written.
    """
    tensors = _published_tensors(published, weights)
    network = build_model(published.architecture, len(class_names))
    renamed = _renamed(tensors)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    given = {name: getattr(tensor, "shape", None) for name, tensor in renamed.items()}
    misfits = sorted(n for n in shapes.keys() | given.keys() if shapes.get(n) != given.get(n))
    if misfits:
        counted = given.get(_SCORE_BIAS)
        if set(misfits) == {_SCORE_BIAS, _SCORE_WEIGHT} and counted:
            raise ArchitectureError(
                f"{weights or published.url} holds {published.model} with {counted[0]} classes, "
                f"not {len(class_names)}",
                "name its classes, one a line, in a file for --classes",
            )
        raise ArchitectureError(
            f"{weights or published.url} holds no {published.model} "
            f"({_what_it_is(tensors) or f'first misfit of {len(misfits)}: {misfits[0]}'})",
            f"give a file of that network, e.g. {published.url}",
        )
    network.load_state_dict(renamed)
    spec = ModelSpec(
        architecture=published.architecture,
        class_names=tuple(class_names),
        palette=voc_palette(len(class_names)),
        image_sizes=TRAINED_AT,
    )
    save_checkpoint(target, network, spec)
    return spec


def _what_it_is(tensors: Mapping[str, Any]) -> str | None:
    """Return what a file holds instead, if it is known."""
    backbone = backbone_of(tensors, BACKBONES)
    if backbone is None:
        return None
    if not any(name.startswith(BACKBONE) for name in tensors):
        return f"it is a {backbone} without a head, a body for `train --weights`"
    if _SCORE_BIAS not in tensors:
        return f"it is another segmentation network on a {backbone}"
    return f"its body is a {backbone}"


def _published_tensors(published: Published, weights: Path | None) -> Mapping[str, Any]:
    try:
        if weights is not None:
            return read_tensors(weights)
        row = torchvision.models.get_model_weights(published.model).DEFAULT
        return dict(row.get_state_dict(progress=False, check_hash=True))
    except Exception as error:  # on foreign bytes torch's unpickler stumbles in any way
        what = f"the weights of {published.name}" if weights is None else weights
        # Its own words for a refused pickle explain how to run it all the same.
        spoken = isinstance(error, (OSError, RuntimeError)) and str(error)
        reason = str(error).splitlines()[0] if spoken else "not tensors saved by torch.save"
        raise ArchitectureError(
            f"cannot read {what} ({reason})",
            f"fetch {published.url} by other means and name it with --weights FILE",
        ) from error


def _renamed(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors under our names; the auxiliary classifier helped to train, no more."""
    return {
        name.replace("backbone.", "body.", 1) if name.startswith("backbone.") else name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(_AUXILIARY)
    }
