"""Bodies of timm's: their grids, their weights, and what cannot be one.

timm is not in requirements.lock: most of this is tested where somebody has installed it
(`pip install 'fcn-deploy[timm]'`).
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fcn_deploy.core.errors import ArchitectureError, MissingExtraError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import OUTPUT_NAMES, Precision
from fcn_deploy.export.exporter import onnx_from_checkpoint
from fcn_deploy.networks import architectures
from fcn_deploy.networks.architectures import build_model, find_architecture, with_output_stride
from fcn_deploy.networks.checkpoint import load_checkpoint, save_checkpoint
from fcn_deploy.networks.starting_weights import start_words, starting_network
from fcn_deploy.networks.timm_bodies import TimmBody, TimmPlan, TimmWeights, plan_of
from fcn_deploy.runners.base import open_runner
from tests.networks.test_architectures import assert_masks_are_the_same
from tests.random_network import random_network

OneLine = Callable[[Exception], str]

#: One of each family, of odd grids and of even ones.
FITTING = (
    "resnet10t",
    "mobilenetv3_small_050",
    "efficientnet_lite0",
    "regnetx_002",
    "convnext_atto",
)


def test_a_name_of_timms_is_read_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    row = find_architecture("fcn16s-timm:resnet10t")
    assert (row.family, row.backbone, row.output_stride) == ("fcn16s", "timm:resnet10t", 32)
    assert row.name == "fcn16s-timm:resnet10t"
    with pytest.raises(MissingExtraError, match=r"timm's needs timm.*fcn-deploy\[timm\]"):
        build_model("fcn16s-timm:resnet10t", 2)


@pytest.mark.parametrize(
    "name", ["timm:hf-hub:a/b", "timm:../weights", "timm:", "timm:resnet10t.c3_in1k", "timm:a-b"]
)
def test_names_of_files_and_of_the_hub_are_none(name: str, one_line: OneLine) -> None:
    with pytest.raises(ArchitectureError, match="unknown architecture") as caught:
        build_model(f"fcn8s-{name}", 2)
    one_line(caught.value)


def test_weights_of_the_other_library_are_refused(one_line: OneLine) -> None:
    with pytest.raises(ArchitectureError, match="for a body of timm's") as caught:
        build_model("fcn8s-resnet18", 2, weights=TimmWeights("resnet18.a1_in1k"))
    assert "--arch on timm:resnet18" in one_line(caught.value)
    with pytest.raises(ArchitectureError, match="--weights timm:resnet18") as caught:
        build_model("fcn8s-timm:resnet18", 2, weights="imagenet")
    one_line(caught.value)
    with pytest.raises(ArchitectureError, match="ResNets alone are dilated"):
        with_output_stride("fcn8s-timm:resnet18", 16)


def test_a_family_whose_grids_a_body_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch, one_line: OneLine
) -> None:
    plan = TimmPlan("coarse", {"layer4": 0}, {"layer4": 5}, channels_last=False, padded=False)
    monkeypatch.setattr(architectures, "plan_of", lambda _: plan)
    monkeypatch.setattr(
        architectures, "body_of_backbone", lambda *_: TimmBody(torch.nn.Identity(), plan)
    )
    with pytest.raises(ArchitectureError, match="no features on a grid of 16 pixels") as caught:
        build_model("fcn8s-timm:coarse", 2)
    assert "use --arch fcn32s-timm:coarse" in one_line(caught.value)


# -- where timm is installed --------------------------------------------------------------------


@pytest.fixture
def timm() -> Any:
    return pytest.importorskip("timm", reason="timm is not installed")


@pytest.mark.parametrize("name", FITTING)
def test_a_body_has_timms_features_and_any_size(name: str, timm: Any) -> None:
    network = build_model(f"fcn8s-timm:{name}", 4).eval()
    body = network.get_submodule("body")
    theirs = timm.create_model(name, features_only=True).eval()
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    theirs.load_state_dict(body.get_submodule("features").state_dict(), strict=False)
    with torch.no_grad():
        expected = {grid.shape[2]: grid for grid in theirs(images)}
        for stage, stride in (("layer2", 8), ("layer3", 16), ("layer4", 32)):
            assert torch.equal(body(images)[stage], expected[64 // stride])
        for height, width in ((1, 1), (31, 33), (97, 131)):
            some = torch.zeros(2, 3, height, width)
            assert tuple(network(some).shape) == (2, 4, height, width)
            grid = body(some)["layer4"].shape[2:]
            assert tuple(grid) == (math.ceil(height / 32), math.ceil(width / 32))


def test_what_is_tried_draws_no_random_numbers(timm: Any) -> None:
    drawn = []
    for _ in range(2):
        plan_of.cache_clear()
        torch.manual_seed(5)
        drawn.append(build_model("fcn8s-timm:resnet10t", 4).get_parameter("score.weight"))
        drawn.append(build_model("fcn8s-timm:resnet10t", 4).get_parameter("score.weight"))
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_tiny_patch16_224", "has features on grids of 16 pixels and none of 32"),
        ("swin_tiny_patch4_window7_224", "takes no image of 64×96"),
        ("resnet10", "has no network resnet10; did you mean"),
        ("mixer_s16_224", "none of 32"),
    ],
)
def test_what_cannot_be_a_body_is_refused(
    name: str, words: str, timm: Any, one_line: OneLine
) -> None:
    with pytest.raises(ArchitectureError, match=words) as caught:
        build_model(f"fcn32s-timm:{name}", 2)
    assert len(one_line(caught.value)) < 400


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "mobilenetv3_small_050"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_classifiers_file_fills_the_body(
    name: str, suffix: str, timm: Any, tmp_path: Path
) -> None:
    classifier = timm.create_model(name).eval()
    path = tmp_path / f"weights{suffix}"
    state = {key: tensor.contiguous() for key, tensor in classifier.state_dict().items()}
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    architecture = f"fcn8s-timm:{name}"
    body = starting_network(architecture, ("a", "b"), path).eval().get_submodule("body")
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = classifier.forward_intermediates(images, intermediates_only=True)[-1]
        assert torch.equal(body(images)["layer4"], expected)
    words = start_words(architecture, ("a", "b"), path)
    assert words is not None
    assert words.startswith(f"starting from {path}: of the body ")
    matched, total = (int(words.split()[place]) for place in (6, 9))
    assert matched == total > 20
    assert "not in the network (" in words


def test_a_file_of_another_network_is_told_by_its_tensors(
    timm: Any, tmp_path: Path, one_line: OneLine
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    with pytest.raises(ArchitectureError, match=r"holds no timm:resnet10t weights: \d+ of") as got:
        build_model("fcn8s-timm:resnet10t", 2, weights=path)
    line = one_line(got.value)
    for words in ("tensors match", "not in the file", "--weights timm:resnet10t"):
        assert words in line


def test_published_weights_that_cannot_be_fetched_name_the_file(
    timm: Any, monkeypatch: pytest.MonkeyPatch, one_line: OneLine
) -> None:
    plan_of("timm:resnet10t")

    def no_network(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(ArchitectureError, match="cannot fetch timm:resnet10t") as caught:
        build_model("fcn8s-timm:resnet10t", 2, weights=TimmWeights("resnet10t.c3_in1k"))
    line = one_line(caught.value)
    assert "https://huggingface.co/timm/resnet10t.c3_in1k/resolve/main/model.safetensors" in line
    assert "--weights FILE" in line


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("resnet18.a1_in1k", "is for timm:resnet18, not timm:resnet10t"),
        ("resnet10t.mine", "has no weights resnet10t.mine; choose --weights timm:resnet10t"),
    ],
)
def test_published_weights_that_do_not_exist(
    weights: str, words: str, timm: Any, one_line: OneLine
) -> None:
    with pytest.raises(ArchitectureError, match=words) as caught:
        build_model("fcn8s-timm:resnet10t", 2, weights=TimmWeights(weights))
    one_line(caught.value)


def test_what_timms_weights_were_trained_with_is_said(timm: Any) -> None:
    names = ("a", "b")
    plain = start_words("fcn8s-timm:resnet10t", names, TimmWeights("resnet10t.c3_in1k"))
    assert plain == "starting from timm:resnet10t.c3_in1k: its body is taken, the head begins anew"
    other = start_words("fcn8s-timm:xception41", names, TimmWeights("xception41.tf_in1k"))
    assert "learned with mean 0.5, 0.5, 0.5 and deviation 0.5, 0.5, 0.5" in str(other)


@pytest.mark.slow
@pytest.mark.parametrize("name", FITTING)
def test_export_of_a_body_of_timms(
    name: str, timm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FCN_DEPLOY_TRUST_CODE", raising=False)
    run = Run(tmp_path / "run")
    network, spec = random_network(f"fcn8s-timm:{name}")
    save_checkpoint(run.checkpoint, network, spec)
    stored = load_checkpoint(run.checkpoint).model.state_dict()
    assert all(torch.equal(stored[key], value) for key, value in network.state_dict().items())
    for precision in (Precision.FP32, Precision.FP16):
        onnx_from_checkpoint(run.checkpoint, run.onnx(precision), precision=precision)
    with (
        open_runner(run, "torch", outputs=OUTPUT_NAMES) as reference,
        open_runner(run, "ort", outputs=("mask", "logits")) as candidate,
    ):
        for shape in ((1, 1, 1), (1, 97, 131), (2, 33, 70)):
            assert_masks_are_the_same(reference, candidate, shape)
