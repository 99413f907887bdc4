"""``fcn-deploy export``: a checkpoint as ONNX."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fcn_deploy.commands.shared.console import console, counter
from fcn_deploy.commands.shared.options import Names, precision_options, run_argument
from fcn_deploy.commands.shared.pictures import calibration_pictures
from fcn_deploy.core.errors import FcnDeployError, InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import OUTPUT_NAMES, Precision, Tail

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

    from fcn_deploy.export.exporter import Export


#: Pictures to calibrate on: 32 and 128 of CamVid's give the same mean IoU within 0.02 point.
CALIBRATION_SIZE = 128


@click.command()
@run_argument
@precision_options
@click.option(
    "--outputs", type=Names(OUTPUT_NAMES), default="mask", show_default=True,
    help="What the graph gives.",
)  # fmt: skip
@click.option("--opset", type=int, default=20, show_default=True, help="ONNX opset, 17 to 20.")
@click.option(
    "--tail", type=click.Choice(["auto", *(tail.value for tail in Tail)]), default="auto",
    show_default=True, help="The form of the upsampling; masks are the same, times are not.",
)  # fmt: skip
@click.option(
    "--calibration", metavar="DIR|synthetic",
    help="With --int8: pictures to measure the scales on; default: the run's training pictures.",
)  # fmt: skip
@click.option(
    "--calibration-size", type=click.IntRange(min=1), show_default=str(CALIBRATION_SIZE),
    help="With --int8: how many of them at most, evenly spaced.",
)  # fmt: skip
@click.option(
    "--unchecked", is_flag=True, help="Write a file that fails its self-check, to look into it."
)
@click.option("--out", type=click.Path(path_type=Path), help="File to write; default: in the run.")
@click.option(
    "--explain", is_flag=True, help="Say what was rewritten, and what it saves by the count."
)
def export(
    run: str | None,
    precision: Precision,
    outputs: tuple[str, ...],
    opset: int,
    tail: str,
    calibration: str | None,
    calibration_size: int | None,
    unchecked: bool,
    out: Path | None,
    explain: bool,
) -> None:
    """Write a checkpoint as ONNX: uint8 pictures in, uint8 masks out, any size."""
    for option, value in (("", calibration), ("-size", calibration_size)):
        if value is not None and precision is not Precision.INT8:
            raise click.UsageError(
                f"--calibration{option} is of use with --int8 only: add it, or drop this."
            )
    if explain and precision is Precision.INT8:
        raise click.UsageError("--explain counts what FP32 and FP16 files save: drop it or --int8.")
    from fcn_deploy.networks.device import unavailable_reason

    source = Run.from_argument(run)
    checkpoint = source.require_checkpoint()
    if (reason := unavailable_reason()) is not None:
        raise FcnDeployError(f"export needs PyTorch: {reason}")
    from fcn_deploy.export.exporter import onnx_from_checkpoint

    if out is not None and out.suffix != ".onnx":
        raise InputError(f"{out} is no name for an ONNX file", "let --out end in .onnx")
    write = functools.partial(
        onnx_from_checkpoint,
        checkpoint,
        outputs=outputs,
        opset=opset,
        tail=None if tail == "auto" else Tail(tail),
        checked=not unchecked,
    )
    target = out or source.onnx_target(precision)
    if precision is Precision.INT8:
        count, where, pictures = calibration_pictures(
            source, calibration, calibration_size or CALIBRATION_SIZE
        )
        _write_int8(target, write, count, where, pictures, checked=not unchecked)
        return
    written = write(target, precision=precision)
    shapes = ", ".join("×".join(map(str, shape)) for shape in written.checked_shapes)
    proof = f"masks checked against PyTorch at N×H×W {shapes}" if shapes else "NOT CHECKED"
    console.print(
        f"wrote {written.path}: {precision.value}, opset {opset}, tail {written.tail.value}, "
        f"{written.num_nodes} nodes, outputs {', '.join(written.outputs)}; {proof}"
    )
    if explain:
        _explain(checkpoint, written)


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
    target: Path,
    write_fp32: Callable[[Path], object],
    count: int,
    where: str,
    pictures: Iterator[NDArray[uint8]],
    *,
    checked: bool,
) -> None:
    from fcn_deploy.core.files import probe
    from fcn_deploy.graph.onnx_file import OnnxFile
    from fcn_deploy.graph.quantize import quantized_onnx

    probe(target)
    # Not the run's own FP32 file: that may be older, of another opset, or give other outputs.
    with tempfile.TemporaryDirectory(prefix="fcn-deploy.") as folder:
        fp32 = Path(folder) / "model.onnx"
        write_fp32(fp32)
        with counter("calibration", count) as step:
            written = quantized_onnx(
                OnnxFile(fp32), target, _counted(pictures, step), checked=checked
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
