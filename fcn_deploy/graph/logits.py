"""Makes the logits an output of an ONNX graph that gives masks alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.graph.nodes import producers_of
from fcn_deploy.graph.onnx_file import FOREIGN_REPAIR
from fcn_deploy.graph.tournament import tournament_of

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
        model: gives ``mask``, made by an ArgMax or by a tournament; it is not changed.

    Raises:
        OnnxFileError: the graph has neither, or more than one ArgMax, or makes the mask of it in a
            way that `fcn-deploy export` does not.
    """
    from onnx import ModelProto, TensorProto, helper

    shown = ModelProto()
    shown.CopyFrom(model)
    graph = shown.graph
    tournament = tournament_of(graph)
    logits, index = (
        _argmax_of(graph) if tournament is None else (tournament.cells, tournament.index)
    )
    steps = [node for node in _steps_to_mask(graph, index) if node.op_type in PLACING]
    if steps and tournament is None:
        # [N, h+1, w+1, C·s²], which a Reshape has split into classes and pixels for the argmax.
        split = producers_of(graph).get(logits)
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


def _argmax_of(graph: onnx.GraphProto) -> tuple[str, str]:
    """Return what the graph's ArgMax reads, and what it gives.

    Raises:
        OnnxFileError: there is none, or more than one.
    """
    argmaxes = [node for node in graph.node if node.op_type == "ArgMax"]
    if len(argmaxes) != 1:
        raise OnnxFileError(
            f"expected one ArgMax in the graph, found {len(argmaxes)}", FOREIGN_REPAIR
        )
    return argmaxes[0].input[0], argmaxes[0].output[0]


def _steps_to_mask(graph: onnx.GraphProto, index: str) -> list[onnx.NodeProto]:
    """Return the nodes between the chosen class and the mask, in the order of computing.

    Raises:
        OnnxFileError: one of them is none that an export has there.
    """
    maker = producers_of(graph)
    steps: list[onnx.NodeProto] = []
    name = "mask" if "mask" in maker else index
    while name != index:
        node = maker[name]
        if (
            node.op_type not in (*PLACING, "Cast", "Squeeze", "Identity")
            or node.input[0] not in maker
        ):
            between = f"a {node.op_type} stands between the graph's argmax and its mask"
            raise OnnxFileError(between, FOREIGN_REPAIR)
        if node.op_type == "DepthToSpace" and not any(
            attribute.name == "mode" and attribute.s == b"CRD" for attribute in node.attribute
        ):
            raise OnnxFileError("the graph's DepthToSpace is not of mode CRD", FOREIGN_REPAIR)
        steps.insert(0, node)
        name = node.input[0]
    return steps
