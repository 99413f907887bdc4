"""The networks: shapes, bilinear initialisation, weights from outside, the deploy graph."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
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
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import normalize

from fcn_deploy.errors import ArchitectureError
from fcn_deploy.images import read_image
from fcn_deploy.metrics import margin_of
from fcn_deploy.model import DeployModel, Normalise
from fcn_deploy.networks import ARCHITECTURES, bilinear_kernel, build_model, find_architecture
from fcn_deploy.scenes import draw_scene
from fcn_deploy.spec import OUTPUT_NAMES, ModelSpec, Precision

OneLine = Callable[[Exception], str]

CATDOG = Path(__file__).parents[2] / "shared" / "images" / "catdog.jpg"


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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_network_of_the_table_builds_and_runs(architecture: str) -> None:
    model = build_model(architecture, 3)
    assert model.training
    with torch.inference_mode():
        assert model.eval()(torch.zeros(1, 3, 33, 40)).shape == (1, 3, 33, 40)
    names = [name for name, _ in model.named_modules()]
    assert not any("avgpool" in name or name.endswith("fc") for name in names)
    upsample = model.get_submodule("upsample")
    assert isinstance(upsample, nn.ConvTranspose2d)
    assert (upsample.kernel_size, upsample.stride, upsample.padding) == (
        (64, 64),
        (32, 32),
        (16, 16),
    )
    assert upsample.bias is None


def test_the_score_layer_is_a_xavier_initialised_1x1_convolution(network: nn.Module) -> None:
    score = network.get_submodule("score")
    assert isinstance(score, nn.Conv2d)
    assert score.kernel_size == (1, 1)
    limit = (6 / (512 + 21)) ** 0.5
    assert 0.95 * limit < score.weight.abs().max().item() <= limit


def test_an_unknown_architecture_lists_the_known(one_line: OneLine) -> None:
    for ask in (find_architecture, lambda name: build_model(name, 5)):
        with pytest.raises(ArchitectureError) as caught:
            ask("fcn32s-vgg16")
        text = one_line(caught.value)
        assert "fcn32s-vgg16" in text
        assert all(name in text for name in ARCHITECTURES)


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


# -- the deploy graph ---------------------------------------------------------------------------


class Given(nn.Module):
    """A network whose logits are a linear map of its (normalised) pixels."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("kc,nchw->nkhw", self.weight, images)


def pictures(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator)


def test_normalise_is_torchvisions(tiny_spec: ModelSpec) -> None:
    images = pictures(2, 5, 7).permute(0, 3, 1, 2)
    expected = normalize(images.float() / 255, mean=list(tiny_spec.mean), std=list(tiny_spec.std))
    normalised = Normalise(tiny_spec)(images.float())
    torch.testing.assert_close(normalised, expected, atol=1e-5, rtol=1e-5)


def test_the_deploy_graph_is_normalise_network_argmax(
    network: nn.Module, tiny_spec: ModelSpec
) -> None:
    spec = replace(tiny_spec, mean=(0.1, 0.5, 0.7), std=(0.2, 0.3, 0.5))
    images = pictures(2, 37, 50)
    with torch.inference_mode():
        mask, logits, margin = DeployModel(network, spec, OUTPUT_NAMES)(images)
        pixels = images.numpy().astype(np.float32) / 255
        normalised = (pixels - np.float32(spec.mean)) / np.float32(spec.std)
        expected = network(torch.from_numpy(normalised).permute(0, 3, 1, 2)).numpy()
    assert mask.dtype == torch.uint8
    assert mask.shape == margin.shape == (2, 37, 50)
    assert logits.dtype == margin.dtype == torch.float32
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-4 * scale)
    np.testing.assert_array_equal(mask.numpy(), logits.numpy().argmax(axis=1))
    np.testing.assert_array_equal(margin.numpy(), margin_of(logits.numpy()))


def test_ties_go_to_the_lowest_class(tiny_spec: ModelSpec) -> None:
    row = torch.tensor([1.0, -2.0, 0.5])
    tied = torch.stack([row - 9 * row.abs(), row, row, row - 9 * row.abs(), row])
    images = pictures(1, 9, 9)
    mask, margin = DeployModel(Given(tied), tiny_spec, ("mask", "margin"))(images)
    logits = Given(tied)(Normalise(tiny_spec)(images.permute(0, 3, 1, 2).float()))
    top = logits.max(dim=1).values
    lowest = (logits == top[:, None]).to(torch.int8).argmax(dim=1)
    assert torch.equal(mask.long(), lowest)
    assert set(mask.unique().tolist()) <= {0, 1, 3}
    assert 1 in mask
    assert (margin[mask == 1] == 0).all()


@pytest.mark.parametrize("precision", list(Precision))
def test_all_logits_equal_is_class_0(tiny_spec: ModelSpec, precision: Precision) -> None:
    same = Given(torch.ones(5, 3))
    mask, margin = DeployModel(same, tiny_spec, ("mask", "margin"), precision)(pictures(1, 4, 6))
    assert not mask.any()
    assert not margin.any()


@pytest.mark.parametrize(
    "outputs",
    [("mask",), ("mask", "logits"), ("mask", "margin"), ("logits", "margin"), OUTPUT_NAMES],
)
def test_the_outputs_asked_for_come_in_their_order(
    tiny_spec: ModelSpec, outputs: tuple[str, ...]
) -> None:
    given = Given(torch.randn(5, 3, generator=torch.Generator().manual_seed(1)))
    produced = DeployModel(given, tiny_spec, outputs)(pictures(2, 3, 4))
    expected = {
        "mask": (torch.uint8, 3),
        "logits": (torch.float32, 4),
        "margin": (torch.float32, 3),
    }
    assert [(o.dtype, o.dim()) for o in produced] == [expected[name] for name in outputs]


def test_half_precision_is_half_inside_and_the_same_outside(
    network: nn.Module, tiny_spec: ModelSpec
) -> None:
    images = pictures(1, 40, 56)
    half = DeployModel(network, tiny_spec, OUTPUT_NAMES, Precision.FP16)
    assert {p.dtype for p in half.network.parameters()} == {torch.float16}
    with torch.inference_mode():
        mask, logits, margin = half(images)
        _, reference, reference_margin = DeployModel(network, tiny_spec, OUTPUT_NAMES)(images)
    assert [mask.dtype, logits.dtype, margin.dtype] == [torch.uint8, torch.float32, torch.float32]
    error = (logits - reference).abs().max()
    assert 0 < error < 0.02 * reference.abs().max()
    decided = reference_margin > 2 * error
    assert torch.equal(mask[decided].long(), reference.argmax(dim=1)[decided])
    assert torch.equal(mask.long(), logits.argmax(dim=1))


def test_deploying_leaves_the_network_as_it_was(tiny_spec: ModelSpec) -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    deploy = DeployModel(network, tiny_spec, precision=Precision.FP16)
    deploy(pictures(1, 4, 4))
    assert network.training
    assert not deploy.network.training
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def test_a_pictures_place_in_the_batch_does_not_matter(
    network: nn.Module, tiny_spec: ModelSpec
) -> None:
    images = pictures(3, 33, 40)
    deploy = DeployModel(network, tiny_spec, ("logits",))
    with torch.inference_mode():
        (together,) = deploy(images)
        for index in range(3):
            (alone,) = deploy(images[index : index + 1])
            torch.testing.assert_close(together[index], alone[0], rtol=1e-4, atol=1e-4)


def test_the_deploy_graph_takes_what_pillow_decodes(
    network: nn.Module, tiny_spec: ModelSpec, tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(draw_scene(0, 0, (20, 31))[0]).save(path)
    with torch.inference_mode():
        (mask,) = DeployModel(network, tiny_spec)(torch.from_numpy(read_image(path))[None])
    assert mask.shape == (1, 20, 31)
