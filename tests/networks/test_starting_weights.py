"""What training takes of given weights, and what it says of that."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from fcn_deploy.core.errors import ArchitectureError, CheckpointError
from fcn_deploy.core.spec import ModelSpec, SizeRange
from fcn_deploy.networks.architectures import build_model
from fcn_deploy.networks.checkpoint import load_checkpoint, save_checkpoint
from fcn_deploy.networks.starting_weights import start_words, starting_network

COARSE = "fcn32s-resnet18"


@pytest.fixture
def weights(tiny_run: Path) -> Path:
    return tiny_run / "model.safetensors"


@pytest.fixture
def given(weights: Path) -> dict[str, Tensor]:
    return load_checkpoint(weights).model.state_dict()


def taken(network: torch.nn.Module, given: dict[str, Tensor]) -> set[str]:
    return {
        name
        for name, tensor in network.state_dict().items()
        if name in given and torch.equal(tensor, given[name])
    }


def test_the_same_network_and_classes_are_taken_whole(
    weights: Path, given: dict[str, Tensor], tiny_spec: ModelSpec
) -> None:
    assert taken(starting_network(COARSE, tiny_spec.class_names, weights), given) == {*given}
    assert start_words(COARSE, tiny_spec.class_names, weights) is None
    assert start_words(COARSE, tiny_spec.class_names, None) is None


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c", "d", "e")])
def test_for_other_classes_the_body_is_taken(
    weights: Path, given: dict[str, Tensor], names: tuple[str, ...]
) -> None:
    torch.manual_seed(1)
    network = starting_network(COARSE, names, weights)
    found = taken(network, given)
    assert {name for name in given if name.startswith("body.")} <= found
    assert "score.weight" not in found
    assert network.get_parameter("score.weight").shape[0] == len(names)
    words = start_words(COARSE, names, weights)
    assert words == (
        f"starting from {weights} ({COARSE}, 5 classes, other than the data's): body taken; "
        "score, upsample anew"
    )


@pytest.mark.parametrize("family", ["fcn16s", "fcn8s"])
def test_a_finer_network_begins_as_the_coarser_one(
    weights: Path, given: dict[str, Tensor], tiny_spec: ModelSpec, family: str
) -> None:
    coarse = load_checkpoint(weights).model
    finer = starting_network(f"{family}-resnet18", tiny_spec.class_names, weights).eval()
    assert {"score.weight", "score.bias", "body.conv1.weight"} <= taken(finer, given)
    image = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = coarse(image), finer(image)
    # Bilinear in two or three steps instead of one: the same but for a share of the scores.
    assert (found - expected).std() < 0.3 * expected.std()
    words = start_words(f"{family}-resnet18", tiny_spec.class_names, weights)
    assert words is not None
    assert f"({COARSE}, 5 classes): body, score taken; skips.layer3.score" in words


def test_the_shared_layers_of_torchvisions_head_are_taken(tmp_path: Path) -> None:
    spec = ModelSpec(
        architecture="tv-fcn-resnet50",
        class_names=("a", "b", "c"),
        palette=((0, 0, 0), (1, 1, 1), (2, 2, 2)),
        image_sizes=SizeRange((64, 64), (64, 64), (64, 64)),
    )
    theirs = build_model(spec.architecture, 3)
    save_checkpoint(tmp_path / "model.safetensors", theirs, spec)
    found = taken(
        starting_network(spec.architecture, ("a", "b"), tmp_path / "model.safetensors"),
        theirs.state_dict(),
    )
    assert "classifier.0.weight" in found
    assert "classifier.4.weight" not in found


def test_another_body_is_refused(weights: Path, tiny_spec: ModelSpec) -> None:
    for network in (starting_network, start_words):
        with pytest.raises(CheckpointError, match=r"is a fcn32s-resnet18.*another on resnet18"):
            network("fcn8s-resnet34", tiny_spec.class_names, weights)


def test_a_checkpoint_without_a_whole_body_is_refused(tmp_path: Path, tiny_spec: ModelSpec) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, torch.nn.Conv2d(3, 5, 1), tiny_spec)
    with pytest.raises(CheckpointError, match="no whole fcn32s-resnet18"):
        starting_network("fcn16s-resnet18", tiny_spec.class_names, path)


# -- files of torch.save ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: {"model": tensors, "epoch": 7},
        lambda tensors: {"state_dict": {f"module.{n}": t for n, t in tensors.items()}},
        lambda tensors: {
            **{f"backbone.{name}": tensor for name, tensor in tensors.items()},
            "classifier.4.bias": torch.zeros(5),
        },
    ],
    ids=["training script", "parallel", "segmentation network"],
)
def test_a_body_is_found_however_it_is_wrapped(
    tmp_path: Path, wrap: Callable[[dict[str, Tensor]], object]
) -> None:
    tensors = torchvision.models.resnet18(weights=None).state_dict()
    path = tmp_path / "weights.pth"
    torch.save(wrap(tensors), path)
    network = starting_network(COARSE, ("a", "b"), path)
    assert torch.equal(network.get_parameter("body.conv1.weight"), tensors["conv1.weight"])
    words = start_words(COARSE, ("a", "b"), path)
    assert words == f"starting from {path}: its body is taken, the head begins anew"


def test_the_words_name_the_body_that_a_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), path)
    with pytest.raises(ArchitectureError, match="but those of a resnet34; use an --arch on"):
        starting_network(COARSE, ("a", "b"), path)
