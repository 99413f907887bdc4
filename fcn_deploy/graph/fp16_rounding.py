"""What half precision does to a network, computed honestly on a CPU.  Knows no torch.

ONNX Runtime's CPU provider computes float16 nodes without a kernel of their own in float32 and, at
every optimisation level, drops the casts between two of them: intermediate values are then never
rounded to half, nor do they overflow, and a tensor exposed through a cast to float32 shows the
unrounded value.  A file that is useless on a GPU looks perfect there.

So a graph's float16 tensors are made float32 here, and each is rounded to half explicitly.  That is
what a GPU gives that multiplies halves, adds up in float32 and stores halves; one that fuses layers
rounds less often, one that adds up in half more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx


def with_explicit_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph in float32, each former float16 tensor rounded to half where it is made.

    A graph without float16 comes back as it is.
    """
    from onnx import AttributeProto, ModelProto, TensorProto, helper

    types = tensor_types(model)
    if TensorProto.FLOAT16 not in types.values():
        return model
    rounded = ModelProto()
    rounded.CopyFrom(model)
    graph = rounded.graph
    del graph.value_info[:], graph.node[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        _widen(tensor)
    for original in model.graph.node:
        node = graph.node.add()
        node.CopyFrom(original)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _widen(attribute.t)
            elif attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
        for place, name in enumerate(node.output):
            if types.get(name) == TensorProto.FLOAT16:
                exact, half = f"{name}__exact", f"{name}__half"
                node.output[place] = exact
                graph.node.append(helper.make_node("Cast", [exact], [half], to=TensorProto.FLOAT16))
                graph.node.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    return rounded


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return tensor → element type, of everything whose type is known."""
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(model).graph
    types = {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = int(value.type.tensor_type.elem_type)
    return types


def _widen(tensor: onnx.TensorProto) -> None:
    """Make a float16 tensor float32; halves are a subset, so that no value changes."""
    from onnx import TensorProto, numpy_helper

    if tensor.data_type == TensorProto.FLOAT16:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
