"""Converts an exported ONNX graph down to opset 17, for TensorRT 8.6."""

from __future__ import annotations

import numpy as np
import onnx.version_converter
from onnx import numpy_helper

from fcn_deploy.core.errors import ExportError
from fcn_deploy.export.trace import EXPORTER_REPAIR
from fcn_deploy.graph.nodes import replace_nodes

#: TensorRT 8.6 reads opset 17 and IR 8; the exporter traces no opset below 18, so that one is
#: made from the default by conversion.
CONVERTED_OPSET, CONVERTED_IR = 17, 8


def converted(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph in opset 17 and IR 8, for TensorRT 8.6."""
    try:
        converted = onnx.version_converter.convert_version(graph, CONVERTED_OPSET)
    except RuntimeError as error:  # onnx.version_converter.ConvertError is one
        raise ExportError(f"the graph does not convert to opset {CONVERTED_OPSET}: {error}") from (
            error
        )
    converted.ir_version = CONVERTED_IR
    del converted.graph.value_info[:]
    _pick_out_of_whole_shapes(converted.graph)
    return converted


def _pick_out_of_whole_shapes(graph: onnx.GraphProto) -> None:
    # TensorRT 8.6 overlooks `start` and `end`, which Shape has had since opset 15.
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type != "Shape" or not bounds:
            continue
        if bounds.keys() != {"start", "end"} or not 0 <= bounds["start"] < bounds["end"]:
            raise ExportError(f"the exporter gives {node.name} the axes {bounds}", EXPORTER_REPAIR)
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
