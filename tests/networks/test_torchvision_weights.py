"""torchvision's published networks: the same masks under our names."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision

from fcn_deploy.core.errors import ArchitectureError
from fcn_deploy.core.run import Run
from fcn_deploy.data.masks import VOC_CLASS_NAMES
from fcn_deploy.networks.checkpoint import load_checkpoint
from fcn_deploy.networks.torchvision_weights import PUBLISHED, import_published
from fcn_deploy.runners.base import open_runner
from tests.command_line import FcnDeploy

Theirs = tuple[torch.nn.Module, Path]
RESNET50 = PUBLISHED["torchvision:fcn_resnet50"]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    """torchvision's network as it is published, but for its weights, which are random."""
    torch.manual_seed(0)
    network = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=21, aux_loss=True
    ).eval()
    path = tmp_path_factory.mktemp("theirs") / "fcn_resnet50.pth"
    torch.save(network.state_dict(), path)
    return network, path


def test_an_imported_network_gives_torchvisions_masks(
    theirs: Theirs, fcn_deploy: FcnDeploy, tmp_path: Path
) -> None:
    network, path = theirs
    words = ("import", "torchvision:fcn_resnet50", "--weights", path, "--out", tmp_path / "run")
    done = fcn_deploy(*words)
    assert done.code == 0, done.err
    assert "tv-fcn-resnet50, 21 classes" in done.out
    assert load_checkpoint(tmp_path / "run/model.safetensors").spec.class_names == VOC_CLASS_NAMES
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (1, 61, 83, 3), generator=generator, dtype=torch.uint8)
    normalise = torchvision.models.get_model_weights("fcn_resnet50").DEFAULT.transforms(
        resize_size=None
    )
    with torch.no_grad():
        pixels = torchvision.transforms.functional.normalize(
            image[0].permute(2, 0, 1) / 255, normalise.mean, normalise.std
        )
        expected = network(pixels[None])["out"]
    with open_runner(Run(tmp_path / "run"), "torch", outputs=("mask", "logits")) as runner:
        found = runner.run(image.numpy())
    assert found.logits is not None
    torch.testing.assert_close(torch.from_numpy(found.logits), expected, atol=1e-3, rtol=1e-3)
    again = fcn_deploy(*words)
    assert again.code == 2
    assert "--overwrite" in again.err


def test_a_file_of_another_network_is_refused(theirs: Theirs, tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="holds no fcn_resnet101"):
        import_published(
            PUBLISHED["torchvision:fcn_resnet101"], theirs[1], tmp_path / "model.safetensors"
        )
    foreign = tmp_path / "foreign.pth"
    for content in (b"", b"not tensors"):
        foreign.write_bytes(content)
        with pytest.raises(ArchitectureError, match="cannot read"):
            import_published(RESNET50, foreign, tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()


def test_weights_of_other_classes_are_counted(
    theirs: Theirs, tmp_path: Path, one_line: Callable[[Exception], str]
) -> None:
    tensors = torch.load(theirs[1], weights_only=True)
    for name in ("classifier.4.weight", "classifier.4.bias"):
        tensors[name] = tensors[name][:5]
    path, target = tmp_path / "five.pth", tmp_path / "model.safetensors"
    torch.save(tensors, path)
    with pytest.raises(ArchitectureError, match="with 5 classes, not 21") as caught:
        import_published(RESNET50, path, target)
    assert "--classes" in one_line(caught.value)
    assert not target.exists()
    spec = import_published(RESNET50, path, target, ("ground", "a", "b", "c", "d"))
    assert spec.class_names == ("ground", "a", "b", "c", "d")
    scores = load_checkpoint(target).model.get_parameter("classifier.4.bias")
    assert torch.equal(scores, tensors["classifier.4.bias"])


def test_a_file_of_torchvisions_training_script_is_unwrapped(
    theirs: Theirs, tmp_path: Path, fcn_deploy: FcnDeploy
) -> None:
    tensors = {f"module.{n}": t for n, t in torch.load(theirs[1], weights_only=True).items()}
    script = argparse.Namespace(dataset="coco", data_path="/datasets01/COCO", lr=0.01)
    torch.save({"model": tensors, "epoch": 3, "args": script}, tmp_path / "model_3.pth")
    (tmp_path / "names.txt").write_text("".join(f"class {i}\n" for i in range(21)))
    done = fcn_deploy(
        "import", "torchvision:fcn_resnet50", "--weights", "model_3.pth", "--classes", "names.txt"
    )
    assert done.code == 0, done.err
    loaded = load_checkpoint(tmp_path / "runs/fcn/model.safetensors")
    assert loaded.spec.class_names[20] == "class 20"
    expected = theirs[0].state_dict()["classifier.4.weight"]
    assert torch.equal(loaded.model.get_parameter("classifier.4.weight"), expected)


def test_the_words_say_what_a_foreign_file_is(theirs: Theirs, tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    with pytest.raises(ArchitectureError, match="its body is a resnet50"):
        import_published(PUBLISHED["torchvision:fcn_resnet101"], theirs[1], target)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "body.pth")
    with pytest.raises(ArchitectureError, match="it is a resnet18 without a head"):
        import_published(RESNET50, tmp_path / "body.pth", target)


def test_the_classes_are_those_of_the_published_weights() -> None:
    for published in PUBLISHED.values():
        categories = torchvision.models.get_model_weights(published.model).DEFAULT.meta[
            "categories"
        ]
        # The development kit writes two of them in another way.
        theirs = [re.sub("[^a-z]", "", name) for name in categories]
        assert theirs == [re.sub("[^a-z]", "", name) for name in VOC_CLASS_NAMES]


def test_weights_that_cannot_be_fetched_are_one_line_with_their_address(
    monkeypatch: pytest.MonkeyPatch, fcn_deploy: FcnDeploy, tmp_path: Path
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "empty"))
    done = fcn_deploy("import", "torchvision:fcn_resnet50", "--out", tmp_path / "run")
    assert done.code == 2
    assert "no route to host" in done.err
    assert RESNET50.url in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("torchvision:unet",), "torchvision:fcn_resnet50"),
        (("torchvision:fcn_resnet50", "--weights", "nowhere.pth"), "nowhere.pth"),
    ],
)
def test_what_is_not_there_is_named(
    fcn_deploy: FcnDeploy, words: tuple[str, ...], said: str
) -> None:
    done = fcn_deploy("import", *words)
    assert done.code == 2
    assert said in done.err
