"""Networks of other tools become deploy graphs that give the networks' own masks."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.graph.foreign.interface import interface_of
from fcn_deploy.graph.foreign.network import Interface, OriginalNetwork, bilinear
from fcn_deploy.graph.foreign.original import Original, read_original
from fcn_deploy.graph.foreign.preprocessing import ChannelOrder, Layout, Preprocessing
from fcn_deploy.graph.foreign.surgery import deploy_graph_of
from fcn_deploy.graph.session import cpu_session
from tests.foreign_networks import MEAN, STD, foreign_network, noise, saved


def taken(
    path: Path, preprocessing: Preprocessing, *, align_corners: bool = False
) -> tuple[Original, Interface]:
    original = read_original(path)
    return original, interface_of(original, preprocessing.layout, align_corners=align_corners)


RGB = Preprocessing("NCHW", "rgb", MEAN, STD)


def deployed(
    model: onnx.ModelProto,
    folder: Path,
    preprocessing: Preprocessing = RGB,
    outputs: tuple[str, ...] = ("mask",),
) -> tuple[onnx.ModelProto, OriginalNetwork, Interface]:
    """Return the deploy graph of a network, the network itself, and its interface."""
    original, interface = taken(saved(model, folder / "net.onnx"), preprocessing)
    graph = deploy_graph_of(original.model, preprocessing, interface, outputs)
    return graph, OriginalNetwork(original.content, preprocessing, interface), interface


def run(graph: onnx.ModelProto, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    onnx.checker.check_model(graph, full_check=True)
    names = [output.name for output in graph.graph.output]
    session = cpu_session(graph.SerializeToString(), threads=1)
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


def plain_masks(
    model: onnx.ModelProto, images: NDArray[np.uint8], channels: ChannelOrder, layout: Layout
) -> NDArray[Any]:
    """Return what a script of the network's user would give, for networks of full size."""
    pixels = images[..., ::-1] if channels == "bgr" else images
    fed = ((pixels - np.array(MEAN)) / np.array(STD)).astype(np.float32)
    fed = fed.transpose(0, 3, 1, 2) if layout == "NCHW" else fed
    session = cpu_session(model.SerializeToString(), threads=1)
    (logits,) = session.run(None, {model.graph.input[0].name: np.ascontiguousarray(fed)})
    masks: NDArray[Any] = logits.argmax(axis=1 if layout == "NCHW" else 3)
    return masks


LAYOUTS: tuple[Layout, ...] = ("NCHW", "NHWC")
ORDERS: tuple[ChannelOrder, ...] = ("rgb", "bgr")


@pytest.mark.parametrize(("layout", "channels"), list(itertools.product(LAYOUTS, ORDERS)))
def test_masks_are_those_of_a_plain_script(
    tmp_path: Path, layout: Layout, channels: ChannelOrder
) -> None:
    model = foreign_network(layout=layout)
    graph, *_ = deployed(model, tmp_path, Preprocessing(layout, channels, MEAN, STD))
    for shape in ((1, 40, 56), (2, 33, 27), (1, 1, 1)):
        images = noise(*shape)
        expected = plain_masks(model, images, channels, layout)
        mask = run(graph, images)["mask"]
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, expected)
    # What only turns the layout is gone, as is what the first convolution's weights can hold.
    operators = [node.op_type for node in graph.graph.node]
    assert operators.count("Transpose") == 1
    assert not {"Gather", "Div"} & set(operators)


def test_a_network_whose_input_no_convolution_reads_is_normalised_by_nodes(tmp_path: Path) -> None:
    model = foreign_network()
    model.graph.node.insert(0, helper.make_node("Abs", ["input"], ["positive"]))
    model.graph.node[1].input[0] = "positive"
    graph, *_ = deployed(model, tmp_path, Preprocessing("NCHW", "bgr", MEAN, STD))
    images = noise(1, 40, 56)
    expected = plain_masks(model, images, "bgr", "NCHW")
    np.testing.assert_array_equal(run(graph, images)["mask"], expected)


@pytest.mark.parametrize("align_corners", [False, True])
def test_small_logits_are_upsampled(tmp_path: Path, align_corners: bool) -> None:
    path = saved(foreign_network(stride=4), tmp_path / "net.onnx")
    original, interface = taken(path, RGB, align_corners=align_corners)
    assert interface.upsampled
    assert interface.shape.takes_all
    graph = deploy_graph_of(original.model, RGB, interface, ("logits", "margin"))
    reference = OriginalNetwork(original.content, RGB, interface)
    for shape in ((1, 64, 96), (2, 33, 27), (1, 3, 90)):
        mask, logits = reference.run(noise(*shape))
        given = run(graph, noise(*shape))
        assert mask.shape == shape
        np.testing.assert_allclose(given["logits"], logits, atol=1e-4)
        two = np.sort(logits, axis=1)[:, -2:]
        np.testing.assert_allclose(given["margin"], two[:, 1] - two[:, 0], atol=1e-4)
        assert (given["mask"] == mask)[two[:, 1] - two[:, 0] > 1e-3].all()


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_reference_upsamples_as_pytorch_does(align_corners: bool) -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).standard_normal((2, 3, 5, 7)).astype(np.float32)
    for size in ((40, 56), (33, 27), (5, 7), (1, 1)):
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(values), size, mode="bilinear", align_corners=align_corners
        )
        given = bilinear(values, size, align_corners=align_corners)
        np.testing.assert_allclose(given, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT64, TensorProto.FLOAT])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_network_with_an_argmax_of_its_own_keeps_its_mask(
    tmp_path: Path, kind: TensorProto.DataType, layout: Layout
) -> None:
    preprocessing = Preprocessing(layout, "rgb", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
    path = saved(foreign_network(layout=layout, argmax=kind), tmp_path / "net.onnx")
    original, interface = taken(path, preprocessing)
    assert interface.has_own_mask
    assert interface.num_classes == 4
    images = noise(2, 40, 56)
    fed = np.ascontiguousarray(preprocessing.apply(images))
    session = cpu_session(path.read_bytes(), threads=1)
    (own,) = session.run(None, {"input": fed})
    given = run(
        deploy_graph_of(original.model, preprocessing, interface, ("mask", "logits")), images
    )
    np.testing.assert_array_equal(given["mask"], own)
    np.testing.assert_array_equal(given["logits"].argmax(axis=1), own)
    mask, logits = OriginalNetwork(original.content, preprocessing, interface).run(images)
    np.testing.assert_array_equal(mask, own)
    np.testing.assert_allclose(logits, given["logits"], atol=1e-4)


def test_tensors_that_bear_our_names_are_renamed(tmp_path: Path) -> None:
    model = foreign_network(names=("mask", "image"))
    graph, *_ = deployed(model, tmp_path)
    expected = plain_masks(model, noise(1, 40, 56), "rgb", "NCHW")
    np.testing.assert_array_equal(run(graph, noise(1, 40, 56))["mask"], expected)
    names = [node.name for node in graph.graph.node]
    assert "" not in names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("opset", [11, 12, 13, 20, 21])
def test_opsets_beside_ours_are_converted(tmp_path: Path, opset: int) -> None:
    model = foreign_network(opset=opset, argmax=TensorProto.INT64)
    graph, reference, _ = deployed(model, tmp_path)
    assert 13 <= graph.opset_import[0].version <= 20
    mask, _ = reference.run(noise(1, 40, 56))
    np.testing.assert_array_equal(run(graph, noise(1, 40, 56))["mask"], mask)


def test_fixed_sizes_are_found_and_kept(tmp_path: Path) -> None:
    graph, _, interface = deployed(foreign_network(batch=1, size=(48, 80)), tmp_path)
    shape = interface.shape
    assert (shape.batch, shape.height, shape.width) == (1, 48, 80)
    axes = graph.graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_value for axis in axes] == [1, 48, 80, 3]
    assert run(graph, noise(1, 48, 80))["mask"].shape == (1, 48, 80)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_network_of_multiples_alone_gets_padded_pictures(tmp_path: Path, layout: Layout) -> None:
    """Halved and doubled again, odd sizes come back one pixel larger: a skip would not fit."""
    model = foreign_network(stride=2, layout=layout)
    scales = numpy_helper.from_array(
        np.array([1, 1, 2, 2] if layout == "NCHW" else [1, 2, 2, 1], np.float32), "scales"
    )
    model.graph.initializer.append(scales)
    model.graph.node[-1].output[0] = "half"
    model.graph.node.append(helper.make_node("Resize", ["half", "", "scales"], ["output"]))
    graph, reference, interface = deployed(
        model, tmp_path, Preprocessing(layout, "rgb", MEAN, STD), ("mask", "logits")
    )
    assert not interface.upsampled
    assert interface.shape.multiple == 2
    assert not interface.shape.takes((1, 97, 131))
    assert interface.shape.takes((3, 98, 2))
    assert interface.taken.takes_all
    for shape in ((1, 97, 131), (2, 40, 33), (1, 1, 1), (1, 40, 56)):
        # The colour of the mean stands in the rows and columns that are missing.
        images = noise(*shape)
        rows, columns = shape[1] % 2, shape[2] % 2
        padded = np.pad(images, ((0, 0), (0, rows), (0, columns), (0, 0)))
        padded[:, shape[1] :] = padded[:, :, shape[2] :] = MEAN
        expected = plain_masks(model, padded, "rgb", layout)[:, : shape[1], : shape[2]]
        mask, logits = reference.run(images)
        given = run(graph, images)
        np.testing.assert_array_equal(mask, expected)
        np.testing.assert_array_equal(given["mask"], expected)
        np.testing.assert_allclose(given["logits"], logits, atol=1e-4)


def test_batch_normalisations_are_folded(tmp_path: Path) -> None:
    """Also into the first convolution, which holds standard deviation and channel order as well."""
    model = foreign_network()
    graph = model.graph
    generator = np.random.default_rng(1)
    nodes = []
    for node in graph.node:
        nodes.append(node)
        given = node.output[0]
        if node.op_type == "Conv" and given in ("conv0", "conv1"):
            node.output[0] = f"{given}.plain"
            if given == "conv1":
                del node.input[2]  # the bias
            names = [f"{given}.{name}" for name in ("scale", "shift", "mean", "variance")]
            for name in names:
                values = generator.uniform(0.5, 1.5, 8).astype(np.float32)
                graph.initializer.append(numpy_helper.from_array(values, name))
            nodes.append(
                helper.make_node(
                    "BatchNormalization", [f"{given}.plain", *names], [given], epsilon=0.1
                )
            )
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    rewritten, reference, _ = deployed(
        model, tmp_path, Preprocessing("NCHW", "bgr", MEAN, STD), ("mask", "logits")
    )
    operators = [node.op_type for node in rewritten.graph.node]
    assert not {"BatchNormalization", "Div", "Gather"} & set(operators)
    mask, logits = reference.run(noise(1, 40, 56))
    given_outputs = run(rewritten, noise(1, 40, 56))
    np.testing.assert_allclose(given_outputs["logits"], logits, atol=1e-4)
    np.testing.assert_array_equal(given_outputs["mask"], mask)


@pytest.mark.parametrize(("layout", "axis"), [("NCHW", -3), ("NHWC", -1)])
def test_an_argmax_that_keeps_its_axis(tmp_path: Path, layout: Layout, axis: int) -> None:
    """As mmdeploy writes it: a class map [N, 1, H, W]."""
    model = foreign_network(layout=layout, argmax=TensorProto.INT64)
    (argmax,) = (node for node in model.graph.node if node.op_type == "ArgMax")
    del argmax.attribute[:]
    argmax.attribute.append(helper.make_attribute("axis", axis))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    graph, reference, _ = deployed(model, tmp_path, Preprocessing(layout, "rgb", MEAN, STD))
    mask, logits = reference.run(noise(2, 40, 56))
    assert mask.shape == (2, 40, 56)
    assert logits.shape == (2, 4, 40, 56)
    np.testing.assert_array_equal(mask, logits.argmax(axis=1))
    np.testing.assert_array_equal(run(graph, noise(2, 40, 56))["mask"], mask)


def test_of_several_outputs_the_first_counts(tmp_path: Path) -> None:
    model = foreign_network()
    auxiliary = helper.make_tensor_value_info("conv2", TensorProto.FLOAT, ["N", 8, "h", "w"])
    model.graph.output.append(auxiliary)
    graph, _, interface = deployed(model, tmp_path)
    assert interface.num_classes == 4
    assert [output.name for output in graph.graph.output] == ["mask"]
    expected = plain_masks(foreign_network(), noise(1, 40, 56), "rgb", "NCHW")
    np.testing.assert_array_equal(run(graph, noise(1, 40, 56))["mask"], expected)
