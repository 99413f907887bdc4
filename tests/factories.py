"""Factories of networks as a user's code may have them, for ``python:tests.factories:NAME``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def one_class(num_classes: int = 1) -> Tiny:
    """Return a network that left to itself has one class, as those of some libraries."""
    return Tiny(num_classes, weights=None)


class Tiny(nn.Module):
    """Two convolutions and class scores, with a choice of what it gives and takes.

    Args:
        num_classes: C.
        stride: pixels of the image per step of the logits.
        form: ``tensor``, ``tuple``, or the entry of a dictionary.
        multiple_of: what height and width must be multiples of.
        own_mean: the network looks at the image twice.
        weights: as a library's pretrained option: ``published`` is not to be had here.
    """

    def __init__(
        self,
        num_classes: int = 3,
        stride: int = 1,
        form: str = "tensor",
        multiple_of: int = 1,
        own_mean: bool = False,
        weights: str | None = "published",
    ) -> None:
        super().__init__()
        if weights == "published":
            raise OSError("no network to fetch weights from")
        self.stem = nn.Conv2d(3, 6, 3, stride=stride, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Conv2d(6, num_classes, 1)
        self.form, self.multiple_of, self.own_mean = form, multiple_of, own_mean

    def forward(self, image: Tensor) -> Any:
        if image.shape[2] % self.multiple_of or image.shape[3] % self.multiple_of:
            raise RuntimeError("sizes must fit")
        features = torch.relu(self.norm(self.stem(image)))
        if self.own_mean:
            features = features + image.mean(dim=1, keepdim=True)
        logits = self.head(features)
        if self.form == "tensor":
            return logits
        return (logits, features) if self.form == "tuple" else {self.form: logits, "aux": features}


def tiny(**arguments: Any) -> Tiny:
    """The same, without a parameter that is called after classes."""
    return Tiny(**{"weights": None, **arguments})


def classifier() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def broken() -> nn.Module:
    raise ValueError("an encoder\nis missing")


def text() -> str:
    return "no network"


class Pooling(nn.Module):
    """One value per channel and picture is normalised, as in DeepLab's image pooling."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Conv2d(3, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(image + self.norm(image.mean((2, 3), keepdim=True)))
        return logits


class DataDependent(nn.Module):
    """What it computes depends on the pixels: no graph can hold that."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(image)
        return -logits if float(image.sum()) > 1 else logits


class Odd(nn.Module):
    """What no segmentation network should be, by its name."""

    def __init__(self, kind: str, pretrained: bool = False) -> None:
        super().__init__()
        if kind == "exits":
            raise SystemExit(0)
        if kind == "doubles":
            torch.set_default_dtype(torch.float64)
        self.head = nn.Conv2d(3, 3, 1)
        self.kind, self.pretrained = kind, pretrained
        self.register_buffer("drawn", torch.rand(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(image)
        if self.kind == "pooled":
            return nn.functional.adaptive_avg_pool2d(logits, 1)
        if self.kind == "flat":
            return nn.functional.avg_pool2d(logits, (1, 2), ceil_mode=True)
        if self.kind == "rounds up":
            sizes = [(size + 31) // 32 * 32 for size in logits.shape[2:]]
            return nn.functional.interpolate(logits, sizes)
        if self.kind == "nan":
            return logits / 0 - logits / 0
        if self.kind == "drawn":
            return logits + self.drawn
        return -logits if self.pretrained else logits


class Extra(nn.Conv2d):
    """Keeps what is no tensor beside its weights."""

    def __init__(self) -> None:
        super().__init__(3, 3, 1)

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: dict[str, int]) -> None: ...


def segformer(num_classes: int = 4) -> nn.Module:
    """transformers' SegFormer, one block in each stage, with random weights."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        num_labels=num_classes,
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 64, 96],
        decoder_hidden_size=64,
    )
    network: nn.Module = SegformerForSemanticSegmentation(config)
    return network
