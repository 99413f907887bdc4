"""INT8 files: what stands in them, what they compute, and what is refused."""

import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from fcn_deploy.core.errors import BackendError, ExportError, ImageError, InputError, OnnxFileError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision, Product
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.data.scenes.render import draw_scene
from fcn_deploy.graph.int8_for_ort_cpu import SUM_SCALES_KEY, for_onnx_runtime_cpu
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.graph.quantize import Quantized, chosen_convolutions, quantized_onnx
from fcn_deploy.graph.session import cpu_session
from fcn_deploy.runners.base import open_runner, unavailable_reason
from fcn_deploy.tensorrt.build import engine_from_onnx
from fcn_deploy.tensorrt.engine_file import read_engine
from tests.command_line import FcnDeploy, refused
from tests.conftest import WriteVocFolder
from tests.tensorrt_fixtures import needs_rtx

#: Float in every form of the tail.
KEPT = ("network.body.conv1", "network.score")


def drawn(count: int) -> list[NDArray[np.uint8]]:
    """Scenes of different sizes."""
    return [draw_scene(0, index, (48 + 8 * index, 64))[0] for index in range(count)]


@pytest.fixture(scope="session")
def int8(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """The tiny run in INT8, made once."""
    target = tmp_path_factory.mktemp("int8") / "model.int8.onnx"
    return quantized_onnx(OnnxFile(tiny_run / "model.onnx"), target, iter(drawn(6)), threads=1)


@pytest.fixture(scope="session")
def graph(int8: Quantized) -> onnx.GraphProto:
    return onnx.load(int8.path).graph


def values(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def test_what_was_done_is_told(int8: Quantized, tiny_run: Path) -> None:
    assert int8.digest == file_digest(int8.path)
    assert (int8.outputs, int8.opset, int8.pictures) == (("mask",), 20, 6)
    assert len(int8.quantized) == 19
    assert set(KEPT) <= set(int8.kept)
    assert int8.agreement is not None
    assert int8.agreement > 0.9  # random weights: many pixels are nearly tied
    written, source = OnnxFile(int8.path).metadata, OnnxFile(tiny_run / "model.onnx").metadata
    assert written.precision is Precision.INT8
    assert (written.spec, written.checkpoint_digest) == (source.spec, source.checkpoint_digest)


def test_opset_and_ir_are_the_source_s(int8: Quantized, tiny_run: Path) -> None:
    written, source = onnx.load(int8.path), onnx.load(tiny_run / "model.onnx")
    assert [(o.domain, o.version) for o in written.opset_import] == [
        (o.domain, o.version) for o in source.opset_import
    ]
    assert written.ir_version == source.ir_version
    assert len(written.graph.value_info) == 0
    onnx.checker.check_model(written, full_check=True)


def test_the_rules_of_tensorrt(graph: onnx.GraphProto) -> None:
    known = values(graph)
    pairs = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        zero = known[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
    for tensor in graph.initializer:  # no bias in integers
        assert tensor.data_type != TensorProto.INT32


def test_weights_are_quantized_per_channel(
    int8: Quantized, graph: onnx.GraphProto, tiny_run: Path
) -> None:
    known, exact = values(graph), values(onnx.load(tiny_run / "model.onnx").graph)
    maker = {output: node for node in graph.node for output in node.output}
    seen = 0
    for node in graph.node:
        if node.name not in int8.quantized:
            continue
        dequantize = maker[node.input[1]]
        weights, scales = known[dequantize.input[0]], known[dequantize.input[1]]
        assert weights.dtype == np.int8
        assert scales.shape == weights.shape[:1]
        (axis,) = (a.i for a in dequantize.attribute if a.name == "axis")
        assert axis == 0
        seen_weights = weights * scales[:, None, None, None]
        error = np.abs(seen_weights - exact[f"{node.name}.weight"])
        assert (error <= 0.501 * scales[:, None, None, None]).all()
        assert maker[node.input[0]].op_type == "DequantizeLinear"
        assert set(node.input[2:]) <= set(exact)  # biases stay as they are
        seen += 1
    assert seen == 19


def test_the_ends_stay_in_float(graph: onnx.GraphProto, tiny_run: Path) -> None:
    weights, source = values(graph), onnx.load(tiny_run / "model.onnx").graph
    before = {node.name: node for node in source.node}
    relus = [index for index, node in enumerate(graph.node) if node.op_type == "Relu"]
    nodes = list(graph.node)
    for node in (n for n in nodes if n.name in KEPT):
        assert list(node.input) == list(before[node.name].input)
        assert weights[node.input[1]].dtype == np.float32
    tail = nodes[relus[-1] :]
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in tail}


def test_nothing_is_computed_for_nobody(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    assert all(any(output in read for output in node.output) for node in graph.node)
    assert {tensor.name for tensor in graph.initializer} <= read


def test_a_sum_reads_its_residual_alone_in_integers(graph: onnx.GraphProto) -> None:
    maker = {output: node for node in graph.node for output in node.output}
    sums = [n for n in graph.node if n.op_type == "Add" and n.name.startswith("network.body.")]
    assert len(sums) == 8
    for node in sums:
        made_by = Counter(maker[name].op_type for name in node.input)
        assert made_by == {"Conv": 1, "DequantizeLinear": 1}


def test_the_same_pictures_give_the_same_bytes(
    int8: Quantized, tiny_run: Path, tmp_path: Path
) -> None:
    again = quantized_onnx(
        OnnxFile(tiny_run / "model.onnx"), tmp_path / "again.onnx", drawn(6), checked=False
    )
    assert again.digest == int8.digest
    assert again.agreement is None


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 97, 131), (3, 64, 96)])
def test_masks_are_close_to_those_of_fp32(
    int8: Quantized, tiny_run: Path, shape: tuple[int, int, int]
) -> None:
    images = np.stack([draw_scene(3, index, shape[1:])[0] for index in range(shape[0])])
    model = onnx.load(int8.path)
    files = (
        (tiny_run / "model.onnx").read_bytes(),
        model.SerializeToString(),
        for_onnx_runtime_cpu(model).SerializeToString(),
    )
    expected, as_written, rewritten = (
        cpu_session(content, threads=1).run(["mask"], {"image": images})[0] for content in files
    )
    assert as_written.shape == rewritten.shape == shape
    # Random weights are near-tied everywhere.
    assert (as_written == expected).mean() > 0.9
    assert (rewritten == expected).mean() > 0.9


def test_onnx_runtime_s_cpu_computes_it_in_integers(int8: Quantized, tmp_path: Path) -> None:
    import onnxruntime

    model = onnx.load(int8.path)
    before = model.SerializeToString()
    rewritten = for_onnx_runtime_cpu(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(rewritten, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(
        rewritten.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    done = Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert done["QLinearConv"] == 19
    assert done["QLinearAdd"] == 7  # the last one's sum goes to the scores, in float
    assert done["Relu"] <= 1


def test_a_graph_without_scales_is_not_rewritten(tiny_run: Path) -> None:
    model = onnx.load(tiny_run / "model.onnx")
    assert for_onnx_runtime_cpu(model) is model
    assert SUM_SCALES_KEY not in {entry.key for entry in model.metadata_props}


def test_whatever_the_tail_it_stays_in_float(tiny_run: Path) -> None:
    # A convolution behind the scores, as in the tail that takes the argmax early.
    model = onnx.load(tiny_run / "model.onnx")
    (score,) = (node for node in model.graph.node if node.name == "network.score")
    behind = onnx.helper.make_node("Conv", [score.output[0], "w"], ["behind"], "network.behind")
    model.graph.node.append(behind)
    chosen, kept = chosen_convolutions(model)
    assert "network.behind" in kept
    assert "network.score" in kept
    assert len(chosen) == 19


def broken() -> Iterable[NDArray[np.uint8]]:
    yield draw_scene(0, 0, (48, 64))[0]
    raise ImageError("b.png cannot be decoded", "remove or replace the file")


@pytest.mark.parametrize(
    ("pictures", "error"), [([], InputError), (broken(), ImageError)], ids=["none", "damaged"]
)
def test_pictures_that_do_not_serve_leave_nothing(
    tiny_run: Path, tmp_path: Path, pictures: Iterable[NDArray[np.uint8]], error: type[Exception]
) -> None:
    with pytest.raises(error):
        quantized_onnx(OnnxFile(tiny_run / "model.onnx"), tmp_path / "model.int8.onnx", pictures)
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_stays_where_the_check_fails(tiny_run: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.int8.onnx"
    target.write_bytes(b"older")
    with pytest.raises(ExportError, match="keep their class in INT8"):
        quantized_onnx(OnnxFile(tiny_run / "model.onnx"), target, drawn(1), min_agreement=1.1)
    assert target.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [target]


def test_only_fp32_files_of_ours_are_taken(int8: Quantized, tiny_run: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.int8.onnx"
    foreign = tmp_path / "foreign.onnx"
    model = onnx.load(tiny_run / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, foreign)
    for source, words in (
        (tiny_run / "model.fp16.onnx", "INT8 is made from FP32"),
        (int8.path, "INT8 is made from FP32"),
        (foreign, "carries no fcn-deploy spec"),
        (tmp_path / "none.onnx", "no ONNX file"),
    ):
        with pytest.raises(OnnxFileError, match=words):
            quantized_onnx(OnnxFile(source), target, drawn(1))
    plain = onnx.load(tiny_run / "model.onnx")
    plain.graph.input[0].name = "input"
    onnx.save(plain, foreign)
    with pytest.raises(OnnxFileError, match="no deploy graph"):
        quantized_onnx(OnnxFile(foreign), target, drawn(1))
    assert not target.exists()


def copied(tiny_run: Path, tmp_path: Path) -> Run:
    """A run that holds its checkpoint alone."""
    run = Run(tmp_path / "run")
    run.root.mkdir()
    shutil.copy(tiny_run / "model.safetensors", run.root)
    return run


@pytest.mark.slow
def test_the_command(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path, voc_folder: WriteVocFolder
) -> None:
    run, data = copied(tiny_run, tmp_path), voc_folder(train=3)
    done = fcn_deploy(
        "export", run.root, "--int8", "--calibration", data, "--calibration-size", "2",
        "--outputs", "logits",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "19 convolutions in int8" in done.out
    assert "calibrated on 2 pictures" in done.out
    written = OnnxFile(run.onnx(Precision.INT8)).metadata
    assert (written.precision, written.outputs) == (Precision.INT8, ("mask", "logits"))
    assert not run.onnx(Precision.FP32).exists()
    found = fcn_deploy("parity", run.root, "--bisect", "--int8", "--data", data)
    refused(found, "model.onnx", "fcn-deploy export")


def test_the_command_refuses(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written_before(checkpoint: Path, target: Path, **_: object) -> None:
        shutil.copy(tiny_run / "model.onnx", target)

    monkeypatch.setattr("fcn_deploy.export.exporter.onnx_from_checkpoint", written_before)
    run = copied(tiny_run, tmp_path)
    refused(fcn_deploy("export", run.root, "--int8"), "metrics.json", "--calibration DIR")
    nowhere = tmp_path / "nowhere"
    refused(fcn_deploy("export", run.root, "--int8", "--calibration", nowhere), "no such file")
    nowhere.mkdir()
    refused(fcn_deploy("export", run.root, "--int8", "--calibration", nowhere), "no pictures in")
    (nowhere / "a.png").write_bytes(b"\x89PNG damaged")
    finished = fcn_deploy("export", run.root, "--int8", "--calibration", nowhere)
    refused(finished, "a.png", "not a picture")
    refused(fcn_deploy("export", run.root, "--calibration", nowhere), "--int8")
    refused(
        fcn_deploy("export", run.root, "--calibration-size", "2"), "--calibration-size", "--int8"
    )
    assert [path.name for path in run.root.iterdir()] == ["model.safetensors"]


def test_no_checkpoint_becomes_int8_without_pictures(tiny_run: Path, tmp_path: Path) -> None:
    from fcn_deploy.export.exporter import onnx_from_checkpoint

    for precision in (Precision.INT8, Precision.BF16):
        with pytest.raises(InputError, match=precision.value):
            onnx_from_checkpoint(
                tiny_run / "model.safetensors", tmp_path / "model.onnx", precision=precision
            )


@needs_rtx
def test_tensorrt_for_rtx_multiplies_in_integers(int8: Quantized, tmp_path: Path) -> None:
    engine = engine_from_onnx(OnnxFile(int8.path), name="fcn", product=Product.RTX, folder=tmp_path)
    sidecar = read_engine(engine.path)
    assert sidecar.precision is Precision.INT8
    assert sidecar.layers["int8"] >= len(int8.quantized)


def test_openvino_computes_it_in_integers_and_gives_its_masks(
    int8: Quantized, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the file as it is written, its integers computed in float: without any saturation."""
    pytest.importorskip("openvino")
    import onnxruntime

    from fcn_deploy.runners.openvino import compiled

    # The second so narrow that its last maps have one column.
    scenes = [draw_scene(3, index, (97, 96))[0] for index in range(2)]
    several = [np.stack(scenes), np.stack([scene[:, :16] for scene in scenes])]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    content = with_logits(onnx.load(int8.path)).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    with open_runner(int8.path, "openvino", outputs=("mask", "logits"), threads=1) as runner:
        assert runner.describe().precision == "int8"
        for images in several:
            mask, logits = session.run(["mask", "logits"], {"image": images})
            given = runner.run(images)
            assert given.logits is not None
            error, scale = np.abs(given.logits - logits).max(), np.abs(logits).max()
            assert error < 0.15 * scale  # what the parity gate allows
            decided = margin_of(logits) > 2 * error
            assert decided.any()
            np.testing.assert_array_equal(given.mask[decided], mask[decided])
    # A file of which the CPU computes but a few convolutions in integers is no INT8.
    info = compiled.runtime_info
    seen = Counter[str]()

    def mostly_float(operator: Any, key: str) -> str:
        value = info(operator, key)
        seen[key] += key == "primitiveType"
        return "brgconv_avx2_f32" if seen[key] > 4 else value

    monkeypatch.setattr(compiled, "runtime_info", mostly_float)
    with (
        open_runner(int8.path, "openvino", threads=1) as runner,
        pytest.raises(BackendError, match=r"asked for 19 int8 convolutions and computes .* in f32"),
    ):
        runner.run(images)


@pytest.mark.parametrize("backend", ["ort", "openvino"])
@pytest.mark.parametrize(
    ("flags", "saturates"),
    [
        ("flags : fpu avx2 fma", True),
        ("flags : fpu avx2 avx512_vnni", False),
        ("flags : avx2 avx_vnni", False),
        ("Features : asimd asimddp", False),
        ("", False),
    ],
)
def test_a_cpu_that_adds_in_16_bits_is_named_in_the_description(
    int8: Quantized,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    flags: str,
    saturates: bool,
) -> None:
    if unavailable_reason(backend) is not None:
        pytest.skip(f"no {backend}")
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr("fcn_deploy.machine.description._CPU_INFO", tmp_path / "cpuinfo")
    with open_runner(int8.path, backend, threads=1) as runner:
        assert ("may saturate" in runner.describe().library) is saturates
