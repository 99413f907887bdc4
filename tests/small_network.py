"""A real network, small enough to be trained within a test, as a runner that can be broken."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fcn_deploy.core.spec import ModelSpec, Precision, SizeRange
from fcn_deploy.data.dataset import Sample
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.data.scenes.render import SCENE_CLASS_NAMES, draw_scene
from fcn_deploy.networks.upsampling import bilinear_kernel
from fcn_deploy.parity.inputs import Pictures
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import Outputs, Runner

SMALL_SPEC = ModelSpec(
    architecture="small",
    class_names=SCENE_CLASS_NAMES,
    palette=voc_palette(len(SCENE_CLASS_NAMES)),
    image_sizes=SizeRange(smallest=(64, 96), typical=(64, 96), largest=(64, 96)),
)
_STRIDE = 4


class SmallNetwork(nn.Module):
    """Two strided convolutions, class scores, bilinear upsampling: an FCN with little in it."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 12, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(12, 24, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(24, num_classes, 1),
        )
        self.upsample = nn.ConvTranspose2d(
            num_classes, num_classes, 2 * _STRIDE, stride=_STRIDE, padding=_STRIDE // 2, bias=False
        )
        kernel = bilinear_kernel(num_classes, num_classes, 2 * _STRIDE)
        self.upsample.weight = nn.Parameter(kernel, requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, C, ≥ H, ≥ W] of normalised images [N, 3, H, W], not yet cropped."""
        logits: Tensor = self.upsample(self.body(images))
        return logits


def normalised(
    images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float], divisor: float = 255
) -> Tensor:
    scaled = torch.tensor(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / divisor
    return (scaled - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def trained_network(steps: int = 60) -> SmallNetwork:
    """Train on a few scenes, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SmallNetwork(SMALL_SPEC.num_classes)
    scenes = [draw_scene(1, index, (64, 96)) for index in range(6)]
    images = normalised(np.stack([s[0] for s in scenes]), SMALL_SPEC.mean, SMALL_SPEC.std)
    truth = torch.from_numpy(np.stack([s[1] for s in scenes])).long()
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(images), truth, ignore_index=255).backward()
        optimiser.step()
    return network.eval()


@dataclass
class SmallRunner(Runner):
    """The network with a bug, or with none.

    Attributes:
        network: trained.
        precision: of its arithmetic, weights and every layer's output.
        file_spec: what the runner says of its file.
        mean, std: what it really applies to pixels in [0, 1].
        divisor: of pixels before that.
        upsample: takes the place of the network's transposed convolution.
        see: changes the images before the network.
        crop: (down, right) of the crop's corner in pixels.
        bug: changes logits, float32 [N, C, H, W], before the argmax.
        mask_bug: changes masks, uint8 [N, H, W], after it.
    """

    network: SmallNetwork
    precision: Precision = Precision.FP32
    file_spec: ModelSpec = SMALL_SPEC
    mean: Sequence[float] = SMALL_SPEC.mean
    std: Sequence[float] = SMALL_SPEC.std
    divisor: float = 255
    upsample: nn.Module | None = None
    see: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = lambda images: images
    crop: tuple[int, int] = (0, 0)
    bug: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda logits: logits
    mask_bug: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = lambda mask: mask
    checkpoint_digest: str = "sha256:small"
    library: str = "test 1.0"

    @property
    def spec(self) -> ModelSpec:
        return self.file_spec

    def describe(self) -> RunnerDescription:
        return RunnerDescription(
            backend="small",
            device="cpu",
            precision=self.precision.value,
            arithmetic=self.precision.value,
            library=self.library,
            threads=1,
            file="small.pt",
            digest="sha256:file",
            checkpoint_digest=self.checkpoint_digest,
        )

    def close(self) -> None:
        pass

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        height, width = images.shape[1:3]
        whole = normalised(self.see(images), self.mean, self.std, self.divisor)
        with torch.no_grad():
            for layer in (*self.network.body, self.upsample or self.network.upsample):
                whole = _rounded_output(layer, whole, self.precision)
        down, right = self.crop
        padded = np.pad(whole.numpy(), [(0, 0), (0, 0), (0, down), (0, right)], mode="edge")
        logits = self.bug(padded[:, :, down : down + height, right : right + width])
        mask = np.nan_to_num(logits, nan=-np.inf).argmax(axis=1).astype(np.uint8)
        return Outputs(self.mask_bug(mask), np.ascontiguousarray(logits))


def _rounded_output(layer: nn.Module, given: Tensor, precision: Precision) -> Tensor:
    """Return a layer's output with input, weights and itself rounded: CPUs compute in float32."""
    saved = {name: value.clone() for name, value in layer.state_dict().items()}
    # A transposed convolution's output channels are its weight's second axis.
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    rounded = {
        name: _rounded(value, precision, axis) if name == "weight" else value
        for name, value in saved.items()
    }
    layer.load_state_dict(rounded)
    output: Tensor = layer(_rounded(given, precision, axis=0))
    layer.load_state_dict(saved)
    return _rounded(output, precision, axis=0)


def _rounded(values: Tensor, precision: Precision, axis: int) -> Tensor:
    """Round to what the precision holds; INT8 with a scale for each channel, or each picture."""
    if precision is Precision.FP16:
        return values.half().float()
    if precision is Precision.BF16:
        return values.bfloat16().float()
    if precision is Precision.INT8:
        others = [i for i in range(values.dim()) if i != axis]
        scale = (values.abs().amax(others, keepdim=True) / 127).clamp(min=1e-12)
        return (values / scale).round() * scale
    return values


def scene_pictures(count: int = 3) -> Pictures:
    """Return scenes that the network was not trained on, of 96×128."""
    scenes = [draw_scene(2, index, (96, 128)) for index in range(count)]
    found = [Sample(f"scene {i}", image, mask) for i, (image, mask) in enumerate(scenes)]
    return Pictures("scenes", count, found.__getitem__)


@pytest.fixture(scope="module")
def network() -> Iterator[SmallNetwork]:
    """The trained network on one thread: more would wait for each other longer than it computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield trained_network()
    torch.set_num_threads(threads)
