"""``fcn-deploy import onnx:FILE``: a network of another tool as a run; no PyTorch is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_deploy.commands.shared.console import console
from fcn_deploy.core.errors import ArtifactError, InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec, Precision, SizeRange

if TYPE_CHECKING:
    from fcn_deploy.graph.foreign.network import Interface
    from fcn_deploy.graph.foreign.preprocessing import ChannelOrder, Layout, Preprocessing, Triple

PREFIX = "onnx:"
#: Sizes that engines of a network of free sizes are tuned for: the bench's picture.
_TYPICAL = (320, 480)


@dataclass(frozen=True)
class OnnxImport:
    """What was typed after ``import onnx:FILE``.

    Attributes:
        file: of the network.
        out: the run.
        classes: a file with their names, or None.
        layout: of the input; None: as its axes say.
        channels: the order in which the network reads them.
        mean: see :func:`fcn_deploy.graph.foreign.preprocessing.normalisation`; likewise
        std: and
        scale: these.
        align_corners: how small logits are upsampled.
        overwrite: whether a model of the run may be replaced.
    """

    file: Path
    out: Run
    classes: Path | None
    layout: Layout | None
    channels: ChannelOrder
    mean: Triple | None
    std: Triple | None
    scale: float | None
    align_corners: bool
    overwrite: bool


def import_onnx(options: OnnxImport) -> None:
    """Write original, record and deploy graph into the run, once the graph is proven."""
    from fcn_deploy.core.files import probe, write_bytes
    from fcn_deploy.graph.foreign.export import foreign_graph
    from fcn_deploy.graph.foreign.imported import Imported
    from fcn_deploy.graph.foreign.interface import interface_of
    from fcn_deploy.graph.foreign.original import read_original
    from fcn_deploy.graph.foreign.preprocessing import Preprocessing, normalisation

    run = options.out
    mean, std = normalisation(options.mean, options.std, options.scale, options.channels)
    if (run.has_model() or run.original.exists()) and not options.overwrite:
        raise ArtifactError(
            f"{run.root} holds a model already",
            "import into another folder with --out, or replace it with --overwrite",
        )
    original = read_original(options.file)
    layout = original.layout(options.layout)
    preprocessing = Preprocessing(layout, options.channels, mean, std)
    interface = interface_of(original, layout, align_corners=options.align_corners)
    spec = _spec_of(options, preprocessing, interface)
    imported = Imported(options.file.name, original.digest, preprocessing, interface, spec)
    graph = foreign_graph(imported, original.content)
    probe(run.original)
    _forget_others(run)
    imported.write(run, original.content)
    write_bytes(run.onnx_target(Precision.FP32), graph.SerializeToString())
    own = "; its own class map is kept" if interface.has_own_mask else ""
    small = "; its logits are upsampled bilinearly" if interface.upsampled else ""
    console.print(f"it is fed {preprocessing.words}")
    console.print(f"it takes {interface.taken.words}; {interface.num_classes} classes{own}{small}")
    if interface.pads:
        console.print(
            f"pictures are padded to {interface.shape.size_words}, below and on the right, and "
            "masks are cropped"
        )
    console.print(
        f"wrote {run.onnx_target(Precision.FP32)}: masks checked against {options.file} in ONNX "
        f"Runtime at N×H×W {', '.join('×'.join(map(str, s)) for s in interface.taken.examples())}"
    )


def _spec_of(options: OnnxImport, preprocessing: Preprocessing, interface: Interface) -> ModelSpec:
    from fcn_deploy.data.class_list import class_list_of
    from fcn_deploy.data.masks import voc_palette

    count = interface.num_classes
    names = tuple(f"class {index}" for index in range(count))
    palette = voc_palette(count)
    if options.classes is not None:
        listed = class_list_of(options.classes)
        if len(listed.names) != count:
            raise InputError(
                f"{options.classes} lists {len(listed.names)} classes, the network has {count}",
                "list every class of the network, one a line, in the order of its channels",
            )
        names, palette = listed.names, listed.palette
    shape = interface.taken
    typical = shape.fitted(shape.height or _TYPICAL[0], shape.width or _TYPICAL[1])
    return ModelSpec(
        architecture=f"onnx-{options.file.stem}",
        class_names=names,
        palette=palette,
        image_sizes=SizeRange(typical, typical, typical),
        mean=preprocessing.rgb_mean,
        std=preprocessing.rgb_std,
        input_shape=shape,
    )


def _forget_others(run: Run) -> None:
    """Remove the files of the network that is replaced: they would be taken for this one's."""
    own = Run(run.root)
    others = [own.onnx(precision) for precision in Precision]
    trained = (own.checkpoint, own.last_checkpoint, own.state, own.metrics, own.epoch_lines)
    for path in (*trained, own.baseline_onnx, *others):
        path.unlink(missing_ok=True)
