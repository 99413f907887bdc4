"""The convolution that alone reads the image, found by trying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def first_convolution_of(
    network: nn.Module, compute: Callable[[Tensor], Tensor], height: int, width: int
) -> nn.Conv2d | None:
    """Return the convolution of a network that alone reads the image, or None.

    Its weights for a channel are halved and the channel is doubled, both exactly: where what is
    computed stays the same, nothing else looks at the image, and not otherwise than in a sum.

    Args:
        network: in evaluation mode.
        compute: what it gives for float [1, 3, H, W]; it hands the image on as it is.
        height: of an image that the network takes.
        width: of the same.
    """
    image = torch.rand(1, 3, height, width) - 0.5
    factors = torch.tensor([2.0, 4.0, 0.5]).view(1, 3, 1, 1)
    readers: list[nn.Conv2d] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and _is_same(inputs[0], image):
            assert isinstance(module, nn.Conv2d)
            readers.append(module)

    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks = [module.register_forward_pre_hook(note) for module in convolutions]
    try:
        with torch.no_grad():
            expected = compute(image)
    finally:
        for hook in hooks:
            hook.remove()
    if len(readers) != 1 or readers[0].weight.shape[1] != 3:
        return None
    (found,) = readers
    kept = found.weight.detach().clone()
    with torch.no_grad():
        found.weight.copy_(kept / factors)
        given = compute(image * factors)
        found.weight.copy_(kept)
    allowed = 1e-5 * float(expected.abs().max())
    return found if torch.allclose(given, expected, rtol=0, atol=allowed) else None


def _is_same(tensor: Tensor, image: Tensor) -> bool:
    return tensor.data_ptr() == image.data_ptr() and tensor.shape == image.shape
