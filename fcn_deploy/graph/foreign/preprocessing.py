"""How another tool's network wants its pictures, in numpy and as it is written down."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.spec import IMAGENET_MEAN, IMAGENET_STD

Layout = Literal["NCHW", "NHWC"]
ChannelOrder = Literal["rgb", "bgr"]
LAYOUTS: tuple[Layout, ...] = ("NCHW", "NHWC")
CHANNEL_ORDERS: tuple[ChannelOrder, ...] = ("rgb", "bgr")
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """What stands between a picture of bytes and a network's float input.

    The network reads (pixel - mean) / std, pixels being 0 to 255.

    Attributes:
        layout: of the network's input.
        channels: the order in which it reads them.
        mean: in grey levels, in that order.
        std: in grey levels, in that order.
    """

    layout: Layout
    channels: ChannelOrder
    mean: Triple
    std: Triple

    def apply(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the network's input of RGB pictures, uint8 [N, H, W, 3]."""
        pixels = images.astype(np.float32)
        if self.channels == "bgr":
            pixels = pixels[..., ::-1]
        normalised = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        if self.layout == "NCHW":
            normalised = normalised.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(normalised)

    @property
    def rgb_mean(self) -> Triple:
        """The mean of RGB in [0, 1], as a model's spec holds it."""
        return _as_share(self._in_rgb(self.mean))

    @property
    def rgb_std(self) -> Triple:
        """The standard deviation of RGB in [0, 1], as a model's spec holds it."""
        return _as_share(self._in_rgb(self.std))

    def _in_rgb(self, values: Triple) -> Triple:
        first, second, third = values
        return (third, second, first) if self.channels == "bgr" else values

    @property
    def words(self) -> str:
        """Say what the network is fed."""
        said = f"{self.layout}, {self.channels.upper()}, (pixel - mean) / std in grey levels"
        return f"{said} with mean {_triple_words(self.mean)}, std {_triple_words(self.std)}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Any) -> Preprocessing:
        """Read what :meth:`to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        if entry["layout"] not in LAYOUTS or entry["channels"] not in CHANNEL_ORDERS:
            raise ValueError(f"{entry['layout']}, {entry['channels']}")
        return cls(
            cast(Layout, entry["layout"]),
            cast(ChannelOrder, entry["channels"]),
            _triple(entry["mean"]),
            _triple(entry["std"]),
        )


def normalisation(
    mean: Triple | None, std: Triple | None, scale: float | None, channels: ChannelOrder = "rgb"
) -> tuple[Triple, Triple]:
    """Return mean and std in grey levels of what a user may say, in the same order of channels.

    Args:
        mean: of pixels in [0, 1], or in grey levels where a mean or std is above 1.
        std: likewise.
        scale: what pixels, 0 to 255, are multiplied by, in place of mean and std.
        channels: their order, in which ImageNet's mean and std are taken where none is given.

    Raises:
        InputError: scale beside mean or std, or a number that cannot be.
    """
    if scale is not None and (mean is not None or std is not None):
        raise InputError("--scale and --mean or --std exclude each other", "give one of them")
    if scale is not None:
        if not (math.isfinite(scale) and scale > 0):
            raise InputError(f"--scale {scale} is no positive number", "e.g. --scale 1/255")
        return (0.0, 0.0, 0.0), (1 / scale,) * 3
    if (mean is None) != (std is None):
        raise InputError(
            "--mean and --std belong together", "give both, e.g. --std 1,1,1 where none is applied"
        )
    step = -1 if channels == "bgr" else 1
    mean, std = mean or _triple(IMAGENET_MEAN[::step]), std or _triple(IMAGENET_STD[::step])
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise InputError("--mean and --std must be numbers, --std positive ones", "check them")
    levels = 1.0 if max(*map(abs, mean), *std) > 1 else 255.0
    return _times(mean, levels), _times(std, levels)


def _times(values: Triple, factor: float) -> Triple:
    one, two, three = (value * factor for value in values)
    return one, two, three


def _as_share(values: Triple) -> Triple:
    return _times(values, 1 / 255)


def _triple(entry: Any) -> Triple:
    one, two, three = (float(value) for value in entry)
    return one, two, three


def _triple_words(values: Triple) -> str:
    return f"({', '.join(f'{value:.6g}' for value in values)})"
