"""The tails: rewritten, the upsampling gives what the transposed convolution gives."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fcn_deploy.core.errors import ArchitectureError, InputError, OnnxFileError
from fcn_deploy.core.spec import OUTPUT_NAMES, ModelSpec, Precision, Product, Tail
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.export.check import check_graph
from fcn_deploy.export.exporter import deploy_graph, onnx_from_checkpoint
from fcn_deploy.graph.cost import graph_cost
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.onnx_file import OnnxFile, write_metadata
from fcn_deploy.networks.architectures import build_model
from fcn_deploy.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fcn_deploy.networks.deploy_graph import DeployGraph, DeployModel
from fcn_deploy.networks.fcn import InterpolatingNetwork
from fcn_deploy.networks.tails import BilinearResize, EarlyArgmax, LateArgmax
from fcn_deploy.networks.upsampling import bilinear_kernel
from fcn_deploy.tensorrt import api
from fcn_deploy.tensorrt.build import engine_from_onnx
from fcn_deploy.tensorrt.engine_file import read_engine
from tests.command_line import FcnDeploy
from tests.random_network import random_network

pytestmark = pytest.mark.usefixtures("traced_once")

#: Pictures of 1×1 to 70×70, the sizes that all rewritten tails are tried on.
LARGEST = 70
#: Classes and strides; 150 classes at stride 32 would be 400 MB of weights.
CASES = [(2, 8), (2, 32), (21, 8), (21, 16), (21, 32), (150, 8), (150, 16)]
#: Classes of the network that is exported.
CLASSES = 21
#: Rounding, in units of the largest |logit|: sums of 4·C products in float32.
ROUNDING = 1e-5


def upsampling(classes: int, stride: int, weight: Tensor | None = None) -> nn.ConvTranspose2d:
    made = nn.ConvTranspose2d(
        classes, classes, 2 * stride, stride=stride, padding=stride // 2, bias=False
    )
    with torch.no_grad():
        made.weight.copy_(
            bilinear_kernel(classes, classes, 2 * stride) if weight is None else weight
        )
    return made.requires_grad_(False)


def whole_numbers(*shape: int, seed: int, largest: int = 8) -> Tensor:
    """Sums of their products are exact in float32, in any order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-largest, largest + 1, shape, generator=generator).float()


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weight_of(kind: str, classes: int, stride: int) -> Tensor:
    shape = (classes, classes, 2 * stride, 2 * stride)
    if kind == "dense":
        return noise(*shape, seed=1)
    # As training leaves it: bilinear, with a little of everything added.
    return bilinear_kernel(classes, classes, 2 * stride) + 0.01 * noise(*shape, seed=1)


def exact_weight_of(kind: str, classes: int, stride: int) -> Tensor:
    """The same in whole numbers: bilinear weights are multiples of 1 / (2s)²."""
    size = 2 * stride
    dense = whole_numbers(classes, classes, size, size, seed=1)
    if kind == "dense":
        return dense
    return (bilinear_kernel(classes, classes, size) * size**2).round() + dense


@functools.cache
def exact_upsampling(kind: str, classes: int, stride: int) -> nn.ConvTranspose2d:
    return upsampling(classes, stride, exact_weight_of(kind, classes, stride))


def grids(stride: int) -> Iterator[tuple[int, int]]:
    """The sizes of score grids that pictures of up to 70×70 have."""
    yield from itertools.product(range(1, math.ceil(LARGEST / stride) + 1), repeat=2)


def both(
    upsample: nn.ConvTranspose2d, scores: Tensor, height: int, width: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Mask, logits and margin of the late and of the early argmax."""
    with torch.inference_mode():
        late = LateArgmax(upsample, 0, OUTPUT_NAMES)(scores, height, width)
        early = EarlyArgmax(upsample, OUTPUT_NAMES)(scores, height, width)
    return late, early


# -- early argmax -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dense", "trained"])
@pytest.mark.parametrize(("classes", "stride"), CASES)
def test_early_argmax_is_exact_where_nothing_is_rounded(
    classes: int, stride: int, kind: str
) -> None:
    upsample, most = exact_upsampling(kind, classes, stride), math.ceil(LARGEST / stride)
    late, early = LateArgmax(upsample, 0, OUTPUT_NAMES), EarlyArgmax(upsample, OUTPUT_NAMES)
    early.requires_grad_(False)
    ties = 0
    few = {(1, 1), (1, most), (most, 1), (2, 3), (most, most)} if classes > 100 else None
    for h, w in few or grids(stride):
        # Pictures of one grid are crops of its largest at the top left.
        scores = whole_numbers(1, classes, h, w, seed=h * 100 + w, largest=3)
        expected = late(scores, h * stride, w * stride)
        given = early(scores, h * stride, w * stride)
        for name, wanted, got in zip(OUTPUT_NAMES, expected, given, strict=True):
            assert wanted.dtype == got.dtype
            assert torch.equal(wanted, got), (name, h, w)
        ties += int((expected[1] == expected[1].amax(dim=1, keepdim=True)).sum())
        ties -= expected[0].numel()
    assert ties > 0  # which therefore went to the lowest class


@pytest.mark.parametrize("kind", ["dense", "trained"])
@pytest.mark.parametrize(("classes", "stride"), CASES)
def test_early_argmax_differs_by_rounding_alone(classes: int, stride: int, kind: str) -> None:
    # The same products are added up in another order.
    upsample = upsampling(classes, stride, weight_of(kind, classes, stride))
    late, early = LateArgmax(upsample, 0, OUTPUT_NAMES), EarlyArgmax(upsample, OUTPUT_NAMES)
    early.requires_grad_(False)
    for h, w in ((1, 1), (1, 3), (2, 1), (3, 4)):
        scores = noise(2, classes, h, w, seed=h * 100 + w)
        mask, logits, margin = late(scores, h * stride, w * stride)
        early_mask, early_logits, early_margin = early(scores, h * stride, w * stride)
        allowed = ROUNDING * logits.abs().max()
        assert (early_logits - logits).abs().max() <= allowed
        assert (early_margin - margin).abs().max() <= 2 * allowed
        assert (margin[early_mask != mask] <= 2 * allowed).all()
        # Whatever was rounded: its three outputs belong together.
        assert torch.equal(early_mask.long(), early_logits.argmax(dim=1))
        np.testing.assert_array_equal(early_margin, margin_of(early_logits.numpy()))


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_every_size_of_picture_is_cropped_right(stride: int) -> None:
    size = 2 * stride
    upsample = upsampling(2, stride, whole_numbers(2, 2, size, size, seed=1))
    late, early = LateArgmax(upsample, 0, ("mask",)), EarlyArgmax(upsample, ("mask",))
    # Each row and each column, with some of the other; every pair of them is the next test's.
    every, some = range(1, LARGEST + 1), (1, stride - 1, stride, stride + 1, LARGEST)
    sizes = {*itertools.product(every, some), *itertools.product(some, every)}
    with torch.inference_mode():
        for h, w in grids(stride):
            scores = whole_numbers(1, 2, h, w, seed=h * 100 + w)
            (largest,) = late(scores, h * stride, w * stride)
            for height, width in sizes & pairs_of(h, w, stride):
                (mask,) = early(scores, height, width)
                assert torch.equal(mask, largest[:, :height, :width]), (height, width)


def pairs_of(h: int, w: int, stride: int) -> set[tuple[int, int]]:
    """The sizes of pictures up to 70×70 that have a grid of h×w scores."""
    heights, widths = (
        range((count - 1) * stride + 1, min(count * stride, LARGEST) + 1) for count in (h, w)
    )
    return {*itertools.product(heights, widths)}


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_every_pair_of_height_and_width_shows_the_same_pixels(stride: int) -> None:
    early, seen = EarlyArgmax(upsampling(2, stride), OUTPUT_NAMES), 0
    for h, w in grids(stride):
        # Each pixel of the cells is told from all others.
        count = (h + 1) * (w + 1) * stride**2
        index = torch.arange(count, dtype=torch.float32).view(1, h + 1, w + 1, stride**2)
        logits = torch.cat([index, -index], dim=3)  # of two classes
        largest = early._in_place(index, h * stride, w * stride)
        assert largest.unique().numel() == largest.numel() == h * w * stride**2
        for height, width in pairs_of(h, w, stride):
            shown = largest[:, :height, :width]
            assert torch.equal(early._in_place(index, height, width), shown)
            both_classes = torch.stack([shown, -shown], dim=1)
            assert torch.equal(early._logits(logits, height, width), both_classes)
            seen += 1
    assert seen == LARGEST**2


@given(
    height=st.integers(1, LARGEST),
    width=st.integers(1, LARGEST),
    case=st.sampled_from([(2, 8), (2, 32), (21, 16), (21, 32), (150, 8)]),
    kind=st.sampled_from(["dense", "trained"]),
)
@settings(max_examples=30)
def test_early_argmax_of_any_size_class_count_and_weights(
    height: int, width: int, case: tuple[int, int], kind: str
) -> None:
    classes, stride = case
    grid = math.ceil(height / stride), math.ceil(width / stride)
    scores = whole_numbers(1, classes, *grid, seed=height * 100 + width, largest=3)
    upsample = exact_upsampling(kind, classes, stride)
    for wanted, got in zip(*both(upsample, scores, height, width), strict=True):
        assert torch.equal(wanted, got)


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    stride=st.sampled_from([2, 4, 8, 16, 32]),
    classes=st.integers(2, 6),
    batch=st.integers(1, 3),
)
@settings(max_examples=40)
def test_early_argmax_of_larger_pictures(
    height: int, width: int, stride: int, classes: int, batch: int
) -> None:
    size = 2 * stride
    upsample = upsampling(classes, stride, whole_numbers(classes, classes, size, size, seed=2))
    grid = math.ceil(height / stride), math.ceil(width / stride)
    scores = whole_numbers(batch, classes, *grid, seed=height)
    for wanted, got in zip(*both(upsample, scores, height, width), strict=True):
        assert torch.equal(wanted, got)


def test_ties_go_to_the_lowest_class() -> None:
    weight = weight_of("trained", 4, 8)
    weight[:, 3] = weight[:, 1]  # the classes 1 and 3 have the same logits everywhere
    scores = noise(1, 4, 5, 6, seed=0)
    upsample = upsampling(4, 8, weight)
    for mask, _, margin in both(upsample, scores, 40, 48):
        assert not (mask == 3).any()
        assert (mask == 1).any()
        assert (margin[mask == 1] == 0).all()
    for mask, _, margin in both(upsample, torch.zeros(1, 4, 2, 2), 16, 16):
        assert not mask.any()
        assert not margin.any()


@pytest.mark.parametrize(
    "changed",
    [
        {"kernel_size": 12},
        {"padding": 3},
        {"stride": 4},
        {"bias": True},
        {"groups": 3},
        {"output_padding": 1},
        {"dilation": 2},
        {"kernel_size": 6, "stride": 3, "padding": 1},
    ],
    ids=str,
)
def test_another_upsampling_is_refused(
    changed: dict[str, int], one_line: Callable[[Exception], str]
) -> None:
    form = {"kernel_size": 16, "stride": 8, "padding": 4, "bias": False, **changed}
    with pytest.raises(ArchitectureError, match="use --tail deconv") as caught:
        EarlyArgmax(nn.ConvTranspose2d(3, 3, **form), ("mask",))  # type: ignore[arg-type]
    one_line(caught.value)


# -- resize -------------------------------------------------------------------------------------


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


# -- interpolation ------------------------------------------------------------------------------


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
def test_the_interpolations_file_gives_pytorchs_masks(
    interpolating: Checkpoint, precision: Precision, opset: int, tmp_path: Path
) -> None:
    spec, outputs = interpolating.spec, OUTPUT_NAMES
    source = DeployGraph(interpolating.model, spec, outputs, precision)
    assert source.tail_form is Tail.RESIZE
    file = deploy_graph(source, opset)
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


@pytest.mark.parametrize("tail", [Tail.EARLY_ARGMAX, Tail.DECONV])
def test_an_interpolation_has_no_other_tail(
    interpolating: Checkpoint, tail: Tail, one_line: Callable[[Exception], str]
) -> None:
    with pytest.raises(InputError, match=f"no tail {tail.value}") as caught:
        DeployGraph(interpolating.model, interpolating.spec, tail=tail)
    assert caught.value.exit_code == 2
    assert "use --tail auto" in one_line(caught.value)


# -- the whole graph ----------------------------------------------------------------------------


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
    made = {tail: folder / f"{tail.value}.onnx" for tail in (Tail.EARLY_ARGMAX, Tail.DECONV)}
    for tail, path in made.items():
        assert onnx_from_checkpoint(trained, path, tail=tail).tail is tail
    return made


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def run(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


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
    early, late = (run(shown[tail], images) for tail in (Tail.EARLY_ARGMAX, Tail.DECONV))
    assert early["logits"].dtype == np.float32
    assert early["logits"].shape == (2, CLASSES, 45, 70)
    scale = np.abs(late["logits"]).max()
    np.testing.assert_allclose(early["logits"], late["logits"], rtol=0, atol=ROUNDING * scale)
    np.testing.assert_array_equal(early["mask"], early["logits"].argmax(axis=1))


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
        Tail.EARLY_ARGMAX: [
            *("Conv", "Transpose", "MatMul", "Reshape", "ArgMax", "Cast", "Transpose"),
            *("DepthToSpace", "Shape", "Add", "Slice", "Squeeze", "Cast"),
        ],
    }
    early, late = (
        graph_cost(OnnxFile(files[tail]).model, {"image": (1, 320, 480, 3)})
        for tail in (Tail.EARLY_ARGMAX, Tail.DECONV)
    )
    assert early.nodes == late.nodes + 8
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


# -- the command --------------------------------------------------------------------------------


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
