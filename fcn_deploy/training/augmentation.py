"""Augmentation of training images: scaling, crop, flip."""

from __future__ import annotations

from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from fcn_deploy.core.spec import IGNORE_INDEX, IMAGENET_MEAN
from fcn_deploy.training.recipes import Recipe


def training_transform(recipe: Recipe) -> v2.Transform:
    """Return what happens to an image and its mask before they are a training example.

    Where a crop reaches beyond an image, it is filled with the mean colour and void.
    """
    steps: list[v2.Transform] = []
    if recipe.scale is None:
        mean_colour = [round(255 * channel) for channel in IMAGENET_MEAN]
        fill = {tv_tensors.Image: mean_colour, tv_tensors.Mask: IGNORE_INDEX}
        steps.append(v2.RandomCrop(recipe.crop_size, pad_if_needed=True, fill=fill))
    else:
        steps.append(RandomScaledCrop(recipe.crop_size, *recipe.scale))
    if recipe.flip:
        steps.append(v2.RandomHorizontalFlip())
    if recipe.colour_jitter:
        steps.append(v2.ColorJitter(*[recipe.colour_jitter] * 3))
    return v2.Compose(steps)


class RandomScaledCrop(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Resize by a random factor and crop, at a random place.

    What is cropped away is never resized: a window of ``size / factor`` is cut out and resized.  It
    stays inside the picture, so very small factors become larger ones for small pictures.

    Args:
        size: (height, width) of the crop.
        low: smallest factor.
        high: largest factor.
    """

    def __init__(self, size: tuple[int, int], low: float, high: float) -> None:
        super().__init__()
        self.size, self.low, self.high = size, low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw factor and place: ``top``, ``left``, ``height``, ``width`` of the window."""
        there = v2.functional.get_size(flat_inputs[0])
        fitting = max(want / have for want, have in zip(self.size, there, strict=True))
        low = max(self.low, fitting)
        factor = float(torch.empty(1).uniform_(low, max(self.high, low)))
        window = [min(h, round(w / factor)) for w, h in zip(self.size, there, strict=True)]
        place = [
            int(torch.randint(have - cut + 1, (1,)))
            for have, cut in zip(there, window, strict=True)
        ]
        return dict(zip(("top", "left", "height", "width"), [*place, *window], strict=True))

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Bilinear with antialiasing for images, nearest neighbour for masks."""
        return v2.functional.resized_crop(inpt, **params, size=list(self.size), antialias=True)
