"""A network of another tool through all that comes after `import`, as typed."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from fcn_deploy.core.files import read_json
from fcn_deploy.core.run import Run
from fcn_deploy.data.masks import voc_palette, write_mask
from fcn_deploy.data.scenes.render import SCENE_CLASS_NAMES
from tests.command_line import FcnDeploy, refused, run_without_torch
from tests.conftest import WriteVocFolder
from tests.foreign_networks import foreign_run, noise

RUN = Path("runs/fcn")


@pytest.fixture
def pictures(fcn_deploy: FcnDeploy) -> Path:
    """Three pictures of noise, 48×80."""
    folder = Path("pictures")
    folder.mkdir()
    for index, image in enumerate(noise(3, 48, 80)):
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


def test_parity_holds_it_against_the_original(fcn_deploy: FcnDeploy, pictures: Path) -> None:
    foreign_run(Run(RUN))
    fcn_deploy("parity", "--images", pictures, "--backend", "ort", "--json", "p.json").succeeded()
    (comparison,) = read_json(Path("p.json"), "")["results"]
    assert comparison["reference"]["backend"] == "original"
    assert comparison["candidate"]["backend"] == "ort"
    assert comparison["passed"] is True


@pytest.mark.slow
def test_parity_takes_what_can_take_it(fcn_deploy: FcnDeploy, pictures: Path) -> None:
    foreign_run(Run(RUN), stride=4)
    done = fcn_deploy("parity", "--images", pictures, "--limit", "1")
    assert done.code in (0, 1), done.err
    assert "torch" not in done.out.replace("torch-graphs", "")
    refused(fcn_deploy("parity", "--images", pictures, "--backend", "torch"), "no checkpoint")


@pytest.mark.parametrize("batch", [1, "N"])
def test_parity_of_fixed_sizes(fcn_deploy: FcnDeploy, pictures: Path, batch: int | str) -> None:
    foreign_run(Run(RUN), batch=batch, size=(48, 80))
    fcn_deploy("parity", "--images", pictures, "--backend", "ort", "--json", "p.json").succeeded()
    (comparison,) = read_json(Path("p.json"), "")["results"]
    assert len(comparison["batches"]) == (0 if batch == 1 else 1)
    assert comparison["stream"]["batches"] > 0
    for backend in ("original", "ort"):
        saving = ("--backend", backend, "--save-outputs", f"{backend}.json")
        fcn_deploy("parity", "--images", pictures, *saving).succeeded()
    fcn_deploy("parity", "original.json", "ort.json", "--json", "again.json").succeeded()
    (recorded,) = read_json(Path("again.json"), "")["results"]
    assert recorded["batches"] == comparison["batches"]
    assert recorded["stream"] == comparison["stream"]
    assert recorded["images"]["odd_sizes"] == comparison["images"]["odd_sizes"]
    document = read_json(Path("ort.json"), "")
    Path("ort.json").write_text(json.dumps(document | {"stream": []}))
    refused(fcn_deploy("parity", "original.json", "ort.json"), "its stream is not whole")


def test_parity_names_the_channel_order(fcn_deploy: FcnDeploy, pictures: Path) -> None:
    """The file of an import with the wrong --channels, against the original fed rightly."""
    foreign_run(Run(Path("wrong")), channels="rgb")
    foreign_run(Run(RUN))
    shutil.copy("wrong/model.onnx", RUN / "wrong.onnx")
    done = fcn_deploy(
        "parity", RUN / "wrong.onnx", "--images", pictures, "--backend", "ort"
    ).failed()
    assert "it reads BGR" in done.out


def test_bench_measures_it_beside_the_original(fcn_deploy: FcnDeploy) -> None:
    foreign_run(Run(RUN), batch=1, size=(48, 80))
    quick = ("--quick", "--seconds", "0.01", "--backend", "ort")
    done = fcn_deploy("bench", *quick, "--json", "b.json").succeeded()
    assert "the network takes 48×80 alone, 1 in a batch: measured at 48×80" in done.out
    backends = {row["runner"]["backend"] for row in read_json(Path("b.json"), "")["rows"]}
    assert backends == {"ort", "baseline"}
    refused(fcn_deploy("bench", *quick, "--size", "320x480"), "48×80 alone, not of 320×480")


@pytest.mark.slow
def test_masks_need_no_torch(pictures: Path) -> None:
    foreign_run(Run(RUN))
    for words in (
        ("predict", "runs/fcn", "pictures"),
        ("parity", "runs/fcn", "--backend", "ort", "--images", "pictures"),
    ):
        run_without_torch(*words).succeeded()


@pytest.mark.slow
def test_half_and_integer_files_of_it(fcn_deploy: FcnDeploy, pictures: Path) -> None:
    foreign_run(Run(RUN))
    done = fcn_deploy("export", "--fp16").succeeded()
    assert "model.fp16.onnx: fp16" in done.out
    assert "checked against the original" in done.out
    refused(fcn_deploy("export", "--int8"), "metrics.json", "--calibration DIR")
    done = fcn_deploy("export", "--int8", "--calibration", pictures).succeeded()
    assert "2 convolutions in int8" in done.out
    for flag in ("--fp16", "--int8"):
        done = fcn_deploy("parity", flag, "--backend", "ort", "--images", pictures)
        assert f"runs/fcn/parity/ort.{flag[2:]}" in done.out, done.err
        fcn_deploy("predict", RUN, flag, pictures).succeeded()
    fcn_deploy("parity", "--bisect", "--images", pictures).succeeded()


@pytest.mark.parametrize("option", [["--opset", "17"], ["--tail", "deconv"], ["--explain"]])
def test_options_of_checkpoints_are_refused(fcn_deploy: FcnDeploy, option: list[str]) -> None:
    foreign_run(Run(RUN))
    refused(fcn_deploy("export", *option), "imported from ONNX", "drop it")


def test_it_is_scored_against_labels(
    fcn_deploy: FcnDeploy, voc_folder: WriteVocFolder, tmp_path: Path
) -> None:
    data = voc_folder(val=2)
    foreign_run(Run(RUN), classes=len(SCENE_CLASS_NAMES), class_file=data / "classes.txt")
    fcn_deploy("evaluate", "--data", data, "--json", "e.json").succeeded()
    fcn_deploy("parity", "--data", data, "--backend", "ort").succeeded()


def red_or_blue() -> onnx.ModelProto:
    """Return a network of two classes: more red than blue, more blue than red; it reads BGR."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "weight"], ["output"])],
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 2, "H", "W"])],
        [numpy_helper.from_array(np.eye(3, dtype=np.float32)[[2, 0], :, None, None], "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("channels", "told"), [("bgr", False), ("rgb", True)])
def test_labels_tell_a_wrong_channel_order(
    fcn_deploy: FcnDeploy, voc_folder: WriteVocFolder, channels: str, told: bool
) -> None:
    data = voc_folder(val=2, class_names=("red", "blue"))
    for index in range(2):
        colours = noise(48, 64)
        truth = (colours[..., 2] > colours[..., 0]).astype(np.uint8)
        Image.fromarray(colours).save(data / f"JPEGImages/val_{index}.jpg", quality=100)
        write_mask(data / f"SegmentationClass/val_{index}.png", truth, voc_palette())
    (Path("net.onnx")).write_bytes(red_or_blue().SerializeToString())
    words = ("--channels", channels, "--scale", "1", "--classes", data / "classes.txt")
    fcn_deploy("import", "onnx:net.onnx", *words).succeeded()
    done = fcn_deploy("parity", "--data", data, "--backend", "ort").succeeded()
    assert ("the other --channels" in done.out) is told
    fcn_deploy("report", "--out", "page.html").succeeded()
    (written,) = (RUN / "parity").glob("*.json")
    for place in (read_json(written, "")["notes"], [Path("page.html").read_text()]):
        assert any("the other --channels" in text for text in place) is told
