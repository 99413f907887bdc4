"""Convolutions as three products in bfloat16: how exact, which ones, and nothing else touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.artifacts import Run
from fcn_deploy.bf16x3_graph import (
    IN_BF16,
    products_of,
    rounded_to_bf16,
    with_three_products,
)
from fcn_deploy.errors import OnnxFileError
from fcn_deploy.onnx_file import load_onnx, with_logits

Floats = NDArray[np.float32]
#: Those of a fcn32s-resnet18 that are 3×3 or 7×7; three downsample by 1×1, one scores.
LARGE_OF_RESNET18 = 17


def graph_of(
    nodes: list[onnx.NodeProto], weights: dict[str, Floats], outputs: tuple[str, ...] = ("out",)
) -> onnx.ModelProto:
    """``image`` float32 [N, 3, H, W] → outputs."""
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None, None, None])
            for name in outputs
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def normal(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def convolution_then(
    follower: str = "Relu", *, kernel: int = 3, inputs: int = 3, **attributes: Any
) -> onnx.ModelProto:
    """``image`` → Conv with a bias → another node."""
    nodes = [
        helper.make_node("Conv", ["image", "weight", "bias"], ["sums"], **attributes),
        helper.make_node(follower, ["sums"], ["out"]),
    ]
    return graph_of(nodes, {"weight": normal(6, inputs, kernel, kernel), "bias": normal(6, seed=1)})


def ran(model: onnx.ModelProto, image: NDArray[Any], name: str = "out") -> Floats:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (given_back,) = session.run([name], {"image": image})
    return np.asarray(given_back, np.float32)


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20))
def test_rounding_is_that_of_bfloat16(values: list[float]) -> None:
    given_values = np.array(values, np.float32)
    expected = torch.from_numpy(given_values).bfloat16().float().numpy()
    np.testing.assert_array_equal(rounded_to_bf16(given_values), expected)


@given(st.floats(2.0**-90, 2.0**100, width=32), st.booleans())
def test_two_halves_hold_sixteen_bits(value: float, negative: bool) -> None:
    exact = np.array([-value if negative else value], np.float32)
    high = rounded_to_bf16(exact)
    rest = rounded_to_bf16(exact - high)
    assert abs(float(exact[0]) - float(high[0]) - float(rest[0])) <= 2**-17 * value


@pytest.mark.parametrize("strides", [[1, 1], [2, 2]])
@pytest.mark.parametrize("kernel", [2, 3, 7])
def test_three_products_are_nearly_float32(kernel: int, strides: list[int]) -> None:
    plain = convolution_then(kernel=kernel, strides=strides, pads=[kernel // 2] * 4)
    split = with_three_products(plain)
    assert products_of(split) == 1
    image = normal(2, 3, 20, 24, seed=2)
    expected = ran(plain, image)
    error = np.abs(ran(split, image) - expected).max()
    # Of one product alone: of the same graph, whose rests are nought.
    alone = with_three_products(plain)
    for tensor in alone.graph.initializer:
        if tensor.name.endswith(".rest"):
            tensor.raw_data = bytes(len(tensor.raw_data))
    for node in alone.graph.node:
        if node.name.endswith(".left"):
            node.input[0] = node.input[1]
    rounded = np.abs(ran(alone, image) - expected).max()
    assert 0 < error < 2**-14 * np.abs(expected).max()
    assert rounded > 100 * error


def test_a_convolution_without_a_bias() -> None:
    plain = convolution_then()
    del plain.graph.node[0].input[2]
    split = with_three_products(plain)
    assert products_of(split) == 1
    image = normal(1, 3, 9, 8, seed=2)
    np.testing.assert_allclose(ran(split, image), ran(plain, image), atol=1e-3)


@pytest.mark.parametrize(
    "model",
    [
        convolution_then(kernel=1),
        convolution_then(dilations=[2, 2]),
        convolution_then(inputs=1, group=3),
        convolution_then("Sigmoid"),
    ],
    ids=["1x1", "dilated", "grouped", "read by neither Relu nor Add"],
)
def test_a_graph_without_a_large_convolution_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(OnnxFileError, match=r"no convolution that three products.*openvino"):
        with_three_products(model)


def test_of_a_sum_only_the_first_term_is_split() -> None:
    """Of two convolutions runtimes compute one along with the sum, and round the other."""
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["first"]),
        helper.make_node("Conv", ["image", "weight"], ["second"]),
        helper.make_node("Add", ["first", "second"], ["out"]),
    ]
    split = with_three_products(graph_of(nodes, {"weight": normal(3, 3, 3, 3)}))
    convolutions = [node for node in split.graph.node if node.op_type == "Conv"]
    assert [node.name for node in convolutions] == [f"first{IN_BF16}", ""]


def test_what_somebody_else_reads_stays() -> None:
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["out"]),
    ]
    weights = {"weight": normal(3, 3, 3, 3)}
    for model in (
        graph_of(nodes, weights, ("out", "sums")),
        graph_of([*nodes, helper.make_node("Relu", ["sums"], ["other"])], weights),
    ):
        with pytest.raises(OnnxFileError):
            with_three_products(model)


def test_a_tensor_read_twice_is_split_once() -> None:
    nodes = [
        helper.make_node("Conv", ["image", "weight", "bias"], ["left"], pads=[1] * 4),
        helper.make_node("Conv", ["image", "weight", "bias"], ["right"], pads=[1] * 4),
        helper.make_node("Relu", ["left"], ["positive"]),
        helper.make_node("Add", ["right", "positive"], ["out"]),
    ]
    plain = graph_of(nodes, {"weight": normal(3, 3, 3, 3), "bias": normal(3)})
    split = with_three_products(plain)
    assert products_of(split) == 2
    assert sum(node.op_type == "Concat" for node in split.graph.node) == 2  # picture, weight
    image = normal(1, 3, 9, 8, seed=2)
    np.testing.assert_allclose(ran(split, image), ran(plain, image), atol=2e-3)


def test_the_given_graph_is_not_changed() -> None:
    model = convolution_then()
    before = model.SerializeToString()
    assert with_three_products(model).SerializeToString() != before
    assert model.SerializeToString() == before


def test_weights_take_no_more_bytes_than_before() -> None:
    model = convolution_then()
    split = with_three_products(model)
    assert "weight" not in [tensor.name for tensor in split.graph.initializer]
    sizes = [
        sum(len(tensor.raw_data) for tensor in graph.initializer)
        for graph in (model.graph, split.graph)
    ]
    assert sizes[1] == sizes[0]


@pytest.mark.parametrize("opset", [17, 20])
def test_our_own_export(tiny_run: Path, tmp_path: Path, opset: int) -> None:
    from fcn_deploy.export import onnx_from_checkpoint

    path = tmp_path / "model.onnx"
    onnx_from_checkpoint(Run(tiny_run).checkpoint, path, opset=opset)
    split = with_three_products(load_onnx(path))
    assert products_of(split) == LARGE_OF_RESNET18
    # Whole numbers up to 255 need no float32; the mean that goes off them does.
    in_bf16 = [node.op_type for node in split.graph.node if node.name.endswith(IN_BF16)]
    assert in_bf16[:2] == ["Cast", "Transpose"]
    assert set(in_bf16) == {"Cast", "Transpose", "Concat", "Conv"}

    image = np.random.default_rng(2).integers(0, 256, (2, 97, 131, 3), dtype=np.uint8)
    logits = [
        ran(model, image, "logits")
        for model in (
            with_logits(load_onnx(path)),
            with_three_products(with_logits(load_onnx(path))),
        )
    ]
    assert not np.array_equal(*logits)
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-4 * np.abs(logits[0]).max())


def test_names_that_exporters_give_are_left_to_them() -> None:
    model = convolution_then()
    for tensor, name in zip(model.graph.initializer, ("sums.weight", "sums.bias"), strict=True):
        tensor.name = name
    model.graph.node[0].input[1:] = ["sums.weight", "sums.bias"]
    image = normal(1, 3, 9, 8, seed=2)
    np.testing.assert_allclose(ran(with_three_products(model), image), ran(model, image), atol=1e-3)


def test_weights_that_are_an_output_stay() -> None:
    model = convolution_then()
    model.graph.output.append(
        helper.make_tensor_value_info("weight", TensorProto.FLOAT, [6, 3, 3, 3])
    )
    image = normal(1, 3, 9, 8, seed=2)
    np.testing.assert_array_equal(
        ran(with_three_products(model), image, "weight"), ran(model, image, "weight")
    )


def test_only_bytes_are_whole_numbers() -> None:
    """What is done to a float32 picture must keep float32."""
    model = convolution_then()
    model.graph.node.insert(0, helper.make_node("Identity", ["image"], ["same"], name="same"))
    model.graph.node[1].input[0] = "same"
    names = [node.name for node in with_three_products(model).graph.node]
    assert names[0] == "same"
