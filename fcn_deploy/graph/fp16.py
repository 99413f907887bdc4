"""FP32 ONNX → FP16 ONNX: half weights, half tensors from the first convolution on.  Knows no torch.

    image ─Cast─▶ less the mean, float32 ─Cast─▶ network, half ─┬─▶ class
                                                               ├─Cast─▶ logits, float32
                                                               └─▶ two maxima ─Cast─▶ margin

A weight is rounded once: what is folded into it, batch normalisation and the pixels' deviation,
was multiplied in float32 before.  Indices of classes stay float32, as they are in the FP32 file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fcn_deploy.graph.fp16_rounding import tensor_types
from fcn_deploy.graph.nodes import (
    consumers_of,
    initializers_of,
    remove_dead_nodes,
    replace_nodes,
)

if TYPE_CHECKING:
    import onnx

#: They compute in half whatever they read; others do where something that they read is half.
_COMPUTING = ("Conv", "ConvTranspose", "MatMul", "Gemm")
#: What they give is float32 again: margins are differences of maxima, and not rounded.
_LAST_IN_HALF = ("ReduceMax",)
#: Of their inputs the first alone may be half; scales follow.
_FIRST_IN_HALF = ("Resize",)


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with the network's arithmetic in half; in- and outputs keep their types.

    Tensors and weights keep their names.

    Args:
        model: FP32, as `fcn-deploy export` writes it; it is not changed.
    """
    from onnx import ModelProto

    changed = ModelProto()
    changed.CopyFrom(model)
    _Pass(changed).run()
    return changed


class _Pass:
    """One pass over a graph's nodes, which it replaces."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._types: Mapping[str, int] = tensor_types(model)
        self._weights = initializers_of(model.graph)
        self._readers = consumers_of(model.graph)
        self._outputs = {output.name for output in model.graph.output}
        #: First outputs of the nodes that compute in half.
        self._chosen: set[str] = set()
        #: Tensors that such nodes give.
        self._given: set[str] = set()
        #: Tensor → what it is called in half, where that is another name, or a weight.
        self._half_names: dict[str, str] = {}
        self._nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        """Let the graph compute in half."""
        self._choose()
        for node in self._graph.node:
            if node.output[0] in self._chosen:
                self._rewrite(node)
            else:
                self._nodes.append(node)
        replace_nodes(self._graph, self._nodes)
        remove_dead_nodes(self._graph)
        del self._graph.value_info[:]

    def _choose(self) -> None:
        for node in self._graph.node:
            if node.op_type not in _COMPUTING and self._given.isdisjoint(node.input):
                continue
            self._chosen.add(node.output[0])
            if node.op_type not in (*_LAST_IN_HALF, "Cast"):
                self._given.update(filter(self._is_float, node.output))

    def _is_float(self, name: str) -> bool:
        from onnx import TensorProto

        return self._types.get(name) == TensorProto.FLOAT

    def _rewrite(self, node: onnx.NodeProto) -> None:
        from onnx import TensorProto

        for place, name in enumerate(node.input):
            if self._is_float(name) and (place == 0 or node.op_type not in _FIRST_IN_HALF):
                node.input[place] = self._in_half(name)
        self._nodes.append(node)
        for place, name in enumerate(node.output):
            stays_half = name in self._given and name not in self._outputs
            if stays_half or node.op_type == "Cast" or not self._is_float(name):
                continue
            node.output[place] = self._half_names[name] = f"{name}_half"
            self._cast(f"{name}_half", name, TensorProto.FLOAT)

    def _in_half(self, name: str) -> str:
        """Return the name of a tensor in half, which is made where it has none yet."""
        from onnx import TensorProto

        if name not in self._half_names:
            if name in self._given:
                return name
            half_name = f"{name}_half"
            if name in self._weights:
                half_name = self._half_weight(name)
            else:
                self._cast(name, half_name, TensorProto.FLOAT16)
            self._half_names[name] = half_name
        return self._half_names[name]

    def _half_weight(self, name: str) -> str:
        from onnx import numpy_helper

        weight = self._weights[name]
        with np.errstate(over="ignore"):  # what is infinite then fails the export's check
            values = numpy_helper.to_array(weight).astype(np.float16)
        shared = any(
            reader.output[0] not in self._chosen or reader.op_type in _FIRST_IN_HALF
            for reader in self._readers[name]
        )
        if shared:
            half_name = f"{name}_half"
            self._graph.initializer.append(numpy_helper.from_array(values, half_name))
            return half_name
        weight.CopyFrom(numpy_helper.from_array(values, name))
        return name

    def _cast(self, source: str, target: str, element_type: int) -> None:
        from onnx import helper

        self._nodes.append(
            helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=element_type)
        )
