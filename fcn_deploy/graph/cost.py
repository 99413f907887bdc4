"""What a graph costs on paper: nodes, bytes moved, floating-point operations.  Knows no torch.

Counted from the shapes that ONNX infers, node by node, each as if it were computed alone:

- bytes: of everything a node reads, weights included, and of everything it writes.  A view
  (Reshape, Squeeze, Shape …) moves nothing.  A runtime that fuses nodes moves less, one that
  converts layouts more.
- operations: a multiplication and an addition are two.  Moving data (Transpose, Slice,
  DepthToSpace, Cast …) costs none, a comparison one.

Such figures order variants of one graph; they are no times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import OnnxFileError

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]

#: Values of the longest list that may be sizes; what is longer is a weight.
LARGEST_SIZES = 64
# fmt: off
#: They look at data without touching it.
VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size"})
#: One operation for each value of the output.
ELEMENTWISE = frozenset({
    "Add", "Sub", "Mul", "Div", "Relu", "Clip", "Sigmoid", "Tanh", "Max", "Min", "Where", "Equal",
    "Greater", "Less", "QuantizeLinear", "DequantizeLinear",
})
#: One operation for each value of the input.
REDUCTIONS = frozenset({
    "ArgMax", "ArgMin", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceMean", "GlobalAveragePool",
    "TopK",
})
# fmt: on


@dataclass(frozen=True)
class GraphCost:
    """What a graph costs for inputs of one shape.

    Attributes:
        nodes: how many there are.
        bytes_moved: read and written, summed over the nodes.
        flops: floating-point operations, summed over the nodes.
    """

    nodes: int
    bytes_moved: int
    flops: int


def tensor_shapes(model: onnx.ModelProto, inputs: Mapping[str, Sequence[int]]) -> dict[str, Shape]:
    """Return tensor → shape, of everything whose shape is known.

    Args:
        model: weights inside.
        inputs: input name → its shape.

    Raises:
        OnnxFileError: the shapes contradict each other.
    """
    return resolved_graph(model, inputs)[1]


def resolved_graph(
    model: onnx.ModelProto, inputs: Mapping[str, Sequence[int]]
) -> tuple[onnx.GraphProto, dict[str, Shape]]:
    """Return a graph whose shape arithmetic is done, and tensor → shape as far as it is known.

    The results of the arithmetic are initializers; weights are inputs, without their values.

    Args:
        model: weights inside.
        inputs: input name → its shape.

    Raises:
        OnnxFileError: the shapes contradict each other.
    """
    graph, values = _resolved(model, inputs)
    return graph, {name: value.shape for name, value in values.items()}


def graph_cost(model: onnx.ModelProto, inputs: Mapping[str, Sequence[int]]) -> GraphCost:
    """Count a graph's nodes, bytes and operations.

    Args:
        model: weights inside.
        inputs: input name → its shape.

    Raises:
        OnnxFileError: an input is unknown, or a node's shapes cannot be inferred.
    """
    values = _values(model, inputs)
    bytes_moved = flops = 0
    for node in model.graph.node:
        names = [name for name in (*node.input, *node.output) if name]
        unknown = [name for name in names if name not in values]
        if unknown:
            raise OnnxFileError(
                f"the shape of {unknown[0]!r} at node {node.name or node.op_type!r} is not known",
                "give the shape of every input, and a graph that ONNX's shape inference follows",
            )
        if node.op_type in VIEWS:
            continue
        bytes_moved += sum(values[name].size_in_bytes for name in names)
        read = [values[name].shape if name else () for name in node.input]
        flops += _flops(node, read, values[node.output[0]].shape)
    return GraphCost(len(model.graph.node), bytes_moved, flops)


@dataclass(frozen=True)
class PeakBytes:
    """The memory that a graph takes for inputs of one shape, in bytes.

    Attributes:
        weights: all of them.
        activations: the most of other tensors alive at once.
        edges: of the graph's inputs and outputs together.
    """

    weights: int
    activations: int
    edges: int


def peak_bytes(model: onnx.ModelProto, inputs: Mapping[str, Sequence[int]]) -> PeakBytes:
    """Count the memory of a graph's tensors.

    Nodes run in the file's order; a tensor lives from the node that writes it to the last that
    reads it, and a view shares its source's memory.  What is only read to be quantized is written
    as integers, and nobody writes dequantized ones: that is how a runtime for such graphs computes.
    A runtime that fuses more needs less.

    Args:
        model: weights inside.
        inputs: input name → its shape.

    Raises:
        OnnxFileError: the shapes cannot be inferred.
    """
    values = _values(model, inputs)
    weights = {tensor.name for tensor in model.graph.initializer}
    given = [value.name for value in model.graph.input if value.name not in weights]
    results = [value.name for value in model.graph.output]
    sizes = {name: value.size_in_bytes for name, value in values.items()}
    edges = sum(sizes[name] for name in {*given, *results})
    quantized = _only_quantized(model)
    sizes |= {name: sizes[integers] for name, integers in quantized.items() if integers in sizes}
    owner = {name: name for name in values}
    last: dict[str, int] = {}
    for number, node in enumerate(model.graph.node):
        shares = node.op_type in VIEWS or node.op_type == "DequantizeLinear"
        if node.op_type == "QuantizeLinear":
            shares = node.input[0] in quantized
        if shares and node.input and node.input[0] in owner:
            owner[node.output[0]] = owner[node.input[0]]
        for name in (*node.input, *node.output):
            if name in owner:
                last[owner[name]] = number
    for name in results:
        last[owner.get(name, name)] = len(model.graph.node)
    alive = set(given)
    peak = now = sum(sizes[name] for name in alive)
    for number, node in enumerate(model.graph.node):
        for name in node.output:
            if name in values and owner[name] == name and name not in alive:
                alive.add(name)
                now += sizes[name]
        peak = max(peak, now)
        for name in [name for name in alive if last.get(name, -1) <= number]:
            alive.remove(name)
            now -= sizes[name]
    return PeakBytes(sum(sizes[name] for name in weights), peak, edges)


def _only_quantized(model: onnx.ModelProto) -> dict[str, str]:
    """Return what nodes write only to be quantized → its integers."""
    written = {name for node in model.graph.node for name in node.output}
    integers: dict[str, str] = {}
    otherwise = {value.name for value in model.graph.output}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            integers.setdefault(node.input[0], node.output[0])
        else:
            otherwise.update(node.input)
    return {
        name: output
        for name, output in integers.items()
        if name in written and name not in otherwise
    }


@dataclass(frozen=True)
class _Value:
    shape: Shape
    element_bits: int

    @property
    def size_in_bytes(self) -> int:
        return math.ceil(math.prod(self.shape) * self.element_bits / 8)


def _values(model: onnx.ModelProto, inputs: Mapping[str, Sequence[int]]) -> dict[str, _Value]:
    """Return tensor → shape and width, of everything whose shape is known."""
    return _resolved(model, inputs)[1]


def _resolved(
    model: onnx.ModelProto, inputs: Mapping[str, Sequence[int]]
) -> tuple[onnx.GraphProto, dict[str, _Value]]:
    from onnx import shape_inference

    values = {
        tensor.name: _Value(tuple(tensor.dims), _bits(tensor.data_type))
        for tensor in model.graph.initializer
    }
    sized = _without_weights(model, inputs)
    while True:
        try:
            graph = shape_inference.infer_shapes(sized, strict_mode=True, data_prop=True).graph
        except shape_inference.InferenceError as error:
            raise OnnxFileError(f"the graph's shapes contradict each other: {error}") from error
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            sizes = [dim.dim_value for dim in kind.shape.dim if dim.HasField("dim_value")]
            if kind.HasField("shape") and len(sizes) == len(kind.shape.dim):
                values[value.name] = _Value(tuple(sizes), _bits(kind.elem_type))
        # ONNX does not follow sizes through a Slice that shape arithmetic cuts; so the arithmetic
        # is done here, round by round, as far as shapes are known.
        if not _compute_sizes(sized.graph, values):
            return sized.graph, values


def _without_weights(
    model: onnx.ModelProto, inputs: Mapping[str, Sequence[int]]
) -> onnx.ModelProto:
    """Return the graph for inputs of these shapes; large initializers become inputs."""
    from onnx import GraphProto, helper

    graph = GraphProto(name=model.graph.name, node=model.graph.node)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= LARGEST_SIZES:
            graph.initializer.append(tensor)
        else:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            graph.input.append(value)
    for value in model.graph.input:
        shape = inputs.get(value.name)
        if shape is None:
            graph.input.append(value)
        else:
            kind = value.type.tensor_type.elem_type
            graph.input.append(helper.make_tensor_value_info(value.name, kind, shape))
    for value in model.graph.output:  # symbolic names there would hide what is inferred
        kind = value.type.tensor_type.elem_type
        graph.output.append(helper.make_tensor_value_info(value.name, kind, None))
    return helper.make_model(
        graph, ir_version=model.ir_version, opset_imports=list(model.opset_import)
    )


def _compute_sizes(graph: onnx.GraphProto, values: dict[str, _Value]) -> bool:
    """Replace shape arithmetic whose operands are known by its results; say whether there was any.

    ``values`` learns the shapes of the results.
    """
    from onnx import NodeProto, numpy_helper
    from onnx.reference import ReferenceEvaluator

    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    given = {value.name for value in graph.output}
    kept, computed = [], False
    for node in graph.node:
        (output, *others) = node.output
        operands: dict[str, NDArray[Any]] = {}
        if node.op_type == "Shape" and node.input[0] in values:
            operands = {node.input[0]: np.empty(values[node.input[0]].shape, np.bool_)}
        elif all(name in known for name in node.input if name):
            operands = {name: known[name] for name in node.input if name}
        if not operands or others or output in given:
            kept.append(node)
            continue
        (result,) = ReferenceEvaluator(node).run(None, operands)
        known[output] = np.asarray(result)
        tensor = numpy_helper.from_array(known[output], output)
        graph.initializer.append(tensor)
        values[output] = _Value(tuple(tensor.dims), _bits(tensor.data_type))
        computed = True
    if computed:
        nodes = [NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)
    return computed


def _bits(element_type: int) -> int:
    """Return the width of an element; halves of a byte are packed."""
    from onnx import TensorProto, helper

    if element_type in (TensorProto.INT4, TensorProto.UINT4):
        return 4
    return 8 * int(helper.tensor_dtype_to_np_dtype(element_type).itemsize)


def _flops(node: onnx.NodeProto, read: Sequence[Shape], written: Shape) -> int:
    if node.op_type in ELEMENTWISE:
        return math.prod(written)
    if node.op_type in REDUCTIONS:
        return math.prod(read[0])
    count = _COUNTERS.get(node.op_type)
    return count(node, read, written) if count else 0


def _convolution(node: onnx.NodeProto, read: Sequence[Shape], written: Shape) -> int:
    # weight (C_out, C_in / groups, k, k): each output is a sum over all but the first axis.
    products = math.prod(written) * math.prod(read[1][1:])
    return 2 * products + (math.prod(written) if len(read) > 2 and read[2] else 0)


def _transposed_convolution(node: onnx.NodeProto, read: Sequence[Shape], written: Shape) -> int:
    # weight (C_in, C_out / groups, k, k): each input goes into all but the first axis.
    products = math.prod(read[0]) * math.prod(read[1][1:])
    return 2 * products + (math.prod(written) if len(read) > 2 and read[2] else 0)


def _matrix_product(node: onnx.NodeProto, read: Sequence[Shape], written: Shape) -> int:
    return 2 * math.prod(written) * read[0][-1]


def _gemm(node: onnx.NodeProto, read: Sequence[Shape], written: Shape) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    bias = math.prod(written) if len(read) > 2 and read[2] else 0
    depth = read[0][0 if transposed else 1]
    return 2 * math.prod(written) * depth + bias


def _pool(node: onnx.NodeProto, read: Sequence[Shape], written: Shape) -> int:
    kernel = next(
        attribute.ints for attribute in node.attribute if attribute.name == "kernel_shape"
    )
    return math.prod(written) * math.prod(int(size) for size in kernel)


def _interpolation(node: onnx.NodeProto, read: Sequence[Shape], written: Shape) -> int:
    mode = next((a.s for a in node.attribute if a.name == "mode"), b"nearest")
    if mode != b"linear":
        return 0
    # Two neighbours along each axis that grows or shrinks, one product and sum for each.
    resized = sum(before != after for before, after in zip(read[0], written, strict=True))
    neighbours: int = 2**resized
    return 2 * math.prod(written) * neighbours


_COUNTERS: dict[str, Callable[[onnx.NodeProto, Sequence[Shape], Shape], int]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "MatMul": _matrix_product,
    "Gemm": _gemm,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "Resize": _interpolation,
}
