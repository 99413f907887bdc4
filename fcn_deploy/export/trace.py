"""Traces a PyTorch module to an ONNX graph with torch.onnx."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from contextlib import redirect_stderr
from typing import Any

import onnx.version_converter
import torch
from torch import Tensor, nn

from fcn_deploy.core.errors import ExportError

#: ONNX Runtime's CUDA ConvTranspose falls to the CPU at opset 22 (onnxruntime#26393), and
#: TensorRT reads up to 20 in every supported release.
DEFAULT_OPSET = 20
OPSETS = (17, 18, 19, 20)
EXPORTER_REPAIR = "this release of torch.onnx writes another graph: take one of requirements.lock"


def traced(
    model: nn.Module,
    example: Tensor,
    input_name: str,
    output_names: list[str],
    dynamic_axes: dict[int, str],
    opset: int,
) -> onnx.ModelProto:
    """Return the ONNX graph that torch.onnx makes of a module.

    Raises:
        ExportError: it makes none: the network does what has no form in ONNX.
    """
    dynamic = dict.fromkeys(dynamic_axes, torch.export.Dim.DYNAMIC)
    for name in ("torch.onnx", "torch.fx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Of a network that it cannot trace, it prints the whole program on stderr.
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        try:
            program = torch.onnx.export(
                copy.deepcopy(model).eval(),
                (example,),
                input_names=[input_name],
                output_names=output_names,
                opset_version=opset,
                dynamo=True,
                dynamic_shapes=(dynamic,),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(
                f"torch.onnx makes no graph of free sizes of the network ({_first_reason(error)})",
                "replace what it names in the network's code; --debug shows all that it says",
            ) from error
    assert program is not None  # with dynamo=True and no file it always returns the program
    graph: onnx.ModelProto = program.model_proto
    return graph


def _first_reason(error: BaseException) -> str:
    """Return what the error says that began a chain of them, its first line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def strip_traces(graph: onnx.ModelProto) -> None:
    """Take the exporter's notes off the nodes of a graph, in place."""
    # The exporter leaves Python stack traces with local paths in every node.
    holders: list[Any] = [graph, graph.graph, *graph.graph.node, *graph.graph.value_info]
    holders += [*graph.graph.input, *graph.graph.output, *graph.graph.initializer]
    for holder in holders:
        del holder.metadata_props[:]
    for node in graph.graph.node:
        node.doc_string = ""
    # Symbolic sizes of inner tensors are named after torch's own symbols; runtimes infer them.
    del graph.graph.value_info[:]


def name_axes(value: onnx.ValueInfoProto, axes: list[str | int]) -> None:
    """Give a tensor's axes names or fixed sizes, in place."""
    shape = value.type.tensor_type.shape
    del shape.dim[:]
    for axis in axes:
        if isinstance(axis, int):
            shape.dim.add().dim_value = axis
        else:
            shape.dim.add().dim_param = axis
