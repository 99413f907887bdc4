"""``fcn-deploy import``: a published network, or one of another tool, as a run of ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fcn_deploy.commands.import_onnx import PREFIX, OnnxImport, import_onnx
from fcn_deploy.commands.import_python import ONNX_INSTEAD, PythonOptions, import_python
from fcn_deploy.commands.import_python import PREFIX as PYTHON
from fcn_deploy.commands.shared.code_options import argument_options
from fcn_deploy.commands.shared.console import console
from fcn_deploy.commands.shared.options import Channels, Fraction, PathText, PathType, typed_names
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.files import probe
from fcn_deploy.core.run import Run

#: Options of ``onnx:FILE`` alone, by the names of their parameters.
_OF_ONNX = {
    "input_layout": "--input-layout",
    "channels": "--channels",
    "scale": "--scale",
    "align_corners": "--align-corners",
}
#: Those of ``python:MODULE:FACTORY`` alone.
_OF_PYTHON = {"arguments": "--arg", "multiple_of": "--multiple-of"}
#: Those of both.
_OF_BOTH = {"mean": "--mean", "std": "--std"}


@dataclass(frozen=True)
class ImportOptions:
    """What was typed; the fields are the parameters of :func:`import_network`."""

    network: str
    weights: str
    classes: Path | None
    input_layout: Any
    channels: Any
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    scale: float | None
    align_corners: bool
    arguments: tuple[str, ...]
    multiple_of: int | None
    out: str
    overwrite: bool

    def of_python(self) -> PythonOptions:
        """Return what concerns ``python:MODULE:FACTORY``."""
        return PythonOptions(
            network=self.network,
            out=Run(Path(self.out)),
            arguments=self.arguments,
            multiple_of=self.multiple_of,
            weights=None if self.weights == "default" else Path(self.weights),
            classes=self.classes,
            mean=self.mean,
            std=self.std,
            overwrite=self.overwrite,
        )

    def of_onnx(self) -> OnnxImport:
        """Return what concerns ``onnx:FILE``."""
        return OnnxImport(
            file=Path(self.network.removeprefix(PREFIX)),
            out=Run(Path(self.out)),
            classes=self.classes,
            layout=self.input_layout,
            channels=self.channels,
            mean=self.mean,
            std=self.std,
            scale=self.scale,
            align_corners=self.align_corners,
            overwrite=self.overwrite,
        )


@click.command("import")
@click.argument("network", metavar="torchvision:NAME|onnx:FILE|python:MODULE:FACTORY")
@click.option(
    "--weights", type=PathText("default"), default="default", show_default=True,
    metavar="default|FILE",
    help="Fetch torchvision's published weights (`default`), or take them from a file, or a "
    "network of that kind that was trained with torchvision's scripts; of python:..., take those "
    "that the factory gives, or a state dict from a file.",
)  # fmt: skip
@click.option(
    "--classes", type=PathType(),
    help="Read the names of its classes from this file, one a line; by default they are VOC's, "
    "and numbers of an ONNX file or a network from Python.",
)  # fmt: skip
@click.option(
    "--input-layout", type=click.Choice(["NCHW", "NHWC"], case_sensitive=False),
    help="Feed the ONNX file in this layout; by default in the one that its input's axes show.",
)  # fmt: skip
@click.option(
    "--channels", type=click.Choice(["rgb", "bgr"]), default="rgb", show_default=True,
    help="Feed the ONNX file with channels in this order.",
)  # fmt: skip
@click.option(
    "--mean", type=Channels(),
    help="Subtract this from the channels, in the order in which the network reads them: of "
    "pixels in [0, 1], or in grey levels where one of --mean and --std is above 1; by default "
    "ImageNet's.",
)  # fmt: skip
@click.option(
    "--std", type=Channels(), help="Divide the channels by this, in the same units as --mean."
)
@click.option(
    "--scale", type=Fraction(),
    help="Feed the ONNX file with pixels, 0 to 255, times this, e.g. 1/255, in place of --mean "
    "and --std.",
)  # fmt: skip
@click.option(
    "--align-corners", is_flag=True,
    help="Where the ONNX file's logits are smaller than the picture, upsample them with corners "
    "on corners; by default by half pixels, as interpolation in PyTorch and TensorFlow 2 does.",
)  # fmt: skip
@argument_options
@click.option(
    "--out", type=PathText(folder=True), default="runs/fcn", show_default=True,
    help="Write the network into this run directory.",
)  # fmt: skip
@click.option(
    "--overwrite", is_flag=True, help="Replace the model that the run directory already holds."
)
def import_network(**typed: Any) -> None:
    """Take a network as a run, to export, check and measure.

    torchvision:fcn_resnet50 and fcn_resnet101 are published; onnx:FILE is a segmentation network
    that any tool has exported, and needs no PyTorch; python:MODULE:FACTORY is a torch.nn.Module
    that the factory in that module makes, whose code is run.
    """
    options = ImportOptions(**typed)
    of_onnx, of_python = options.network.startswith(PREFIX), options.network.startswith(PYTHON)
    _refuse_others(of_onnx, of_python)
    if of_onnx:
        if "weights" in typed_names():
            raise InputError("--weights is of no use with onnx:FILE", "drop it")
        import_onnx(options.of_onnx())
        return
    if of_python:
        import_python(options.of_python())
        return
    _import_published(options)


def _refuse_others(of_onnx: bool, of_python: bool) -> None:
    """Refuse options that are of no use with the kind of network that was named.

    Raises:
        InputError: naming one.
    """
    kinds = (
        (of_onnx, _OF_ONNX, "onnx:FILE"),
        (of_python, _OF_PYTHON, "python:MODULE:FACTORY"),
        (of_onnx or of_python, _OF_BOTH, "onnx:FILE or python:MODULE:FACTORY"),
    )
    for named, options, kind in kinds:
        for name in options:
            if not named and name in typed_names():
                raise InputError(f"{options[name]} is of use with {kind} only", "drop it")


def _import_published(options: ImportOptions) -> None:
    from fcn_deploy.networks.device import require_torch

    require_torch(f"importing {options.network}", ONNX_INSTEAD)
    from fcn_deploy.data.class_list import class_list_of
    from fcn_deploy.data.masks import VOC_CLASS_NAMES
    from fcn_deploy.networks.torchvision_weights import PUBLISHED, import_published
    from fcn_deploy.training.run_files import refuse_existing

    network, weights = options.network, options.weights
    if network not in PUBLISHED:
        choices = ", ".join([*PUBLISHED, "onnx:FILE", "or python:MODULE:FACTORY"])
        raise InputError(f"unknown network {network!r}", f"choose {choices}")
    file = None if weights == "default" else Path(weights)
    if file is not None and not file.is_file():
        raise InputError(f"no weights file {weights}", "give default, or an existing file")
    run = Run(Path(options.out))
    refuse_existing(run, overwrite=options.overwrite)
    probe(run.checkpoint)
    names = VOC_CLASS_NAMES if options.classes is None else class_list_of(options.classes).names
    spec = import_published(PUBLISHED[network], file, run.checkpoint, names)
    console.print(f"wrote {run.checkpoint}: {spec.architecture}, {spec.num_classes} classes")
