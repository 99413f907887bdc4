"""Convolutions as three products of 8-bit integers: how exact, which ones, nothing else touched."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.graph.int8_for_ort_cpu import quantized_convolutions
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.runners.openvino.int8x3 import (
    LARGEST_ACTIVATION,
    LARGEST_WEIGHT,
    LEAST_CHANNELS,
    PRODUCTS_EACH,
    split_weight,
    with_three_products,
)
from tests.onnx_outputs import outputs_of

Floats = NDArray[np.float32]
#: Those of a fcn32s-resnet18 that are 3×3; one reads the picture, three are 1×1, one scores.
LARGE_OF_RESNET18 = 16


def graph_of(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Floats],
    outputs: tuple[str, ...] = ("out",),
    opset: int = 20,
) -> onnx.ModelProto:
    """``image`` float32 [N, 64, H, W] → outputs."""
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 64, "H", "W"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None, None, None])
            for name in outputs
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def normal(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def convolution(
    before: str = "Relu",
    *,
    kernel: int = 3,
    inputs: int = LEAST_CHANNELS,
    filters: int = LEAST_CHANNELS,
    opset: int = 20,
    **attributes: Any,
) -> onnx.ModelProto:
    """``image`` → Relu → Conv with a bias."""
    nodes = [
        helper.make_node(before, ["image"], ["positive"]),
        helper.make_node("Conv", ["positive", "weight", "bias"], ["out"], **attributes),
    ]
    weights = {"weight": normal(filters, inputs, kernel, kernel), "bias": normal(filters, seed=1)}
    return graph_of(nodes, weights, opset=opset)


def ran(model: onnx.ModelProto, image: NDArray[Any], name: str = "out") -> Floats:
    """Compute as the nodes say: fused to integers, sums would be others."""
    onnx.checker.check_model(model)
    return np.asarray(outputs_of(model, as_written=True, image=image)[name], np.float32)


def assert_near(split: onnx.ModelProto, plain: onnx.ModelProto, image: Floats) -> None:
    """The same but for 2⁻¹³ of the largest value."""
    expected = ran(plain, image)
    np.testing.assert_allclose(ran(split, image), expected, atol=2**-13 * np.abs(expected).max())


@given(
    arrays(
        np.float32,
        (2, 3, 1, 2),
        elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False),
    )
)
def test_two_digits_hold_a_weight_to_half_a_step(weight: Floats) -> None:
    step, high, low = split_weight(weight)
    assert (step > 0).all()
    steps = 256.0 * high + low
    assert np.abs(steps).max() <= LARGEST_WEIGHT
    error = np.abs(weight - steps * step[:, None, None, None])
    assert (error <= 0.500001 * step[:, None, None, None]).all()


def test_every_number_of_steps_has_its_digits() -> None:
    steps = np.arange(-LARGEST_WEIGHT, LARGEST_WEIGHT + 1, dtype=np.float32)
    step, high, low = split_weight(steps.reshape(1, -1, 1, 1))
    np.testing.assert_array_equal(step, 1)
    np.testing.assert_array_equal((256.0 * high + low).reshape(-1), steps)


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        (2, {}),
        (3, {"pads": [1] * 4}),
        (3, {"pads": [1] * 4, "strides": [2, 2]}),
        (3, {"pads": [2] * 4, "dilations": [2, 2]}),
        (3, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        (7, {"pads": [3] * 4}),
    ],
)
def test_three_products_are_nearly_float32(
    kernel: int, attributes: dict[str, Any], opset: int
) -> None:
    plain = convolution(kernel=kernel, opset=opset, **attributes)
    split = with_three_products(plain)
    assert quantized_convolutions(split) == PRODUCTS_EACH
    image = normal(2, 64, 12, 14, seed=2)
    expected = ran(plain, image)
    error = np.abs(ran(split, image) - expected).max()
    # Of one product alone: of the same graph, whose second digits are nought.
    alone = with_three_products(plain)
    for node in alone.graph.node:
        if node.op_type == "Add" and node.output[0].endswith(".minor"):
            node.input[:] = [f"{node.output[0].removesuffix('.minor')}.nought"] * 2
    nought = numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32), "out.int8x3.nought")
    alone.graph.initializer.append(nought)
    rounded = np.abs(ran(alone, image) - expected).max()
    assert 0 < error < 2**-13 * np.abs(expected).max()
    assert rounded > 50 * error


@given(scale=st.floats(2.0**-60, 2.0**60), outlier=st.floats(1, 100))
@settings(max_examples=20, deadline=None)
def test_no_value_is_cut_off(scale: float, outlier: float) -> None:
    plain = convolution(pads=[1] * 4)
    del plain.graph.node[1].input[2], plain.graph.initializer[1]
    image = normal(1, 64, 5, 6, seed=2)
    image[0, 3, 2, 2] = np.abs(image).max() * outlier
    image *= np.float32(scale)
    # The error of a product lies below 2⁻¹⁴ of the largest one, mostly far below; signs are random.
    largest = float(image.max()) * np.abs(normal(64, 64, 3, 3)).max()
    np.testing.assert_allclose(
        ran(with_three_products(plain), image),
        ran(plain, image),
        atol=2**-15 * largest * np.sqrt(64 * 9),
    )


def test_images_of_a_batch_have_scales_of_their_own() -> None:
    split = with_three_products(convolution())
    dim, bright = normal(1, 64, 5, 6, seed=2), 1e6 * normal(1, 64, 5, 6, seed=3)
    together = ran(split, np.concatenate([dim, bright]))
    np.testing.assert_array_equal(together[:1], ran(split, dim))


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-38])
def test_an_image_of_nothing_gives_the_bias(value: float) -> None:
    plain = convolution()
    image = np.full((1, 64, 5, 6), value, np.float32)
    np.testing.assert_allclose(ran(with_three_products(plain), image), ran(plain, image))


def test_filters_of_nothing_give_nothing() -> None:
    plain = convolution()
    weight = numpy_helper.to_array(plain.graph.initializer[0]).copy()
    weight[0], weight[1] = 0, 1e-40
    plain.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "weight"))
    image = normal(1, 64, 5, 6, seed=2)
    expected, found = ran(plain, image), ran(with_three_products(plain), image)
    np.testing.assert_allclose(found[:, :2], expected[:, :2], rtol=1e-6)
    np.testing.assert_allclose(found, expected, atol=2**-13 * np.abs(expected).max())


def test_every_number_of_steps_is_an_activation() -> None:
    """A filter that reads one value, by a weight without a low digit: what is left is rounding."""
    plain = convolution(pads=[1] * 4)
    weight = np.zeros((64, 64, 3, 3), np.float32)
    weight[0, 0, 1, 1] = 256 * 127
    weight[0, 1, 1, 1] = LARGEST_WEIGHT  # of a channel of zeros: so a step of the filter is 1
    for tensor, values in zip(
        plain.graph.initializer, (weight, np.zeros(64, np.float32)), strict=True
    ):
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    image = np.zeros((1, 64, 256, 512), np.float32)
    image[0, 0].flat = np.arange(LARGEST_ACTIVATION * 2 + 1) / 2  # halves of a step too
    found = ran(with_three_products(plain), image)[0, 0] / weight[0, 0, 1, 1]
    error = np.abs(found - image[0, 0])
    assert error.max() < 1.01  # sums are float32
    assert np.mean(error > 0.51) < 1 / 256  # where l would be 128


@pytest.mark.parametrize(
    "model",
    [
        convolution(kernel=1),
        convolution(inputs=LEAST_CHANNELS // 2, group=2),
        convolution(filters=LEAST_CHANNELS // 2),
        convolution("Identity"),
    ],
    ids=["1x1", "grouped", "few filters", "of either sign"],
)
def test_a_graph_without_a_large_convolution_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(OnnxFileError, match=r"no convolution that three products.*openvino"):
        with_three_products(model)


def test_sums_that_32_bits_may_not_hold_stay() -> None:
    weights = {"weight": np.ones((64, 64, 33, 32), np.float32)}  # 67,584 products
    nodes = [
        helper.make_node("Relu", ["image"], ["positive"]),
        helper.make_node("Conv", ["positive", "weight"], ["out"]),
    ]
    with pytest.raises(OnnxFileError):
        with_three_products(graph_of(nodes, weights))


def test_a_tensor_read_twice_is_split_once() -> None:
    nodes = [
        helper.make_node("Relu", ["image"], ["positive"]),
        helper.make_node("MaxPool", ["positive"], ["pooled"], kernel_shape=[2, 2]),
        helper.make_node("Conv", ["pooled", "weight", "bias"], ["left"], pads=[1] * 4),
        helper.make_node("Conv", ["pooled", "weight", "bias"], ["right"], pads=[1] * 4),
        helper.make_node("Add", ["right", "left"], ["out"]),
    ]
    plain = graph_of(nodes, {"weight": normal(64, 64, 3, 3), "bias": normal(64)})
    split = with_three_products(plain)
    assert quantized_convolutions(split) == 2 * PRODUCTS_EACH
    operators = [node.op_type for node in split.graph.node]
    assert operators.count("ReduceMax") == 1
    assert operators.count("QuantizeLinear") == 2
    assert operators.count("DequantizeLinear") == 2 + 3  # activations, weights
    assert_near(split, plain, normal(1, 64, 9, 8, seed=2))


def test_a_weight_that_another_node_reads_stays_for_it() -> None:
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["of_either_sign"], pads=[1] * 4),
        helper.make_node("Relu", ["of_either_sign"], ["positive"]),
        helper.make_node("Conv", ["positive", "weight"], ["out"], pads=[1] * 4),
    ]
    plain = graph_of(nodes, {"weight": normal(64, 64, 3, 3)})
    split = with_three_products(plain)
    assert quantized_convolutions(split) == PRODUCTS_EACH
    assert_near(split, plain, normal(1, 64, 9, 8, seed=2))


def test_names_that_exporters_give_are_left_to_them() -> None:
    model = convolution()
    for tensor, name in zip(model.graph.initializer, ("out.weight", "out.bias"), strict=True):
        tensor.name = name
    model.graph.node[1].input[1:] = ["out.weight", "out.bias"]
    assert_near(with_three_products(model), model, normal(1, 64, 9, 8, seed=2))


def test_the_given_graph_is_not_changed() -> None:
    model = convolution()
    before = model.SerializeToString()
    assert with_three_products(model).SerializeToString() != before
    assert model.SerializeToString() == before


def test_weights_take_half_the_bytes() -> None:
    model = convolution()
    split = with_three_products(model)
    assert "weight" not in [tensor.name for tensor in split.graph.initializer]
    before, after = (
        sum(len(tensor.raw_data) for tensor in graph.initializer)
        for graph in (model.graph, split.graph)
    )
    assert after < 0.52 * before


@pytest.mark.parametrize("opset", [17, 20])
def test_our_own_export(tiny_opsets: dict[int, Path], opset: int) -> None:
    path = tiny_opsets[opset]
    plain, split = OnnxFile(path).model, with_three_products(OnnxFile(path).model)
    assert quantized_convolutions(split) == PRODUCTS_EACH * LARGE_OF_RESNET18
    assert [value.name for value in split.graph.output] == ["mask"]
    kept = [node for node in split.graph.node if ".int8x3." not in node.name]
    assert [n.output for n in kept] == [n.output for n in plain.graph.node]

    image = np.random.default_rng(2).integers(0, 256, (2, 97, 131, 3), dtype=np.uint8)
    logits = [
        ran(model, image, "logits")
        for model in (
            with_logits(OnnxFile(path).model),
            with_three_products(with_logits(OnnxFile(path).model)),
        )
    ]
    assert not np.array_equal(*logits)
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-4 * np.abs(logits[0]).max())


def test_weights_that_are_an_output_stay() -> None:
    model = convolution()
    model.graph.output.append(
        helper.make_tensor_value_info("weight", TensorProto.FLOAT, [64, 64, 3, 3])
    )
    image = normal(1, 64, 9, 8, seed=2)
    np.testing.assert_array_equal(
        ran(with_three_products(model), image, "weight"), ran(model, image, "weight")
    )
