from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fcn_deploy.graph.receptive_field import ReceptiveField, receptive_field
from fcn_deploy.predict.tiles import Tiling

CHANNELS = 4


class Net:
    """A deploy graph that is put together node by node; weights are small whole numbers, so that
    float32 rounds nothing and equal sums are equal in whatever order they are added."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.at = "image"
        self.stride = 1
        self.add("Cast", to=TensorProto.FLOAT)
        self.add("Transpose", perm=[0, 3, 1, 2])
        self.add("Div", [np.float32(16)])
        self.add("Floor")
        self.convolve(1)

    def add(
        self, operator: str, others: Sequence[Any] = (), at: str = "", **attributes: Any
    ) -> str:
        names = [at or self.at]
        for other in others:
            names.append(other if isinstance(other, str) else f"w{len(self.weights)}")
            if not isinstance(other, str):
                self.weights.append(numpy_helper.from_array(np.asarray(other), names[-1]))
        self.at = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [self.at], self.at, **attributes))
        return self.at

    def convolve(self, k: int, stride: int = 1, dilation: int = 1, shift: int = 0) -> None:
        channels = 3 if len(self.nodes) == 4 else CHANNELS
        weight = self._random.integers(-1, 2, (CHANNELS, channels, k, k)).astype(np.float32)
        before = dilation * (k - 1) // 2
        pads = [before + shift] * 2 + [before - shift] * 2
        self.add("Conv", [weight], strides=[stride] * 2, dilations=[dilation] * 2, pads=pads)
        # Small again: of the sums of some layers float32 would round.
        self.add("Mod", [np.float32(7)], fmod=1)
        self.stride *= stride

    def pool(self, stride: int) -> None:
        pads = [1, 1, 1, 1]
        self.add("MaxPool", kernel_shape=[3, 3], strides=[stride] * 2, pads=pads)
        self.stride *= stride

    def upsample(self, how: str) -> None:
        s = self.stride
        if how == "resize":
            scales = np.array([1, 1, s, s], np.float32)
            self.add("Resize", ["", scales], mode="linear" if s in (1, 2, 4, 8) else "nearest")
        elif how == "shuffle":
            weight = self._random.integers(-1, 2, (CHANNELS * s * s, CHANNELS, 1, 1))
            self.add("Conv", [weight.astype(np.float32)])
            self.add("DepthToSpace", blocksize=s)
        else:
            weight = self._random.integers(-1, 2, (CHANNELS, CHANNELS, 2 * s, 2 * s))
            pads = [s // 2] * 2 + [s - s // 2] * 2
            self.add("ConvTranspose", [weight.astype(np.float32)], strides=[s] * 2, pads=pads)

    def finished(self) -> ModelProto:
        scores = self.at
        size = self.add("Shape", at="image", start=1, end=3)
        self.add("Slice", [np.zeros(2, np.int64), size, np.array([2, 3])], at=scores)
        self.add("ArgMax", axis=1, keepdims=0)
        self.add("Cast", to=TensorProto.UINT8)
        self.nodes[-1].output[0] = "mask"
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])
        mask = helper.make_tensor_value_info("mask", TensorProto.UINT8, ["N", "H", "W"])
        graph = helper.make_graph(self.nodes, "net", [image], [mask], self.weights)
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, ir_version=8, opset_imports=opsets)


LAYERS = st.one_of(
    st.tuples(st.just("conv"), st.sampled_from([1, 3, 5]), st.sampled_from([1, 2, 4]),
              st.sampled_from([1, 2]), st.sampled_from([-1, 0, 1])),
    st.tuples(st.just("pool"), st.sampled_from([1, 2])),
)  # fmt: skip


def drawn(layers: Sequence[tuple[Any, ...]], how: str, seed: int) -> Net:
    net = Net(seed)
    for kind, *values in layers:
        if kind == "pool":
            net.pool(values[0])
        else:
            k, stride, dilation, shift = values
            net.convolve(k, stride, dilation, shift if k > 1 else 0)
    net.upsample(how)
    return net


@settings(max_examples=8)
@given(
    layers=st.lists(LAYERS, min_size=1, max_size=4),
    how=st.sampled_from(["resize", "deconvolution", "shuffle"]),
    seed=st.integers(0, 99),
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
)
def test_tiles_give_the_mask_of_the_whole_picture(
    layers: list[tuple[Any, ...]], how: str, seed: int, size: tuple[int, int]
) -> None:
    model = drawn(layers, how, seed).finished()
    field = receptive_field(model)
    assert field.unbounded is None
    session = onnxruntime.InferenceSession(model.SerializeToString(), _one_thread())
    picture = np.random.default_rng(seed).integers(0, 256, (1, *size, 3), np.uint8)
    (whole,) = session.run(None, {"image": picture})
    tiling = Tiling.of(2 * field.margin + field.stride, field.margin, field.stride)
    pieces = np.full_like(whole, 99)
    tiles = tiling.tiles(*size)
    for tile in [tiles[0], tiles[len(tiles) // 2], *tiles[-2:]]:  # of corners, edges, the middle
        rows, columns = tile.read
        (mask,) = session.run(None, {"image": picture[:, rows, columns]})
        pieces[0][tile.kept] = mask[0][tile.inner]
        assert np.array_equal(pieces[0][tile.kept], whole[0][tile.kept])


def _one_thread() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return options


def test_the_field_of_fcn32s_on_resnet18_is_the_known_one(tiny_run: Path) -> None:
    # 217 pixels of ResNet-18 to each side, 47 and 16 of the deconvolution.
    field = receptive_field(onnx.load(tiny_run / "model.onnx"))
    assert field == ReceptiveField(before=264, after=233, stride=32)
    assert field.margin == 288


def squeezed(net: Net, mean: str) -> None:
    scores = net.at
    if mean == "ReduceMean":
        net.add("ReduceMean", axes=[2, 3])
    else:
        net.add("GlobalAveragePool")
    net.add("Mul", [net.at], at=scores)


def attended(net: Net) -> None:
    scores = net.at
    net.add("Reshape", [np.array([0, CHANNELS, -1])])
    tokens = net.at
    turned = net.add("Transpose", perm=[0, 2, 1])
    weights = net.add("MatMul", [tokens], at=turned)
    net.add("MatMul", [weights], at=tokens)
    net.add("Reshape", [net.add("Shape", at=scores)], at=tokens)


def stretched(net: Net) -> None:
    scores = net.at
    size = net.add("Shape", at="image", start=1, end=3)
    sizes = net.add("Concat", [size], at=net.add("Shape", at=scores, end=2), axis=0)
    net.add("Resize", ["", "", sizes], at=scores, coordinate_transformation_mode="align_corners")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda net: squeezed(net, "GlobalAveragePool"), "GlobalAveragePool"),
        (lambda net: squeezed(net, "ReduceMean"), "ReduceMean"),
        (attended, "Reshape"),
        (lambda net: net.add("InstanceNormalization", [np.ones(4, np.float32)] * 2), "Instance"),
        (lambda net: net.add("Softmax", axis=3), "Softmax"),
        (lambda net: net.add("CumSum", [np.array(2)]), "CumSum"),
    ],
)
def test_what_sees_the_whole_picture_is_named(change: Any, said: str) -> None:
    net = Net()
    net.convolve(3, 2)
    change(net)
    net.upsample("deconvolution")
    field = receptive_field(net.finished())
    assert said in (field.unbounded or "")
    assert field.stride == 2


def test_corners_that_lie_on_corners_are_no_grid() -> None:
    net = Net()
    net.convolve(3, 2)
    stretched(net)
    assert "pixel on pixel" in (receptive_field(net.finished()).unbounded or "")


def test_scores_that_are_stretched_over_the_picture_need_multiples_of_the_stride() -> None:
    net = Net()
    net.convolve(3, 4)
    scores = net.at
    size = net.add("Shape", at="image", start=1, end=3)
    sizes = net.add("Concat", [size], at=net.add("Shape", at=scores, end=2), axis=0)
    net.add("Resize", ["", "", sizes], at=scores, mode="linear")
    field = receptive_field(net.finished())
    assert (field.unbounded, field.multiples_alone, field.stride) == (None, True, 4)
