"""`fcn-deploy import onnx:FILE` and what comes after it, as typed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.runners.base import open_runner
from tests.command_line import FcnDeploy, Finished, refused, run_without_torch
from tests.foreign_networks import MEAN, STD, foreign_network, noise, saved

#: The options that the networks want.
RIGHT = (
    "--channels", "bgr", "--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD)),
)  # fmt: skip


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A network of another tool, which reads BGR."""
    return saved(foreign_network(), tmp_path / "net.onnx")


Import = Callable[..., Finished]


@pytest.fixture
def imported(fcn_deploy: FcnDeploy, tmp_path: Path) -> Import:
    """Import a network, with further words."""

    def run(model: onnx.ModelProto, *words: str) -> Finished:
        return fcn_deploy("import", f"onnx:{saved(model, tmp_path / 'net.onnx')}", *words)

    return run


def test_a_network_becomes_a_run(fcn_deploy: FcnDeploy, network: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\ntree\n")
    done = fcn_deploy("import", f"onnx:{network}", *RIGHT, "--classes", "classes.txt").succeeded()
    assert "BGR" in done.out
    assert "mean (103, 117, 124)" in done.out
    assert "any size" in done.out
    run = Run(Path("runs/fcn"))
    assert run.is_foreign
    assert run.original.read_bytes() == network.read_bytes()
    metadata = OnnxFile(run.onnx(Precision.FP32)).metadata
    assert metadata.spec.class_names == ("sky", "road", "car", "tree")
    assert metadata.checkpoint_digest == OnnxFile(run.original).digest
    # Of RGB in [0, 1], as files of ours have it.
    np.testing.assert_allclose(metadata.spec.mean, np.array(MEAN[::-1]) / 255)
    images = noise(2, 33, 40)
    fed = ((images[..., ::-1] - np.array(MEAN)) / np.array(STD)).astype(np.float32)
    from fcn_deploy.graph.session import cpu_session

    session = cpu_session(network.read_bytes(), threads=1)
    fed = np.ascontiguousarray(fed.transpose(0, 3, 1, 2))
    (logits,) = session.run(None, {"input": fed})
    with open_runner(run, "ort", outputs=("mask", "logits")) as runner:
        outputs = runner.run(images)
    np.testing.assert_array_equal(outputs.mask, logits.argmax(axis=1))
    assert outputs.logits is not None
    np.testing.assert_allclose(outputs.logits, logits, atol=1e-4)


def test_import_needs_no_torch(network: Path, tmp_path: Path) -> None:
    run_without_torch("import", f"onnx:{network}", "--out", str(tmp_path / "run")).succeeded()
    assert (tmp_path / "run" / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("typed", "mean", "std"),
    [
        ([], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (["--scale", "1/255"], (0, 0, 0), (1, 1, 1)),
        (["--scale", "1"], (0, 0, 0), (1 / 255,) * 3),
        (["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"], (0.5,) * 3, (0.5,) * 3),
        (["--mean", "127.5,127.5,127.5", "--std", "127.5,127.5,127.5"], (0.5,) * 3, (0.5,) * 3),
        (["--mean", "51,102,255", "--std", "1,1,1"], (0.2, 0.4, 1), (1 / 255,) * 3),
        (
            ["--channels", "bgr", "--mean", "51,102,255", "--std", "1,1,1"],
            (1, 0.4, 0.2),
            (1 / 255,) * 3,
        ),
    ],
)
def test_normalisation_as_people_say_it(
    imported: Import,
    typed: list[str],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> None:
    imported(foreign_network(), *typed).succeeded()
    spec = OnnxFile(Path("runs/fcn/model.onnx")).metadata.spec
    np.testing.assert_allclose(spec.mean, mean)
    np.testing.assert_allclose(spec.std, std)


def test_a_run_is_not_replaced_unasked(imported: Import) -> None:
    imported(foreign_network()).succeeded()
    refused(imported(foreign_network()), "holds a model already", "--overwrite")
    Path("runs/fcn/model.fp16.onnx").write_bytes(b"of another network")
    imported(foreign_network(), "--overwrite").succeeded()
    assert not Path("runs/fcn/model.fp16.onnx").exists()


def test_pictures_of_another_size_are_refused_in_one_line(
    fcn_deploy: FcnDeploy, imported: Import
) -> None:
    done = imported(foreign_network(batch=1, size=(48, 80)))
    assert "it takes 48×80 alone, 1 in a batch" in done.out
    Path("pictures").mkdir()
    Image.fromarray(noise(48, 80)).save("pictures/right.png")
    fcn_deploy("predict", "runs/fcn", "pictures").succeeded()
    Image.fromarray(noise(50, 70)).save("pictures/wrong.png")
    done = fcn_deploy("predict", "runs/fcn", "pictures").failed()
    assert "takes pictures of 48×80 alone, not of 50×70" in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert "wrote 1 of 2 masks" in done.out


def _broken(change: str) -> onnx.ModelProto:
    """Return a network that no run can be made of."""
    model = foreign_network()
    graph = model.graph
    if change == "two inputs":
        graph.input.append(helper.make_tensor_value_info("size", TensorProto.FLOAT, [2]))
    elif change == "no rank":
        graph.input[0].type.tensor_type.ClearField("shape")
    elif change == "three axes":
        del graph.input[0].type.tensor_type.shape.dim[0]
    elif change == "grey":
        graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    elif change == "vector":
        graph.node[-1].output[0] = "scores"
        graph.node.append(helper.make_node("GlobalAveragePool", ["scores"], ["pooled"]))
        graph.node.append(helper.make_node("Flatten", ["pooled"], ["output"]))
        del graph.output[0].type.tensor_type.shape.dim[2:]
    elif change == "NaN":
        weights = numpy_helper.to_array(graph.initializer[2]).copy()
        weights[0, 0, 0, 0] = np.nan
        graph.initializer[2].CopyFrom(numpy_helper.from_array(weights, graph.initializer[2].name))
    elif change == "external":
        graph.initializer[2].data_location = TensorProto.EXTERNAL
        graph.initializer[2].external_data.add(key="location", value="weights.bin")
        graph.initializer[2].ClearField("raw_data")
    elif change == "own operator":
        graph.node[1].domain = "com.example"
        model.opset_import.add(domain="com.example", version=1)
    elif change == "branch":
        _add_branch(graph)
    elif change == "class map":
        graph.node[-1].output[0] = "scores"
        graph.node.append(helper.make_node("Cast", ["scores"], ["output"], to=TensorProto.INT64))
        graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    return model


def _add_branch(graph: onnx.GraphProto) -> None:
    graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    branches = {
        name: helper.make_graph(
            [helper.make_node("Identity", ["output"], [f"{name}_output"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_output", TensorProto.FLOAT, None)],
        )
        for name in ("then_branch", "else_branch")
    }
    graph.node.append(helper.make_node("If", ["yes"], ["chosen"], **branches))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("two inputs", ["2 inputs (input, size)", "one input"]),
        ("no rank", ["rank of the input input", "four axes"]),
        ("three axes", ["expected four axes"]),
        ("grey", ["no NCHW of 3 channels", "--input-layout"]),
        ("vector", ["expected logits of four axes"]),
        ("NaN", ["NaN in w1"]),
        ("external", ["weights.bin", "put that file beside net.onnx"]),
        ("own operator", ["com.example"]),
        ("branch", ["graph within the graph"]),
        ("class map", ["whole numbers that no argmax"]),
    ],
)
def test_networks_that_no_run_is_made_of(imported: Import, change: str, words: list[str]) -> None:
    refused(imported(_broken(change)), *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"classes": 300}, ["300 classes", "uint8 masks take 256"]),
        ({"classes": 1}, ["1 class,", "two at least"]),
        ({"opset": 8}, ["opset 8, older than 9", "opset 13 to 20"]),
        ({"opset": 99}, ["opset 99", "opset 13 to 20"]),
        ({"argmax": TensorProto.INT64, "stride": 4}, ["class map of another size"]),
    ],
)
def test_networks_of_a_form_that_no_run_has(
    imported: Import, form: dict[str, Any], words: list[str]
) -> None:
    refused(imported(foreign_network(**form)), *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--input-layout", "NHWC"], ["no NHWC of 3 channels"]),
        (["--input-layout", "HWCN"], ["'HWCN' is not one of"]),
        (["--mean", "1,2"], ["no three numbers"]),
        (["--mean", "1,2,3"], ["belong together"]),
        (["--mean", "0,0,0", "--std", "0,1,1"], ["--std positive"]),
        (["--scale", "1/0"], ["no number", "1/255"]),
        (["--scale", "-1"], ["no positive number"]),
        (["--scale", "1", "--mean", "0,0,0"], ["exclude each other"]),
        (["--weights", "x.pth"], ["--weights is of no use"]),
        (["--classes", "three.txt"], ["three.txt lists 3 classes, the network has 4"]),
    ],
)
def test_options_that_do_not_fit(
    imported: Import, tmp_path: Path, typed: list[str], words: list[str]
) -> None:
    (tmp_path / "three.txt").write_text("one\ntwo\nthree\n")
    refused(imported(foreign_network(), *typed), *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize("content", [b"", b"hello, I am a text file", b"\x08\x07" * 40])
def test_files_that_are_no_onnx(fcn_deploy: FcnDeploy, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    refused(fcn_deploy("import", "onnx:net.onnx"), "net.onnx is truncated or no ONNX file")
    refused(fcn_deploy("import", "onnx:nowhere.onnx"), "cannot read nowhere.onnx")


def test_options_of_onnx_are_refused_elsewhere(fcn_deploy: FcnDeploy) -> None:
    done = fcn_deploy("import", "torchvision:fcn_resnet50", "--channels", "bgr")
    refused(done, "--channels is of use with onnx:FILE only")
    refused(fcn_deploy("import", "tensorflow:deeplab"), "unknown network", "onnx:FILE")


def test_a_damaged_original_is_refused(fcn_deploy: FcnDeploy, imported: Import) -> None:
    imported(foreign_network()).succeeded()
    original = Run(Path("runs/fcn")).original
    original.write_bytes(original.read_bytes() + b"\0")
    refused(fcn_deploy("bench", "runs/fcn", "--backend", "ort"), "not made from", "original.onnx")


def test_weights_in_a_file_beside_it_become_part_of_the_run(fcn_deploy: FcnDeploy) -> None:
    model = foreign_network()
    whole = model.SerializeToString()
    beside = {"save_as_external_data": True, "location": "net.bin", "size_threshold": 0}
    onnx.save(model, "net.onnx", **beside)
    assert Path("net.onnx").stat().st_size < len(whole) / 2
    fcn_deploy("import", "onnx:net.onnx").succeeded()
    Path("net.bin").unlink()
    run = Run(Path("runs/fcn"))
    with open_runner(run, "ort") as rewritten, open_runner(run, "original") as original:
        masks = rewritten.run(noise(1, 40, 56)).mask, original.run(noise(1, 40, 56)).mask
    np.testing.assert_array_equal(*masks)


def test_an_output_of_unknown_rank_is_found_out(imported: Import) -> None:
    model = foreign_network()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    imported(model).succeeded()
