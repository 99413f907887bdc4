"""No file casts integers to bytes: TensorRT casts to UINT8 from floats alone."""

from collections.abc import Iterable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from fcn_deploy.core.errors import ExportError
from fcn_deploy.core.spec import OUTPUT_NAMES, ModelSpec, Tail
from fcn_deploy.export.exporter import deploy_graph, fp16_graph
from fcn_deploy.export.simplify import cast_bytes_through_float
from fcn_deploy.export.trace import OPSETS
from fcn_deploy.graph.fp16_rounding import tensor_types
from fcn_deploy.graph.nodes import cast_to
from fcn_deploy.networks.deploy_graph import DeployGraph
from fcn_deploy.networks.fcn import InterpolatingNetwork, SegmentationNetwork
from tests.networks.tails import StridedScores


def made_of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes),
        "mask",
        [value("logits", TensorProto.FLOAT, ["N", "C", "H", "W"])],
        [value("mask", TensorProto.UINT8, ["N", "H", "W"])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def sources_of_bytes(model: onnx.ModelProto) -> list[int | None]:
    """The element types that a graph casts to UINT8."""
    types = tensor_types(model)
    return [
        types.get(node.input[0]) for node in model.graph.node if cast_to(node) == TensorProto.UINT8
    ]


ARGMAX = helper.make_node("ArgMax", ["logits"], ["found"], axis=1, keepdims=0)


@pytest.mark.parametrize("between", [[], ["Identity"]])
def test_integers_become_floats_first(between: Iterable[str]) -> None:
    nodes, last = [ARGMAX], "found"
    for operator in between:
        nodes.append(helper.make_node(operator, [last], [f"{last}.{operator}"]))
        last = f"{last}.{operator}"
    nodes.append(helper.make_node("Cast", [last], ["mask"], to=TensorProto.UINT8))
    model = made_of(*nodes)
    assert sources_of_bytes(model) == [TensorProto.INT64]
    logits = np.random.default_rng(0).integers(0, 9, (2, 256, 5, 7)).astype(np.float32)
    before = run(model, logits)
    cast_bytes_through_float(model)
    onnx.checker.check_model(model, full_check=True)
    assert sources_of_bytes(model) == [TensorProto.FLOAT]
    np.testing.assert_array_equal(run(model, logits), before)
    np.testing.assert_array_equal(before, logits.argmax(axis=1))


def run(model: onnx.ModelProto, logits: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    mask: np.ndarray = session.run(["mask"], {"logits": logits})[0]
    return mask


def test_floats_are_cast_as_they_are() -> None:
    model = made_of(
        ARGMAX,
        helper.make_node("Cast", ["found"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["floats"], ["mask"], to=TensorProto.UINT8),
    )
    before = model.SerializeToString()
    cast_bytes_through_float(model)
    assert model.SerializeToString() == before


class Stretched(InterpolatingNetwork):
    """Scores of every eighth pixel, stretched."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, classes, 1, stride=8)

    def scores(self, images: Tensor) -> Tensor:
        """Return class scores [N, C, ⌈H/8⌉, ⌈W/8⌉]."""
        scores: Tensor = self.convolution(images)
        return scores


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
# A crop ends networks from Python alone.
@pytest.mark.parametrize("tail", [*(tail for tail in Tail if tail is not Tail.CROP), None], ids=str)
@pytest.mark.usefixtures("traced_once")
def test_no_file_casts_integers_to_bytes(
    tiny_spec: ModelSpec, tail: Tail | None, opset: int
) -> None:
    classes = tiny_spec.num_classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: SegmentationNetwork = (
            Stretched(classes) if tail is None else StridedScores(classes, 8)
        )
    if tail is Tail.RESIZE and opset == 17:  # its frame of zeros is a Pad
        with pytest.raises(ExportError, match="No Adapter To Version"):
            deploy_graph(DeployGraph(network, tiny_spec, tail=tail), opset)
        return
    for outputs in (("mask",), OUTPUT_NAMES):
        fp32 = deploy_graph(DeployGraph(network, tiny_spec, outputs, tail), opset)
        for model in (fp32, fp16_graph(fp32)):
            onnx.checker.check_model(model, full_check=True)
            assert [output.name for output in model.graph.output] == list(outputs)
            assert sources_of_bytes(model) == [TensorProto.FLOAT]
