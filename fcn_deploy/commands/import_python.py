"""``fcn-deploy import python:MODULE:FACTORY``: a network from somebody's Python code as a run."""

from dataclasses import dataclass
from pathlib import Path

from fcn_deploy.commands.shared.console import console
from fcn_deploy.core.code_trust import trusting_code
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import Run

PREFIX = "python:"
#: What is possible without PyTorch.
ONNX_INSTEAD = ", or export the network to ONNX where PyTorch is and `fcn-deploy import onnx:FILE`"
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class PythonOptions:
    """What was typed after ``import python:MODULE:FACTORY``.

    Attributes:
        network: the name, with its prefix.
        out: the run.
        arguments: of the factory, each ``name=value``.
        multiple_of: pad images to multiples of this; None: not.
        weights: a file, or None for what the factory gives.
        classes: a file with their names, or None.
        mean: see :func:`fcn_deploy.graph.foreign.preprocessing.normalisation`; likewise
        std: this.
        overwrite: whether a model of the run may be replaced.
    """

    network: str
    out: Run
    arguments: tuple[str, ...]
    multiple_of: int | None
    weights: Path | None
    classes: Path | None
    mean: Triple | None
    std: Triple | None
    overwrite: bool


def import_python(options: PythonOptions) -> None:
    """Write the network as the run's checkpoint, once it has given class scores at odd sizes."""
    from fcn_deploy.networks.device import require_torch

    require_torch(f"importing {options.network}", ONNX_INSTEAD)
    from fcn_deploy.data.class_list import class_list_of
    from fcn_deploy.graph.foreign.preprocessing import normalisation
    from fcn_deploy.networks.python_recipe import PythonRecipe
    from fcn_deploy.networks.python_weights import PythonImport, import_python_network
    from fcn_deploy.training.run_files import refuse_existing

    run, weights = options.out, options.weights
    recipe = PythonRecipe.from_name(options.network)
    recipe = recipe.with_options(options.arguments, options.multiple_of)
    if weights is not None and not weights.is_file():
        raise InputError(f"no weights file {weights}", "give an existing file, or drop --weights")
    refuse_existing(run, overwrite=options.overwrite)
    listed = None if options.classes is None else class_list_of(options.classes)
    levels = normalisation(options.mean, options.std, None)
    mean, std = (_shares(values) for values in levels)
    asked = PythonImport(
        recipe,
        weights,
        None if listed is None else listed.names,
        None if listed is None else listed.palette,
        mean,
        std,
    )
    with trusting_code():  # the user has typed its name
        spec, network = import_python_network(asked, run.checkpoint)
    size = "of the image's size" if network.whole else "upsampled bilinearly to the image"
    source = "the factory gives" if weights is None else f"{weights} holds"
    console.print(
        f"wrote {run.checkpoint}: {spec.architecture}, {spec.num_classes} classes, logits {size}, "
        f"with the weights that {source}"
    )
    console.print(
        f"its code is imported again by `fcn-deploy export{run.command_suffix} --trust-code`, and "
        "wherever PyTorch computes it"
    )


def _shares(levels: Triple) -> Triple:
    red, green, blue = (value / 255 for value in levels)
    return red, green, blue
