"""The exported file under plain onnxruntime, with no code of ours, and the self-check's teeth."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from fcn_deploy.core.errors import ExportError, InputError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.export import exporter as exporter_module
from fcn_deploy.export import simplify
from fcn_deploy.export.check import check_graph
from fcn_deploy.export.exporter import deploy_graph, fp16_graph, onnx_from_checkpoint
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.networks.checkpoint import load_checkpoint
from fcn_deploy.networks.deploy_graph import DeployGraph
from fcn_deploy.runners.base import open_runner
from tests.runners.contract import pictures


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 97, 131), (1, 561, 728), (3, 64, 96)])
def test_plain_onnxruntime_runs_the_file(tiny_run: Path, shape: tuple[int, int, int]) -> None:
    session = onnxruntime.InferenceSession(
        tiny_run / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (entry,), (result,) = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.type, entry.shape) == ("image", "tensor(uint8)", ["N", "H", "W", 3])
    assert (result.name, result.type, result.shape) == ("mask", "tensor(uint8)", ["N", "H", "W"])
    images = pictures(*shape)
    (mask,) = session.run(None, {"image": images})
    with open_runner(Run(tiny_run), "torch", outputs=("mask", "margin"), device="cpu") as reference:
        expected = reference.run(images)
    assert mask.shape == shape
    assert expected.margin is not None
    decided = expected.margin > 1e-3
    np.testing.assert_array_equal(mask[decided], expected.mask[decided])


def test_the_file_explains_itself(tiny_run: Path) -> None:
    metadata = OnnxFile(tiny_run / "model.fp16.onnx").metadata
    assert metadata.precision is Precision.FP16
    assert metadata.outputs == ("mask",)
    assert metadata.checkpoint_digest == file_digest(tiny_run / "model.safetensors")
    assert metadata.spec == load_checkpoint(tiny_run / "model.safetensors").spec


def test_fp16_file_computes_in_half(tiny_run: Path) -> None:
    graph = onnx.load(tiny_run / "model.fp16.onnx").graph
    convolution_weights = {n.input[1] for n in graph.node if "Conv" in n.op_type}
    types = {i.data_type for i in graph.initializer if i.name in convolution_weights}
    assert types == {onnx.TensorProto.FLOAT16}


def test_weights_of_an_fp16_file_are_those_of_fp32_rounded_once(tiny_run: Path) -> None:
    exact, halves = (
        {
            t.name: onnx.numpy_helper.to_array(t)
            for t in onnx.load(tiny_run / name).graph.initializer
        }
        for name in ("model.onnx", "model.fp16.onnx")
    )
    rounded = [name for name, values in halves.items() if values.dtype == np.float16]
    assert len(rounded) > 20
    for name in rounded:
        if name in exact:  # all but the first convolution's bias, which holds a part of the mean
            np.testing.assert_array_equal(halves[name], exact[name].astype(np.float16))
    assert sum(name not in exact for name in rounded) == 1


def test_uint8_stands_at_the_edges_only(tiny_run: Path) -> None:
    # TensorRT refuses anything else: cast first, transpose after, cast to uint8 last.
    model = onnx.shape_inference.infer_shapes(onnx.load(tiny_run / "model.onnx"))
    uint8 = {
        value.name
        for value in model.graph.value_info
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    }
    assert uint8 == set()
    readers = {node.op_type for node in model.graph.node if "image" in node.input}
    assert readers == {"Cast", "Shape"}
    assert [n.op_type for n in model.graph.node if "mask" in n.output] == ["Cast"]


def test_no_local_path_leaves_in_the_file(tiny_run: Path) -> None:
    content = (tiny_run / "model.onnx").read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b".py" not in content


@pytest.mark.slow
def test_all_outputs(tiny_run: Path, tmp_path: Path) -> None:
    written = onnx_from_checkpoint(
        tiny_run / "model.safetensors", tmp_path / "all.onnx", outputs=["margin", "logits"]
    )
    assert written.outputs == ("mask", "logits", "margin")
    session = onnxruntime.InferenceSession(written.path, providers=["CPUExecutionProvider"])
    mask, logits, margin = session.run(["mask", "logits", "margin"], {"image": pictures(2, 33, 47)})
    assert (logits.shape, margin.shape) == ((2, 5, 33, 47), (2, 33, 47))
    np.testing.assert_array_equal(mask, logits.argmax(1))
    np.testing.assert_allclose(margin, np.sort(logits, 1)[:, -1] - np.sort(logits, 1)[:, -2])


@pytest.mark.parametrize("opset", [16, 21])
def test_unsupported_opsets_are_refused(tiny_run: Path, tmp_path: Path, opset: int) -> None:
    with pytest.raises(InputError, match="choose 17 to 20"):
        onnx_from_checkpoint(tiny_run / "model.safetensors", tmp_path / "m.onnx", opset=opset)
    assert list(tmp_path.iterdir()) == []


def test_unknown_output_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown output 'maks'"):
        onnx_from_checkpoint(tiny_run / "model.safetensors", tmp_path / "m.onnx", outputs=["maks"])


class _ChannelsSwapped(DeployGraph):
    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return super().forward(image.flip(3))


class _CropOffByOne(DeployGraph):
    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (mask,) = super().forward(image)
        return (torch.cat([mask[:, 1:], mask[:, :1]], dim=1),)


class _Signed(DeployGraph):
    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (super().forward(image)[0].to(torch.int32),)


@pytest.mark.slow
@pytest.mark.parametrize("broken", [_ChannelsSwapped, _CropOffByOne, _Signed])
def test_a_wrong_graph_fails_the_check_and_leaves_no_file(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: type[DeployGraph]
) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"the old file")
    monkeypatch.setattr(exporter_module, "DeployGraph", broken)
    with pytest.raises(ExportError, match="self-check"):
        onnx_from_checkpoint(tiny_run / "model.safetensors", target)
    assert target.read_bytes() == b"the old file"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.slow
def test_the_check_sees_nan(tiny_run: Path) -> None:
    checkpoint = load_checkpoint(tiny_run / "model.safetensors")
    poisoned = DeployGraph(checkpoint.model, checkpoint.spec, ("mask", "logits"))
    score = poisoned.network.get_submodule("score")
    assert isinstance(score, nn.Conv2d)
    with torch.no_grad():
        score.weight.fill_(float("nan"))
    graph = deploy_graph(poisoned, 20)
    with pytest.raises(ExportError, match="self-check"):
        check_graph(graph, checkpoint, ("mask", "logits"), Precision.FP32)


@pytest.mark.slow
@pytest.mark.usefixtures("traced_anew")
def test_the_same_weights_give_the_same_bytes(tiny_run: Path) -> None:
    checkpoint = load_checkpoint(tiny_run / "model.safetensors")
    model = DeployGraph(checkpoint.model, checkpoint.spec, ("mask",))
    once, again = (deploy_graph(model, 17).SerializeToString() for _ in range(2))
    assert once == again


@pytest.mark.parametrize("opset", [17, 20])
def test_nodes_are_named_after_their_modules(tiny_run: Path, opset: int) -> None:
    checkpoint = load_checkpoint(tiny_run / "model.safetensors")
    names = {}
    for precision in (Precision.FP32, Precision.FP16):
        model = DeployGraph(checkpoint.model, checkpoint.spec, ("mask",))
        graph = deploy_graph(model, opset)
        if precision is Precision.FP16:
            graph = fp16_graph(graph)
        names[precision] = {node.name: node.op_type for node in graph.graph.node}
        assert len(names[precision]) == len(graph.graph.node)
        assert "" not in names[precision]
        modules = dict(model.named_modules())
        for name, operator in names[precision].items():
            if "Conv" in operator:  # it bears the name of its weights, not of the BatchNorm in it
                assert isinstance(modules[name], (nn.Conv2d, nn.ConvTranspose2d))
    expected = {
        "subtract_mean": "Sub",
        "network.body.maxpool": "MaxPool",
        "network.body.layer1.0.Add": "Add",
        "network.body.layer2.0.relu.Relu_2": "Relu",
        "network.body.layer2.0.downsample.0": "Conv",
        "tail.corners": "Conv",
        "tail.MatMul": "MatMul",
    }
    assert expected.items() <= names[Precision.FP32].items()
    of_modules = [
        {name for name in found if name.startswith(("network.", "subtract_mean", "tail."))}
        for found in names.values()
    ]
    assert of_modules[0] == of_modules[1]


def graph_with_a_crop(
    *, starts: tuple[int, int] = (1, 1), axes: str = "initializer"
) -> onnx.GraphProto:
    """``seen`` cropped to the picture's size, as the exporter writes it: rows, then columns."""
    helper, int64 = onnx.helper, onnx.TensorProto.INT64
    nodes, numbers = [], []
    source = "seen"
    for axis, (start, output) in enumerate(zip(starts, ("rows", "cropped"), strict=True), 2):
        names = [f"{output}.{part}" for part in ("starts", "ends", "axes")]
        for name, value in zip(names, (start, 10_000, axis), strict=True):
            tensor = onnx.numpy_helper.from_array(np.array([value]), name)
            if not name.endswith("axes") or axes == "initializer":
                numbers.append(tensor)
            elif axes == "Constant":
                nodes.append(helper.make_node("Constant", [], [name], value=tensor))
            else:
                numbers.append(onnx.numpy_helper.from_array(np.array([value]), f"{name}.made"))
                nodes.append(helper.make_node("Abs", [f"{name}.made"], [name]))
        nodes.append(helper.make_node("Slice", [source, *names], [output], name=output))
        nodes[-1].metadata_props.add(
            key="pkg.torch.onnx.name_scopes", value="['', 'tail', 'slice']"
        )
        source = output
    value = helper.make_tensor_value_info
    return helper.make_graph(
        nodes,
        "crop",
        [
            value("image", onnx.TensorProto.UINT8, ["N", "H", "W", 3]),
            value("seen", int64, ["N", 1, "h", "w"]),
        ],
        [value("cropped", int64, ["N", 1, "H", "W"])],
        numbers,
    )


@pytest.mark.parametrize("axes", ["initializer", "Constant"])
def test_a_crop_of_two_slices_becomes_one_wherever_its_numbers_stand(axes: str) -> None:
    graph = graph_with_a_crop(axes=axes)
    simplify.tidy(graph)
    assert [node.op_type for node in graph.node] == ["Shape", "Add", "Slice"]
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=8
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    seen = np.arange(80).reshape(1, 1, 8, 10)
    (cropped,) = session.run(None, {"image": np.zeros((1, 5, 7, 3), np.uint8), "seen": seen})
    np.testing.assert_array_equal(cropped, seen[:, :, 1:6, 1:8])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"starts": (1, 2)}, "begins at row 1 and column 2"),
        ({"axes": "computed"}, "no single constant for the axes of the crop"),
    ],
)
def test_a_crop_of_another_exporter_is_refused_in_words(
    changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(ExportError, match=rf"{words}.*requirements\.lock"):
        simplify.tidy(graph_with_a_crop(**changed))
