"""Weights from outside for a network's body: files of torchvision's, and what is none."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from fcn_deploy.core.errors import ArchitectureError
from fcn_deploy.networks.architectures import build_model
from fcn_deploy.networks.backbones import BACKBONES, body_of_backbone
from fcn_deploy.networks.half_resnet import NAME as HALF_RESNET
from fcn_deploy.networks.starting_weights import start_words, starting_network
from tests.networks.bomb import Bomb

OneLine = Callable[[Exception], str]


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """What torchvision's file of ResNet-18 holds, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return torchvision.models.resnet18(weights=None).state_dict()


def assert_body_is(model: nn.Module, weights: dict[str, Tensor]) -> None:
    body = model.get_submodule("body").state_dict()
    assert "conv1.weight" in body
    for name, tensor in body.items():
        if name in weights:
            assert torch.equal(tensor, weights[name]), name


def test_a_file_of_torchvisions_fills_the_body(
    tmp_path: Path, published: dict[str, Tensor]
) -> None:
    torch.save(published, tmp_path / "resnet18.pth")
    assert_body_is(build_model("fcn32s-resnet18", 4, weights=tmp_path / "resnet18.pth"), published)


def test_a_file_from_before_batch_norm_counted_batches(
    tmp_path: Path, published: dict[str, Tensor]
) -> None:
    # PyTorch counts since 0.4.1; torch.save wrote bare pickles until 1.6.
    older = {name: t for name, t in published.items() if not name.endswith("num_batches_tracked")}
    assert len(older) < len(published)
    torch.save(older, tmp_path / "resnet18.pth", _use_new_zipfile_serialization=False)
    assert_body_is(build_model("fcn32s-resnet18", 4, weights=tmp_path / "resnet18.pth"), older)


def test_a_classifier_of_another_size_does_not_matter(
    tmp_path: Path, published: dict[str, Tensor]
) -> None:
    other = {**published, "fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    bare = {name: tensor for name, tensor in published.items() if not name.startswith("fc.")}
    for number, weights in enumerate((other, bare)):
        path = tmp_path / f"{number}.pth"
        torch.save(weights, path)
        assert_body_is(build_model("fcn32s-resnet18", 4, weights=path), published)


def refused(path: Path, one_line: OneLine) -> str:
    """Build with these weights; return the text of the ArchitectureError that must come."""
    with pytest.raises(ArchitectureError) as caught:
        build_model("fcn32s-resnet18", 4, weights=path)
    text = one_line(caught.value)
    assert str(path) in text
    assert "--weights none" in text
    assert len(text) < 600
    return text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a text file, not weights\n",
        b"PK\x03\x04 half a zip archive",
        b"\x80\x02 half a pickle",
        b"\x89PNG\r\n\x1a\n",
        b"0\n",
        b"]\n",
        b".",
        b"\x80\x02\x95",
        b"(lp0\n",
        b"cbuiltins\nprint\n.",
    ],
)
def test_a_weights_file_that_is_none(tmp_path: Path, content: bytes, one_line: OneLine) -> None:
    path = tmp_path / "weights.pth"
    assert "No such file" in refused(path, one_line)
    path.write_bytes(content)
    refused(path, one_line)
    refused(tmp_path, one_line)  # a folder
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("readme.txt", "no weights here")
    refused(tmp_path / "some.zip", one_line)


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_a_truncated_weights_file(
    tmp_path: Path, published: dict[str, Tensor], kept: float, one_line: OneLine
) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(published, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    refused(path, one_line)


@pytest.mark.parametrize(
    "weights",
    [
        {"conv1.weight": torch.zeros(64, 3, 7, 7)},
        {"state_dict": {"conv1.weight": torch.zeros(64, 3, 7, 7)}},
        {"bn1.bias": 3, "conv1.weight": "text"},
        [1, 2, 3],
        torch.zeros(3),
        None,
    ],
    ids=["part", "nested", "no tensors", "list", "tensor", "none"],
)
def test_weights_that_are_no_resnets(tmp_path: Path, weights: Any, one_line: OneLine) -> None:
    torch.save(weights, tmp_path / "weights.pth")
    assert "no resnet18 weights" in refused(tmp_path / "weights.pth", one_line)


def test_weights_of_another_backbone(tmp_path: Path, one_line: OneLine) -> None:
    path = tmp_path / "resnet50.pth"
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), path)
    text = refused(path, one_line)
    assert "no resnet18 weights" in text
    assert "those of a resnet50; use an --arch on resnet50" in text


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_does_not_run(tmp_path: Path, zipped: bool, one_line: OneLine) -> None:
    path, mark = tmp_path / "weights.pth", tmp_path / "ran"
    torch.save({"conv1.weight": Bomb(mark)}, path, _use_new_zipfile_serialization=zipped)
    text = refused(path, one_line)
    assert "weights_only" not in text  # no advice to load it all the same
    assert not mark.exists()


@pytest.mark.parametrize(
    "error",
    [
        URLError("Name or service not known"),
        TimeoutError("timed out"),
        ConnectionResetError(104, "Connection reset by peer"),
        RuntimeError('invalid hash value (expected "f37072fd", got "00000000")'),
    ],
)
def test_imagenet_weights_that_cannot_be_fetched_name_both_ways_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception, one_line: OneLine
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", no_network)
    with pytest.raises(ArchitectureError) as caught:
        build_model("fcn32s-resnet18", 4, weights="imagenet")
    text = one_line(caught.value)
    assert "ImageNet weights of resnet18" in text
    assert "--weights none" in text
    assert "--weights FILE" in text


def test_a_body_without_published_weights_says_so(one_line: OneLine) -> None:
    with torch.device("meta"), pytest.raises(ArchitectureError) as caught:
        body_of_backbone(HALF_RESNET, "imagenet")
    assert f"nobody has published ImageNet weights of {HALF_RESNET}" in one_line(caught.value)


@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name != HALF_RESNET])
def test_imagenet_weights_of_every_body_name_their_file_and_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backbone: str, one_line: OneLine
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with (
        torch.device("meta"),
        pytest.raises(ArchitectureError, match=f"ImageNet weights of {backbone} ") as caught,
    ):
        body_of_backbone(backbone, "imagenet")
    text = one_line(caught.value)
    assert f"https://download.pytorch.org/models/{backbone}" in text
    assert f"put it into {tmp_path / 'hub' / 'checkpoints'} " in text


def test_a_body_in_safetensors_is_taken(tmp_path: Path, published: dict[str, Tensor]) -> None:
    path = tmp_path / "resnet18.safetensors"
    save_file(published, path)
    assert_body_is(build_model("fcn32s-resnet18", 4, weights=path), published)
    network = starting_network("fcn32s-resnet18", ("a", "b"), path)
    assert_body_is(network, published)
    assert "its body is taken" in str(start_words("fcn32s-resnet18", ("a", "b"), path))


def test_imagenet_weights_that_can_be_fetched(
    monkeypatch: pytest.MonkeyPatch, published: dict[str, Tensor]
) -> None:
    monkeypatch.setattr(
        torchvision.models.WeightsEnum, "get_state_dict", lambda *_, **__: dict(published)
    )
    assert_body_is(build_model("fcn32s-resnet18", 4, weights="imagenet"), published)
