"""The tails in whole graphs and files: the deploy model's outputs, nodes and bytes."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.core.spec import OUTPUT_NAMES, ModelSpec, Tail
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.export.exporter import onnx_from_checkpoint
from fcn_deploy.graph.cost import graph_cost
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.networks.architectures import build_model
from fcn_deploy.networks.checkpoint import load_checkpoint, save_checkpoint
from fcn_deploy.networks.deploy_graph import DeployGraph, DeployModel
from tests.command_line import FcnDeploy
from tests.networks.tails import CLASSES, ROUNDING, noise, pictures, run
from tests.random_network import random_network

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("traced_once")]


@pytest.mark.parametrize(
    "architecture",
    ["fcn16s-resnet18", "fcn8s-resnet18", "fcn8s-resnet18-os16", "fcn32s-resnet18-os8"],
)
def test_the_rewritten_graph_of_every_stride_is_the_deploy_model(architecture: str) -> None:
    network, spec = random_network(architecture)
    early = DeployGraph(network, spec, OUTPUT_NAMES)
    assert early.tail_form is Tail.EARLY_ARGMAX
    late = DeployGraph(network, spec, OUTPUT_NAMES, tail=Tail.DECONV)
    reference = DeployModel(network, spec, OUTPUT_NAMES)
    for shape in ((1, 1, 1), (2, 45, 70), (1, 97, 131)):
        images = torch.from_numpy(pictures(*shape))
        with torch.inference_mode():
            mask, logits, margin = reference(images)
            scale = float(logits.abs().max())
            for graph in (early, late):
                given = graph(images)
                torch.testing.assert_close(given[1], logits, atol=1e-4 * scale, rtol=0)
                decided = margin > 2e-4 * scale
                assert torch.equal(given[0][decided], mask[decided])


def test_a_skip_is_cropped_at_once(tmp_path: Path) -> None:
    network, spec = random_network("fcn8s-resnet18")
    save_checkpoint(tmp_path / "model.safetensors", network, spec)
    onnx_from_checkpoint(tmp_path / "model.safetensors", tmp_path / "model.onnx")
    nodes = OnnxFile(tmp_path / "model.onnx").model.graph.node
    for stage in ("layer3", "layer2"):
        operators = [n.op_type for n in nodes if n.name.startswith(f"network.skips.{stage}.")]
        assert operators == ["Conv", "ConvTranspose", "Shape", "Slice", "Add"]
    # Nothing computes the sizes of grids from the picture's any more.
    assert not {"Div", "Mod", "Floor"} & {node.op_type for node in nodes}


@pytest.fixture(scope="module")
def trained(tiny_spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 21 classes whose upsampling is no longer bilinear."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(tiny_spec.architecture, CLASSES)
    with torch.no_grad():
        model.upsample.weight += 0.01 * noise(*model.upsample.weight.shape, seed=3)
    spec = replace(
        tiny_spec,
        class_names=tuple(f"class {index}" for index in range(CLASSES)),
        palette=voc_palette(CLASSES),
        mean=(0.1, 0.5, 0.7),
        std=(0.2, 0.3, 0.5),
    )
    path = tmp_path_factory.mktemp("trained") / "model.safetensors"
    save_checkpoint(path, model, spec)
    return path


@pytest.fixture(scope="module")
def files(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Tail, Path]:
    """The same checkpoint with each tail, giving the mask alone."""
    folder = tmp_path_factory.mktemp("tails")
    forms = (Tail.EARLY_ARGMAX, Tail.TOURNAMENT, Tail.DECONV)
    made = {tail: folder / f"{tail.value}.onnx" for tail in forms}
    for tail, path in made.items():
        assert onnx_from_checkpoint(trained, path, tail=tail).tail is tail
    return made


@pytest.mark.parametrize("tail", [Tail.EARLY_ARGMAX, Tail.DECONV])
def test_the_graph_is_the_deploy_model(trained: Path, tail: Tail) -> None:
    checkpoint = load_checkpoint(trained)
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    graph = DeployGraph(checkpoint.model, checkpoint.spec, OUTPUT_NAMES, tail=tail)
    images = torch.from_numpy(pictures(2, 45, 70))
    with torch.inference_mode():
        given = graph(images)
        mask, logits, margin = DeployModel(checkpoint.model, checkpoint.spec, OUTPUT_NAMES)(images)
    scale = float(logits.abs().max())
    # The deviation is in the weights now, and twenty layers follow.
    torch.testing.assert_close(given[1], logits, atol=1e-4 * scale, rtol=0)
    torch.testing.assert_close(given[2], margin, atol=2e-4 * scale, rtol=0)
    decided = margin > 2e-4 * scale
    assert torch.equal(given[0][decided], mask[decided])
    for name, tensor in checkpoint.model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 33, 70), (1, 97, 131), (1, 64, 96)])
def test_the_files_masks_are_pytorchs(
    trained: Path, files: dict[Tail, Path], shape: tuple[int, int, int]
) -> None:
    checkpoint = load_checkpoint(trained)
    images = pictures(*shape)
    with torch.inference_mode():
        mask, logits, margin = (
            output.numpy()
            for output in DeployModel(checkpoint.model, checkpoint.spec, OUTPUT_NAMES)(
                torch.from_numpy(images)
            )
        )
    decided = margin > 2e-4 * np.abs(logits).max()
    assert decided.mean() > 0.99
    for path in files.values():
        given = run(OnnxFile(path).model, images)
        np.testing.assert_array_equal(given["mask"][decided], mask[decided])


def test_with_logits_shows_the_deconvolutions(files: dict[Tail, Path]) -> None:
    images = pictures(2, 45, 70)
    shown = {tail: with_logits(OnnxFile(path).model) for tail, path in files.items()}
    for model in shown.values():
        onnx.checker.check_model(model, full_check=True)
    early, late, tournament = (
        run(shown[tail], images) for tail in (Tail.EARLY_ARGMAX, Tail.DECONV, Tail.TOURNAMENT)
    )
    assert early["logits"].dtype == np.float32
    assert early["logits"].shape == (2, CLASSES, 45, 70)
    scale = np.abs(late["logits"]).max()
    np.testing.assert_allclose(early["logits"], late["logits"], rtol=0, atol=ROUNDING * scale)
    np.testing.assert_array_equal(early["mask"], early["logits"].argmax(axis=1))
    for name, expected in early.items():
        np.testing.assert_array_equal(tournament[name], expected)


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda nodes: nodes["DepthToSpace"].attribute[1].__setattr__("s", b"DCR"), "mode CRD"),
        (lambda nodes: nodes["Squeeze"].__setattr__("op_type", "Neg"), "a Neg stands between"),
        (lambda nodes: nodes["Reshape"].__setattr__("op_type", "Neg"), "reads no Reshape"),
    ],
)
def test_with_logits_refuses_another_way_to_the_mask(
    files: dict[Tail, Path], break_it: Callable[[dict[str, onnx.NodeProto]], None], complaint: str
) -> None:
    model = OnnxFile(files[Tail.EARLY_ARGMAX]).model
    nodes = {node.op_type: node for node in model.graph.node if node.name.startswith("tail.")}
    nodes["DepthToSpace"].attribute.sort(key=lambda attribute: attribute.name)
    break_it(nodes)
    with pytest.raises(OnnxFileError, match=complaint):
        with_logits(model)


def test_the_file_tells_its_tail(files: dict[Tail, Path]) -> None:
    for tail, path in files.items():
        assert OnnxFile(path).metadata.tail == tail.value


def test_nodes_and_bytes(files: dict[Tail, Path]) -> None:
    tails = {}
    for tail, path in files.items():
        model = OnnxFile(path).model
        made = {output.name for output in model.graph.output}
        for node in reversed(model.graph.node):
            assert not made.isdisjoint(node.output), f"{node.name} is dead"
            made.update(node.input)
        assert {tensor.name for tensor in model.graph.initializer} <= made
        operators = [node.op_type for node in model.graph.node]
        assert "BatchNormalization" not in operators
        assert "Div" not in operators  # the deviation is in the weights
        assert operators.count("Sub") == 1
        assert operators.count("Slice") == 1
        tails[tail] = [n.op_type for n in model.graph.node if n.name.startswith("tail.")]
    assert tails == {
        Tail.DECONV: ["ConvTranspose", "Shape", "Slice", "ArgMax", "Cast"],
        Tail.TOURNAMENT: [
            *("Conv", "Transpose", "MatMul", "Split"),
            *["Greater", "Where", "Where"] * (CLASSES - 2),
            *("Greater", "Where", "Transpose"),
            *("DepthToSpace", "Shape", "Add", "Slice", "Squeeze", "Cast"),
        ],
        Tail.EARLY_ARGMAX: [
            *("Conv", "Transpose", "MatMul", "Reshape", "ArgMax", "Cast", "Transpose"),
            *("DepthToSpace", "Shape", "Add", "Slice", "Squeeze", "Cast"),
        ],
    }
    early, late = (
        graph_cost(OnnxFile(files[tail]).model, {"image": (1, 320, 480, 3)})
        for tail in (Tail.EARLY_ARGMAX, Tail.DECONV)
    )
    assert early.nodes == late.nodes + 7  # the late mask is cast twice
    # Logits are written and read once, and not cropped: two of their four trips are saved.
    logits = 4 * CLASSES * 320 * 480
    assert late.bytes_moved - early.bytes_moved > logits
    assert early.flops < 1.01 * late.flops


def test_all_outputs_of_the_deconvolution(trained: Path, tmp_path: Path) -> None:
    # Those of early argmax, the default, are tested with the export.
    written = onnx_from_checkpoint(
        trained, tmp_path / "m.onnx", outputs=OUTPUT_NAMES, tail=Tail.DECONV
    )
    given = run(OnnxFile(written.path).model, pictures(2, 33, 47))
    assert given["logits"].shape == (2, CLASSES, 33, 47)
    np.testing.assert_array_equal(given["mask"], given["logits"].argmax(axis=1))
    np.testing.assert_array_equal(given["margin"], margin_of(given["logits"]))


def test_the_command_explains(fcn_deploy: FcnDeploy, trained: Path) -> None:
    finished = fcn_deploy("export", trained.parent, "--explain", "--out", "m.onnx")
    assert (finished.code, finished.err) == (0, "")
    for words in (
        "tail early-argmax",
        "20 batch normalisations folded",
        "standard deviation",
        "nodes of shape arithmetic removed",
        "plain export",
        "  saved ",
        "MB moved",
        "GFLOP",
    ):
        assert words in finished.out
    counted = {
        line.split("  ")[1].strip(): [float(word) for word in re.findall(r"-?[\d.]+", line)]
        for line in finished.out.splitlines()
        if "MB moved" in line
    }
    assert list(counted) == ["plain export", "this file", "saved"]
    for plain, written, saved in zip(*counted.values(), strict=True):
        assert plain - written == pytest.approx(saved, abs=0.11)
    assert counted["saved"][1] > 0
    refused = fcn_deploy("export", trained.parent, "--tail", "resize", "--out", "r.onnx")
    assert refused.code == 2
    assert "the upsampling is trained" in refused.err
    assert not Path("r.onnx").exists()
