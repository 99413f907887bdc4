"""Files that are right but seldom so are taken, and what only looks like logits is not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.core.spec import ModelSpec, Precision, SizeRange
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.graph.foreign.export import foreign_graph
from fcn_deploy.graph.foreign.imported import Imported
from fcn_deploy.graph.foreign.interface import interface_of
from fcn_deploy.graph.foreign.original import read_original
from fcn_deploy.graph.foreign.preprocessing import Preprocessing, normalisation
from fcn_deploy.graph.self_check import difference
from tests.foreign_networks import foreign_network, saved

Change = Callable[[onnx.ModelProto], None]


def taken(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return the deploy graph of a file, proven against the file."""
    original = read_original(saved(model, path))
    interface = interface_of(original, "NCHW", align_corners=False)
    classes = tuple(f"class {index}" for index in range(interface.num_classes))
    fed = Preprocessing("NCHW", "rgb", *normalisation(None, None, None))
    sizes = SizeRange((64, 64), (64, 64), (64, 64))
    palette = voc_palette(len(classes))
    spec = ModelSpec("onnx:a", classes, palette, sizes, input_shape=interface.taken)
    return foreign_graph(Imported("a", original.digest, fed, interface, spec), original.content)


def as_version_3(model: onnx.ModelProto) -> None:
    model.ir_version = 3
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        model.graph.input.append(value)


def by_the_long_name(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.domain = "ai.onnx"


def in_half_inside(model: onnx.ModelProto) -> None:
    """Half weights and logits, with a normalisation, before an argmax of its own."""
    graph = model.graph
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for name in ("scale", "shift", "mean", "variance"):
        values = np.full(8, 0.75, np.float16)
        graph.initializer.append(numpy_helper.from_array(values, name))
    last = next(node for node in graph.node if node.output[0] == "conv0")
    last.output[0] = "before"
    norm = ["before", "scale", "shift", "mean", "variance"]
    graph.node.insert(1, helper.make_node("BatchNormalization", norm, ["conv0"]))
    graph.node[0].input[0] = "half"
    half = helper.make_node("Cast", ["input"], ["half"], to=TensorProto.FLOAT16)
    graph.node.insert(0, half)


@pytest.mark.parametrize(
    ("change", "opset"),
    [(as_version_3, 13), (as_version_3, 11), (by_the_long_name, 17), (in_half_inside, 14)],
    ids=["weights that are inputs", "to be converted", "ai.onnx", "half"],
)
def test_valid_files_of_any_form_are_taken(change: Change, opset: int, tmp_path: Path) -> None:
    argmax = TensorProto.INT32 if change is in_half_inside else None
    model = foreign_network(opset=opset, argmax=argmax)
    change(model)
    assert taken(model, tmp_path / "a.onnx").graph.output[0].name == "mask"


def test_a_network_may_need_a_larger_picture(tmp_path: Path) -> None:
    model = foreign_network()
    pads = numpy_helper.from_array(np.array([0, 0, 150, 150, 0, 0, 0, 0]), "pads")
    ends = [numpy_helper.from_array(np.array([150, 150]), "starts"),
            numpy_helper.from_array(np.array([1 << 30, 1 << 30]), "stops"),
            numpy_helper.from_array(np.array([2, 3]), "axes")]  # fmt: skip
    model.graph.initializer.extend([pads, *ends])
    model.graph.node[0].input[0] = "image_part"
    cut = ["wide", "starts", "stops", "axes"]
    model.graph.node.insert(0, helper.make_node("Slice", cut, ["image_part"]))
    wide = helper.make_node("Pad", ["input", "pads"], ["wide"], mode="reflect")
    model.graph.node.insert(0, wide)
    original = read_original(saved(model, tmp_path / "a.onnx"))
    assert interface_of(original, "NCHW", align_corners=False).shape.smallest == 192
    taken(model, tmp_path / "a.onnx")


def coloured(model: onnx.ModelProto) -> None:
    """The class map becomes a picture."""
    colours = np.random.default_rng(0).random((4, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(colours, "palette"))
    model.graph.node[-1].output[0] = "index"
    model.graph.node.append(helper.make_node("Gather", ["palette", "index"], ["output"]))
    axes = ["N", "H", "W", 3]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("output", TensorProto.FLOAT, axes))


def the_first_of_topk(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    model.graph.node[-1].output[0] = "scores"
    top = helper.make_node("TopK", ["scores", "one"], ["best", "output"], axis=1)
    model.graph.node.append(top)
    kind = helper.make_tensor_value_info("output", TensorProto.INT64, ["N", 1, "H", "W"])
    model.graph.output[0].CopyFrom(kind)


@pytest.mark.parametrize(
    ("change", "argmax", "said"),
    [
        (coloured, TensorProto.INT64, "what it makes of its own class map"),
        (the_first_of_topk, None, "whole numbers that no argmax"),
    ],
)
def test_what_is_made_of_a_class_map_is_not_taken_for_logits(
    change: Change, argmax: TensorProto.DataType | None, said: str, tmp_path: Path
) -> None:
    model = foreign_network(argmax=argmax)
    change(model)
    with pytest.raises(OnnxFileError, match=said):
        read_original(saved(model, tmp_path / "a.onnx"))


def test_imagenets_mean_is_turned_with_the_channels() -> None:
    mean, std = normalisation(None, None, None)
    assert normalisation(None, None, None, "bgr") == (mean[::-1], std[::-1])
    given = ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert normalisation(*given, None, "bgr") == given


@pytest.mark.parametrize("never", [-1e9, -np.inf])
def test_a_class_that_never_wins_hides_no_error(never: float) -> None:
    logits = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    logits[:, 3] = never
    mask = logits.argmax(axis=1).astype(np.uint8)
    right = {"mask": mask, "logits": logits}
    assert difference(mask, logits, right, Precision.FP32, "the original") is None
    other = {"mask": logits[:, :3].argmin(axis=1).astype(np.uint8)}
    said = difference(mask, logits, other, Precision.FP32, "the original")
    assert said is not None
    assert "decided pixels" in said
    close = np.array([0.1, 0.05, -5, -6], np.float32).reshape(1, 4, 1, 1)  # the error is the 6's
    second = {"mask": np.ones((1, 1, 1), np.uint8)}
    assert difference(second["mask"] * 0, close, second, Precision.FP16, "it") is None
    logits[0, 0, 0, 0] = np.nan
    assert "NaN" in (difference(mask, logits, right, Precision.FP32, "the original") or "")
