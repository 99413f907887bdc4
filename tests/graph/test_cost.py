"""What a graph costs by the count, on graphs whose figures can be counted by hand."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.graph.cost import GraphCost, graph_cost

Axes = Sequence[int | str]


def graph_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Axes],
    weights: dict[str, np.ndarray] | None = None,
    *,
    kind: int = TensorProto.FLOAT,
    given: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A graph whose last node's first output is given."""
    output = nodes[-1].output[0]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, kind, axes) for name, axes in inputs.items()],
        [helper.make_tensor_value_info(output, given, None)],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def one(operator: str, *inputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), ["y"], **attributes)


@pytest.mark.parametrize(
    ("node", "weights", "values", "flops"),
    [
        # x is 2×3×8×10: 480 values.
        (one("Relu", "x"), {}, 480 + 480, 480),
        (one("Add", "x", "b"), {"b": zeros(1, 3, 1, 1)}, 480 + 3 + 480, 480),
        (one("Transpose", "x", perm=[0, 2, 3, 1]), {}, 960, 0),
        (one("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2]), {}, 480 + 120, 4 * 120),
        # 5 filters of 3×3×3 over 6×8 places of 2 images: 480 values, 27 products each.
        (one("Conv", "x", "w"), {"w": zeros(5, 3, 3, 3)}, 480 + 135 + 480, 2 * 480 * 27),
        (
            one("Conv", "x", "w", "b"),
            {"w": zeros(5, 3, 3, 3), "b": zeros(5)},
            480 + 135 + 5 + 480,
            2 * 480 * 27 + 480,
        ),
        # Each group sees one channel.
        (one("Conv", "x", "w", group=3), {"w": zeros(6, 1, 1, 1)}, 480 + 6 + 960, 2 * 960),
        # Each of 480 inputs is multiplied into 5·4·4 places; 2×5×18×22 outputs.
        (
            one("ConvTranspose", "x", "w", strides=[2, 2]),
            {"w": zeros(3, 5, 4, 4)},
            480 + 240 + 3960,
            2 * 480 * 80,
        ),
        (one("MatMul", "x", "w"), {"w": zeros(10, 7)}, 480 + 70 + 336, 2 * 336 * 10),
        (
            one("Resize", "x", "", "s", mode="linear"),
            {"s": np.array([1, 1, 2, 2], np.float32)},
            480 + 4 + 1920,
            2 * 1920 * 4,
        ),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_one_node(
    node: onnx.NodeProto, weights: dict[str, np.ndarray], values: int, flops: int
) -> None:
    model = graph_of([node], {"x": ["N", 3, "H", "W"]}, weights)
    assert graph_cost(model, {"x": (2, 3, 8, 10)}) == GraphCost(1, 4 * values, flops)


def test_elements_have_their_width() -> None:
    half = graph_of([one("Relu", "x")], {"x": [5, 7]}, kind=TensorProto.FLOAT16, given=10)
    assert graph_cost(half, {}).bytes_moved == 2 * 70
    cast = graph_of([one("Cast", "x", to=TensorProto.FLOAT)], {"x": [5, 7]}, kind=TensorProto.UINT8)
    assert graph_cost(cast, {}) == GraphCost(1, 35 + 140, 0)
    indices = graph_of([one("ArgMax", "x", axis=1, keepdims=0)], {"x": [5, 7]}, given=7)
    assert graph_cost(indices, {}) == GraphCost(1, 4 * 35 + 8 * 5, 35)


def test_a_crop_whose_sizes_are_computed_in_the_graph() -> None:
    # x is cropped to half the height and width of z, from (1, 1) on.
    nodes = [
        helper.make_node("Shape", ["z"], ["sizes"], start=0, end=2),
        helper.make_node("Div", ["sizes", "two"], ["half"]),
        helper.make_node("Add", ["half", "start"], ["end"]),
        helper.make_node("Slice", ["x", "start", "end", "axes"], ["cropped"]),
        helper.make_node("Reshape", ["cropped", "flat"], ["row"]),
        helper.make_node("Relu", ["row"], ["y"]),
    ]
    numbers = {"two": [2], "start": [1, 1], "axes": [0, 1], "flat": [-1]}
    weights = {name: np.array(value, np.int64) for name, value in numbers.items()}
    model = graph_of(nodes, {"x": ["A", "B"], "z": ["H", "W"]}, weights)
    cost = graph_cost(model, {"x": (20, 30), "z": (10, 16)})
    arithmetic = 8 * (2 + 1 + 2) + 8 * (2 + 2 + 2)
    crop = 4 * 600 + 8 * 6 + 4 * 40
    assert cost == GraphCost(6, arithmetic + crop + 2 * 4 * 40, 2 + 2 + 40)


def test_shapes_that_are_not_known_are_named() -> None:
    model = graph_of([one("Relu", "x")], {"x": ["N", 3]})
    with pytest.raises(OnnxFileError, match="the shape of 'x' at node 'Relu' is not known"):
        graph_cost(model, {})
    clash = graph_of([one("Add", "x", "b")], {"x": ["N", 3]}, {"b": zeros(4)})
    with pytest.raises(OnnxFileError, match="contradict"):
        graph_cost(clash, {"x": (2, 3)})


def test_the_graph_is_left_as_it_is() -> None:
    model = graph_of([one("Relu", "x")], {"x": ["N", 3]})
    before = model.SerializeToString()
    graph_cost(model, {"x": (2, 3)})
    assert model.SerializeToString() == before
