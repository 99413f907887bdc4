"""Files of torch.save: the tensors in them, however a training script has wrapped them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcn_deploy.networks.bodies import classifier_of

#: Keys under which training scripts keep the network beside their optimizer.
_WRAPPERS = ("model", "state_dict", "model_state_dict")
#: Prefixes of PyTorch's parallel training, and of torchvision's networks.
_PARALLEL, BACKBONE = "module.", "backbone."
#: What a classifier's body is made of: ResNets', MobileNets' and their like, RegNets'.
_IN_A_BODY = ("layer", "features.", "trunk_output.")
_COUNTS = ".num_batches_tracked"


def read_tensors(path: Path) -> dict[str, Any]:
    """Return a file's state dict without wrappers; empty if it holds none.

    Raises:
        Exception: of any kind, as torch's unpickler stumbles over foreign bytes.
    """
    # torchvision's scripts keep their options beside the network; they are data, and never looked
    # at.  weights_only: tensors and containers, nothing that runs code.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    return unwrapped(content)


def unwrapped(content: object) -> dict[str, Any]:
    """Return what :func:`read_tensors` says of a file's content."""
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        return {}
    names = [name for name in content if isinstance(name, str)]
    parallel = bool(names) and all(name.startswith(_PARALLEL) for name in names)
    return {name.removeprefix(_PARALLEL) if parallel else name: content[name] for name in names}


def body_of(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of a classifier: all, or those of a segmentation network's backbone."""
    inside = {
        name.removeprefix(BACKBONE): tensor
        for name, tensor in tensors.items()
        if name.startswith(BACKBONE)
    }
    return inside or dict(tensors)


def first_misfit(tensors: Mapping[str, Any], expected: Mapping[str, Tensor]) -> str | None:
    """Return the first tensor of a classifier's body that is absent, too many or of another shape.

    All tensors of a ResNet-18 are also in a ResNet-34: what is too many tells them apart.
    """
    given = {name: getattr(tensor, "shape", None) for name, tensor in tensors.items()}
    unfit = [n for n in filter(is_of_body, expected) if given.get(n) != expected[n].shape]
    unfit += [n for n in given if n.startswith(_IN_A_BODY) and n not in expected]
    return min(unfit, default=None)


def is_of_body(name: str) -> bool:
    """Say whether a tensor is needed: those of the head are not, nor are counts of batches.

    Files from before PyTorch 0.4.1 hold no counts.
    """
    return not name.startswith(("fc.", "classifier.")) and not name.endswith(_COUNTS)


def backbone_of(tensors: Mapping[str, Any], backbones: Iterable[str]) -> str | None:
    """Return which of these classifiers the tensors are the body of, or None."""
    body = body_of(tensors)
    for backbone in backbones:
        with torch.device("meta"):
            expected = classifier_of(backbone).state_dict()
        if first_misfit(body, expected) is None:
            return backbone
    return None
