from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn_deploy.graph.receptive_field import ReceptiveField, receptive_field
from fcn_deploy.predict.tiles import Tiling
from tests.deploy_graph import DeployGraph

C = 4  # channels


class Net(DeployGraph):
    """Its weights are small whole numbers, so that float32 rounds nothing and sums are equal in
    whatever order they are added."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._random = np.random.default_rng(seed)
        self.stride = 1
        self.add("Div", np.float32(16))
        self.add("Floor")
        self.add("Conv", self.weight(C, 3, 1, 1))

    def weight(self, *shape: int) -> Any:
        return self._random.integers(-1, 2, shape).astype(np.float32)

    def convolve(self, k: int, stride: int = 1, dilation: int = 1, shift: int = 0) -> None:
        before, shift = dilation * (k - 1) // 2, shift if k > 1 else 0
        pads = [before + shift] * 2 + [before - shift] * 2
        strides, dilations = [stride] * 2, [dilation] * 2
        weight = self.weight(C, C, k, k)
        self.add("Conv", weight, strides=strides, dilations=dilations, pads=pads)
        self.add("Mod", np.float32(7), fmod=1)  # small again
        self.stride *= stride

    def pool(self, stride: int) -> None:
        self.add("MaxPool", kernel_shape=[3, 3], strides=[stride] * 2, pads=[1] * 4)
        self.stride *= stride

    def upsample(self, how: str) -> None:
        s = self.stride
        if how == "resize":
            mode = "linear" if s <= 8 else "nearest"
            self.add("Resize", "", np.array([1, 1, s, s], np.float32), mode=mode)
        elif how == "shuffle":
            self.add("Conv", self.weight(C * s * s, C, 1, 1))
            self.add("DepthToSpace", blocksize=s)
        else:
            pads = [s // 2] * 2 + [s - s // 2] * 2
            self.add("ConvTranspose", self.weight(C, C, 2 * s, 2 * s), strides=[s] * 2, pads=pads)


CONVOLUTIONS = st.tuples(
    st.sampled_from([1, 3, 5]), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]),
    st.sampled_from([-1, 0, 1]),
)  # fmt: skip
POOLS = st.tuples(st.sampled_from([1, 2]))


networks_and_sizes = given(
    layers=st.lists(CONVOLUTIONS | POOLS, min_size=1, max_size=4),
    how=st.sampled_from(["resize", "deconvolution", "shuffle"]),
    seed=st.integers(0, 99),
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
)


@settings(max_examples=4)
@networks_and_sizes
def test_tiles_give_the_mask_of_the_whole_picture(**drawn: Any) -> None:
    compare_tiles(**drawn)


@pytest.mark.slow
@settings(max_examples=200)
@networks_and_sizes
def test_tiles_of_many_networks_do(**drawn: Any) -> None:
    compare_tiles(**drawn)


def compare_tiles(
    layers: list[tuple[int, ...]], how: str, seed: int, size: tuple[int, int]
) -> None:
    net = Net(seed)
    for values in layers:
        (net.pool if len(values) == 1 else net.convolve)(*values)
    net.upsample(how)
    model = net.finished()
    field = receptive_field(model)
    assert field.unbounded is None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    picture = np.random.default_rng(seed).integers(0, 256, (1, *size, 3), np.uint8)
    (whole,) = session.run(None, {"image": picture})
    tiles = Tiling.of(2 * field.margin + 1, field.margin, field.stride).tiles(*size)
    for tile in [tiles[0], tiles[len(tiles) // 2], *tiles[-2:]]:  # corners, edges, the middle
        rows, columns = tile.read
        (mask,) = session.run(None, {"image": picture[:, rows, columns]})
        assert np.array_equal(mask[0][tile.inner], whole[0][tile.kept])


def test_the_field_of_fcn32s_on_resnet18_is_the_known_one(tiny_run: Path) -> None:
    # 217 pixels of ResNet-18 to each side, 47 and 16 of the deconvolution.
    field = receptive_field(onnx.load(tiny_run / "model.onnx"))
    assert field == ReceptiveField(before=264, after=233, stride=32)
    assert field.margin == 288


def squeezed(net: Net, *mean: Any, **attributes: Any) -> None:
    scores = net.at
    net.add("Mul", net.add(*mean, **attributes), at=scores)


def attended(net: Net) -> None:
    scores = net.at
    tokens = net.add("Reshape", np.array([0, C, -1]))
    weights = net.add("MatMul", tokens, at=net.add("Transpose", perm=[0, 2, 1]))
    net.add("MatMul", weights, at=tokens)
    net.add("Reshape", net.add("Shape", at=scores), at=tokens)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda net: squeezed(net, "GlobalAveragePool"), "GlobalAveragePool"),
        (lambda net: squeezed(net, "ReduceMean", axes=[2, 3]), "ReduceMean"),
        (attended, "Reshape"),
        (lambda net: net.add("InstanceNormalization", *[np.ones(C, np.float32)] * 2), "Instance"),
        (lambda net: net.add("Softmax", axis=3), "Softmax"),
        (lambda net: net.add("CumSum", np.array(2)), "CumSum"),
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


@pytest.mark.parametrize("mode", ["half_pixel", "align_corners"])
def test_scores_that_are_stretched_need_multiples_of_the_stride_or_have_no_grid(mode: str) -> None:
    net = Net()
    net.convolve(3, 4)
    scores = net.at
    size = net.add("Shape", at="image", start=1, end=3)
    sizes = net.add("Concat", size, at=net.add("Shape", at=scores, end=2), axis=0)
    how = {"mode": "linear", "coordinate_transformation_mode": mode}
    net.add("Resize", "", "", sizes, at=scores, **how)
    field = receptive_field(net.finished())
    assert (field.multiples_alone, field.stride) == (True, 4)
    assert (field.unbounded is None) == (mode == "half_pixel")


def test_padding_of_what_was_cut_off_is_named() -> None:
    net = Net()
    net.add("Slice", np.array([1]), np.array([9999]), np.array([2]))
    net.convolve(3)
    assert "pads what was cut off" in (receptive_field(net.finished()).unbounded or "")
