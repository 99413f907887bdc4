"""Which tensors of a graph are layers to be held against another file's."""

from onnx import TensorProto, helper

from fcn_deploy.parity.layer_pairs import paired_layers


def test_a_tournament_of_the_classes_is_no_layer() -> None:
    logits = ["first", "second"]
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["pixels"], ["cells"]),
        helper.make_node("Split", ["cells", "sizes"], logits, axis=3),
        helper.make_node("Greater", ["second", "first"], ["better"]),
        helper.make_node("Where", ["better", "one", "zero"], ["mask"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tournament",
        [value("image", TensorProto.UINT8, ["N", "H", "W", 2])],
        [value("mask", TensorProto.FLOAT, ["N", "H", "W", 1])],
        [
            helper.make_tensor("sizes", TensorProto.INT64, [2], [1, 1]),
            *(
                helper.make_tensor(name, TensorProto.FLOAT, [1, 1, 1, 1], [number])
                for number, name in enumerate(("zero", "one"))
            ),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert [pair.tensor for pair in paired_layers(model, model)] == ["pixels", "cells"]
