"""Bisecting: planted overflows and losses of precision are found in the layer they were put in."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fcn_deploy.commands.parity_tables import layer_row
from fcn_deploy.core.errors import InputError, OnnxFileError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.spec import ModelSpec, Precision
from fcn_deploy.data.dataset import NamedImage
from fcn_deploy.export.exporter import onnx_from_checkpoint
from fcn_deploy.graph.onnx_file import OnnxFile, write_metadata
from fcn_deploy.parity.bisect import TOLERANCES, bisect, save
from fcn_deploy.parity.inputs import Pictures
from fcn_deploy.parity.layer_pairs import LayerPair, paired_layers
from fcn_deploy.results.bisect import Bisection
from fcn_deploy.results.read import read_files
from tests.file_reads import counted_reads
from tests.runners.contract import pictures

Steps = list[tuple[str, str, float]]
Write = Callable[..., Path]
Both = Callable[[Steps], tuple[Path, Path]]

HARMLESS: Steps = [("scale", "Mul", 0.3), ("shift", "Add", -2.0), ("act", "Relu", 0)]
#: 255 · 4096 is beyond the largest half, 65504.
OVERFLOW: Steps = [("grow", "Mul", 4096), ("shrink", "Mul", 1 / 4096), ("act", "Relu", 0)]
#: Halves near 20000 are 16 apart.
CANCELLATION: Steps = [("raise", "Add", 20000), ("lower", "Sub", 20000), ("act", "Relu", 0)]


def graph_of(steps: Steps, precision: Precision, *, optimised: bool = False) -> onnx.ModelProto:
    """A network of scalar operations; tensors are called as their nodes, the way export does."""
    half = precision is Precision.FP16
    element = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    nodes = [
        helper.make_node("Shape", ["image"], ["sizes"], "sizes", end=1),
        helper.make_node("Cast", ["sizes"], ["sizes_float"], "sizes_float", to=TensorProto.FLOAT),
        helper.make_node("Cast", ["image"], ["pixels"], "pixels", to=TensorProto.FLOAT),
    ]
    last = "pixels"
    if half:
        nodes.append(helper.make_node("Cast", [last], ["halves"], "halves", to=element))
        last = "halves"
    weights = []
    for name, operator, value in steps:
        tensor = f"fused_{name}" if optimised else name
        operands = [last]
        if operator != "Relu":
            operands.append(f"{name}.value")
            weights.append(helper.make_tensor(f"{name}.value", element, [1], [value]))
        nodes.append(helper.make_node(operator, operands, [tensor], f"network.{name}"))
        last = tensor
    nodes.append(helper.make_node("ArgMax", [last], ["mask"], "argmax", axis=3, keepdims=0))
    return helper.make_model(
        helper.make_graph(
            nodes,
            "planted",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
            [helper.make_tensor_value_info("mask", TensorProto.INT64, ["N", "H", "W"])],
            weights,
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


@pytest.fixture
def write(tmp_path: Path, tiny_spec: ModelSpec) -> Write:
    """Factory of files: a graph with the metadata of an export."""

    def written(
        graph: onnx.ModelProto,
        precision: Precision,
        *,
        name: str = "",
        checkpoint: str = "sha256:1",
    ) -> Path:
        write_metadata(graph, tiny_spec, precision, checkpoint)
        path = tmp_path / f"{name or precision.value}.onnx"
        path.write_bytes(graph.SerializeToString())
        return path

    return written


@pytest.fixture
def both(write: Write) -> Both:
    """Factory of an FP32 and an FP16 file of the same steps."""

    def written(steps: Steps) -> tuple[Path, Path]:
        fp32, fp16 = (write(graph_of(steps, p), p) for p in (Precision.FP32, Precision.FP16))
        return fp32, fp16

    return written


def seen(count: int = 2) -> list[NDArray[np.uint8]]:
    return [pictures(1, 17 + i, 23)[0] for i in range(count)]


def listed(images: list[NDArray[np.uint8]], source: str = "test") -> Pictures:
    return Pictures(source, len(images), lambda i: NamedImage(f"p{i}", images[i]))


def run_bisect(paths: tuple[Path, Path], *, tolerance: float | None = None) -> Bisection:
    return bisect(*map(OnnxFile, paths), listed(seen()), threads=1, tolerance=tolerance)


def first_of(result: Bisection) -> tuple[str, bool]:
    """Return the first layer beyond the tolerance, and whether its values are finite."""
    assert result.first is not None
    return result.first.name, result.first.finite


def with_layers_at_once(paths: tuple[Path, Path], count: int) -> Bisection:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcn_deploy.parity.bisect.LAYERS_AT_ONCE", count)
        return run_bisect(paths)


def test_a_good_fp16_graph_keeps_its_tolerance(both: Both) -> None:
    result = run_bisect(both(HARMLESS))
    assert result.first is None
    assert [(layer.name, layer.operator) for layer in result.layers] == [
        ("pixels", "Cast"),
        ("network.scale", "Mul"),
        ("network.shift", "Add"),
        ("network.act", "Relu"),
    ]
    pixels, scale = result.layers[:2]
    assert pixels.max_error == 0
    assert pixels.shape == (1, 17, 23, 3)
    assert 0 < (scale.relative_error or 0) < 2.0**-11
    assert not scale.beyond


def test_an_overflow_is_found_in_its_layer(both: Both) -> None:
    # ONNX Runtime alone gives the right output here: it never rounds `grow` to half.
    paths = both(OVERFLOW)
    result = run_bisect(paths)
    assert first_of(result) == ("network.grow", False)
    assert [layer.beyond for layer in result.layers] == [False, True, True, True]
    entry = result.to_json()["layers"][1]
    assert (entry["finite"], entry["max_error"], entry["relative_error"]) == (False, None, None)
    assert layer_row(result.layers[1])[-2:] == ("", "NaN or infinite")
    # Whatever the tolerance: what is not finite is beyond.
    assert run_bisect(paths, tolerance=1e9).first == result.first


def test_a_cancellation_is_found_in_its_layer(both: Both) -> None:
    # The large sum itself is as exact as half can be; what is left of it is not.
    result = run_bisect(both(CANCELLATION))
    assert first_of(result) == ("network.lower", True)
    assert result.first is not None
    assert 0.01 < (result.first.relative_error or 0) < 0.1


@pytest.mark.parametrize("steps", [HARMLESS, OVERFLOW, CANCELLATION])
def test_figures_are_numpys(steps: Steps, both: Both) -> None:
    operations = {"Mul": np.multiply, "Add": np.add, "Sub": np.subtract, "Relu": np.maximum}
    measured = {layer.name: layer for layer in run_bisect(both(steps)).layers}
    exact, halves = ([picture.astype(t) for picture in seen()] for t in (np.float32, np.float16))
    for name, operator, value in steps:
        with np.errstate(over="ignore", invalid="ignore"):
            exact = [operations[operator](x, np.float32(value)) for x in exact]
            wide = [operations[operator](x, np.float32(np.float16(value))) for x in halves]
            halves = [x.astype(np.float16) for x in wide]
        wanted = np.concatenate([x.ravel() for x in exact]).astype(np.float64)
        error = np.concatenate([x.ravel() for x in halves]) - wanted
        layer = measured[f"network.{name}"]
        assert layer.scale == pytest.approx(np.sqrt(np.mean(wanted**2)))
        assert layer.finite == bool(np.isfinite(error).all())
        if layer.finite:
            assert layer.max_error == pytest.approx(np.abs(error).max())
            assert layer.rms_error == pytest.approx(np.sqrt(np.mean(error**2)))


@pytest.mark.parametrize("steps", [HARMLESS, OVERFLOW, CANCELLATION, None])
def test_figures_do_not_depend_on_chunks(steps: Steps | None, both: Both, tiny_run: Path) -> None:
    # In an export, skip connections cross the segments' borders.
    exported = tiny_run / "model.onnx", tiny_run / "model.fp16.onnx"
    paths, chunks = (both(steps), (1, 2, 3, 100)) if steps else (exported, (1, 7, 100))
    results = [with_layers_at_once(paths, n).layers for n in chunks]
    assert all(layers == results[0] for layers in results)


def test_a_good_export_passes_and_names_its_modules(tiny_run: Path) -> None:
    paths = tiny_run / "model.onnx", tiny_run / "model.fp16.onnx"
    result = run_bisect(paths)
    assert result.first is None
    names = [layer.name for layer in result.layers]
    assert len(set(names)) == len(names)
    # The FP16 file subtracts another mean, one in eighths: that is no error of a layer.
    assert "subtract_mean" not in names
    expected = [
        "network.body.conv1",
        "network.body.layer2.0.relu.Relu_2",
        "network.body.layer2.1.conv1",
        "network.score",
        "tail.MatMul",
    ]
    assert [name for name in names if name in expected] == expected
    worst = max(layer.relative_error or 0 for layer in result.layers)
    assert 2.0**-13 < worst < TOLERANCES[Precision.FP16] / 3


def test_the_reference_is_what_the_whole_graph_gives(tiny_run: Path) -> None:
    # Segment by segment or as one graph, with fusions or without: the same network.
    graph = OnnxFile(tiny_run / "model.onnx").model
    result = run_bisect((tiny_run / "model.onnx", tiny_run / "model.onnx"))
    assert {layer.max_error for layer in result.layers} == {0.0}
    last = result.layers[-1]
    graph.graph.output.add(name=last.tensor).type.tensor_type.elem_type = TensorProto.FLOAT
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    values = [session.run([last.tensor], {"image": p[None]})[0].ravel() for p in seen()]
    rms = np.sqrt(np.mean(np.concatenate(values).astype(np.float64) ** 2))
    assert last.scale == pytest.approx(rms, rel=1e-5)


@pytest.mark.slow
def test_an_overflow_planted_in_a_checkpoint(overflowing: Path, tmp_path: Path) -> None:
    paths = tmp_path / "model.onnx", tmp_path / "model.fp16.onnx"
    for path, precision in zip(paths, (Precision.FP32, Precision.FP16), strict=True):
        onnx_from_checkpoint(overflowing, path, precision=precision, checked=False)
    result = run_bisect(paths)
    assert first_of(result) == ("network.body.layer2.0.conv1", False)


def quantised(graph: onnx.ModelProto, tensor: str, scale: float) -> onnx.ModelProto:
    """Put a Q/DQ pair behind a tensor, named as ONNX Runtime's quantizer does."""
    nodes = list(graph.graph.node)
    place = next(i for i, node in enumerate(nodes) if tensor in node.output)
    q, dq = f"{tensor}_QuantizeLinear_Output", f"{tensor}_DequantizeLinear_Output"
    for node in nodes:
        for i, name in enumerate(node.input):
            if name == tensor:
                node.input[i] = dq
    graph.graph.initializer.append(helper.make_tensor("q.scale", TensorProto.FLOAT, [], [scale]))
    graph.graph.initializer.append(helper.make_tensor("q.zero", TensorProto.UINT8, [], [0]))
    pair = [
        helper.make_node("QuantizeLinear", [tensor, "q.scale", "q.zero"], [q], "q"),
        helper.make_node("DequantizeLinear", [q, "q.scale", "q.zero"], [dq], "dq"),
    ]
    nodes[place + 1 : place + 1] = pair
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph


def test_a_quantised_layer_is_seen_dequantised(write: Write) -> None:
    fp32 = write(graph_of(HARMLESS, Precision.FP32), Precision.FP32)
    # Steps of 8 over values up to 76.5: an error of 8 / √12 RMS.
    coarse = quantised(graph_of(HARMLESS, Precision.FP32), "scale", 8.0)
    pairs = {pair.tensor: pair for pair in paired_layers(OnnxFile(fp32).model, coarse)}
    assert pairs["scale"] == LayerPair(
        "network.scale", "Mul", "scale", "scale_DequantizeLinear_Output"
    )
    assert pairs["shift"].candidate_tensor == "shift"
    result = run_bisect((fp32, write(coarse, Precision.FP32, name="int8")), tolerance=0.02)
    assert result.first is not None
    assert result.first.name == "network.scale"
    assert (result.first.max_error or 9) <= 4.001
    assert result.first.rms_error == pytest.approx(8 / np.sqrt(12), rel=0.1)


def test_a_layer_renamed_by_the_quantizer_is_paired(write: Write) -> None:
    renamed = quantised(graph_of(HARMLESS, Precision.FP32), "scale", 8.0)
    for node in renamed.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == "scale":
                    names[i] = "scale_QuantizeLinear_Input"
    pairs = paired_layers(graph_of(HARMLESS, Precision.FP32), renamed)
    assert "scale_DequantizeLinear_Output" in {pair.candidate_tensor for pair in pairs}


def test_shape_arithmetic_and_integers_are_no_layers() -> None:
    graph = graph_of(HARMLESS, Precision.FP32)
    tensors = [pair.tensor for pair in paired_layers(graph, graph)]
    assert tensors == ["pixels", "scale", "shift", "act"]


def test_files_of_different_checkpoints_are_refused(
    write: Write, one_line: Callable[[Exception], str]
) -> None:
    fp32 = write(graph_of(HARMLESS, Precision.FP32), Precision.FP32, checkpoint="sha256:aaaa")
    fp16 = write(graph_of(HARMLESS, Precision.FP16), Precision.FP16, checkpoint="sha256:bbbb")
    with pytest.raises(InputError, match="different checkpoints") as caught:
        run_bisect((fp32, fp16))
    text = one_line(caught.value)
    for word in ("aaaa", "bbbb", str(fp32), str(fp16), "`fcn-deploy export --fp16`"):
        assert word in text


def test_files_that_cannot_be_compared_are_refused(
    write: Write, both: Both, tmp_path: Path
) -> None:
    paths = both(HARMLESS)
    optimised = graph_of(HARMLESS, Precision.FP16, optimised=True)
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(graph_of(HARMLESS, Precision.FP32).SerializeToString())
    for pair, words in (
        (paths[::-1], "the reference must be fp32"),
        ((paths[0], write(optimised, Precision.FP16, name="optimised")),
         "1 layers in common: one is foreign, or was optimised"),
        ((paths[0], foreign), "carries no fcn-deploy spec"),
    ):  # fmt: skip
        with pytest.raises((InputError, OnnxFileError), match=words):
            run_bisect(pair)
    with pytest.raises(InputError, match="no pictures"):
        bisect(*map(OnnxFile, paths), listed([]), threads=1)
    broken = both([("scale", "Mul", float("nan")), ("act", "Relu", 0)])
    with pytest.raises(InputError, match=r"reference itself .* at network\.scale"):
        run_bisect(broken)


def test_each_file_is_read_once(both: Both) -> None:
    paths = both(HARMLESS)
    with counted_reads() as reads:
        run_bisect(paths)
    assert [reads[path.resolve()] for path in paths] == [1, 1]


def test_the_result_file(both: Both, tmp_path: Path) -> None:
    paths = both(OVERFLOW)
    calls: list[None] = []
    result = bisect(
        *map(OnnxFile, paths),
        listed(seen(3), "three"),
        threads=1,
        on_picture=lambda: calls.append(None),
    )
    assert len(calls) == 3
    target = tmp_path / "bisect" / "fp16.json"
    save(result, target)
    content = json.loads(target.read_text(encoding="utf-8"))
    assert {"machine", "versions", "created"} <= content.keys()
    assert (content["schema"], content["kind"]) == (2, "bisect")
    assert content["reference"] == {
        "file": str(paths[0]),
        "digest": file_digest(paths[0]),
        "precision": "fp32",
    }
    assert content["candidate"]["precision"] == "fp16"
    assert content["images"] == {"source": "three", "count": 3}
    assert content["tolerance"] == TOLERANCES[Precision.FP16]
    assert content["first"] == "network.grow"
    assert content["layers"][0] == {
        "name": "pixels",
        "operator": "Cast",
        "tensor": "pixels",
        "shape": [1, 17, 23, 3],
        "scale": result.layers[0].scale,
        "max_error": 0.0,
        "rms_error": 0.0,
        "relative_error": 0.0,
        "finite": True,
        "beyond": False,
    }
    assert (content["arguments"], content["options"]) == (None, None)
    assert read_files([target]).bisections == (result,)
