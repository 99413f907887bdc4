"""Checkpoint → ONNX: the deploy graph, its metadata, and a check before anyone sees the file."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import onnx.version_converter
import torch
from torch import nn

from fcn_deploy.core.errors import InputError, OnnxFileError
from fcn_deploy.core.files import content_digest, file_digest, write_bytes
from fcn_deploy.core.spec import BatchShape, Precision, Tail, ordered_outputs
from fcn_deploy.export.baseline import plain_graph
from fcn_deploy.export.check import CHECK_SHAPES, check_graph
from fcn_deploy.export.opset17 import CONVERTED_OPSET, converted
from fcn_deploy.export.simplify import cast_bytes_through_float, name_nodes, tidy
from fcn_deploy.export.trace import DEFAULT_OPSET, OPSETS, name_axes, strip_traces, traced
from fcn_deploy.graph.cost import GraphCost, graph_cost
from fcn_deploy.graph.fp16 import in_half
from fcn_deploy.graph.onnx_file import CheckedOnnx, OnnxFile, write_metadata
from fcn_deploy.graph.self_check import CHECK_TOLERANCE
from fcn_deploy.graph.tournament import with_tournament
from fcn_deploy.graph.whole_mean import STEPS_OF_HALF, with_whole_mean
from fcn_deploy.networks.checkpoint import load_checkpoint
from fcn_deploy.networks.deploy_graph import DeployGraph

#: (N, H, W) that costs are told for.
COST_SHAPE = (1, 320, 480)


@dataclass(frozen=True)
class Export(CheckedOnnx):
    """A written ONNX file of a checkpoint, checked in ONNX Runtime against PyTorch.

    Attributes:
        tail: the form of the upsampling.
        folded_norms: batch normalisations that went into the convolution before them.
        removed_nodes: nodes of the exporter, all shape arithmetic, that were not needed.
    """

    tail: Tail
    folded_norms: int
    removed_nodes: int


def onnx_from_checkpoint(
    checkpoint_path: Path,
    target: Path,
    *,
    precision: Precision = Precision.FP32,
    outputs: Iterable[str] = ("mask",),
    opset: int = DEFAULT_OPSET,
    tail: Tail | None = None,
    checked: bool = True,
) -> Export:
    """Write a checkpoint's deploy graph as ONNX and prove it before it gets its name.

    Args:
        checkpoint_path: a ``model.safetensors`` of ours.
        target: the file to write; an older one stays until the new one has passed its check.
        precision: of the network; in and outputs are the same for all.
        outputs: of ``mask``, ``logits``, ``margin``; ``mask`` is always among them.
        opset: 17 to 20; 17 for TensorRT 8.6.
        tail: the form of the last step; masks are the same; None: the cheapest exact one, see
            docs/numerics.md.
        checked: False leaves the proof out, for a file that is to be looked into.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        InputError: an opset, output or tail that cannot be had.
        ArchitectureError: the network's upsampling is of a form that ``tail`` does not replace.
        ExportError: the graph failed its check; no file was left.
        ArtifactError: the file cannot be written.
    """
    if opset not in OPSETS:
        raise InputError(f"opset {opset} is not supported", f"choose {OPSETS[0]} to {OPSETS[-1]}")
    if precision not in CHECK_TOLERANCE:  # INT8 needs pictures, bf16 is no file's
        raise InputError(
            f"no checkpoint is exported in {precision.value}",
            "export it in fp32 first; quantized_onnx makes int8 of that",
        )
    names = ordered_outputs(outputs)
    checkpoint = load_checkpoint(checkpoint_path)
    source = DeployGraph(checkpoint.model, checkpoint.spec, names, tail)
    graph, removed = _traced_and_tidied(source, opset)
    if precision is Precision.FP16:
        graph = fp16_graph(graph)
    digest = file_digest(checkpoint_path)
    write_metadata(graph, checkpoint.spec, precision, digest, source.tail_form)
    if checked:
        check_graph(graph, checkpoint, names, precision)
    write_bytes(target, content := graph.SerializeToString())
    return Export(
        path=target,
        digest=content_digest(content),
        outputs=names,
        precision=precision,
        opset=opset,
        num_nodes=len(graph.graph.node),
        checked_shapes=CHECK_SHAPES if checked else (),
        tail=source.tail_form,
        folded_norms=_norms(checkpoint.model) - _norm_nodes(graph),
        removed_nodes=removed,
    )


@dataclass(frozen=True)
class Savings:
    """What a written file costs, beside the plain export of the same checkpoint.

    Attributes:
        shape: (N, H, W) of the pictures.
        plain: float32 images in, logits out; normalisation and argmax are left to the host, and
            not counted.
        written: the file.
    """

    shape: BatchShape
    plain: GraphCost
    written: GraphCost


def savings(checkpoint_path: Path, written: Path, shape: BatchShape = COST_SHAPE) -> Savings:
    """Count what a file written by :func:`onnx_from_checkpoint` costs, and the plain export.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        OnnxFileError: the file cannot be read, or its shapes not be told.
    """
    images, height, width = shape
    return Savings(
        shape,
        graph_cost(
            plain_graph(load_checkpoint(checkpoint_path)), {"input": (images, 3, height, width)}
        ),
        graph_cost(OnnxFile(written).model, {"image": (*shape, 3)}),
    )


def _norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def _norm_nodes(graph: onnx.ModelProto) -> int:
    return sum(node.op_type == "BatchNormalization" for node in graph.graph.node)


def fp16_graph(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return an FP32 deploy graph in half, with a mean from which half holds every difference."""
    # Where no convolution alone reads the pixels, they are normalised in float32.
    with suppress(OnnxFileError):
        graph = with_whole_mean(graph, steps=STEPS_OF_HALF)
    return in_half(graph)


def deploy_graph(model: DeployGraph, opset: int) -> onnx.ModelProto:
    """Trace the deploy graph: uint8 ``image`` [N, H, W, 3] in, all of N, H, W dynamic."""
    return _traced_and_tidied(model, opset)[0]


def _traced_and_tidied(model: DeployGraph, opset: int) -> tuple[onnx.ModelProto, int]:
    """Return the deploy graph and how many of the exporter's nodes it does without."""
    example = torch.zeros(2, 64, 96, 3, dtype=torch.uint8)
    axes_in = {0: "N", 1: "H", 2: "W"}
    traced_opset = DEFAULT_OPSET if opset == CONVERTED_OPSET else opset
    graph = traced(model, example, "image", list(model.outputs), axes_in, traced_opset)
    exported = len(graph.graph.node)
    tidy(graph.graph)
    removed = exported - len(graph.graph.node)
    name_nodes(graph.graph, model)
    strip_traces(graph)
    cast_bytes_through_float(graph)
    if opset == CONVERTED_OPSET:
        graph = converted(graph)
    if model.tail_form is Tail.TOURNAMENT:
        graph = with_tournament(graph)
    name_axes(graph.graph.input[0], ["N", "H", "W", 3])
    axes: dict[str, list[str | int]] = {
        "mask": ["N", "H", "W"],
        "logits": ["N", model.num_classes, "H", "W"],
        "margin": ["N", "H", "W"],
    }
    for output in graph.graph.output:
        name_axes(output, axes[output.name])
    return graph, removed
