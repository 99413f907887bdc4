"""Checkpoint → ONNX: the deploy graph, its metadata, and a check before anyone sees the file."""

from __future__ import annotations

import ast
import copy
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from fcn_deploy.core.errors import ExportError, InputError, OnnxFileError
from fcn_deploy.core.files import file_digest, write_bytes
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import BatchShape, ModelSpec, Precision, Tail, ordered_outputs
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.graph.cost import GraphCost, graph_cost
from fcn_deploy.graph.fp16_rounding import with_explicit_rounding
from fcn_deploy.graph.nodes import remove_dead_nodes, replace_nodes
from fcn_deploy.graph.onnx_file import (
    CHECKPOINT_DIGEST_KEY,
    PRECISION_KEY,
    SPEC_KEY,
    TAIL_KEY,
    load_onnx,
    read_metadata,
)
from fcn_deploy.networks.checkpoint import Checkpoint, load_checkpoint
from fcn_deploy.networks.deploy_graph import DeployGraph, DeployModel
from fcn_deploy.runners.ort.sessions import cpu_session

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
#: Names of a crop's tensors, within its module.
_CROP = ("start", "axes", "size", "end")
_SLICE_INPUTS = ("data", "starts", "ends", "axes", "steps")
_EXPORTER_REPAIR = "this release of torch.onnx writes another graph: take one of requirements.lock"
#: (N, H, W) that costs are told for.
COST_SHAPE = (1, 320, 480)
#: A layer overflows in half, or loses too many digits there.
LOOK_INTO = (
    "write it with `fcn-deploy export --fp16 --unchecked`, and `fcn-deploy parity --fp16 --bisect` "
    "names the layer; or ship FP32"
)


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
        tail: the form of the upsampling.
        folded_norms: batch normalisations that went into the convolution before them.
        removed_nodes: nodes of the exporter, all shape arithmetic, that were not needed.
    """

    path: Path
    digest: str
    outputs: tuple[str, ...]
    precision: Precision
    opset: int
    num_nodes: int
    checked_shapes: tuple[tuple[int, int, int], ...]
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
            docs/architecture.md.
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
    source = DeployGraph(checkpoint.model, checkpoint.spec, names, precision, tail)
    graph, removed = _traced_and_tidied(source, opset)
    write_metadata(
        graph, checkpoint.spec, precision, file_digest(checkpoint_path), source.tail_form
    )
    if checked:
        check_graph(graph, checkpoint, names, precision)
    write_bytes(target, graph.SerializeToString())
    return Export(
        path=target,
        digest=file_digest(target),
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
            _plain_graph(load_checkpoint(checkpoint_path)), {"input": (images, 3, height, width)}
        ),
        graph_cost(load_onnx(written), {"image": (*shape, 3)}),
    )


def _norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def _norm_nodes(graph: onnx.ModelProto) -> int:
    return sum(node.op_type == "BatchNormalization" for node in graph.graph.node)


def deploy_graph(model: DeployGraph, opset: int) -> onnx.ModelProto:
    """Trace the deploy graph: uint8 ``image`` [N, H, W, 3] in, all of N, H, W dynamic."""
    return _traced_and_tidied(model, opset)[0]


def _traced_and_tidied(model: DeployGraph, opset: int) -> tuple[onnx.ModelProto, int]:
    """Return the deploy graph and how many of the exporter's nodes it does without."""
    example = torch.zeros(2, 64, 96, 3, dtype=torch.uint8)
    axes_in = {0: "N", 1: "H", 2: "W"}
    traced_opset = DEFAULT_OPSET if opset == CONVERTED_OPSET else opset
    graph = _traced(model, example, "image", list(model.outputs), axes_in, traced_opset)
    exported = len(graph.graph.node)
    _tidy(graph.graph)
    removed = exported - len(graph.graph.node)
    _name_nodes(graph.graph, model)
    _strip_traces(graph)
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
    return graph, removed


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
    graph = _plain_graph(checkpoint)
    write_metadata(graph, checkpoint.spec, Precision.FP32, file_digest(checkpoint_path))
    write_bytes(target, graph.SerializeToString())


def _plain_graph(checkpoint: Checkpoint) -> onnx.ModelProto:
    example = torch.zeros(2, 3, 64, 96)
    axes = {0: "N", 2: "H", 3: "W"}
    graph = _traced(checkpoint.model, example, "input", ["logits"], axes, DEFAULT_OPSET)
    _name_nodes(graph.graph, checkpoint.model)
    _strip_traces(graph)
    return graph


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
    return graph


def _tidy(graph: onnx.GraphProto) -> None:
    """Take out shape arithmetic that the exporter left; needs its scopes and symbolic shapes."""
    _crop_at_once(graph)
    _reshape_by_position(graph)
    remove_dead_nodes(graph)


def _crop_at_once(graph: onnx.GraphProto) -> None:
    """Make one Slice of a crop's two, one for rows and one for columns: half the copying.

    Its size is read off a tensor instead of being computed from the picture's, stage by stage.
    """
    constants = _constants(graph)
    readers = Counter(name for node in graph.node for name in node.input)
    slices = {node.output[0]: node for node in graph.node if node.op_type == "Slice"}
    sums = {name: node for node in graph.node if node.op_type == "Add" for name in node.input}
    nodes: list[onnx.NodeProto] = []
    made: set[str] = set()
    for node in graph.node:
        rows = slices.get(node.input[0]) if node.op_type == "Slice" else None
        scope = _scope(node)
        if (
            rows is None
            or (measure := _measure_of(node.output[0], scope, sums)) is None
            or [_constant_of(part, "axes", constants) for part in (rows, node)] != [2, 3]
            or readers[rows.output[0]] != 1
        ):
            nodes.append(node)
            continue
        first, left = (_constant_of(part, "starts", constants) for part in (rows, node))
        if first != left:
            raise ExportError(
                f"the crop {node.name} begins at row {first} and column {left}, expected the same",
                _EXPORTER_REPAIR,
            )
        start, axes, size, end = (f"{scope}.crop.{part}" for part in _CROP)
        if scope not in made:  # all crops of a scope are one
            made.add(scope)
            for name, values in ((start, [first, first]), (axes, [2, 3])):
                graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
            like, axis = measure
            read = size if first else end
            nodes.append(_node_like(node, "Shape", [like], read, start=axis, end=axis + 2))
            if first:
                nodes.append(_node_like(node, "Add", [size, start], end))
        nodes.remove(rows)
        nodes.append(_node_like(node, "Slice", [rows.input[0], start, end, axes], node.output[0]))
    replace_nodes(graph, nodes)


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    """Return what the graph knows beforehand, by the tensor's name."""
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return known


def _constant_of(slicing: onnx.NodeProto, part: str, constants: Mapping[str, NDArray[Any]]) -> int:
    """Return one of the numbers of a Slice along a single axis.

    Raises:
        ExportError: it is computed, or there are several.
    """
    place = _SLICE_INPUTS.index(part)
    name = slicing.input[place] if place < len(slicing.input) else ""
    if name not in constants or constants[name].size != 1:
        raise ExportError(
            f"the exporter gives no single constant for the {part} of the crop {slicing.name}",
            _EXPORTER_REPAIR,
        )
    return int(constants[name].item())


def _measure_of(
    crop: str, scope: str, sums: Mapping[str, onnx.NodeProto]
) -> tuple[str, int] | None:
    """Return the tensor whose size a crop has, and its axis of rows; None: no crop of ours."""
    if scope == "tail":
        return "image", 1
    if scope.startswith("network.skips.") and crop in sums:
        # The scores that it is added to, which were computed before it.
        finer = [name for name in sums[crop].input if name != crop]
        if len(finer) != 1:
            raise ExportError(
                f"the crop {crop} is added to {len(finer)} tensors, expected one", _EXPORTER_REPAIR
            )
        return finer[0], 2
    return None


def _node_like(
    like: onnx.NodeProto, operator: str, inputs: Sequence[str], output: str, **attributes: Any
) -> onnx.NodeProto:
    """Return a node that is said to come from the same module as ``like``."""
    node = onnx.helper.make_node(operator, inputs, [output], **attributes)
    node.metadata_props.extend(like.metadata_props)
    return node


def _reshape_by_position(graph: onnx.GraphProto) -> None:
    """Let Reshapes copy axes (0) or infer one (-1) instead of computing sizes from shapes."""
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes = {
        value.name: [axis.dim_value or axis.dim_param for axis in value.type.tensor_type.shape.dim]
        for value in values
    }
    for node in graph.node:
        if node.op_type != "Reshape" or not {node.input[0], node.output[0]} <= shapes.keys():
            continue
        before, after = shapes[node.input[0]], shapes[node.output[0]]
        target = []
        for axis, size in enumerate(after):
            if isinstance(size, int):
                target.append(size)
            else:  # torch's symbol or expression: equal words are equal sizes
                target.append(0 if axis < len(before) and before[axis] == size != "" else -1)
        if target.count(-1) <= 1:
            name = f"{node.output[0]}.shape"
            graph.initializer.append(numpy_helper.from_array(np.array(target, np.int64), name))
            node.input[1] = name
            del node.attribute[:]  # allowzero: 0 shall copy


def _name_nodes(graph: onnx.GraphProto, model: nn.Module) -> None:
    """Name nodes after the modules that they come from, e.g. ``network.body.layer2.0.conv1``.

    A leaf module's only node bears the module's name; else the operator follows
    (``tail.MatMul``), with a running number where it occurs more than once
    (``network.body.layer1.0.relu.Relu_2``).  Nodes of the model itself and those that the
    exporter added keep its names.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    named = [(node, scope) for node in graph.node if (scope := _scope(node)) in modules]
    nodes_of = Counter(scope for _, scope in named)
    alike = Counter((scope, node.op_type) for node, scope in named)
    seen: Counter[tuple[str, str]] = Counter()
    for node, scope in named:
        name = scope
        if nodes_of[scope] > 1 or any(modules[scope].children()):
            name += f".{node.op_type}"
        if alike[scope, node.op_type] > 1:
            seen[scope, node.op_type] += 1
            name += f"_{seen[scope, node.op_type]}"
        node.name = name


def _scope(node: onnx.NodeProto) -> str:
    """Return the path of the module that a node comes from, empty where it is not told."""
    # A convolution into which its BatchNorm was folded is said to come from the BatchNorm; whose
    # weights it holds is what people look for.
    owner, _, parameter = (node.input[1] if len(node.input) > 1 else "").rpartition(".")
    if parameter == "weight":
        return owner
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = ast.literal_eval(entry.value)  # the list from the outermost to the operation
            return str(scopes[-2]) if len(scopes) > 1 else ""
    return ""


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
    _pick_out_of_whole_shapes(converted.graph)
    return converted


def _cast_mask_through_float(graph: onnx.GraphProto) -> None:
    # TensorRT 8.6 casts to UINT8 from floats alone: ArgMax → Cast(FLOAT) → Cast(UINT8).
    # Indices below 256 are whole numbers in float32, so nothing is rounded.
    (last,) = (node for node in graph.node if "mask" in node.output)
    if last.op_type != "Cast":
        raise ExportError(f"expected a Cast to give the mask, found {last.op_type}")
    if not any(node.op_type == "ArgMax" and last.input[0] in node.output for node in graph.node):
        return  # early argmax: the indices are floats since they were found
    through = onnx.helper.make_node(
        "Cast", [last.input[0]], ["mask_float"], to=onnx.TensorProto.FLOAT, name="mask_float"
    )
    last.input[0] = "mask_float"
    graph.node.insert(list(graph.node).index(last), through)


def _pick_out_of_whole_shapes(graph: onnx.GraphProto) -> None:
    # TensorRT 8.6 overlooks `start` and `end`, which Shape has had since opset 15.
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type != "Shape" or not bounds:
            continue
        if bounds.keys() != {"start", "end"} or not 0 <= bounds["start"] < bounds["end"]:
            raise ExportError(f"the exporter gives {node.name} the axes {bounds}", _EXPORTER_REPAIR)
        (picked,) = node.output
        whole, axes = f"{picked}.whole", f"{picked}.axes"
        del node.attribute[:]
        node.output[0] = whole
        values = np.arange(bounds["start"], bounds["end"], dtype=np.int64)
        graph.initializer.append(numpy_helper.from_array(values, axes))
        nodes.append(
            onnx.helper.make_node("Gather", [whole, axes], [picked], name=f"{node.name}.picked")
        )
    replace_nodes(graph, nodes)


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
    graph: onnx.ModelProto,
    spec: ModelSpec,
    precision: Precision,
    checkpoint_digest: str,
    tail: Tail | None = None,
) -> None:
    """Put into the file what later stages must know of the model."""
    entries = {
        SPEC_KEY: spec.to_json(),
        PRECISION_KEY: precision.value,
        CHECKPOINT_DIGEST_KEY: checkpoint_digest,
    }
    if tail is not None:
        entries[TAIL_KEY] = tail.value
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

    A half graph is computed twice: as it is, and with every tensor rounded to half, as a GPU does.

    Raises:
        ExportError: naming the first shape and output that differ.
    """
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is invalid: {error}") from error
    sessions = {"": cpu_session(graph.SerializeToString(), threads=1)}
    if precision is Precision.FP16:
        rounded = with_explicit_rounding(graph).SerializeToString()
        sessions[" rounded to half everywhere, as a GPU does"] = cpu_session(rounded, threads=1)
    reference = DeployModel(checkpoint.model, checkpoint.spec, ("mask", "logits"))
    generator = np.random.default_rng(0)
    for shape in CHECK_SHAPES:
        images = generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
        with torch.inference_mode():
            mask, logits = (output.numpy() for output in reference(torch.from_numpy(images)))
        for how, session in sessions.items():
            produced = session.run(list(outputs), {"image": images})
            given = dict(zip(outputs, produced, strict=True))
            where = f"self-check at (N, H, W) = {shape}{how}"
            try:
                _check_outputs(where, mask, logits, given, CHECK_TOLERANCE[precision])
            except ExportError as error:
                repair = LOOK_INTO if precision is Precision.FP16 else None
                raise ExportError(error.message, repair) from error


def _check_outputs(
    where: str,
    mask: NDArray[np.uint8],
    logits: NDArray[np.float32],
    given: dict[str, NDArray[Any]],
    tolerance: float,
) -> None:
    allowed = tolerance * float(np.abs(logits).max())
    margin = margin_of(logits)
    if given["mask"].dtype != np.uint8 or given["mask"].shape != mask.shape:
        raise ExportError(
            f"{where}: the mask is {given['mask'].dtype} "
            f"{given['mask'].shape}, expected uint8 {mask.shape}"
        )
    wrong = (given["mask"] != mask) & (margin > 2 * allowed)
    if wrong.any():
        raise ExportError(
            f"{where}: ONNX Runtime gives another class than PyTorch "
            f"at {int(wrong.sum())} decided pixels"
        )
    for name, expected, limit in (("logits", logits, allowed), ("margin", margin, 2 * allowed)):
        if name in given:
            error = float(np.abs(given[name] - expected).max())
            if not error <= limit:  # a NaN fails too
                raise ExportError(
                    f"{where}: {name} differ from PyTorch by {error:.3g}, allowed {limit:.3g}"
                )
