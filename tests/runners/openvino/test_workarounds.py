"""What is done to OpenVINO's graphs, on any CPU: columns to spare."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fcn_deploy.runners.openvino.signal_stack import signal_stack_kept
from fcn_deploy.runners.openvino.workarounds import pad_single_column, strided_to_one_column

openvino = pytest.importorskip("openvino")
ops = pytest.importorskip("openvino.opset13")
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def convolution(
    size: tuple[int, int],
    *,
    kernel: tuple[int, int] = (3, 3),
    strides: tuple[int, int] = (2, 2),
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    dilations: tuple[int, int] = (1, 1),
    auto_pad: str = "explicit",
) -> Any:
    """A graph of one convolution and a Relu, of two pictures."""
    picture = ops.parameter([2, 4, *size], np.float32, name="picture")
    above, left, below, right = pads
    sums = ops.convolution(
        picture, ops.constant(normal(5, 4, *kernel)), list(strides), [above, left],
        [below, right], list(dilations), auto_pad,
    )  # fmt: skip
    sums.output(0).set_names({"sums"})
    return openvino.Model([ops.relu(sums), sums], [picture])


@signal_stack_kept()
def ran(graph: Any, size: tuple[int, int]) -> list[NDArray[np.float32]]:
    compiled = openvino.Core().compile_model(graph, "CPU", FLOAT32)
    return [np.array(values) for values in compiled(normal(2, 4, *size)).values()]


@pytest.mark.parametrize(
    ("size", "strides", "kernel", "goes_wrong"),
    [
        ((9, 1), (2, 2), (3, 3), True),
        ((9, 2), (2, 2), (3, 3), True),
        ((9, 3), (2, 2), (3, 3), False),  # two columns
        ((2, 2), (2, 2), (3, 3), False),  # one row
        ((9, 1), (1, 1), (3, 3), False),
        ((9, 2), (2, 1), (3, 3), False),  # strides over rows alone
        ((9, 2), (1, 2), (3, 3), True),
        ((9, 1), (2, 2), (1, 1), False),
    ],
)
def test_which_convolutions_go_wrong(
    size: tuple[int, int], strides: tuple[int, int], kernel: tuple[int, int], goes_wrong: bool
) -> None:
    pads = (1, 1, 1, 1) if kernel == (3, 3) else (0, 0, 0, 0)
    graph = convolution(size, strides=strides, kernel=kernel, pads=pads)
    assert bool(strided_to_one_column(graph)) is goes_wrong


def test_other_ranks_are_none_of_them() -> None:
    line = ops.parameter([1, 4, 9], np.float32)
    sums = ops.convolution(line, ops.constant(normal(5, 4, 3)), [2], [1], [1], [1])
    assert strided_to_one_column(openvino.Model([sums], [line])) == []


@given(
    height=st.integers(5, 9),
    width=st.integers(1, 3),
    stride=st.integers(2, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(2, 3)),
    pads=st.tuples(*[st.integers(1, 2)] * 4),
    dilation=st.integers(1, 2),
    auto_pad=st.sampled_from(["explicit", "same_upper", "same_lower"]),
)
@settings(max_examples=40, deadline=None)
def test_a_spare_column_changes_no_number(
    height: int,
    width: int,
    stride: int,
    kernel: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilation: int,
    auto_pad: str,
) -> None:
    size = (height, width)
    try:
        graph = convolution(
            size, kernel=kernel, strides=(stride, stride), pads=pads,
            dilations=(dilation, dilation), auto_pad=auto_pad,
        )  # fmt: skip
    except RuntimeError:  # the kernel is larger than the padded picture
        assume(False)
    (narrow,) = [node for node in graph.get_ops() if node.get_type_name() == "Convolution"]
    assume(narrow.output(0).get_shape()[3] == 1)
    expected = ran(graph, size)
    pad_single_column([narrow])
    (wide,) = [node for node in graph.get_ops() if node.get_type_name() == "Convolution"]
    assert wide.output(0).get_shape()[3] == 2
    assert graph.output(1).get_names() == {"sums"}
    for given_back, values in zip(ran(graph, size), expected, strict=True):
        np.testing.assert_allclose(given_back, values, rtol=1e-5, atol=1e-5)
