"""A graph made ready for bfloat16: pixels that are not rounded, and the same function."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.bf16_graph import with_whole_mean

Floats = NDArray[np.float32]
MEAN = (123.675, 116.28, 103.53)
PADDING = 2


def normalising(
    mean: tuple[float, ...], weight: Floats, bias: Floats | None, *, operator: str = "Sub"
) -> onnx.ModelProto:
    """Pixels [1, 3, H, W] → less the mean → 5×5 convolution, both visible."""
    constants = ["weight"] if bias is None else ["weight", "bias"]
    nodes = [
        helper.make_node(operator, ["image", "mean"], ["centred"]),
        helper.make_node("Conv", ["centred", *constants], ["out"], pads=[PADDING] * 4),
    ]
    values = {"mean": np.array(mean, np.float32).reshape(1, 3, 1, 1), "weight": weight}
    if bias is not None:
        values["bias"] = bias
    graph = helper.make_graph(
        nodes,
        "normalising",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, "H", "W"])
            for name in ("out", "centred")
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def ran(model: onnx.ModelProto, image: Floats) -> tuple[Floats, Floats]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    out, centred = session.run(["out", "centred"], {"image": image})
    return out, centred


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


def test_the_mean_as_it_is_moves_all_large_pixels_the_same_way(
    weights: tuple[Floats, Floats],
) -> None:
    """What the rewriting is for: this rounding has no zero mean."""
    _, centred = ran(normalising(MEAN, *weights), every_pixel())
    moved = (to_bf16(centred) - centred)[0, 0]
    assert abs(moved[np.abs(centred[0, 0]) > 64].mean()) > 0.1


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_convolution_gives_the_same_where_it_reads_no_frame(
    weights: tuple[Floats, Floats], with_bias: bool
) -> None:
    weight, bias = weights
    image = np.random.default_rng(1).integers(0, 256, (1, 3, 20, 24)).astype(np.float32)
    plain = normalising(MEAN, weight, bias if with_bias else None)
    expected, _ = ran(plain, image)
    given, _ = ran(with_whole_mean(plain), image)
    inside = (..., slice(PADDING, -PADDING), slice(PADDING, -PADDING))
    np.testing.assert_allclose(given[inside], expected[inside], atol=2e-5)
    # In the frame zeros stand for another colour, half a grey level from the mean at most.
    most = 0.5 * np.abs(weight).sum(axis=(1, 2, 3)).reshape(1, -1, 1, 1)
    assert (np.abs(given - expected) <= most).all()
    assert np.abs(given - expected).max() > 1e-4


def test_the_given_graph_is_not_changed(weights: tuple[Floats, Floats]) -> None:
    model = normalising(MEAN, *weights)
    before = model.SerializeToString()
    assert with_whole_mean(model).SerializeToString() != before
    assert model.SerializeToString() == before


def test_a_graph_that_subtracts_no_mean_comes_back_as_it_is(
    weights: tuple[Floats, Floats],
) -> None:
    model = normalising(MEAN, *weights, operator="Add")
    assert with_whole_mean(model) is model


def test_a_mean_that_others_read_too_is_left(weights: tuple[Floats, Floats]) -> None:
    model = normalising(MEAN, *weights)
    model.graph.node.append(helper.make_node("Relu", ["centred"], ["other"]))
    assert with_whole_mean(model) is model
