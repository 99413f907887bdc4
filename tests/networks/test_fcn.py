"""The networks: shapes, bilinear initialisation, skips, dilated bodies, weights from outside."""

from __future__ import annotations

import functools
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fcn_deploy.core.errors import ArchitectureError
from fcn_deploy.data.images import read_image
from fcn_deploy.data.scenes.render import draw_scene
from fcn_deploy.networks.architectures import (
    architecture_names,
    build_model,
    find_architecture,
    with_output_stride,
)
from fcn_deploy.networks.upsampling import bilinear_kernel

OneLine = Callable[[Exception], str]

CATDOG = Path(__file__).parents[3] / "shared" / "images" / "catdog.jpg"


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """ResNet-18 and 21 classes, random, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model("fcn32s-resnet18", 21).eval()


# -- bilinear_kernel ----------------------------------------------------------------------------


def tutorial_kernel(size: int) -> NDArray[np.float64]:
    """The chapter's formula, written out pixel by pixel."""
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    return np.array(
        [
            [(1 - abs(i - centre) / factor) * (1 - abs(j - centre) / factor) for j in range(size)]
            for i in range(size)
        ]
    )


@given(channels_in=st.integers(1, 5), channels_out=st.integers(1, 5), size=st.integers(1, 65))
@settings(max_examples=60)
def test_the_kernel_is_the_tutorials_on_the_diagonal_and_zero_beside_it(
    channels_in: int, channels_out: int, size: int
) -> None:
    weight = bilinear_kernel(channels_in, channels_out, size)
    assert weight.shape == (channels_in, channels_out, size, size)
    assert weight.dtype == torch.float32
    for i in range(channels_in):
        for j in range(channels_out):
            expected = tutorial_kernel(size) if i == j else np.zeros((size, size))
            np.testing.assert_allclose(weight[i, j].numpy(), expected, atol=1e-6)


def test_known_kernels() -> None:
    assert bilinear_kernel(1, 1, 1)[0, 0].tolist() == [[1.0]]
    assert bilinear_kernel(1, 1, 3)[0, 0, 1].tolist() == [0.5, 1.0, 0.5]
    assert (16 * bilinear_kernel(1, 1, 4)[0, 0]).tolist() == [
        [1, 3, 3, 1],
        [3, 9, 9, 3],
        [3, 9, 9, 3],
        [1, 3, 3, 1],
    ]


@pytest.mark.parametrize("arguments", [(0, 1, 4), (1, 0, 4), (1, 1, 0), (1, 1, -3)])
def test_a_kernel_of_nothing_is_an_error(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        bilinear_kernel(*arguments)


def generated_picture() -> NDArray[np.uint8]:
    return draw_scene(0, 0, (561, 728))[0]


def catdog() -> NDArray[np.uint8]:
    if not CATDOG.exists():
        pytest.skip(f"needs the tutorial's picture {CATDOG}")
    return read_image(CATDOG)


@pytest.mark.parametrize("picture", [catdog, generated_picture])
def test_the_tutorials_sanity_check(picture: Callable[[], NDArray[np.uint8]]) -> None:
    image = picture()
    assert image.shape == (561, 728, 3)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    upsample = nn.ConvTranspose2d(3, 3, kernel_size=4, stride=2, padding=1, bias=False)
    with torch.inference_mode():
        upsample.weight.copy_(bilinear_kernel(3, 3, 4))
        larger = upsample(pixels)
    assert larger[0].permute(1, 2, 0).shape == (1122, 1456, 3)
    expected = F.interpolate(pixels, scale_factor=2, mode="bilinear", align_corners=False)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(larger[inner], expected[inner], atol=1e-6, rtol=0)
    # Beyond the border the convolution sees zeros, the interpolation the border itself.
    assert not torch.allclose(larger[:, :, 0], expected[:, :, 0], atol=1e-3)


def test_the_networks_upsampling_starts_as_bilinear_interpolation(network: nn.Module) -> None:
    upsample = network.get_submodule("upsample")
    scores = torch.randn(1, 21, 4, 5, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        larger = upsample(scores)
    expected = F.interpolate(scores, scale_factor=32, mode="bilinear", align_corners=False)
    assert larger.shape == (1, 21, 128, 160)
    inner = (slice(None), slice(None), slice(16, -16), slice(16, -16))
    torch.testing.assert_close(larger[inner], expected[inner], atol=1e-5, rtol=0)


# -- the networks -------------------------------------------------------------------------------


def test_the_tutorials_shapes(network: nn.Module) -> None:
    with torch.inference_mode():
        images = torch.zeros(1, 3, 320, 480)
        assert network.get_submodule("body")(images).shape == (1, 512, 10, 15)
        assert network(images).shape == (1, 21, 320, 480)


@given(height=st.integers(1, 80), width=st.integers(1, 80), batch=st.integers(1, 2))
@settings(max_examples=15)
def test_any_size_in_the_same_size_out(
    network: nn.Module, height: int, width: int, batch: int
) -> None:
    with torch.inference_mode():
        logits = network(torch.zeros(batch, 3, height, width))
    assert logits.shape == (batch, 21, height, width)
    assert torch.isfinite(logits).all()


def test_a_pixel_row_or_column_and_the_strides_neighbours(network: nn.Module) -> None:
    with torch.inference_mode():
        for size in ((1, 1), (1, 33), (33, 1), (31, 32), (32, 33), (64, 65)):
            assert network(torch.zeros(1, 3, *size)).shape[2:] == size


def test_the_crop_keeps_the_logits_over_their_pixels(network: nn.Module) -> None:
    images = torch.randn(1, 3, 70, 75, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = network(images)
        scores = network.get_submodule("score")(network.get_submodule("body")(images))
    # The grid's first cell lies over the first 32 pixels, whatever the size of the image.
    expected = F.interpolate(scores, scale_factor=32, mode="bilinear", align_corners=False)
    assert expected.shape[2:] == (96, 96)
    inner = (slice(None), slice(None), slice(16, 70), slice(16, 75))
    torch.testing.assert_close(logits[inner], expected[inner], atol=1e-4, rtol=1e-4)


def test_the_score_layer_is_a_xavier_initialised_1x1_convolution(network: nn.Module) -> None:
    score = network.get_submodule("score")
    assert isinstance(score, nn.Conv2d)
    assert score.kernel_size == (1, 1)
    limit = (6 / (512 + 21)) ** 0.5
    assert 0.95 * limit < score.weight.abs().max().item() <= limit


def test_the_names_of_an_fcn32s_weights_are_those_of_every_checkpoint() -> None:
    names = set(build_model("fcn32s-resnet18", 3).state_dict())
    assert {name for name in names if not name.startswith("body.")} == {
        "score.weight",
        "score.bias",
        "upsample.weight",
    }
    resnet = torchvision.models.resnet18(weights=None).state_dict()
    assert {name for name in names if name.startswith("body.")} == {
        f"body.{name}" for name in resnet if not name.startswith("fc.")
    }


# -- skips --------------------------------------------------------------------------------------


def stretched(scores: Tensor, factor: int, height: int, width: int) -> Tensor:
    """Scores brought to a finer grid bilinearly, cropped at the top left."""
    framed = F.pad(scores, (1, 1, 1, 1))  # beyond the border are zeros
    larger = F.interpolate(framed, scale_factor=factor, mode="bilinear", align_corners=False)
    return larger[:, :, factor : factor + height, factor : factor + width]


@pytest.mark.parametrize("suffix", ["", "-os16", "-os8"])
@pytest.mark.parametrize(
    ("fine", "coarse", "stride", "coarse_stride"),
    [("fcn16s", "fcn32s", 16, 32), ("fcn8s", "fcn16s", 8, 16)],
)
def test_a_network_with_one_skip_more_begins_as_the_one_without(
    fine: str, coarse: str, stride: int, coarse_stride: int, suffix: str
) -> None:
    networks = [build_model(f"{name}-resnet18{suffix}", 4).eval() for name in (fine, coarse)]
    # What the finer network has more, its new skip, is not among the coarser one's weights.
    shared = {
        name: tensor
        for name, tensor in networks[1].state_dict().items()
        if not name.startswith("upsample.")
    }
    left = networks[0].load_state_dict(shared, strict=False)
    assert not left.unexpected_keys
    images = torch.randn(2, 3, 70, 91, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, before = (network.scores(images) for network in networks)
    stride, coarse_stride = (min(s, int(suffix[3:] or 32)) for s in (stride, coarse_stride))
    assert found.shape[2:] == (math.ceil(70 / stride), math.ceil(91 / stride))
    if stride == coarse_stride:
        assert torch.equal(found, before)
        return
    expected = stretched(before, 2, found.shape[2], found.shape[3])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("layer", "stride"), [("layer3", 16), ("layer2", 8)])
def test_a_skip_adds_the_scores_of_its_stage_over_their_pixels(layer: str, stride: int) -> None:
    network = build_model("fcn8s-resnet18", 2).eval()
    for parameter in network.score.parameters():
        nn.init.zeros_(parameter)
    skip = network.get_submodule(f"skips.{layer}.score")
    assert isinstance(skip, nn.Conv2d)
    assert not skip.weight.any()
    nn.init.normal_(skip.weight, generator=torch.Generator().manual_seed(2))
    images = torch.randn(1, 3, 61, 83, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = images
        for stage, module in network.get_submodule("body").named_children():
            features = module(features)
            if stage == layer:
                break
        expected = skip(features)
        found = network(images)
    assert expected.shape[2:] == (math.ceil(61 / stride), math.ceil(83 / stride))
    if stride == 16:
        expected = stretched(expected, 2, math.ceil(61 / 8), math.ceil(83 / 8))
    expected = stretched(expected, 8, 61, 83)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=1e-5 * scale, rtol=1e-4)


# -- dilated bodies -----------------------------------------------------------------------------


@pytest.mark.parametrize("output_stride", [16, 8])
def test_a_dilated_resnet50_is_torchvisions(output_stride: int) -> None:
    replaced = [False, output_stride == 8, True]
    theirs = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=replaced)
    ours = build_model(f"fcn32s-resnet50-os{output_stride}", 2).get_submodule("body")
    layers = dict(theirs.named_modules())
    for name, module in ours.named_modules():
        if isinstance(module, nn.Conv2d):
            assert str(module) == str(layers[name]), name
    ours.load_state_dict(theirs.state_dict(), strict=False)
    images = torch.randn(1, 3, 37, 50, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = images
        for module in list(theirs.eval().children())[:-2]:
            expected = module(expected)
        assert torch.equal(ours.eval()(images), expected)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@given(height=st.integers(1, 100), width=st.integers(1, 100))
@settings(max_examples=8)
def test_a_dilated_body_gives_the_plain_ones_features_and_those_between(
    backbone: str, height: int, width: int
) -> None:
    plain, *dilated = bodies(backbone)
    images = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height))
    with torch.inference_mode():
        expected = plain(images)
        for body, step in zip(dilated, (2, 4), strict=True):
            features = body(images)
            stride = 32 // step
            assert features.shape[2:] == (math.ceil(height / stride), math.ceil(width / stride))
            scale = float(expected.abs().max())
            assert scale > 0
            torch.testing.assert_close(
                features[:, :, ::step, ::step], expected, atol=1e-5 * scale, rtol=0
            )


@functools.cache
def bodies(backbone: str) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The same weights in a body of output stride 32, 16 and 8."""
    made = []
    with torch.random.fork_rng(devices=[]):
        for suffix in ("", "-os16", "-os8"):
            torch.manual_seed(0)
            network = build_model(f"fcn32s-{backbone}{suffix}", 2).eval()
            made.append(network.get_submodule("body"))
    return made[0], made[1], made[2]


@pytest.mark.parametrize("number", [50, 101])
def test_torchvisions_networks_give_torchvisions_logits(number: int) -> None:
    segmentation = torchvision.models.segmentation
    theirs = {50: segmentation.fcn_resnet50, 101: segmentation.fcn_resnet101}[number](
        weights=None, weights_backbone=None, num_classes=3, aux_loss=False
    ).eval()
    ours = build_model(f"tv-fcn-resnet{number}", 3).eval()
    weights = {name.replace("backbone.", "body."): t for name, t in theirs.state_dict().items()}
    ours.load_state_dict(weights)
    for size in ((1, 1), (37, 50)):
        images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            assert torch.equal(ours(images), theirs(images)["out"])


# -- names --------------------------------------------------------------------------------------


def test_an_unknown_architecture_says_how_names_are_made(one_line: OneLine) -> None:
    for name in ("fcn32s-vgg16", "fcn4s-resnet18", "fcn8s-resnet18-os4", "tv-fcn-resnet18", ""):
        for ask in (find_architecture, lambda name: build_model(name, 5)):
            with pytest.raises(ArchitectureError) as caught:
                ask(name)
            text = one_line(caught.value)
            assert repr(name) in text
            for word in ("fcn8s", "resnet101", "-os16", "tv-fcn-resnet50", "fcn32s-resnet18"):
                assert word in text
            assert len(text) < 250


def test_every_name_says_what_its_row_says() -> None:
    names = architecture_names()
    assert len(names) == len(set(names)) == 3 * 4 * 3 + 2
    for name in names:
        row = find_architecture(name)
        assert row.name == name
        assert name.startswith(f"{row.family}-{row.backbone}")
    assert {"fcn8s-resnet34-os16", "fcn32s-resnet18", "tv-fcn-resnet101"} <= set(names)


def test_a_name_with_another_output_stride(one_line: OneLine) -> None:
    assert with_output_stride("fcn8s-resnet18", 16) == "fcn8s-resnet18-os16"
    assert with_output_stride("fcn8s-resnet18-os16", 8) == "fcn8s-resnet18-os8"
    assert with_output_stride("fcn8s-resnet18-os16", 32) == "fcn8s-resnet18"
    for name, stride in (("tv-fcn-resnet50", 16), ("fcn8s-resnet18", 4), ("fcn9s", 8)):
        with pytest.raises(ArchitectureError) as caught:
            with_output_stride(name, stride)
        one_line(caught.value)


# -- weights from outside -----------------------------------------------------------------------


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


def test_a_missing_weights_file(tmp_path: Path, one_line: OneLine) -> None:
    assert "No such file" in refused(tmp_path / "gone.pth", one_line)


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
    path.write_bytes(content)
    refused(path, one_line)


def test_other_kinds_of_file_given_as_weights(tmp_path: Path, one_line: OneLine) -> None:
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("readme.txt", "no weights here")
    (tmp_path / "folder").mkdir()
    for name in ("some.zip", "folder"):
        refused(tmp_path / name, one_line)


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
    assert "misfit" in text


class Bomb:
    """Unpickling it touches a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


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


def test_imagenet_weights_that_can_be_fetched(
    monkeypatch: pytest.MonkeyPatch, published: dict[str, Tensor]
) -> None:
    monkeypatch.setattr(
        torchvision.models.WeightsEnum, "get_state_dict", lambda *_, **__: dict(published)
    )
    assert_body_is(build_model("fcn32s-resnet18", 4, weights="imagenet"), published)
