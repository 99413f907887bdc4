"""The network that training starts from: of given weights what fits is taken, and said.

imagenet, timm:NAME, a file of
torchvision's or timm's          the body
a checkpoint of ours             all of it; for other classes what does not depend on them; for
                                 a finer or coarser network on the same body what both have
a network from Python            of a file of any kind what has its names and shapes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import torch

from fcn_deploy.core.errors import ArchitectureError, CheckpointError
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.networks.architectures import build_model, find_architecture
from fcn_deploy.networks.backbones import Weights, fit_of_body
from fcn_deploy.networks.checkpoint import is_foreign, load_weights, read_spec
from fcn_deploy.networks.fcn import SegmentationNetwork
from fcn_deploy.networks.python_recipe import is_python
from fcn_deploy.networks.python_weights import starting_python_network
from fcn_deploy.networks.timm_bodies import TimmWeights, is_timm, note_of, timm_body

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Shapes = Mapping[str, Sequence[int]]
#: Layers that are the same whatever the classes are.
_WITHOUT_CLASSES = ("body.", "classifier.0.", "classifier.1.", "top.", "joins.")


def starting_network(
    architecture: str, class_names: Sequence[str], weights: Weights
) -> SegmentationNetwork:
    """Build a network and fill in what fits of the weights.

    Args:
        architecture: as :func:`~fcn_deploy.networks.architectures.build_model` takes it.
        class_names: those of the data.
        weights: nothing, ImageNet's, timm's, a file of somebody else's, or a ``.safetensors``
            checkpoint of ours.

    Raises:
        ArchitectureError: an unknown architecture, or weights that cannot be had or do not fit.
        CheckpointError: a checkpoint with another body.
    """
    if is_python(architecture) and isinstance(weights, Path):
        return starting_python_network(architecture, len(class_names), weights)[0]
    if not is_checkpoint(weights):
        return build_model(architecture, len(class_names), weights=weights)
    network = build_model(architecture, len(class_names))
    spec = read_spec(weights)
    if _is_same(spec, architecture, class_names):
        load_weights(weights, network)
        return network
    own = network.state_dict()
    taken = _fitting(weights, spec, architecture, class_names, _shapes(own))
    with safetensors.safe_open(weights, "pt") as file:
        network.load_state_dict({n: file.get_tensor(n) if n in taken else own[n] for n in own})
    return network


def start_words(architecture: str, class_names: Sequence[str], weights: Weights) -> str | None:
    """Return what :func:`starting_network` takes of a file and what begins anew; None: all fits.

    Raises:
        CheckpointError: a checkpoint with another body.
    """
    if isinstance(weights, TimmWeights):
        return f"starting from {weights}: its body is taken, the head begins anew" + note_of(
            weights
        )
    if not isinstance(weights, Path):
        return None
    if is_python(architecture):
        return starting_python_network(architecture, len(class_names), weights)[1]
    if not is_checkpoint(weights):
        backbone = find_architecture(architecture).backbone
        if is_timm(backbone):
            words = fit_of_body(weights, timm_body(backbone)).words
            return f"starting from {weights}: of the body {words}; the head begins anew"
        return f"starting from {weights}: its body is taken, the head begins anew"
    spec = read_spec(weights)
    if _is_same(spec, architecture, class_names):
        return None
    with torch.device("meta"):  # shapes alone
        own = build_model(architecture, len(class_names)).state_dict()
    taken = _fitting(weights, spec, architecture, class_names, _shapes(own))
    layers = dict.fromkeys(_layer(name) for name in own if name in taken)
    anew = dict.fromkeys(_layer(name) for name in own if name not in taken)
    other = "" if spec.class_names == tuple(class_names) else ", other than the data's"
    return (
        f"starting from {weights} ({spec.architecture}, {spec.num_classes} classes{other}): "
        f"{', '.join(layers)} taken; {', '.join(anew)} anew"
    )


def is_checkpoint(weights: Weights) -> TypeIs[Path]:
    """Say whether weights are those of a whole network of ours."""
    return (
        isinstance(weights, Path) and weights.suffix == ".safetensors" and not is_foreign(weights)
    )


def _is_same(spec: ModelSpec, architecture: str, class_names: Sequence[str]) -> bool:
    return spec.architecture == architecture and spec.class_names == tuple(class_names)


def _fitting(
    path: Path, spec: ModelSpec, architecture: str, class_names: Sequence[str], own: Shapes
) -> set[str]:
    """Return the names of a checkpoint's tensors that another network can take.

    Raises:
        CheckpointError: its body is another, or it is damaged.
    """
    wanted = find_architecture(architecture)
    try:
        given = find_architecture(spec.architecture)
    except ArchitectureError as error:
        raise CheckpointError(f"{path}: {error.message}", error.repair) from error
    if given.backbone != wanted.backbone:
        raise CheckpointError(
            f"{path} is a {given.name}, not a {wanted.name}",
            f"use --arch {given.name}, or another on {given.backbone}",
        )
    try:
        with safetensors.safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged ({error})", "give another checkpoint"
        ) from error
    same_classes = spec.class_names == tuple(class_names)
    fitting = {
        name
        for name, shape in own.items()
        if name in shapes and list(shapes[name]) == list(shape)
        if same_classes or name.startswith(_WITHOUT_CLASSES)
    }
    absent = sorted(name for name in own if name.startswith("body.") and name not in fitting)
    if absent:
        raise CheckpointError(
            f"{path} is no whole {given.name} (first misfit of {len(absent)}: {absent[0]})",
            "give another checkpoint",
        )
    return fitting


def _shapes(state: Mapping[str, torch.Tensor]) -> Shapes:
    return {name: list(tensor.shape) for name, tensor in state.items()}


def _layer(name: str) -> str:
    """Return what to call a tensor's layer: the body is one."""
    return "body" if name.startswith("body.") else name.rpartition(".")[0]
