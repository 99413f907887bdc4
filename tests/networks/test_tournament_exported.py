"""Files whose argmax is a tournament give what files with early argmax give, at every size."""

import itertools
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from fcn_deploy.core.spec import OUTPUT_NAMES, ModelSpec, Precision, Tail
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.export.exporter import deploy_graph, fp16_graph
from fcn_deploy.networks.deploy_graph import DeployGraph, DeployModel
from tests.networks.tails import StridedScores, whole_numbers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("traced_once")]

#: Sizes of 1×1 to 70×70.
LARGEST = 70


def network_of(classes: int, stride: int, spec: ModelSpec) -> tuple[StridedScores, ModelSpec]:
    """A network in which nothing is rounded, neither in float32 nor, of pixels 0 and 1, in half."""
    network = StridedScores(classes, stride)
    with torch.no_grad():
        network.convolution.weight.copy_(whole_numbers(classes, 3, 1, 1, largest=1, seed=1))
        network.convolution.bias.copy_(  # type: ignore[union-attr]
            whole_numbers(classes, largest=2, seed=2)
        )
        shape = (classes, classes, 2 * stride, 2 * stride)
        network.upsample.weight.copy_(whole_numbers(*shape, largest=1, seed=3))
    named = replace(
        spec,
        class_names=tuple(f"class {index}" for index in range(classes)),
        palette=voc_palette(classes),
        mean=(0.0, 0.0, 0.0),
        std=(1 / 255, 1 / 255, 1 / 255),
    )
    return network, named


def sessions_of(
    network: StridedScores, spec: ModelSpec, precision: Precision, opset: int
) -> list[onnxruntime.InferenceSession]:
    """Sessions of the file with early argmax and of that with a tournament."""
    sessions = []
    for tail in (Tail.EARLY_ARGMAX, Tail.TOURNAMENT):
        graph = deploy_graph(DeployGraph(network, spec, OUTPUT_NAMES, tail), opset)
        if precision is Precision.FP16:
            graph = fp16_graph(graph)
        onnx.checker.check_model(graph, full_check=True)
        assert ("ArgMax" in {node.op_type for node in graph.graph.node}) == (
            tail is Tail.EARLY_ARGMAX
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        sessions.append(
            onnxruntime.InferenceSession(
                graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        )
    return sessions


def pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(100 * height + width).integers(
        0, 2, (1, height, width, 3), dtype=np.uint8
    )


@pytest.mark.parametrize(("classes", "stride"), [(2, 8), (21, 32), (150, 8)])
def test_every_size(classes: int, stride: int, tiny_spec: ModelSpec) -> None:
    network, spec = network_of(classes, stride, tiny_spec)
    early, tournament = sessions_of(network, spec, Precision.FP32, 20)
    ties = 0
    for height, width in itertools.product(range(1, LARGEST + 1), repeat=2):
        image = {"image": pixels(height, width)}
        expected, given = (
            session.run(list(OUTPUT_NAMES), image) for session in (early, tournament)
        )
        for name, wanted, got in zip(OUTPUT_NAMES, expected, given, strict=True):
            assert wanted.dtype == got.dtype
            assert np.array_equal(wanted, got), (name, height, width)
        ties += int((given[2] == 0).sum())
    assert ties > 0  # which therefore went to the lowest class


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
@pytest.mark.parametrize(("classes", "stride"), [(2, 8), (21, 32), (150, 8)])
def test_every_precision_and_opset_is_the_deploy_model(
    classes: int, stride: int, precision: Precision, opset: int, tiny_spec: ModelSpec
) -> None:
    network, spec = network_of(classes, stride, tiny_spec)
    reference = DeployModel(network, spec, OUTPUT_NAMES)
    sessions = sessions_of(network, spec, precision, opset)
    for height, width in ((1, 1), (1, 70), (33, 7), (45, 70), (70, 64)):
        images = pixels(height, width)
        with torch.inference_mode():
            expected = [output.numpy() for output in reference(torch.from_numpy(images))]
        for session in sessions:
            given = session.run(list(OUTPUT_NAMES), {"image": images})
            for name, wanted, got in zip(OUTPUT_NAMES, expected, given, strict=True):
                assert np.array_equal(wanted, got), (name, height, width)
