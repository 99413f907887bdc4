"""Weights for networks from Python: imported as a checkpoint of ours, or to start training from.

fcn-deploy import python:MODULE:FACTORY --weights FILE    all must fit
fcn-deploy train --arch python:MODULE:FACTORY --weights FILE    what fits is taken, and said
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fcn_deploy.core.errors import ArchitectureError
from fcn_deploy.core.spec import ModelSpec, SizeRange
from fcn_deploy.data.class_json import Colour
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.networks.checkpoint import save_checkpoint
from fcn_deploy.networks.python_networks import PythonNetwork, build_python_network, same_network
from fcn_deploy.networks.python_recipe import PythonRecipe, is_python
from fcn_deploy.networks.weight_fit import Fit, few, fit_of, read_weights

#: Sizes that engines are tuned for where nobody has said what a network was trained on.
_TYPICAL = SizeRange((320, 480), (320, 480), (320, 480))


@dataclass(frozen=True)
class PythonImport:
    """What a network from Python becomes a checkpoint with.

    Attributes:
        recipe: how it is built.
        weights: a file that fits as a whole; None: what the factory gives it.
        class_names: one per channel; None: `class 0`, `class 1`, …
        palette: of these classes; None: VOC's.
        mean: of RGB in [0, 1], that is subtracted.
        std: of RGB in [0, 1], that is divided by.
    """

    recipe: PythonRecipe
    weights: Path | None
    class_names: tuple[str, ...] | None
    palette: tuple[Colour, ...] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def import_python_network(asked: PythonImport, target: Path) -> tuple[ModelSpec, PythonNetwork]:
    """Write a network from Python as a checkpoint of ours.

    Raises:
        ArchitectureError: it cannot be built, does not do what a segmentation network does, or
            the weights are another network's or not finite.
        ArtifactError: the checkpoint cannot be written.
    """
    names = asked.class_names
    recipe = asked.recipe
    if asked.weights is not None:  # what would be fetched would be replaced at once
        recipe = recipe.without_fetching()
    network = build_python_network(recipe.name, None if names is None else len(names))
    if asked.weights is not None:
        _load_whole(asked.weights, network, recipe)
    _require_finite(network, recipe)
    _require_numbers(network, recipe)
    count = network.num_classes
    spec = ModelSpec(
        architecture=stored_architecture(recipe.name, network, count),
        class_names=names or tuple(f"class {index}" for index in range(count)),
        palette=asked.palette or voc_palette(count),
        image_sizes=_TYPICAL,
        mean=asked.mean,
        std=asked.std,
    )
    if not same_network(network, build_python_network(spec.architecture, count)):
        raise ArchitectureError(
            f"{recipe.callee} gives another network when it is built again, with the same weights",
            "register as buffers what is drawn at random, and drop arguments that change what it "
            "computes with its weights' source",
        )
    save_checkpoint(target, network, spec)
    return spec, network.eval()


def stored_architecture(architecture: str, network: nn.Module, num_classes: int) -> str:
    """Return the name by which a network is built again where its weights lie in a file.

    Of a network from Python whose library fetches weights, that is one by which nothing is
    fetched, if the network is the same without.
    """
    if not is_python(architecture):
        return architecture
    without = PythonRecipe.from_name(architecture).without_fetching().name
    if without == architecture:
        return architecture
    try:
        other = build_python_network(without, num_classes)
    except ArchitectureError:  # the library's weights decide what is built
        return architecture
    return without if same_network(network, other) else architecture


def starting_python_network(
    architecture: str, num_classes: int, weights: Path
) -> tuple[PythonNetwork, str]:
    """Build a network from Python, fill in what fits of a file, and say what that is.

    Raises:
        ArchitectureError: it cannot be built, or less than half of it fits.
    """
    recipe = PythonRecipe.from_name(architecture)
    network = build_python_network(recipe.without_fetching().name, num_classes)
    fit = fit_of(read_weights(weights), network.network)
    if 2 * len(fit.taken) < len(network.state_dict()):
        raise _other_network(weights, recipe, fit)
    network.network.load_state_dict(dict(fit.taken), strict=False)
    _require_finite(network, recipe)
    return network, f"starting from {weights}: {fit.words}"


def _load_whole(path: Path, network: PythonNetwork, recipe: PythonRecipe) -> None:
    fit = fit_of(read_weights(path), network.network)
    if not fit.whole:
        raise _other_network(path, recipe, fit)
    network.network.load_state_dict(dict(fit.taken), strict=False)


def _other_network(path: Path, recipe: PythonRecipe, fit: Fit) -> ArchitectureError:
    return ArchitectureError(
        f"the weights of {path} are not those of {recipe.callee}: {fit.words}",
        "give the file of that network, or the arguments that it was built with by --arg",
    )


def _require_numbers(network: PythonNetwork, recipe: PythonRecipe) -> None:
    """Refuse scores that are no numbers; -inf is a class that never wins."""
    noise = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        best = network.eval()(noise).topk(2, dim=1).values
    network.train()
    if not best.isfinite().all():
        raise ArchitectureError(
            f"{recipe.callee} gives NaN or infinity", "give weights with which it gives numbers"
        )


def _require_finite(network: PythonNetwork, recipe: PythonRecipe) -> None:
    state = network.network.state_dict()
    if strange := [name for name, value in state.items() if not isinstance(value, torch.Tensor)]:
        raise ArchitectureError(
            f"{recipe.callee} keeps other things than tensors as weights ({few(strange)})",
            "drop its get_extra_state, or let it return a tensor",
        )
    wild = [
        name
        for name, tensor in state.items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if wild:
        raise ArchitectureError(
            f"{len(wild)} of the weights of {recipe.callee} are NaN or infinite ({few(wild)})",
            "give weights from before the training left the numbers",
        )
