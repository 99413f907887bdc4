"""OpenVINO: near the reference in each arithmetic, described as what it computes."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import OUTPUT_NAMES, Precision, Tail
from fcn_deploy.machine.description import usable_cores
from fcn_deploy.runners.base import open_runner
from fcn_deploy.runners.cpu_streams import LANES
from fcn_deploy.runners.openvino import runner as runner_module
from fcn_deploy.runners.openvino.compiled import Network
from fcn_deploy.runners.openvino.signal_stack import signal_stack_kept
from tests.runners.contract import assert_masks_agree, pictures
from tests.runners.openvino.arithmetic import THREE_PRODUCTS_ERROR, require

openvino = pytest.importorskip("openvino")


@pytest.mark.parametrize(
    ("backend", "least", "most"),
    [
        ("openvino", 0, 1e-5),
        ("openvino-int8x3", 0, THREE_PRODUCTS_ERROR),
        ("openvino-bf16", 1e-4, 0.1),  # if it were as exact, it would not be bfloat16
    ],
)
def test_masks_equal_those_of_ort_where_they_are_decided(
    tiny_run: Run, backend: str, least: float, most: float
) -> None:
    require(backend)
    with (
        open_runner(tiny_run, "ort", outputs=("logits",)) as reference,
        open_runner(tiny_run, backend, outputs=("logits",)) as candidate,
    ):
        assert_masks_agree(reference, candidate, pictures(2, 97, 131), least=least, most=most)


@pytest.mark.parametrize(
    ("backend", "names", "library"),
    [
        ("openvino", ("fp32", "fp32"), r"OpenVINO 20.*"),
        ("openvino-bf16", ("bf16", "bf16"), r".*, mean made whole"),
        ("openvino-int8x3", ("fp32", "int8x3"), r".*, 16 convolutions as three int8 products"),
    ],
)
def test_the_description_says_what_computes(
    tiny_run: Run, backend: str, names: tuple[str, str], library: str
) -> None:
    require(backend)
    with open_runner(tiny_run, backend, threads=1) as runner:
        found = runner.describe()
    assert (found.backend, found.device, found.threads) == (backend, "cpu", 1)
    assert (found.precision, found.arithmetic) == names
    assert found.is_float32 == (backend == "openvino")
    assert re.fullmatch(library, found.library)
    assert found.digest == file_digest(tiny_run.onnx(Precision.FP32))


@pytest.mark.parametrize(
    ("backend", "tolerance"), [("openvino-bf16", 0.1), ("openvino-int8x3", THREE_PRODUCTS_ERROR)]
)
def test_every_size_is_near_float32(tiny_run: Run, backend: str, tolerance: float) -> None:
    """Compiling puts other nodes where an axis has one pixel; kernels fail at a single column."""
    require(backend)
    with (
        open_runner(tiny_run, "ort", outputs=("logits",)) as reference,
        open_runner(tiny_run, backend, outputs=("logits",), threads=1) as candidate,
    ):

        @given(st.integers(1, 70), st.integers(1, 70))
        @example(1, 1)
        @example(9, 1)
        @example(66, 3)
        @example(67, 8)
        @example(100, 32)
        @settings(max_examples=15, deadline=None)
        def is_near(height: int, width: int) -> None:
            images = pictures(2, height, width)
            expected, found = reference.run(images).logits, candidate.run(images).logits
            assert expected is not None
            assert found is not None
            np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())

        is_near()


@pytest.mark.parametrize(
    ("tail", "opset"), [(Tail.DECONV, 17), (Tail.DECONV, 20), (Tail.RESIZE, 20)]
)
def test_three_products_with_every_tail_and_all_outputs(
    tiny_run: Run, tmp_path: Path, tail: Tail, opset: int
) -> None:
    require("openvino-int8x3")
    from fcn_deploy.export.exporter import onnx_from_checkpoint

    path = tmp_path / "model.onnx"
    onnx_from_checkpoint(tiny_run.checkpoint, path, tail=tail, opset=opset, outputs=OUTPUT_NAMES)
    images = pictures(2, 97, 131)
    with (
        open_runner(path, "ort", outputs=OUTPUT_NAMES) as reference,
        open_runner(path, "openvino-int8x3", outputs=OUTPUT_NAMES) as candidate,
    ):
        expected, found = reference.run(images), candidate.run(images)
    assert expected.logits is not None
    assert found.logits is not None
    tolerance = THREE_PRODUCTS_ERROR * np.abs(expected.logits).max()
    np.testing.assert_allclose(found.logits, expected.logits, atol=tolerance)
    np.testing.assert_allclose(found.margin, expected.margin, atol=2 * tolerance)
    assert (expected.margin[found.mask != expected.mask] <= 2 * tolerance).all()


def test_three_products_in_lanes_give_the_same(tiny_run: Run) -> None:
    require("openvino-int8x3")
    if usable_cores() < LANES:
        pytest.skip("OpenVINO takes no more threads than there are cores")
    batches = [pictures(1, 48, 64, seed) for seed in range(4)]
    with open_runner(tiny_run, "openvino-int8x3", threads=LANES) as runner:
        alone = [runner.run(images).mask for images in batches]
        for given_back, mask in zip(runner.stream(iter(batches)), alone, strict=True):
            np.testing.assert_array_equal(given_back.mask, mask)


def test_many_sizes_in_turn_are_seldom_compiled_and_keep_their_masks(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[int, ...]] = []
    compile_shape = Network._compile

    def counted(network: Network, shape: tuple[int, ...]) -> object:
        compiled.append(shape)
        return compile_shape(network, shape)

    monkeypatch.setattr(Network, "_compile", counted)
    batches = [pictures(1, 40, 40 + 8 * (seed % 4), seed) for seed in range(24)]
    with open_runner(tiny_run, "openvino", threads=1) as runner:
        for network in (runner._network, runner._streams):  # type: ignore[attr-defined]
            if network is not None:
                network.kept_shapes = 2
        streamed = [outputs.mask for outputs in runner.stream(batches)]
        assert len(compiled) == 4  # the two that do not fit wait until the end
        for images, mask in zip(batches[:8], streamed, strict=False):
            np.testing.assert_array_equal(mask, runner.run(images).mask)


def test_logits_do_not_wait_for_those_of_another_size(tiny_run: Run) -> None:
    taken: list[int] = []

    def source() -> Iterator[NDArray[np.uint8]]:
        for seed in range(4):
            taken.append(seed)
            yield pictures(1, 40, 40 + 8 * (seed % 4), seed)

    with open_runner(tiny_run, "openvino", outputs=("mask", "logits"), threads=1) as runner:
        runner._network.kept_shapes = 1  # type: ignore[attr-defined]
        for number, outputs in enumerate(runner.stream(source())):
            assert taken[-1] == number
            assert outputs.logits is not None
            assert outputs.logits.shape[-1] == 40 + 8 * number
    assert len(taken) == 4


def test_bf16_rounds_no_pixel(tiny_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bright pixels less the mean would all be rounded the same way, a change of colour."""
    require("openvino-bf16")
    bright = pictures(1, 48, 64) // 4 + 192

    def error() -> float:
        with (
            open_runner(tiny_run, "openvino", outputs=("logits",), threads=1) as exact,
            open_runner(tiny_run, "openvino-bf16", outputs=("logits",), threads=1) as rounded,
        ):
            given, expected = rounded.run(bright).logits, exact.run(bright).logits
        assert given is not None
        assert expected is not None
        return float(np.sqrt(np.mean((given - expected) ** 2)))

    kept = error()
    options = runner_module.BF16_OPTIONS
    arithmetic = replace(options.arithmetic[Precision.FP32], change=None)
    with_the_mean = replace(options, arithmetic={Precision.FP32: arithmetic})
    monkeypatch.setattr(runner_module, "BF16", runner_module.openvino_backend(with_the_mean))
    assert kept < 0.9 * error()  # what is left is the weights' own


def test_results_survive_the_next_run(tiny_run: Run) -> None:
    with open_runner(tiny_run, "openvino", outputs=("logits", "margin"), threads=1) as runner:
        first = runner.run(pictures(1, 40, 56, seed=1))
        assert first.logits is not None
        before = first.mask.copy(), first.logits.copy()
        second = runner.run(pictures(1, 40, 56, seed=2))
        assert second.logits is not None
        assert np.abs(second.logits - before[1]).max() > 0
    np.testing.assert_array_equal(first.mask, before[0])
    np.testing.assert_array_equal(first.logits, before[1])


def test_the_pictures_are_only_read(tiny_run: Run) -> None:
    images = pictures(1, 40, 56)
    with open_runner(tiny_run, "openvino", threads=1) as runner:
        runner.run(images)
    np.testing.assert_array_equal(images, pictures(1, 40, 56))


@pytest.mark.parametrize("kind", ["f32", "bf16"])
@pytest.mark.parametrize("classes", [2, 21, 150])
def test_a_tie_goes_to_the_lowest_class(classes: int, kind: str) -> None:
    """What the deploy graph promises rests on OpenVINO's ArgMax."""
    node = onnx.helper.make_node("Cast", ["image"], ["logits"], to=onnx.TensorProto.FLOAT)
    argmax = onnx.helper.make_node("ArgMax", ["logits"], ["index"], axis=1, keepdims=0)
    cast = onnx.helper.make_node("Cast", ["index"], ["mask"], to=onnx.TensorProto.UINT8)
    shape = [2, classes, 13, 37]
    value = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, shape)
    result = onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.UINT8, [2, 13, 37])
    graph = onnx.helper.make_graph([node, argmax, cast], "ties", [value], [result])
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    core = openvino.Core()
    with signal_stack_kept():
        compiled = core.compile_model(
            core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": kind}
        )
    values = np.random.default_rng(0).integers(0, 3, shape, dtype=np.uint8)
    np.testing.assert_array_equal(compiled(values)[0], values.argmax(axis=1))
