"""INT8 weights as integers and as floats that are quantized in the graph: the same network."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from fcn_deploy.core.errors import BuildError, ExportError
from fcn_deploy.core.spec import Product
from fcn_deploy.data.scenes.render import draw_scene
from fcn_deploy.graph.int8_for_ort_cpu import for_onnx_runtime_cpu, quantized_convolutions
from fcn_deploy.graph.int8_weights import with_float_weights, with_integer_weights
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.graph.quantize import Quantized, quantized_onnx
from fcn_deploy.graph.session import cpu_session
from fcn_deploy.tensorrt.build import engine_from_onnx
from tests.tensorrt_fixtures import install, needs_rtx


def values(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


@pytest.fixture(scope="session")
def opset17(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run's FP32 file at opset 17."""
    pytest.importorskip("torch", reason="export needs PyTorch")
    from fcn_deploy.export.opset17 import converted

    source = onnx.load(tiny_run / "model.onnx")
    older = converted(source)
    del older.metadata_props[:]
    older.metadata_props.extend(source.metadata_props)
    path = tmp_path_factory.mktemp("opset17") / "model.onnx"
    onnx.save(older, path)
    return path


@pytest.fixture(scope="session")
def int8_17(opset17: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """That in INT8."""
    target = tmp_path_factory.mktemp("int8_17") / "model.int8.onnx"
    pictures = [draw_scene(0, index, (48 + 8 * index, 64))[0] for index in range(2)]
    return quantized_onnx(OnnxFile(opset17), target, pictures, threads=1, checked=False)


def test_at_opset_17_weights_are_floats_that_give_every_int8_back(int8_17: Quantized) -> None:
    model = onnx.load(int8_17.path)
    assert int8_17.opset == 17
    onnx.checker.check_model(model, full_check=True)
    known = values(model.graph)
    maker = {output: node for node in model.graph.node for output in node.output}
    seen = 0
    for node in (n for n in model.graph.node if n.name in int8_17.quantized):
        dequantize = maker[node.input[1]]
        quantize = maker[dequantize.input[0]]
        assert (quantize.op_type, dequantize.op_type) == ("QuantizeLinear", "DequantizeLinear")
        assert list(quantize.input[1:]) == list(dequantize.input[1:])
        floats, scales = known[quantize.input[0]], known[quantize.input[1]]
        assert (floats.dtype, scales.shape) == (np.float32, floats.shape[:1])
        wide = scales[:, None, None, None]
        integers = np.rint(floats / wide)
        assert np.abs(integers).max() == 127
        np.testing.assert_array_equal((integers * wide).astype(np.float32), floats)
        seen += 1
    assert seen == 19
    # What is int8 in the file are zero points alone.
    assert all(known[name].size == 1 or not known[name].any()
               for name in known if known[name].dtype == np.int8)  # fmt: skip


def test_float_weights_and_int8_weights_are_the_same_network(int8_17: Quantized) -> None:
    floats, integers = onnx.load(int8_17.path), onnx.load(int8_17.path)
    with_integer_weights(integers)
    weights = {n: v for n, v in values(integers.graph).items() if v.dtype == np.int8 and v.ndim > 1}
    assert len(weights) == 19
    images = np.stack([draw_scene(1, index, (61, 70))[0] for index in range(2)])
    given = [
        cpu_session(graph.SerializeToString(), threads=1).run(["mask"], {"image": images})[0]
        for graph in (floats, integers)
    ]
    np.testing.assert_array_equal(*given)
    # There and back again: the same weights, byte for byte.
    with_float_weights(integers)
    with_integer_weights(integers)
    again = {n: v for n, v in values(integers.graph).items() if v.dtype == np.int8 and v.ndim > 1}
    for ours, theirs in zip(weights.values(), again.values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # And ONNX Runtime's CPU provider gets them as integers.
    rewritten = for_onnx_runtime_cpu(floats)
    assert quantized_convolutions(rewritten) == 19
    quantizing = [n.input[0] for n in rewritten.graph.node if n.op_type == "QuantizeLinear"]
    assert not set(quantizing) & {tensor.name for tensor in rewritten.graph.initializer}


def test_weights_that_would_not_come_back_are_refused(int8_17: Quantized) -> None:
    model = onnx.load(int8_17.path)
    with_integer_weights(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    (node, *_) = (n for n in model.graph.node if n.op_type == "DequantizeLinear"
                  and n.input[0] in tensors)  # fmt: skip
    scale = tensors[node.input[1]]
    huge = np.full_like(numpy_helper.to_array(scale), 3e38)  # the products overflow
    scale.CopyFrom(numpy_helper.from_array(huge, scale.name))
    with pytest.raises(ExportError, match="do not come back"):
        with_float_weights(model)


def test_tensorrt_8_6_reads_the_weights_of_opset_17_alone(
    int8_17: Quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = install(monkeypatch, "8.6.0")
    engine = machine.build(int8_17.path, folder=tmp_path)
    assert engine.sidecar.layers == {"int8": 1}
    assert "INT8" in engine.sidecar.flags["builder"]
    model = onnx.load(int8_17.path)
    with_integer_weights(model)  # as every INT8 file was before
    onnx.save(model, tmp_path / "integers.onnx")
    with pytest.raises(BuildError, match="invalid weights type of Int8"):
        machine.build(tmp_path / "integers.onnx", name="x", folder=tmp_path)


@pytest.mark.slow
@needs_rtx
def test_tensorrt_for_rtx_counts_the_same_layers_in_both_forms(
    int8_17: Quantized, tmp_path: Path
) -> None:
    integers = onnx.load(int8_17.path)
    with_integer_weights(integers)
    onnx.save(integers, tmp_path / "integers.onnx")
    counts = [
        engine_from_onnx(
            OnnxFile(path), name=path.stem, product=Product.RTX, folder=tmp_path / "engines"
        ).sidecar.layers
        for path in (int8_17.path, tmp_path / "integers.onnx")
    ]
    assert counts[0] == counts[1]
    assert counts[0]["int8"] >= 19
