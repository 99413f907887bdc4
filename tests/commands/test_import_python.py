"""``import python:...`` as it is typed, and what the commands do with such a run."""

from pathlib import Path

import pytest
import torch

from fcn_deploy.core.code_trust import code_is_trusted
from fcn_deploy.networks.checkpoint import read_spec
from tests.command_line import FcnDeploy, refused
from tests.conftest import WriteVocFolder
from tests.factories import Tiny
from tests.foreign_networks import foreign_network, saved

FACTORIES = "python:tests.factories"
TINY = f"{FACTORIES}:Tiny"
ARGS = ("--arg", "weights=none", "--arg", "stride=2", "--multiple-of", "4")
OUT = ("--out", "run")


def weights_of(network: torch.nn.Module, path: Path, prefix: str = "") -> Path:
    torch.save({prefix + name: value for name, value in network.state_dict().items()}, path)
    return path


@pytest.mark.slow
def test_a_network_becomes_a_run_that_is_exported_and_compared(
    fcn_deploy: FcnDeploy, voc_folder: WriteVocFolder, tmp_path: Path
) -> None:
    pictures = voc_folder(train=1, val=1) / "JPEGImages"
    Path("classes.txt").write_text("sky\nroad\ncar\ntree\n")
    given = ("--classes", "classes.txt", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25")
    done = fcn_deploy("import", TINY, *ARGS, *given, *OUT).succeeded()
    assert "4 classes, logits upsampled bilinearly" in done.out
    assert "--trust-code" in done.out
    assert not code_is_trusted()
    spec = read_spec(tmp_path / "run/model.safetensors")
    assert spec.architecture == f"{TINY}?weights=none&stride=2&multiple-of=4"
    assert spec.class_names == ("sky", "road", "car", "tree")
    assert (spec.mean, spec.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

    refused(fcn_deploy("export", "run"), "tests.factories", "--trust-code")
    assert not (tmp_path / "run/model.onnx").exists()
    written = fcn_deploy("export", "run", "--trust-code").succeeded()
    assert "tail resize" in written.out
    words = ("parity", "run", "--backend", "ort", "--images", pictures)
    refused(fcn_deploy(*words), "--trust-code")
    fcn_deploy(*words, "--trust-code").succeeded()
    assert not code_is_trusted()
    assert fcn_deploy("import", TINY, *ARGS, *OUT).code == 2  # --overwrite


def test_weights_are_taken_from_a_file_whatever_holds_them(
    fcn_deploy: FcnDeploy, tmp_path: Path
) -> None:
    network = Tiny(weights=None)
    path = weights_of(network, tmp_path / "weights.pth", "model.")
    done = fcn_deploy("import", TINY, "--weights", path, *OUT).succeeded()
    assert read_spec(tmp_path / "run/model.safetensors").architecture == f"{TINY}?weights=none"
    assert str(path) in done.out


def test_other_weights_are_told_apart(fcn_deploy: FcnDeploy, tmp_path: Path) -> None:
    wild = Tiny(weights=None)
    with torch.no_grad():
        wild.head.weight[1, 2] = torch.nan
    for name, network in (
        ("five", Tiny(5, weights=None)), ("linear", torch.nn.Linear(2, 2)), ("nan", wild),
    ):  # fmt: skip
        weights_of(network, tmp_path / f"{name}.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name, *said in (
        ("five", "7 of its 9 tensors", "2 of another shape", "head.weight 5×6×1×1 for 3×6×1×1"),
        ("linear", "0 of its", "not in the file", "2 not in the network (weight, bias)"),
        ("nan", "NaN", "head.weight"),
        ("text", "cannot read"),
        ("none", "no weights file"),
    ):
        refused(fcn_deploy("import", TINY, "--weights", f"{name}.pth", *OUT), *said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["python:no_such:make"], "there is no module no_such"),
        (["python:tests.factories:broken"], "raised ValueError"),
        (["python:tests.factories:classifier"], "not class scores"),
        ([TINY, *ARGS, "--arg", "num_classes=300"], "300 classes"),
        ([TINY, "--arg", "weights"], "gives no value"),
        ([TINY, "--arg", "weights=none", "--arg", "multiple_of=8"], "add --multiple-of 8"),
        ([TINY, *ARGS, "--mean", "1,1,1"], "--mean and --std belong together"),
        ([TINY, *ARGS, "--scale", "1/255"], "--scale is of use with onnx:FILE only"),
        (["torchvision:fcn_resnet50", *ARGS], "--arg is of use with python:"),
        ([TINY, *ARGS, "--arg", "num_classes=5", "--classes", "classes.txt"], "5 classes, not 2"),
        ([f"{FACTORIES}:Odd", "--arg", "kind=drawn"], "another network when it is built again"),
        ([f"{FACTORIES}:Extra"], "get_extra_state"),
        ([f"{FACTORIES}:Odd", "--arg", "kind=nan"], "gives NaN or infinity"),
    ],
)
def test_bad_input_is_one_line(
    fcn_deploy: FcnDeploy, tmp_path: Path, words: list[str], said: str
) -> None:
    Path("classes.txt").write_text("sky\nroad\n")
    refused(fcn_deploy("import", *words, *OUT), said)
    assert not (tmp_path / "run").exists()


def test_arguments_that_change_the_network_are_kept_as_typed(
    fcn_deploy: FcnDeploy, tmp_path: Path
) -> None:
    typed = ("--arg", "kind=plain", "--arg", "pretrained=true")
    fcn_deploy("import", f"{FACTORIES}:Odd", *typed, *OUT).succeeded()
    spec = read_spec(tmp_path / "run/model.safetensors")
    assert spec.architecture.endswith("pretrained=true")


def test_a_network_from_onnx_is_not_replaced_unasked(fcn_deploy: FcnDeploy, tmp_path: Path) -> None:
    saved(foreign_network(), tmp_path / "a.onnx")
    fcn_deploy("import", "onnx:a.onnx", *OUT).succeeded()
    refused(fcn_deploy("import", TINY, *ARGS, *OUT), "original.onnx exists already", "--overwrite")


def test_code_beside_the_user_is_found(fcn_deploy: FcnDeploy, tmp_path: Path) -> None:
    (tmp_path / "own_network_of_a_user.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Conv2d(3, 2, 3, padding=1)\n"
    )
    done = fcn_deploy("import", "python:own_network_of_a_user:make", *OUT).succeeded()
    assert "2 classes, logits of the image's size" in done.out


def test_what_has_no_graph_is_one_line(fcn_deploy: FcnDeploy) -> None:
    fcn_deploy("import", "python:tests.factories:DataDependent", *OUT).succeeded()
    failed = fcn_deploy("export", "run", "--trust-code").failed()
    assert len(failed.err.strip().splitlines()) == 1, failed.err
    assert "torch.onnx makes no graph" in failed.err
