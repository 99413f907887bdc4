"""``fcn-deploy export``: a checkpoint as ONNX."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fcn_deploy.commands.shared.code_options import trust_code_option
from fcn_deploy.commands.shared.console import console, counter
from fcn_deploy.commands.shared.options import (
    Names,
    PathText,
    PathType,
    precision_options,
    run_argument,
    typed_names,
)
from fcn_deploy.commands.shared.pictures import calibration_pictures
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import OUTPUT_NAMES, Precision, Tail

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

    from fcn_deploy.export.exporter import Export
    from fcn_deploy.graph.onnx_file import CheckedOnnx


#: Pictures to calibrate on: 32 and 128 of CamVid's give the same mean IoU within 0.02 point.
CALIBRATION_SIZE = 128


@dataclass(frozen=True)
class ExportOptions:
    """What was typed; the fields are the parameters of :func:`export`."""

    run: str | None
    precision: Precision
    outputs: tuple[str, ...]
    opset: int
    tail: str
    calibration: str | None
    calibration_size: int | None
    unchecked: bool
    out: Path | None
    explain: bool

    def require_consistent(self) -> None:
        """Refuse options that are of no use beside the others.

        Raises:
            click.UsageError: naming the one to drop or to add.
        """
        for option, value in (("", self.calibration), ("-size", self.calibration_size)):
            if value is not None and self.precision is not Precision.INT8:
                raise click.UsageError(
                    f"--calibration{option} is of use with --int8 only: add it, or drop this."
                )
        if self.explain and self.precision is Precision.INT8:
            raise click.UsageError(
                "--explain counts what FP32 and FP16 files save: drop it or --int8."
            )

    def target(self, source: Run) -> Path:
        """Return the file to write.

        Raises:
            InputError: the one that was named is no ONNX file.
        """
        if self.out is not None and self.out.suffix != ".onnx":
            raise InputError(f"{self.out} is no name for an ONNX file", "let --out end in .onnx")
        return self.out or source.onnx_target(self.precision)


@click.command()
@run_argument
@precision_options
@click.option(
    "--outputs", type=Names(OUTPUT_NAMES), default="mask", show_default=True,
    help="Give the graph these outputs; `mask` is always among them.",
)  # fmt: skip
@click.option(
    "--opset", type=int, default=20, show_default=True,
    help="Write the file in this ONNX opset, 17 to 20; TensorRT 8.6 needs 17.",
)  # fmt: skip
@click.option(
    "--tail", type=click.Choice(["auto", *(tail.value for tail in Tail)]), default="auto",
    show_default=True,
    help="Compute the last upsampling in this form: masks are the same, times are not.",
)  # fmt: skip
@click.option(
    "--calibration", type=PathText("synthetic", folder=True), metavar="DIR|synthetic",
    help="With --int8, measure the scales on these pictures; by default on the run's training "
    "pictures.",
)  # fmt: skip
@click.option(
    "--calibration-size", type=click.IntRange(min=1),
    help="With --int8, calibrate on so many of the pictures at most, evenly spaced; by default on "
    f"{CALIBRATION_SIZE}.",
)  # fmt: skip
@click.option(
    "--unchecked", is_flag=True,
    help="Write the file without its self-check, to find out why the check fails.",
)  # fmt: skip
@click.option(
    "--out", type=PathType(), help="Write to this .onnx file; by default to one of the run's own."
)
@click.option(
    "--explain", is_flag=True,
    help="Print what was rewritten in the graph, and how much arithmetic and memory traffic it "
    "saves.",
)  # fmt: skip
@trust_code_option
def export(**typed: Any) -> None:
    """Write a checkpoint as ONNX: uint8 pictures in, uint8 masks out, any size.

    Of a network that was imported from ONNX it writes FP16, INT8 and other outputs, of its own
    file.
    """
    options = ExportOptions(**typed)
    options.require_consistent()
    source = Run.from_argument(options.run)
    if source.is_foreign:
        _export_foreign(source, options)
        return
    from fcn_deploy.core.extras import require_extra
    from fcn_deploy.networks.device import require_torch

    checkpoint = source.require_checkpoint()
    otherwise = ", or export where PyTorch is and copy the .onnx file from there"
    require_torch("exporting a checkpoint", otherwise)
    require_extra("exporting a checkpoint", "train", "onnxscript", otherwise=otherwise)
    from fcn_deploy.export.exporter import onnx_from_checkpoint

    target = options.target(source)
    write = functools.partial(
        onnx_from_checkpoint,
        checkpoint,
        outputs=options.outputs,
        opset=options.opset,
        tail=None if options.tail == "auto" else Tail(options.tail),
        checked=not options.unchecked,
    )
    if options.precision is Precision.INT8:
        _write_int8(target, write, source, options)
        return
    written = write(target, precision=options.precision)
    _say_written(written, "PyTorch", f"tail {written.tail.value}, ")
    if options.explain:
        _explain(checkpoint, written)


def _export_foreign(source: Run, options: ExportOptions) -> None:
    """Write a file of a network that was imported from ONNX: no PyTorch is needed."""
    from fcn_deploy.graph.foreign.export import foreign_onnx
    from fcn_deploy.graph.foreign.imported import read_imported

    for name in ("opset", "tail", "explain"):
        if name in typed_names():
            raise InputError(
                f"--{name} is of use with checkpoints only: {source.root} was imported from ONNX",
                "drop it",
            )
    imported, content = read_imported(source)
    target = options.target(source)
    write = functools.partial(
        foreign_onnx,
        imported,
        content,
        outputs=options.outputs,
        checked=not options.unchecked,
    )
    if options.precision is Precision.INT8:
        _write_int8(target, write, source, options)
        return
    _say_written(write(target, precision=options.precision), "the original")


def _say_written(written: CheckedOnnx, reference: str, form: str = "") -> None:
    shapes = ", ".join("×".join(map(str, shape)) for shape in written.checked_shapes)
    proof = f"masks checked against {reference} at N×H×W {shapes}" if shapes else "NOT CHECKED"
    console.print(
        f"wrote {written.path}: {written.precision.value}, opset {written.opset}, {form}"
        f"{written.num_nodes} nodes, outputs {', '.join(written.outputs)}; {proof}"
    )


def _explain(checkpoint: Path, written: Export) -> None:
    """Say what was rewritten on the way from the checkpoint, and what it saves by the count."""
    from fcn_deploy.export.exporter import savings

    saved = savings(checkpoint, written.path)
    console.print(
        f"rewritten: {written.folded_norms} batch normalisations folded into the convolutions "
        "before them, the standard deviation into the first convolution's weights; tail "
        f"{written.tail.value}; {written.removed_nodes} nodes of shape arithmetic removed"
    )
    batch, height, width = saved.shape
    console.print(f"by the count, for {batch} picture of {height}×{width}:")
    for name, cost in (("plain export", saved.plain), ("this file", saved.written)):
        console.print(
            f"  {name:<12} {cost.nodes:>4} nodes  {cost.bytes_moved / 1e6:>8.1f} MB moved  "
            f"{cost.flops / 1e9:>7.2f} GFLOP"
        )
    console.print(
        f"  {'saved':<12} {saved.plain.nodes - saved.written.nodes:>4} nodes  "
        f"{(saved.plain.bytes_moved - saved.written.bytes_moved) / 1e6:>8.1f} MB moved  "
        f"{(saved.plain.flops - saved.written.flops) / 1e9:>7.2f} GFLOP"
    )
    console.print("the plain export leaves normalisation and argmax to the host: not counted")


def _write_int8(
    target: Path, write_fp32: Callable[[Path], object], source: Run, options: ExportOptions
) -> None:
    from fcn_deploy.core.files import probe
    from fcn_deploy.graph.onnx_file import OnnxFile
    from fcn_deploy.graph.quantize import quantized_onnx

    count, where, pictures = calibration_pictures(
        source, options.calibration, options.calibration_size or CALIBRATION_SIZE
    )
    probe(target)
    # Not the run's own FP32 file: that may be older, of another opset, or give other outputs.
    with tempfile.TemporaryDirectory(prefix="fcn-deploy.") as folder:
        fp32 = Path(folder) / "model.onnx"
        write_fp32(fp32)
        with counter("calibration", count) as step:
            written = quantized_onnx(
                OnnxFile(fp32), target, _counted(pictures, step), checked=not options.unchecked
            )
    proof = "NOT CHECKED"
    if written.agreement is not None:
        proof = f"{written.agreement:.2%} of their pixels keep their class"
    console.print(
        f"wrote {written.path}: int8, opset {written.opset}, {written.num_nodes} nodes, outputs "
        f"{', '.join(written.outputs)}; {len(written.quantized)} convolutions in int8, "
        f"{len(written.kept)} in float ({', '.join(written.kept)}); calibrated on "
        f"{written.pictures} pictures of {where}; {proof}"
    )


def _counted(
    pictures: Iterator[NDArray[uint8]], step: Callable[[], None]
) -> Iterator[NDArray[uint8]]:
    for picture in pictures:
        yield picture
        step()
