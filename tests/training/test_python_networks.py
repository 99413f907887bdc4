"""`train --arch python:...`: the loop of our networks trains somebody else's."""

from pathlib import Path

import torch

from fcn_deploy.core.code_trust import trusting_code
from fcn_deploy.networks.checkpoint import load_checkpoint, read_spec
from tests.command_line import FcnDeploy, refused
from tests.conftest import WriteVocFolder

TINY = "python:tests.factories:Tiny"
SMALL = ("--crop-size", "64x64", "--batch-size", "2", "--epochs", "1", "--amp", "off")
ARCH = ("--arch", TINY, "--arg", "weights=none", "--arg", "stride=2", "--multiple-of", "4")


def test_a_network_from_python_is_trained_tuned_and_kept(
    fcn_deploy: FcnDeploy, voc_folder: WriteVocFolder, tmp_path: Path
) -> None:
    data = ("--data", voc_folder(train=4, val=1, size=(80, 96)))
    fcn_deploy("train", *ARCH, *data, *SMALL, "--out", "run").succeeded()
    path = tmp_path / "run/model.safetensors"
    spec = read_spec(path)
    assert spec.architecture == f"{TINY}?weights=none&stride=2&multiple-of=4"
    again = fcn_deploy(
        "train", *ARCH, *data, *SMALL, "--weights", path, "--out", "tuned"
    ).succeeded()
    assert f"starting from {path}: 9 of its 9 tensors match" in " ".join(again.out.split())
    with trusting_code():
        before, after = load_checkpoint(path).model, load_checkpoint(Path("tuned/last.safetensors"))
    image = torch.rand(1, 3, 13, 17)
    assert before(image).shape == after.model(image).shape == (1, spec.num_classes, 13, 17)
    assert not torch.equal(before(image), after.model(image))


def test_what_a_network_from_python_cannot_have_is_refused(
    fcn_deploy: FcnDeploy, voc_folder: WriteVocFolder, tmp_path: Path
) -> None:
    data = ("--data", voc_folder(train=4, val=1, size=(80, 96)))
    for words, said in (
        ((*ARCH, "--freeze-backbone", "all"), "--freeze-backbone"),
        ((*ARCH, "--weights", "imagenet"), "encoder_weights=imagenet"),
        ((*ARCH, "--output-stride", "8"), "--output-stride"),
        (("--arch", "fcn32s-resnet18", "--arg", "a=b"), "--arg is of use with --arch python:"),
        (("--arch", TINY), "no network to fetch weights from"),
        ((*ARCH, "--arg", "num_classes=9"), "gives 9 classes, not"),
    ):
        refused(fcn_deploy("train", *words, *data, *SMALL, "--out", "run"), said)
    single = ("--arch", "python:tests.factories:Pooling", *data, *SMALL, "--batch-size", "1")
    refused(fcn_deploy("train", *single, "--out", "pooling"), "one value", "--batch-size 2 or more")
    torch.save(torch.nn.Linear(2, 2).state_dict(), "linear.pth")
    refused(
        fcn_deploy("train", *ARCH, *data, *SMALL, "--weights", "linear.pth", "--out", "run"),
        "not those of", "0 of its",
    )  # fmt: skip
    assert not (tmp_path / "run/model.safetensors").exists()
