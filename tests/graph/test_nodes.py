import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fcn_deploy.graph.nodes import (
    consumers_of,
    initializers_of,
    is_never_negative,
    producers_of,
    remove_dead_nodes,
    replace_nodes,
    unchanged_pixels,
)


def graph_of(*nodes: NodeProto, kind: int = TensorProto.UINT8) -> ModelProto:
    """Return a model of these nodes that reads ``image`` and gives ``mask``."""
    image = helper.make_tensor_value_info("image", kind, ["N", "H", "W", 3])
    mask = helper.make_tensor_value_info("mask", TensorProto.FLOAT, None)
    weights = [
        numpy_helper.from_array(np.ones(3, np.float32), name) for name in ("mean", "forgotten")
    ]
    return helper.make_model(helper.make_graph(list(nodes), "g", [image], [mask], weights))


def node(operator: str, inputs: str, output: str) -> NodeProto:
    return helper.make_node(operator, inputs.split(), [output])


def subtracting() -> ModelProto:
    return graph_of(
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        node("Transpose", "float", "planes"),
        node("Sub", "planes mean", "less"),
        node("Identity", "less", "unread"),
        node("Mul", "less less", "mask"),
    )


def test_producers_and_consumers() -> None:
    graph = subtracting().graph
    assert {name: producer.op_type for name, producer in producers_of(graph).items()} == {
        "float": "Cast", "planes": "Transpose", "less": "Sub", "unread": "Identity", "mask": "Mul",
    }  # fmt: skip
    consumers = consumers_of(graph)
    assert [consumer.op_type for consumer in consumers["less"]] == ["Identity", "Mul", "Mul"]
    assert list(consumers["mask"]) == list(consumers["forgotten"]) == []
    assert set(initializers_of(graph)) == {"mean", "forgotten"}


def test_pixels_are_unchanged_until_something_is_computed_of_them() -> None:
    assert unchanged_pixels(subtracting().graph) == {"image", "float", "planes"}
    for kind, kept in ((TensorProto.BFLOAT16, True), (TensorProto.INT8, False)):
        cast = helper.make_node("Cast", ["image"], ["cast"], to=kind)
        assert ("cast" in unchanged_pixels(graph_of(cast).graph)) == kept
    floats = graph_of(node("Identity", "image", "mask"), kind=TensorProto.FLOAT)
    assert unchanged_pixels(floats.graph) == set()


def test_what_a_relu_gave_is_never_negative() -> None:
    graph = graph_of(
        node("Relu", "image", "positive"),
        node("MaxPool", "positive", "pooled"),
        node("AveragePool", "positive", "averaged"),  # not looked through
        node("MaxPool", "image", "of_either_sign"),
        node("Neg", "positive", "mask"),
    ).graph
    makers = producers_of(graph)
    assert {name for name in ("image", "mean", *makers) if is_never_negative(name, makers)} == {
        "positive", "pooled",
    }  # fmt: skip


def test_what_no_output_needs_goes() -> None:
    graph = subtracting().graph
    remove_dead_nodes(graph)
    assert [kept.op_type for kept in graph.node] == ["Cast", "Transpose", "Sub", "Mul"]
    assert set(initializers_of(graph)) == {"mean"}


def test_what_is_left_out_needs_nothing() -> None:
    """Inputs and outputs without a name are those that a node does without."""
    clip = helper.make_node("Clip", ["image", "", "mean"], ["mask"])
    pool = helper.make_node("MaxPool", ["image"], ["unread", ""], kernel_shape=[1, 1])
    graph = graph_of(pool, clip).graph
    assert "" not in consumers_of(graph)
    assert "" not in producers_of(graph)
    remove_dead_nodes(graph)
    assert [kept.op_type for kept in graph.node] == ["Clip"]


def test_a_constant_that_is_given_stays() -> None:
    graph = graph_of(node("Identity", "image", "mask")).graph
    graph.output.append(helper.make_tensor_value_info("forgotten", TensorProto.FLOAT, [3]))
    remove_dead_nodes(graph)
    assert set(initializers_of(graph)) == {"forgotten"}


def test_a_graph_s_own_nodes_can_be_put_in_another_order() -> None:
    graph = subtracting().graph
    replace_nodes(graph, list(graph.node)[::-1])
    assert [kept.op_type for kept in graph.node] == ["Mul", "Identity", "Sub", "Transpose", "Cast"]
