"""Writes the ONNX files of a network of another tool, each proven against the network itself."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fcn_deploy.core.errors import ExportError, InputError, OnnxFileError
from fcn_deploy.core.files import content_digest, write_bytes
from fcn_deploy.core.spec import BatchShape, Precision, ordered_outputs
from fcn_deploy.graph.foreign.imported import Imported
from fcn_deploy.graph.foreign.network import OriginalNetwork, reason_of
from fcn_deploy.graph.foreign.surgery import deploy_graph_of
from fcn_deploy.graph.fp16 import in_half
from fcn_deploy.graph.nodes import opset_of
from fcn_deploy.graph.onnx_file import CheckedOnnx, write_metadata
from fcn_deploy.graph.self_check import CHECK_TOLERANCE, checked_sessions, difference
from fcn_deploy.graph.whole_mean import with_whole_mean

if TYPE_CHECKING:
    import onnx

_SHIP_FP32 = "ship FP32, or write it with --unchecked and look into it with `parity --bisect`"
_EXPORT_AGAIN = "export it from its tool again, in another opset for example"


def foreign_graph(
    imported: Imported,
    content: bytes,
    *,
    precision: Precision = Precision.FP32,
    outputs: Iterable[str] = ("mask",),
    checked: bool = True,
) -> onnx.ModelProto:
    """Return the deploy graph of a network of another tool, with metadata, and prove it.

    Args:
        imported: the record of the network.
        content: the original's bytes.
        precision: FP32 or FP16.
        outputs: of ``mask``, ``logits``, ``margin``; ``mask`` is always among them.
        checked: False leaves the proof out.

    Raises:
        InputError: another precision.
        OnnxFileError: the opset cannot be converted.
        ExportError: the graph failed its check.
    """
    import onnx

    if precision not in CHECK_TOLERANCE:  # INT8 needs pictures, bf16 is no file's
        raise InputError(
            f"no network is rewritten in {precision.value}",
            "write it in fp32 first; quantized_onnx makes int8 of that",
        )
    names = ordered_outputs(outputs)
    original = onnx.load_model_from_string(content)
    graph = deploy_graph_of(original, imported.preprocessing, imported.interface, names)
    if precision is Precision.FP16:
        graph = _halved(graph)
    write_metadata(graph, imported.spec, precision, imported.digest)
    if checked:
        network = OriginalNetwork(content, imported.preprocessing, imported.interface)
        shapes = imported.interface.taken.examples()
        check_against(network, graph, names, precision, shapes)
    return graph


def foreign_onnx(
    imported: Imported,
    content: bytes,
    target: Path,
    *,
    precision: Precision = Precision.FP32,
    outputs: Iterable[str] = ("mask",),
    checked: bool = True,
) -> CheckedOnnx:
    """Write the deploy graph of a network of another tool; see :func:`foreign_graph`.

    Raises:
        ArtifactError: the file cannot be written.
    """
    graph = foreign_graph(imported, content, precision=precision, outputs=outputs, checked=checked)
    written = graph.SerializeToString()
    write_bytes(target, written)
    return CheckedOnnx(
        path=target,
        digest=content_digest(written),
        outputs=tuple(output.name for output in graph.graph.output),
        precision=precision,
        opset=opset_of(graph),
        num_nodes=len(graph.graph.node),
        checked_shapes=imported.interface.taken.examples() if checked else (),
    )


def _halved(graph: onnx.ModelProto) -> onnx.ModelProto:
    # Where no convolution reads the pixels, they are normalised in float32.
    with suppress(OnnxFileError):
        graph = with_whole_mean(graph)
    return in_half(graph)


def check_against(
    network: OriginalNetwork,
    graph: onnx.ModelProto,
    outputs: tuple[str, ...],
    precision: Precision,
    shapes: Iterable[BatchShape],
) -> None:
    """Check a graph formally, then its masks and logits against the original's on noise.

    Raises:
        ExportError: naming the first shape and output that differ.
    """
    sessions = checked_sessions(graph, precision, threads=0, repair=_EXPORT_AGAIN)
    generator = np.random.default_rng(0)
    repair = _SHIP_FP32 if precision is Precision.FP16 else _EXPORT_AGAIN
    for shape in shapes:
        images = generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
        where = f"self-check at (N, H, W) = {shape}"
        try:
            mask, logits = network.run(images)
            produced = {
                how: one.run(list(outputs), {"image": images}) for how, one in sessions.items()
            }
        except Exception as error:  # ONNX Runtime's exceptions share no base
            raise ExportError(f"{where}: it does not run ({reason_of(error)})", repair) from error
        for how, arrays in produced.items():
            given = dict(zip(outputs, arrays, strict=True))
            found = difference(mask, logits, given, precision, "the original")
            if found is not None:
                raise ExportError(f"{where}{how}: {found}", repair)
