"""What the tests of the tails share: upsamplings and their inputs, and a file's outputs."""

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from fcn_deploy.networks.fcn import UpsamplingNetwork
from fcn_deploy.networks.upsampling import bilinear_kernel
from tests.onnx_outputs import outputs_of

#: Classes of the network that is exported.
CLASSES = 21
#: Rounding, in units of the largest |logit|: sums of 4·C products in float32.
ROUNDING = 1e-5


def upsampling(classes: int, stride: int, weight: Tensor | None = None) -> nn.ConvTranspose2d:
    made = nn.ConvTranspose2d(
        classes, classes, 2 * stride, stride=stride, padding=stride // 2, bias=False
    )
    with torch.no_grad():
        made.weight.copy_(
            bilinear_kernel(classes, classes, 2 * stride) if weight is None else weight
        )
    return made.requires_grad_(False)


class StridedScores(UpsamplingNetwork):
    """A network with next to nothing before its upsampling: scores of every s-th pixel."""

    def __init__(self, classes: int, stride: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, classes, 1, stride=stride)
        self.upsample = upsampling(classes, stride)

    def scores(self, images: Tensor) -> Tensor:
        """Return class scores [N, C, ⌈H/s⌉, ⌈W/s⌉]."""
        scores: Tensor = self.convolution(images)
        return scores


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def run(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    return outputs_of(model, image=images)


def whole_numbers(*shape: int, seed: int, largest: int = 8) -> Tensor:
    """Sums of their products are exact in float32, in any order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-largest, largest + 1, shape, generator=generator).float()
