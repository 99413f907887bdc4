"""Tidies what torch.onnx traced: less shape arithmetic, nodes named after their modules.

Bytes are cast as every TensorRT can.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx.version_converter
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from fcn_deploy.core.errors import ExportError
from fcn_deploy.export.trace import EXPORTER_REPAIR
from fcn_deploy.graph.fp16_rounding import tensor_types
from fcn_deploy.graph.nodes import cast_to, remove_dead_nodes, replace_nodes

#: Names of a crop's tensors, within its module.
_CROP = ("start", "axes", "size", "end")
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
_SLICE_INPUTS = ("data", "starts", "ends", "axes", "steps")


def tidy(graph: onnx.GraphProto) -> None:
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
                EXPORTER_REPAIR,
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
            EXPORTER_REPAIR,
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
                f"the crop {crop} is added to {len(finer)} tensors, expected one", EXPORTER_REPAIR
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


def name_nodes(graph: onnx.GraphProto, model: nn.Module) -> None:
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


def cast_bytes_through_float(model: onnx.ModelProto) -> None:
    """Let integers become floats before they become bytes, in place: INT64 → FLOAT → UINT8.

    TensorRT casts to UINT8 from floats alone.  Classes are whole numbers below 256, so nothing is
    rounded.
    """
    types, graph = tensor_types(model), model.graph
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if cast_to(node) == onnx.TensorProto.UINT8 and types.get(node.input[0]) not in _FLOATS:
            through = f"{node.output[0]}_float"
            nodes.append(
                onnx.helper.make_node(
                    "Cast", [node.input[0]], [through], name=through, to=onnx.TensorProto.FLOAT
                )
            )
            node.input[0] = through
        nodes.append(node)
    replace_nodes(graph, nodes)


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
