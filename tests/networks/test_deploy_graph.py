"""The deploy graph: normalisation, network, argmax."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import normalize

from fcn_deploy.core.spec import OUTPUT_NAMES, ModelSpec, Precision
from fcn_deploy.data.images import read_image
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.data.scenes.render import draw_scene
from fcn_deploy.networks.deploy_graph import DeployModel, Normalise


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
