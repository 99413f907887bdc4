"""The tails that resize: an untrained upsampling, and torchvision's interpolation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.spec import OUTPUT_NAMES, ModelSpec, Precision, Product, Tail
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.export.check import check_graph
from fcn_deploy.export.exporter import deploy_graph, fp16_graph, onnx_from_checkpoint
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.onnx_file import OnnxFile, write_metadata
from fcn_deploy.networks.architectures import build_model
from fcn_deploy.networks.checkpoint import Checkpoint
from fcn_deploy.networks.deploy_graph import DeployGraph, DeployModel
from fcn_deploy.networks.fcn import InterpolatingNetwork
from fcn_deploy.networks.tails import BilinearResize, LateArgmax
from fcn_deploy.tensorrt import api
from fcn_deploy.tensorrt.build import engine_from_onnx
from fcn_deploy.tensorrt.engine_file import read_engine
from tests.networks.tails import ROUNDING, noise, pictures, run, upsampling

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.mark.parametrize("stride", [2, 8, 16, 32])
def test_resize_is_the_bilinear_transposed_convolution_to_the_border(stride: int) -> None:
    upsample = upsampling(5, stride)
    for h, w in ((1, 1), (1, 4), (3, 2)):
        scores = noise(2, 5, h, w, seed=h)
        height, width = h * stride - 1, w * stride
        wanted = LateArgmax(upsample, 0, OUTPUT_NAMES)(scores, height, width)
        given = LateArgmax(BilinearResize(stride), stride, OUTPUT_NAMES)(scores, height, width)
        torch.testing.assert_close(given[1], wanted[1], atol=1e-6, rtol=0)
        decided = wanted[2] > 1e-5
        assert decided.float().mean() > 0.99
        assert torch.equal(given[0][decided], wanted[0][decided])


def test_resize_is_refused_once_the_upsampling_is_trained(
    tiny_spec: ModelSpec, one_line: Callable[[Exception], str]
) -> None:
    network = build_model("fcn32s-resnet18", 5)
    DeployGraph(network, tiny_spec, tail=Tail.RESIZE)
    with torch.no_grad():
        network.upsample.weight[0, 1, 3, 3] = 1e-6
    with pytest.raises(InputError, match="the upsampling is trained") as caught:
        DeployGraph(network, tiny_spec, tail=Tail.RESIZE)
    assert caught.value.exit_code == 2
    assert "use --tail early-argmax" in one_line(caught.value)


class Interpolating(InterpolatingNetwork):
    """Scores on a grid of 8 pixels, stretched: torchvision's networks with nothing in them."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, classes, 3, stride=8, padding=1)

    def scores(self, images: Tensor) -> Tensor:
        """Return class scores [N, C, ⌈H/8⌉, ⌈W/8⌉]."""
        scores: Tensor = self.convolution(images)
        return scores


@pytest.fixture(scope="module")
def interpolating(tiny_spec: ModelSpec) -> Checkpoint:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Checkpoint(Interpolating(tiny_spec.num_classes).eval(), tiny_spec)


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
@pytest.mark.slow
def test_the_interpolations_file_gives_pytorchs_masks(
    interpolating: Checkpoint, precision: Precision, opset: int, tmp_path: Path
) -> None:
    spec, outputs = interpolating.spec, OUTPUT_NAMES
    source = DeployGraph(interpolating.model, spec, outputs)
    assert source.tail_form is Tail.RESIZE
    file = deploy_graph(source, opset)
    if precision is Precision.FP16:
        file = fp16_graph(file)
    write_metadata(file, spec, precision, "sha256:none", source.tail_form)
    check_graph(file, interpolating, outputs, precision)
    (resize,) = (node for node in file.graph.node if node.op_type == "Resize")
    form = {a.name: onnx.helper.get_attribute_value(a) for a in resize.attribute}
    assert (form["mode"], form["coordinate_transformation_mode"]) == (b"linear", b"half_pixel")
    reference = DeployModel(interpolating.model, spec, outputs)
    rounding = ROUNDING if precision is Precision.FP32 else 1e-2
    for height, width in ((1, 1), (1, 9), (8, 8), (33, 70), (97, 131)):
        images = pictures(2, height, width)
        with torch.inference_mode():
            mask, logits, margin = (part.numpy() for part in reference(torch.from_numpy(images)))
        given = run(file, images)
        allowed = rounding * np.abs(logits).max()
        np.testing.assert_allclose(given["logits"], logits, rtol=0, atol=allowed)
        assert (margin[given["mask"] != mask] <= 2 * allowed).all()
        np.testing.assert_array_equal(given["mask"], given["logits"].argmax(axis=1))
    if api.unavailable_reason(Product.RTX) is None:
        path = tmp_path / "model.onnx"
        onnx.save(file, path)
        engine = engine_from_onnx(OnnxFile(path), name="fcn", product=Product.RTX, folder=tmp_path)
        assert read_engine(engine.path).outputs == outputs


@pytest.mark.parametrize("tail", [Tail.EARLY_ARGMAX, Tail.TOURNAMENT, Tail.DECONV])
def test_an_interpolation_has_no_other_tail(
    interpolating: Checkpoint, tail: Tail, one_line: Callable[[Exception], str]
) -> None:
    with pytest.raises(InputError, match=f"no tail {tail.value}") as caught:
        DeployGraph(interpolating.model, interpolating.spec, tail=tail)
    assert caught.value.exit_code == 2
    assert "use --tail auto" in one_line(caught.value)


@pytest.mark.slow
def test_an_untrained_upsampling_may_be_resized(tiny_run: Path, tmp_path: Path) -> None:
    written = onnx_from_checkpoint(
        tiny_run / "model.safetensors", tmp_path / "resize.onnx", tail=Tail.RESIZE
    )
    model = OnnxFile(written.path).model
    assert "Resize" in {node.op_type for node in model.graph.node}
    images = pictures(1, 45, 70)
    shown = run(with_logits(model), images)
    expected = run(with_logits(OnnxFile(tiny_run / "model.onnx").model), images)
    scale = np.abs(expected["logits"]).max()
    np.testing.assert_allclose(shown["logits"], expected["logits"], rtol=0, atol=1e-4 * scale)
    decided = margin_of(expected["logits"]) > 2e-4 * scale
    np.testing.assert_array_equal(shown["mask"][decided], expected["mask"][decided])
