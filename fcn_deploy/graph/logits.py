"""Makes the logits an output of an ONNX graph that gives masks alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.graph.nodes import producers_of
from fcn_deploy.graph.onnx_file import FOREIGN_REPAIR

if TYPE_CHECKING:
    import onnx


#: What puts pixels in place, and works on C values for each as it does on one: DepthToSpace reads
#: the channels as (C, s, s), which is mode CRD.
PLACING = ("Transpose", "DepthToSpace", "Slice")


def with_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with what its argmax reads made visible as the output ``logits``.

    Where the mask's pixels are put in place after the argmax, the logits' pixels are by copies of
    the same nodes.

    Args:
        model: gives ``mask``, made by an ArgMax; it is not changed.

    Raises:
        OnnxFileError: the graph has no argmax, or more than one, or makes the mask of it in a way
            that `fcn-deploy export` does not.
    """
    from onnx import ModelProto, TensorProto, helper

    shown = ModelProto()
    shown.CopyFrom(model)
    graph = shown.graph
    argmaxes = [node for node in graph.node if node.op_type == "ArgMax"]
    if len(argmaxes) != 1:
        raise OnnxFileError(
            f"expected one ArgMax in the graph, found {len(argmaxes)}", FOREIGN_REPAIR
        )
    steps = [node for node in _steps_to_mask(graph, argmaxes[0]) if node.op_type in PLACING]
    logits = argmaxes[0].input[0]
    if steps:
        # [N, h+1, w+1, C·s²], which a Reshape has split into classes and pixels for the argmax.
        split = next((node for node in graph.node if logits in node.output), None)
        if split is None or split.op_type != "Reshape":
            raise OnnxFileError(
                "the graph's ArgMax reads no Reshape, but pixels are put in place after it",
                FOREIGN_REPAIR,
            )
        logits = split.input[0]
    for step in steps:
        copied = graph.node.add()
        copied.CopyFrom(step)
        copied.name = f"{step.name}.logits"
        copied.input[0], copied.output[0] = logits, f"{step.output[0]}.logits"
        logits = copied.output[0]
    graph.node.append(helper.make_node("Cast", [logits], ["logits"], to=TensorProto.FLOAT))
    graph.output.append(
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "C", "H", "W"])
    )
    return shown


def _steps_to_mask(graph: onnx.GraphProto, argmax: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the nodes between the argmax and the mask, in the order of computing.

    Raises:
        OnnxFileError: one of them is none that an export has there.
    """
    maker = producers_of(graph)
    steps: list[onnx.NodeProto] = []
    node = maker.get("mask", argmax)
    while node != argmax:
        if (
            node.op_type not in (*PLACING, "Cast", "Squeeze", "Identity")
            or node.input[0] not in maker
        ):
            between = f"a {node.op_type} stands between the graph's ArgMax and its mask"
            raise OnnxFileError(between, FOREIGN_REPAIR)
        if node.op_type == "DepthToSpace" and not any(
            attribute.name == "mode" and attribute.s == b"CRD" for attribute in node.attribute
        ):
            raise OnnxFileError("the graph's DepthToSpace is not of mode CRD", FOREIGN_REPAIR)
        steps.insert(0, node)
        node = maker[node.input[0]]
    return steps
