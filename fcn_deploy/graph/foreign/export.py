"""Writes the ONNX files of a network of another tool, each proven against the network itself."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ExportError, InputError, OnnxFileError
from fcn_deploy.core.files import content_digest, write_bytes
from fcn_deploy.core.spec import BatchShape, Precision, ordered_outputs
from fcn_deploy.graph.foreign.imported import Imported
from fcn_deploy.graph.foreign.network import OriginalNetwork, reason_of
from fcn_deploy.graph.foreign.surgery import deploy_graph_of
from fcn_deploy.graph.fp16 import in_half
from fcn_deploy.graph.fp16_rounding import with_explicit_rounding
from fcn_deploy.graph.nodes import opset_of
from fcn_deploy.graph.onnx_file import CheckedOnnx, write_metadata
from fcn_deploy.graph.session import cpu_session
from fcn_deploy.graph.whole_mean import with_whole_mean

if TYPE_CHECKING:
    import onnx

#: In units of the largest |logit|: beyond twice this margin the masks must agree.
CHECK_TOLERANCE = {Precision.FP32: 1e-3, Precision.FP16: 2e-2}
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

    A half graph is computed twice: as it is, and with every tensor rounded to half, as a GPU does.

    Raises:
        ExportError: naming the first shape and output that differ.
    """
    import onnx

    try:
        onnx.checker.check_model(graph, full_check=True)
    except Exception as error:  # the checker's and shape inference's exceptions share no base
        reason = reason_of(error)
        raise ExportError(f"the rewritten graph is invalid: {reason}", _EXPORT_AGAIN) from error
    sessions = {"": cpu_session(graph.SerializeToString(), threads=0)}
    if precision is Precision.FP16:
        rounded = with_explicit_rounding(graph).SerializeToString()
        sessions[" rounded to half everywhere, as a GPU does"] = cpu_session(rounded, threads=0)
    generator = np.random.default_rng(0)
    repair = _SHIP_FP32 if precision is Precision.FP16 else _EXPORT_AGAIN
    for shape in shapes:
        images = generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
        mask, logits = network.run(images)
        allowed = CHECK_TOLERANCE[precision] * float(np.abs(logits).max())
        for how, session in sessions.items():
            given = dict(zip(outputs, session.run(list(outputs), {"image": images}), strict=True))
            difference = _difference(mask, logits, given, allowed)
            if difference is not None:
                where = f"self-check at (N, H, W) = {shape}{how}"
                raise ExportError(f"{where}: {difference}", repair)


def _difference(
    mask: NDArray[np.uint8],
    logits: NDArray[np.float32],
    given: dict[str, NDArray[Any]],
    allowed: float,
) -> str | None:
    """Return in what a graph's outputs differ from the original's, or None."""
    if given["mask"].dtype != np.uint8 or given["mask"].shape != mask.shape:
        return f"the mask is {given['mask'].dtype} {given['mask'].shape}, expected {mask.shape}"
    best = np.partition(logits, -2, axis=1)
    margin = best[:, -1] - best[:, -2]
    wrong = (given["mask"] != mask) & (margin > 2 * allowed)
    if wrong.any():
        return f"another class than the original's at {int(wrong.sum())} decided pixels"
    for name, expected, limit in (("logits", logits, allowed), ("margin", margin, 2 * allowed)):
        if name in given:
            error = float(np.abs(given[name] - expected).max())
            if not error <= limit:  # a NaN fails too
                return f"{name} differ from the original's by {error:.3g}, allowed {limit:.3g}"
    return None
