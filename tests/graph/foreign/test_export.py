"""FP16 and INT8 files of another tool's network are made of its ONNX file."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.core.errors import ExportError, InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.graph.foreign.export import foreign_graph, foreign_onnx
from fcn_deploy.graph.foreign.imported import Imported, read_imported
from fcn_deploy.graph.fp16_rounding import tensor_types, with_explicit_rounding
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.onnx_file import OnnxFile, require_model
from fcn_deploy.graph.quantize import quantized_onnx
from fcn_deploy.graph.session import cpu_session
from tests.foreign_networks import foreign_run, noise


@pytest.fixture
def imported(run: Run) -> tuple[Imported, bytes]:
    """A network that reads BGR, with its file."""
    foreign_run(run)
    return read_imported(run)


def halves(graph: onnx.ModelProto) -> int:
    return sum(kind == TensorProto.FLOAT16 for kind in tensor_types(graph).values())


def test_the_half_file_computes_in_half_and_gives_the_masks(
    imported: tuple[Imported, bytes], run: Run
) -> None:
    written = foreign_onnx(*imported, run.onnx(Precision.FP16), precision=Precision.FP16)
    assert written.checked_shapes
    file = require_model(run, Precision.FP16)
    graph = file.model
    assert halves(graph) > 10
    # The mean is one of whole grey levels, which half holds; here it was so before.
    means = [node.input[1] for node in graph.graph.node if node.op_type == "Sub"]
    values = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    (mean,) = (values[name] for name in means)
    np.testing.assert_array_equal(mean.ravel(), [124, 117, 103])
    rounded = with_explicit_rounding(with_logits(graph)).SerializeToString()
    plain = with_logits(require_model(run, Precision.FP32).model).SerializeToString()
    outputs = [
        cpu_session(content, threads=1).run(["mask", "logits"], {"image": noise(1, 48, 80)})
        for content in (plain, rounded)
    ]
    (mask, logits), (half_mask, half_logits) = outputs
    assert np.abs(half_logits - logits).max() < 0.01 * np.abs(logits).max()
    assert (half_mask == mask).mean() > 0.98


def test_a_network_without_a_first_convolution_becomes_half_too(run: Run) -> None:
    model = foreign_run(run)
    imported, _ = read_imported(run)
    model.graph.node.insert(0, helper.make_node("Abs", ["input"], ["positive"]))
    model.graph.node[1].input[0] = "positive"
    graph = foreign_graph(imported, model.SerializeToString(), precision=Precision.FP16)
    assert halves(graph) > 10


def test_a_half_file_that_overflows_is_refused(run: Run) -> None:
    model = foreign_run(run)
    imported, _ = read_imported(run)
    # In between stands a Relu, which keeps any scale: in float32 nothing changes.
    for tensor in model.graph.initializer:
        factor = {"w0": 1e6, "b0": 1e6, "w1": 1e-6}.get(tensor.name, 1.0)
        values = numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    content = model.SerializeToString()
    foreign_graph(imported, content)
    with pytest.raises(ExportError, match="self-check") as caught:
        foreign_graph(imported, content, precision=Precision.FP16)
    assert "FP32" in str(caught.value)
    unchecked = foreign_graph(imported, content, precision=Precision.FP16, checked=False)
    assert halves(unchecked) > 10


@pytest.mark.parametrize("activation", ["Relu", "HardSwish"])
def test_the_int8_file_quantizes_the_convolutions_between(run: Run, activation: str) -> None:
    foreign_run(run, activation=activation)
    target = run.onnx(Precision.INT8)
    pictures = iter(noise(3, 48, 80))
    written = quantized_onnx(OnnxFile(run.onnx(Precision.FP32)), target, pictures, threads=1)
    assert len(written.quantized) == 2
    assert len(written.kept) == 2
    assert written.agreement is not None
    assert written.agreement > 0.9
    metadata = require_model(run, Precision.INT8).metadata
    assert metadata.precision is Precision.INT8
    assert metadata.spec.input_shape.takes_all


def test_outputs_that_are_asked_for(imported: tuple[Imported, bytes], tmp_path: Path) -> None:
    written = foreign_onnx(*imported, tmp_path / "all.onnx", outputs=("margin", "logits"))
    assert written.outputs == ("mask", "logits", "margin")
    assert OnnxFile(written.path).metadata.outputs == written.outputs


def test_int8_needs_pictures(imported: tuple[Imported, bytes]) -> None:
    with pytest.raises(InputError, match="int8"):
        foreign_graph(*imported, precision=Precision.INT8)


def test_a_graph_that_gives_other_masks_is_refused(run: Run, tmp_path: Path) -> None:
    """The check is of the file that was read, so another network's record does not pass."""
    foreign_run(run, channels="rgb")
    imported, content = read_imported(run)
    other = onnx.load_model_from_string(content)
    weights = next(tensor for tensor in other.graph.initializer if tensor.name == "w3")
    values = -numpy_helper.to_array(weights)
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    from fcn_deploy.graph.foreign.export import check_against
    from fcn_deploy.graph.foreign.network import OriginalNetwork

    network = OriginalNetwork(
        other.SerializeToString(), imported.preprocessing, imported.interface, threads=1
    )
    graph = foreign_graph(imported, content, checked=False)
    with pytest.raises(ExportError, match="another class than the original's"):
        check_against(network, graph, ("mask",), Precision.FP32, [(1, 40, 56)])
