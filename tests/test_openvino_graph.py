"""What is done to OpenVINO's graphs, on any CPU: columns to spare, and marks in the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fcn_deploy.errors import BackendError
from fcn_deploy.openvino_graph import (
    give_spare_column,
    in_two_precisions,
    require_two_precisions,
    strided_to_one_column,
)
from fcn_deploy.runners.openvino import signal_stack_kept

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
    give_spare_column([narrow])
    (wide,) = [node for node in graph.get_ops() if node.get_type_name() == "Convolution"]
    assert wide.output(0).get_shape()[3] == 2
    assert graph.output(1).get_names() == {"sums"}
    for given_back, values in zip(ran(graph, size), expected, strict=True):
        np.testing.assert_allclose(given_back, values, rtol=1e-5, atol=1e-5)


def named(name: str, node: Any) -> Any:
    node.set_friendly_name(name)
    return node


def two_precisions() -> Any:
    """Read back with its marks: a product, a Relu, a pooling, an interpolation of a later opset."""
    picture = ops.parameter([1, 4, 8, 8], np.float32, name="picture")
    weight = ops.constant(normal(4, 4, 3, 3))
    sums = ops.convolution(picture, weight, [1, 1], [1, 1], [1, 1], [1, 1])
    positive = named("positive", ops.relu(named("sums.bf16", sums)))
    pooled = ops.max_pool(positive, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2])
    larger = ops.interpolate(
        named("pooled", pooled).output(0), np.array([2.0, 2.0], np.float32), "linear_onnx",
        "scales", axes=np.array([2, 3]),
    )  # fmt: skip
    graph = openvino.Model([named("larger", larger)], [picture])
    return in_two_precisions(openvino.Core(), graph)


def test_all_nodes_but_the_named_are_marked() -> None:
    marked = {
        # Read back it is one of a more general kind, since 2026.4.
        node.get_friendly_name(): not {"precise_0", "DisablePrecisionConversion_0"}.isdisjoint(
            dict(node.get_rt_info().items())
        )
        for node in two_precisions().get_ops()
        if node.get_type_name() not in ("Constant", "Parameter", "Result")
    }
    assert marked == {"sums.bf16": False, "positive": True, "pooled": True, "larger": True}


def test_nodes_are_those_that_compiling_leaves_in_place() -> None:
    """What compiling replaces has no mark in its new form."""
    kinds = {node.get_friendly_name(): node for node in two_precisions().get_ops()}
    assert kinds["pooled"].get_output_size() == 1
    assert kinds["larger"].type_info.version_id == "opset4"


@signal_stack_kept()
def test_a_graph_computed_in_float32_has_no_product() -> None:
    compiled = openvino.Core().compile_model(two_precisions(), "CPU", FLOAT32)
    require_two_precisions(compiled, 0)
    with pytest.raises(BackendError, match="asked for 1 convolutions in bfloat16 and computes 0"):
        require_two_precisions(compiled, 1)


class CompiledNode:
    """What a node of a compiled graph says of itself.

    Args:
        name: of the node.
        kind: of layer.
        reads: types of its inputs.
        gives: type of its output.
    """

    def __init__(self, name: str, kind: str, reads: str, gives: str) -> None:
        self.name, self.kind = name, kind
        self.reads, self.gives = reads.split(), gives

    def get_friendly_name(self) -> str:
        return self.name

    def get_rt_info(self) -> dict[str, str]:
        kernel = "brgconv_avx512_amx_bf16" if self.reads[:1] == ["bf16"] else "jit_f32"
        return {"layerType": self.kind, "primitiveType": kernel}

    def inputs(self) -> list[Any]:
        return [CompiledPort(kind) for kind in self.reads]

    def outputs(self) -> list[Any]:
        return [CompiledPort(self.gives)]


class CompiledPort:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def get_element_type(self) -> Any:
        return getattr(openvino.Type, self.kind)


class CompiledGraph:
    def __init__(self, *nodes: CompiledNode) -> None:
        self.nodes = nodes

    def get_runtime_model(self) -> Any:
        return self

    def get_ops(self) -> tuple[CompiledNode, ...]:
        return self.nodes


PRODUCT = CompiledNode("conv.bf16", "Convolution", "bf16 f32 f32 f32", "f32")


@pytest.mark.parametrize(
    "beside",
    [
        CompiledNode("sub.bf16x3.rest", "Subgraph", "u8 f32", "bf16"),
        CompiledNode("sub.bf16x3.thrice.bf16", "Concatenation", "bf16 bf16 bf16", "bf16"),
        CompiledNode("anything_f32_bf16_conv", "Reorder", "f32", "bf16"),
        CompiledNode("score", "Convolution", "f32 f32 f32", "f32"),
    ],
    ids=lambda node: node.name,
)
def test_what_a_compiled_graph_may_hold(beside: CompiledNode) -> None:
    require_two_precisions(CompiledGraph(beside, PRODUCT), 1)


@pytest.mark.parametrize(
    "rounding",
    [
        CompiledNode("conv.bf16", "Convolution", "bf16 f32 f32", "bf16"),  # its sums
        CompiledNode("conv.bf16", "Convolution", "bf16 f32 f32 bf16", "f32"),  # what it adds
        CompiledNode("score", "Convolution", "bf16 f32 f32", "f32"),
        CompiledNode("relu", "Subgraph", "bf16", "f32"),
        CompiledNode("resize", "Interpolate", "f32", "bf16"),
        CompiledNode("relu.bf16x3.rest", "Subgraph", "bf16", "bf16"),  # of what is rounded already
    ],
    ids=lambda node: f"{node.name} {node.kind}",
)
def test_what_a_compiled_graph_may_not_round(rounding: CompiledNode) -> None:
    with pytest.raises(BackendError, match=f"rounds to bfloat16 at {rounding.name}, which is to"):
        require_two_precisions(CompiledGraph(PRODUCT, rounding), 1)


@pytest.mark.parametrize("error", [OSError, RuntimeError])
def test_a_file_that_cannot_be_written_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def full(*_: Any) -> None:
        raise error("No space left on device")

    monkeypatch.setattr(openvino, "serialize", full)
    with pytest.raises(BackendError, match=r"temporary file \(No space.*set TMPDIR"):
        two_precisions()


def test_weights_cut_off_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    serialize = openvino.serialize

    def cut(graph: Any, text: Path, weights: Path) -> None:
        serialize(graph, text, weights)
        weights.write_bytes(weights.read_bytes()[:100])

    monkeypatch.setattr(openvino, "serialize", cut)
    with pytest.raises(BackendError, match=r"100 of \d+ bytes of weights.*set TMPDIR"):
        two_precisions()
