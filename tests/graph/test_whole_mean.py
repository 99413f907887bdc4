"""A graph with a mean of whole grey levels: pixels that are not rounded, the same function."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.graph.whole_mean import STEPS_OF_HALF, with_whole_mean
from tests.onnx_outputs import outputs_of

Floats = NDArray[np.float32]
MEAN = (123.675, 116.28, 103.53)
PADDING = 2


def normalising(mean: tuple[float, ...], weight: Floats, bias: Floats | None) -> onnx.ModelProto:
    """Bytes [1, 3, H, W] → less the mean → 5×5 convolution."""
    constants = ["weight"] if bias is None else ["weight", "bias"]
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["pixels", "mean"], ["centred"]),
        helper.make_node("Conv", ["centred", *constants], ["out"], pads=[PADDING] * 4),
    ]
    values = {"mean": np.array(mean, np.float32).reshape(1, 3, 1, 1), "weight": weight}
    if bias is not None:
        values["bias"] = bias
    graph = helper.make_graph(
        nodes,
        "normalising",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 3, "H", "W"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, None, "H", "W"])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def padded_with(value: float, mode: str = "constant") -> onnx.ModelProto:
    """The same, with three rows and columns added at the end before the convolution."""
    weight = np.random.default_rng(0).normal(size=(4, 3, 5, 5)).astype(np.float32)
    model = normalising(MEAN, weight, None)
    model.graph.node.insert(
        2, helper.make_node("Pad", ["centred", "sizes", "value"], ["padded"], mode=mode)
    )
    model.graph.node[3].input[0] = "padded"
    sizes, fill = np.array([0, 0, 0, 0, 0, 0, 3, 3]), np.array(value, np.float32)
    for name, constant in (("sizes", sizes), ("value", fill)):
        model.graph.initializer.append(numpy_helper.from_array(constant, name))
    return model


def read_by_convolution(model: onnx.ModelProto) -> str:
    (convolution,) = (node for node in model.graph.node if node.op_type == "Conv")
    return str(convolution.input[0])


def with_centred(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make what the convolution reads an output."""
    model.graph.output.append(
        helper.make_tensor_value_info(
            read_by_convolution(model), TensorProto.FLOAT, [1, 3, "H", "W"]
        )
    )
    return model


def ran(model: onnx.ModelProto, image: Floats) -> tuple[Floats, Floats]:
    """Return what the convolution gives, and what it reads."""
    read = read_by_convolution(model)
    given = outputs_of(with_centred(model), image=image.astype(np.uint8))
    return given["out"], given[read]


def to_bf16(values: Floats) -> Floats:
    """Round to bfloat16, ties to even, by its definition."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


@pytest.fixture
def weights() -> tuple[Floats, Floats]:
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((4, 3, 5, 5)).astype(np.float32) / 58
    return weight, generator.standard_normal(4).astype(np.float32)


def every_pixel() -> Floats:
    """All values that a pixel has, in all channels: [1, 3, 16, 16]."""
    return np.broadcast_to(np.arange(256, dtype=np.float32).reshape(1, 1, 16, 16), (1, 3, 16, 16))


@given(mean=st.tuples(*[st.floats(0, 255, width=32)] * 3))
def test_no_pixel_is_rounded_whatever_the_mean(mean: tuple[float, float, float]) -> None:
    weight = np.zeros((1, 3, 5, 5), np.float32)
    _, centred = ran(
        with_whole_mean(normalising(mean, weight, np.zeros(1, np.float32))), every_pixel()
    )
    np.testing.assert_array_equal(to_bf16(centred), centred)


@given(mean=st.tuples(*[st.floats(0, 255, width=32)] * 3))
def test_half_holds_every_difference_from_a_mean_in_eighths(
    mean: tuple[float, float, float],
) -> None:
    weight = np.zeros((1, 3, 5, 5), np.float32)
    plain = normalising(mean, weight, np.zeros(1, np.float32))
    _, centred = ran(with_whole_mean(plain, steps=STEPS_OF_HALF), every_pixel())
    np.testing.assert_array_equal(centred.astype(np.float16), centred)
    _, exact = ran(plain, every_pixel())
    assert np.abs(centred - exact).max() <= 1 / 16 + 1e-5


def test_the_mean_as_it_is_moves_pixels_by_the_same_amount(weights: tuple[Floats, Floats]) -> None:
    """What the rewriting is for: between two powers of two this rounding is no noise."""
    _, centred = ran(normalising(MEAN, *weights), every_pixel())
    red = centred[0, 0]
    moved = to_bf16(centred)[0, 0] - red
    for least, amount in ((64, 0.175), (128, -0.325)):
        there = moved[(red > least) & (red < 2 * least)]
        np.testing.assert_allclose(there, amount, atol=1e-4)


@pytest.mark.parametrize("steps", [1, STEPS_OF_HALF])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_convolution_gives_the_same_where_it_reads_no_frame(
    weights: tuple[Floats, Floats], with_bias: bool, steps: int
) -> None:
    weight, bias = weights
    image = np.random.default_rng(1).integers(0, 256, (1, 3, 20, 24)).astype(np.float32)
    plain = normalising(MEAN, weight, bias if with_bias else None)
    given, _ = ran(with_whole_mean(plain, steps=steps), image)
    expected, _ = ran(plain, image)
    inside = (..., slice(PADDING, -PADDING), slice(PADDING, -PADDING))
    np.testing.assert_allclose(given[inside], expected[inside], atol=2e-5)
    # In the frame zeros stand for another colour, half a step from the mean at most.
    most = 0.5 / steps * np.abs(weight).sum(axis=(1, 2, 3)).reshape(1, -1, 1, 1)
    assert (np.abs(given - expected) <= most).all()
    assert np.abs(given - expected).max() > 1e-4


def test_the_difference_is_another_tensor(weights: tuple[Floats, Floats]) -> None:
    # A bisection, which pairs tensors by their names, does not hold the two against each other.
    model = normalising(MEAN, *weights)
    assert read_by_convolution(model) == "centred"
    whole = with_whole_mean(model)
    assert read_by_convolution(whole) not in {
        name for node in model.graph.node for name in node.output
    }


def test_the_given_graph_is_not_changed(weights: tuple[Floats, Floats]) -> None:
    model = normalising(MEAN, *weights)
    before = model.SerializeToString()
    assert with_whole_mean(model).SerializeToString() != before
    assert model.SerializeToString() == before


def test_a_constant_that_others_share_is_theirs_still(weights: tuple[Floats, Floats]) -> None:
    model = normalising(MEAN, *weights)
    model.graph.node.append(helper.make_node("Conv", ["image", "weight", "bias"], ["other"]))
    model.graph.node.append(helper.make_node("Sub", ["other", "mean"], ["another"]))
    whole = with_whole_mean(model)
    for node in whole.graph.node[-2:]:
        assert node in list(model.graph.node)
    values = {entry.name: entry for entry in whole.graph.initializer}
    for entry in model.graph.initializer:
        assert values[entry.name] == entry


def read_by_others(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["centred"], ["other"]))


def scaled_before(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Mul", ["image", "mean"], ["scaled"]))
    model.graph.node[1].input[0] = "scaled"


def not_of_bytes(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def one_mean_for_all_channels(model: onnx.ModelProto) -> None:
    alone = np.full((1, 1, 1, 1), 120.5, np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(alone, "mean"))


def no_mean(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Add"


def grouped(model: onnx.ModelProto) -> None:
    weight = numpy_helper.from_array(np.zeros((3, 1, 5, 5), np.float32), "weight")
    model.graph.initializer[1].CopyFrom(weight)
    del model.graph.node[2].input[2]
    model.graph.node[2].attribute.append(helper.make_attribute("group", 3))


@pytest.mark.parametrize(
    "change",
    [
        no_mean, read_by_others, with_centred, scaled_before, grouped, not_of_bytes,
        one_mean_for_all_channels,
    ],
)  # fmt: skip
def test_other_graphs_are_refused(
    change: Callable[[onnx.ModelProto], object], weights: tuple[Floats, Floats]
) -> None:
    model = normalising(MEAN, *weights)
    change(model)
    with pytest.raises(OnnxFileError, match="does not subtract a mean from bytes"):
        with_whole_mean(model)


@pytest.mark.parametrize("opset", [17, 20])
def test_our_own_export_is_such_a_graph(tiny_opsets: dict[int, Path], opset: int) -> None:
    path = tiny_opsets[opset]
    image = np.random.default_rng(2).integers(0, 256, (1, 97, 131, 3), dtype=np.uint8)
    model = with_logits(OnnxFile(path).model)
    plain, whole = (
        outputs_of(graph, image=image)["logits"] for graph in (model, with_whole_mean(model))
    )
    assert not np.array_equal(plain, whole)  # the frame stands for another colour
    np.testing.assert_allclose(whole, plain, atol=0.01 * np.abs(plain).max())


def test_zeros_may_stand_between_the_mean_and_the_convolution() -> None:
    model = padded_with(0)
    image = np.random.default_rng(1).integers(0, 256, (1, 3, 9, 10)).astype(np.float32)
    expected, _ = ran(model, image)
    given, read = ran(with_whole_mean(padded_with(0)), image)
    assert read.shape == (1, 3, 12, 13)
    assert np.array_equal(read, np.round(read))  # whole numbers, the frame of zeros among them
    inside = (slice(None), slice(None), slice(2, 7), slice(2, 8))  # sees no frame
    np.testing.assert_allclose(given[inside], expected[inside], atol=1e-2, rtol=1e-4)
    for other in (padded_with(1), padded_with(0, "edge")):
        with pytest.raises(OnnxFileError):
            with_whole_mean(other)


def test_zeros_before_a_network_of_normalised_layers_stay_zeros() -> None:
    model = padded_with(0)
    model.graph.node[3].output[0] = "features"
    model.graph.node.append(helper.make_node("LayerNormalization", ["features", "one"], ["out"]))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "one"))
    with pytest.raises(OnnxFileError):
        with_whole_mean(model)
