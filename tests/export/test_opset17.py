"""`export --opset 17`, for TensorRT 8.6: IR 8, and shapes without attributes."""

from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="export needs PyTorch")

from fcn_deploy.core.spec import OUTPUT_NAMES, Precision  # noqa: E402
from fcn_deploy.export.exporter import onnx_from_checkpoint  # noqa: E402
from fcn_deploy.graph.fp16_rounding import tensor_types  # noqa: E402
from fcn_deploy.graph.onnx_file import OnnxFile  # noqa: E402
from fcn_deploy.networks.architectures import build_model  # noqa: E402
from fcn_deploy.networks.checkpoint import save_checkpoint  # noqa: E402
from tests.tensorrt_fixtures import SPEC  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(SPEC.architecture, SPEC.num_classes)
    path = tmp_path_factory.mktemp("opset17") / "model.safetensors"
    save_checkpoint(path, model, SPEC)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_the_file_and_what_it_gives(checkpoint: Path, precision: Precision, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    files = {}
    for opset in (17, 20):
        files[opset] = tmp_path / f"{opset}.onnx"
        onnx_from_checkpoint(
            checkpoint, files[opset], precision=precision, outputs=OUTPUT_NAMES, opset=opset
        )
    model = onnx.load(files[17])
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)
    (last,) = (node for node in model.graph.node if "mask" in node.output)
    assert (last.op_type, last.attribute[0].i) == ("Cast", onnx.TensorProto.UINT8)
    assert tensor_types(model)[last.input[0]] == onnx.TensorProto.FLOAT
    # TensorRT 8.6 overlooks these attributes.
    shapes = [node for node in model.graph.node if node.op_type == "Shape"]
    assert shapes
    assert not any(node.attribute for node in shapes)
    metadata = OnnxFile(files[17]).metadata
    assert (metadata.precision, metadata.outputs) == (precision, OUTPUT_NAMES)
    dimensions = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert dimensions == [
        ["N", "H", "W", 3],
        ["N", "H", "W"],
        ["N", SPEC.num_classes, "H", "W"],
        ["N", "H", "W"],
    ]
    images = np.random.default_rng(0).integers(0, 256, (2, 33, 70, 3), dtype=np.uint8)
    given = [
        onnxruntime.InferenceSession(
            files[opset].read_bytes(), providers=["CPUExecutionProvider"]
        ).run(None, {"image": images})
        for opset in (17, 20)
    ]
    for old, new in zip(*given, strict=True):
        np.testing.assert_array_equal(old, new)
