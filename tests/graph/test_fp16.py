"""The pass that makes an FP32 graph an FP16 one: what is half, what is not, and the numbers."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.graph.fp16 import in_half
from fcn_deploy.graph.fp16_rounding import tensor_types, with_explicit_rounding
from fcn_deploy.graph.nodes import cast_to, consumers_of, producers_of
from tests.onnx_outputs import Arrays, outputs_of

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def weight(*shape: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def deploy_like(*, outputs: tuple[str, ...] = ("mask",), resize: bool = False) -> onnx.ModelProto:
    """Bytes less a mean → convolution → Relu → scores → logits → mask, logits, margin."""
    make = helper.make_node
    logits = "logits" if "logits" in outputs else "inner"
    nodes = [
        make("Cast", ["image"], ["pixels"], "pixels", to=FLOAT),
        make("Sub", ["pixels", "mean"], ["centred"], "centred"),
        make("Conv", ["centred", "first", "bias"], ["features"], "features", pads=[1] * 4),
        make("Relu", ["features"], ["positive"], "positive"),
    ]
    if resize:
        nodes += [
            make("Conv", ["positive", "score"], ["scores"], "scores"),
            make("Resize", ["scores", "", "scales"], [logits], "resize", mode="linear"),
        ]
    else:
        nodes.append(make("Conv", ["positive", "score"], [logits], "logits"))
    nodes += [
        make("ArgMax", [logits], ["found"], "argmax", axis=1, keepdims=0),
        make("Cast", ["found"], ["index"], "index", to=FLOAT),
        make("Cast", ["index"], ["mask"], "mask", to=TensorProto.UINT8),
    ]
    if "margin" in outputs:
        nodes += [
            make("Unsqueeze", ["index", "axis"], ["index_4d"], "index_4d"),
            make("Equal", ["index_4d", "classes"], ["chosen"], "chosen"),
            make("Where", ["chosen", "least", logits], ["others"], "others"),
            make("ReduceMax", ["others", "axis"], ["second"], "second", keepdims=0),
            make("ReduceMax", [logits, "axis"], ["first_max"], "first_max", keepdims=0),
            make("Sub", ["first_max", "second"], ["margin"], "margin"),
        ]
    values: Arrays = {
        "mean": np.array([123.675, 116.28, 103.53], np.float32).reshape(1, 3, 1, 1),
        "first": weight(8, 3, 3, 3, seed=1) / 50,
        "bias": weight(8, seed=2),
        "score": weight(4, 8, 1, 1, seed=3),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "axis": np.array([1], np.int64),
        "classes": np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1),
        "least": np.array(-np.inf, np.float32),
    }
    read = {name for node in nodes for name in node.input}
    types = {
        "mask": (TensorProto.UINT8, ["N", "H", "W"]),
        "logits": (FLOAT, ["N", 4, "H", "W"]),
        "margin": (FLOAT, ["N", "H", "W"]),
    }
    graph = helper.make_graph(
        nodes,
        "deploy",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 3, "h", "w"])],
        [helper.make_tensor_value_info(name, *types[name]) for name in outputs],
        [numpy_helper.from_array(v, name) for name, v in values.items() if name in read],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (2, 3, 12, 17), dtype=np.uint8)


def test_what_is_half_and_what_is_not() -> None:
    model = deploy_like(outputs=("mask", "logits", "margin"))
    before = model.SerializeToString()
    half = in_half(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(half, full_check=True)
    types = tensor_types(half)
    given = {output.name: output.type.tensor_type.elem_type for output in half.graph.output}
    assert given == {"mask": TensorProto.UINT8, "logits": FLOAT, "margin": FLOAT}
    assert {name for name, kind in types.items() if kind == HALF} == {
        *("first", "bias", "score", "least"),  # weights
        *("centred_half", "features", "positive", "logits_half", "others"),
        *("second_half", "first_max_half"),
    }
    # Pixels less the mean, classes and the difference of the maxima are float32.
    for name in ("pixels", "centred", "mean", "index", "classes", "second", "first_max", "margin"):
        assert types[name] == FLOAT
    makers, readers = producers_of(half.graph), consumers_of(half.graph)
    assert cast_to(makers["logits"]) == FLOAT
    # Who finds the classes reads what the network gave, not what it was widened to.
    assert makers["found"].input[0] == "logits_half"
    assert not readers["logits"]
    assert [node.name for node in half.graph.node if cast_to(node) == HALF] == ["centred_half.cast"]


def test_the_numbers_are_those_of_half_precision(image: NDArray[np.uint8]) -> None:
    model = deploy_like(outputs=("mask", "logits"))
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    given = outputs_of(with_explicit_rounding(in_half(model)), as_written=True, image=image)
    centred = (image.astype(np.float32) - values["mean"]).astype(np.float16).astype(np.float32)
    first, bias, score = (
        values[name].astype(np.float16).astype(np.float32) for name in ("first", "bias", "score")
    )
    padded = np.pad(centred, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    features = np.einsum("nchwyx,kcyx->nkhw", windows, first) + bias[:, None, None]
    positive = np.maximum(features, 0).astype(np.float16).astype(np.float32)
    logits = np.einsum("nkhw,ck->nchw", positive, score[:, :, 0, 0])
    assert given["logits"].dtype == np.float32
    # Sums are added in another order, and may be rounded to the next half.
    np.testing.assert_allclose(given["logits"], logits, atol=2e-3 * np.abs(logits).max())
    np.testing.assert_array_equal(
        given["logits"], given["logits"].astype(np.float16).astype(np.float32)
    )
    np.testing.assert_array_equal(given["mask"], given["logits"].argmax(axis=1))
    exact = outputs_of(model, as_written=True, image=image)["logits"]
    assert 0 < np.abs(given["logits"] - exact).max() < 0.01 * np.abs(exact).max()


def test_a_weight_that_float32_reads_too_stays_for_it() -> None:
    model = deploy_like()
    model.graph.node.append(helper.make_node("Mul", ["mean", "score"], ["other"], "other"))
    model.graph.output.append(helper.make_tensor_value_info("other", FLOAT, None))
    half = in_half(model)
    nodes = {node.name: node for node in half.graph.node}
    types = tensor_types(half)
    assert nodes["other"].input[1] == "score"
    assert nodes["logits"].input[1] == "score_half"
    assert (types["score"], types["score_half"]) == (FLOAT, HALF)
    values = {t.name: numpy_helper.to_array(t) for t in half.graph.initializer}
    np.testing.assert_array_equal(values["score"].astype(np.float16), values["score_half"])


def test_the_scales_of_a_resize_stay_float32(image: NDArray[np.uint8]) -> None:
    half = in_half(deploy_like(outputs=("mask", "logits"), resize=True))
    onnx.checker.check_model(half, full_check=True)
    types = tensor_types(half)
    assert (types["scales"], types["logits_half"]) == (FLOAT, HALF)
    assert outputs_of(half, as_written=True, image=image)["logits"].shape == (2, 4, 24, 34)


def test_a_weight_beyond_half_becomes_infinite() -> None:
    model = deploy_like()
    (first,) = (t for t in model.graph.initializer if t.name == "first")
    first.CopyFrom(numpy_helper.from_array(np.full((8, 3, 3, 3), 1e5, np.float32), "first"))
    values = {t.name: numpy_helper.to_array(t) for t in in_half(model).graph.initializer}
    assert np.isinf(values["first"]).all()
