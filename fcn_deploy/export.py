"""Checkpoint → ONNX: the deploy graph, its metadata, and a check before anyone sees the file."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fcn_deploy.artifacts import Run, atomic_path, file_digest
from fcn_deploy.checkpoint import Checkpoint, load_checkpoint
from fcn_deploy.errors import ExportError, InputError, OnnxFileError
from fcn_deploy.metrics import margin_of
from fcn_deploy.model import DeployModel
from fcn_deploy.onnx_file import CHECKPOINT_DIGEST_KEY, PRECISION_KEY, SPEC_KEY, read_metadata
from fcn_deploy.runners.session import cpu_session
from fcn_deploy.spec import ModelSpec, Precision, ordered_outputs

#: ONNX Runtime's CUDA ConvTranspose falls to the CPU at opset 22 (onnxruntime#26393), and
#: TensorRT reads up to 20 in every supported release.
DEFAULT_OPSET = 20
OPSETS = (17, 18, 19, 20)
#: TensorRT 8.6 reads opset 17 and IR 8; the exporter traces no opset below 18, so that one is
#: made from the default by conversion.
CONVERTED_OPSET, CONVERTED_IR = 17, 8
#: (N, H, W) of the self-check: one small, one odd, one below the stride, one batch.
CHECK_SHAPES = ((1, 64, 96), (1, 97, 131), (2, 33, 160), (1, 1, 1))
#: The check's tolerance, in units of the largest |logit|: beyond twice this margin the masks
#: must agree.  Half precision keeps 11 bits and loses a few of them along 20 layers.
CHECK_TOLERANCE = {Precision.FP32: 1e-3, Precision.FP16: 2e-2}


@dataclass(frozen=True)
class Export:
    """A written ONNX file.

    Attributes:
        path: of the file.
        digest: of the file.
        outputs: names of the graph's outputs.
        precision: of the network's arithmetic.
        opset: of the graph.
        num_nodes: nodes of the graph.
        checked_shapes: (N, H, W) at which ONNX Runtime agreed with PyTorch.
    """

    path: Path
    digest: str
    outputs: tuple[str, ...]
    precision: Precision
    opset: int
    num_nodes: int
    checked_shapes: tuple[tuple[int, int, int], ...]


def onnx_from_checkpoint(
    checkpoint_path: Path,
    target: Path,
    *,
    precision: Precision = Precision.FP32,
    outputs: Iterable[str] = ("mask",),
    opset: int = DEFAULT_OPSET,
) -> Export:
    """Write a checkpoint's deploy graph as ONNX and prove it before it gets its name.

    Args:
        checkpoint_path: a ``model.safetensors`` of ours.
        target: the file to write; an older one stays until the new one has passed its check.
        precision: of the network; in and outputs are the same for all.
        outputs: of ``mask``, ``logits``, ``margin``; ``mask`` is always among them.
        opset: 17 to 20; 17 for TensorRT 8.6.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        InputError: an opset or output that cannot be had.
        ExportError: the graph failed its check; no file was left.
        ArtifactError: the file cannot be written.
    """
    if opset not in OPSETS:
        raise InputError(f"opset {opset} is not supported", f"choose {OPSETS[0]} to {OPSETS[-1]}")
    names = ordered_outputs(outputs)
    checkpoint = load_checkpoint(checkpoint_path)
    deploy_model = DeployModel(checkpoint.model, checkpoint.spec, names, precision)
    graph = deploy_graph(deploy_model, opset)
    write_metadata(graph, checkpoint.spec, precision, file_digest(checkpoint_path))
    check_graph(graph, checkpoint, names, precision)
    with atomic_path(target) as temporary:
        temporary.write_bytes(graph.SerializeToString())
    return Export(
        path=target,
        digest=file_digest(target),
        outputs=names,
        precision=precision,
        opset=opset,
        num_nodes=len(graph.graph.node),
        checked_shapes=CHECK_SHAPES,
    )


def deploy_graph(model: DeployModel, opset: int) -> onnx.ModelProto:
    """Trace the deploy graph: uint8 ``image`` [N, H, W, 3] in, all of N, H, W dynamic."""
    example = torch.zeros(2, 64, 96, 3, dtype=torch.uint8)
    axes_in = {0: "N", 1: "H", 2: "W"}
    traced_opset = DEFAULT_OPSET if opset == CONVERTED_OPSET else opset
    graph = _traced(model, example, "image", list(model.outputs), axes_in, traced_opset)
    if opset == CONVERTED_OPSET:
        graph = _converted(graph)
    _name_axes(graph.graph.input[0], ["N", "H", "W", 3])
    axes: dict[str, list[str | int]] = {
        "mask": ["N", "H", "W"],
        "logits": ["N", model.num_classes, "H", "W"],
        "margin": ["N", "H", "W"],
    }
    for output in graph.graph.output:
        _name_axes(output, axes[output.name])
    return graph


def ensure_baseline(run: Run) -> Path:
    """Return the run's plain export, written anew where it is missing, stale or damaged.

    Raises:
        MissingStageError: the run has not been trained.
        CheckpointError: the checkpoint cannot be used.
        ArtifactError: the file cannot be written.
    """
    checkpoint = run.require_checkpoint()
    try:
        fresh = read_metadata(run.baseline_onnx).checkpoint_digest == file_digest(checkpoint)
    except OnnxFileError:
        fresh = False
    if not fresh:
        plain_onnx_from_checkpoint(checkpoint, run.baseline_onnx)
    return run.baseline_onnx


def plain_onnx_from_checkpoint(checkpoint_path: Path, target: Path) -> None:
    """Write the baseline of `bench`: float32 ``input`` [N, 3, H, W] → float32 ``logits``.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ArtifactError: the file cannot be written.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    example = torch.zeros(2, 3, 64, 96)
    graph = _traced(
        checkpoint.model, example, "input", ["logits"], {0: "N", 2: "H", 3: "W"}, DEFAULT_OPSET
    )
    write_metadata(graph, checkpoint.spec, Precision.FP32, file_digest(checkpoint_path))
    with atomic_path(target) as temporary:
        temporary.write_bytes(graph.SerializeToString())


def _traced(
    model: nn.Module,
    example: Tensor,
    input_name: str,
    output_names: list[str],
    dynamic_axes: dict[int, str],
    opset: int,
) -> onnx.ModelProto:
    dynamic = dict.fromkeys(dynamic_axes, torch.export.Dim.DYNAMIC)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
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
    assert program is not None  # with dynamo=True and no file it always returns the program
    graph: onnx.ModelProto = program.model_proto
    _strip_traces(graph)
    return graph


def _converted(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph in opset 17 and IR 8, for TensorRT 8.6."""
    try:
        converted = onnx.version_converter.convert_version(graph, CONVERTED_OPSET)
    except RuntimeError as error:  # onnx.version_converter.ConvertError is one
        raise ExportError(f"the graph does not convert to opset {CONVERTED_OPSET}: {error}") from (
            error
        )
    converted.ir_version = CONVERTED_IR
    del converted.graph.value_info[:]
    _cast_mask_through_float(converted.graph)
    return converted


def _cast_mask_through_float(graph: onnx.GraphProto) -> None:
    # TensorRT 8.6 casts to UINT8 from floats alone: Cast(UINT8) → Cast(FLOAT) → Cast(UINT8).
    # Indices below 256 are whole numbers in float32, so nothing is rounded.
    (last,) = (node for node in graph.node if "mask" in node.output)
    if last.op_type != "Cast":
        raise ExportError(f"expected a Cast to give the mask, found {last.op_type}")
    through = onnx.helper.make_node(
        "Cast", [last.input[0]], ["mask_float"], to=onnx.TensorProto.FLOAT, name="mask_float"
    )
    last.input[0] = "mask_float"
    graph.node.insert(list(graph.node).index(last), through)


def _strip_traces(graph: onnx.ModelProto) -> None:
    # The exporter leaves Python stack traces with local paths in every node.
    holders: list[Any] = [graph, graph.graph, *graph.graph.node, *graph.graph.value_info]
    holders += [*graph.graph.input, *graph.graph.output, *graph.graph.initializer]
    for holder in holders:
        del holder.metadata_props[:]
    for node in graph.graph.node:
        node.doc_string = ""
    # Symbolic sizes of inner tensors are named after torch's own symbols; runtimes infer them.
    del graph.graph.value_info[:]


def _name_axes(value: onnx.ValueInfoProto, axes: list[str | int]) -> None:
    shape = value.type.tensor_type.shape
    del shape.dim[:]
    for axis in axes:
        if isinstance(axis, int):
            shape.dim.add().dim_value = axis
        else:
            shape.dim.add().dim_param = axis


def write_metadata(
    graph: onnx.ModelProto, spec: ModelSpec, precision: Precision, checkpoint_digest: str
) -> None:
    """Put into the file what later stages must know of the model."""
    entries = {
        SPEC_KEY: spec.to_json(),
        PRECISION_KEY: precision.value,
        CHECKPOINT_DIGEST_KEY: checkpoint_digest,
    }
    for key, value in entries.items():
        graph.metadata_props.add(key=key, value=value)
    graph.producer_name = "fcn-deploy"


def check_graph(
    graph: onnx.ModelProto,
    checkpoint: Checkpoint,
    outputs: tuple[str, ...],
    precision: Precision,
) -> None:
    """Check the graph formally, then its masks and logits against PyTorch in float32.

    Raises:
        ExportError: naming the first shape and output that differ.
    """
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is invalid: {error}") from error
    reference = DeployModel(checkpoint.model, checkpoint.spec, ("mask", "logits"))
    session = cpu_session(graph.SerializeToString(), threads=1)
    generator = np.random.default_rng(0)
    for shape in CHECK_SHAPES:
        images = generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
        with torch.inference_mode():
            mask, logits = (output.numpy() for output in reference(torch.from_numpy(images)))
        given = dict(zip(outputs, session.run(list(outputs), {"image": images}), strict=True))
        _check_outputs(shape, mask, logits, given, CHECK_TOLERANCE[precision])


def _check_outputs(
    shape: tuple[int, int, int],
    mask: NDArray[np.uint8],
    logits: NDArray[np.float32],
    given: dict[str, NDArray[Any]],
    tolerance: float,
) -> None:
    allowed = tolerance * float(np.abs(logits).max())
    margin = margin_of(logits)
    if given["mask"].dtype != np.uint8 or given["mask"].shape != mask.shape:
        raise ExportError(
            f"self-check at (N, H, W) = {shape}: the mask is {given['mask'].dtype} "
            f"{given['mask'].shape}, expected uint8 {mask.shape}"
        )
    wrong = (given["mask"] != mask) & (margin > 2 * allowed)
    if wrong.any():
        raise ExportError(
            f"self-check at (N, H, W) = {shape}: ONNX Runtime gives another class than PyTorch "
            f"at {int(wrong.sum())} decided pixels"
        )
    for name, expected, limit in (("logits", logits, allowed), ("margin", margin, 2 * allowed)):
        if name in given:
            error = float(np.abs(given[name] - expected).max())
            if not error <= limit:  # a NaN fails too
                raise ExportError(
                    f"self-check at (N, H, W) = {shape}: {name} differ from PyTorch by "
                    f"{error:.3g}, allowed {limit:.3g}"
                )
