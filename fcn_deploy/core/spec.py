"""ModelSpec, the classes and the normalisation of a model, which is stored in each of its files.

Standard library only: a target device reads it without torch, numpy or onnx.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from fcn_deploy.core.errors import ArtifactError, InputError
from fcn_deploy.core.input_shape import ANY_SHAPE, InputShape

SPEC_SCHEMA = 1
#: Key of the spec in the metadata of checkpoints and ONNX files.
SPEC_KEY = "fcn_deploy.spec"
#: Label value of pixels that count for nothing: the void border of VOC.
IGNORE_INDEX = 255
#: ImageNet statistics of RGB in [0, 1], as torchvision's ResNets were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: A mask is uint8, so there can be no more classes than that.
MAX_CLASSES = 256
#: What the deploy graph can give, in the order in which it gives them.
OUTPUT_NAMES = ("mask", "logits", "margin")


class Precision(str, Enum):
    """Arithmetic of the network between the uint8 image and the logits.

    ``BF16`` is no file's: a backend computes a float32 file in it, and says so by its name.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    BF16 = "bf16"

    @property
    def flag(self) -> str:
        """What a command line asks for it with, led by a space; or nothing."""
        return f" --{self.value}" if self in (Precision.FP16, Precision.INT8) else ""


class Product(str, Enum):
    """The two TensorRTs; their engines never fit each other."""

    TRT = "trt"
    RTX = "trt-rtx"


class Tail(str, Enum):
    """How the exported graph makes masks of class scores; see docs/numerics.md, "The tail"."""

    EARLY_ARGMAX = "early-argmax"
    TOURNAMENT = "tournament"
    DECONV = "deconv"
    RESIZE = "resize"
    CROP = "crop"


@dataclass(frozen=True)
class SizeRange:
    """Sizes (height, width) in pixels seen in the training images."""

    smallest: tuple[int, int]
    typical: tuple[int, int]
    largest: tuple[int, int]


@dataclass(frozen=True)
class ModelSpec:
    """Everything a later stage must know of a trained network.

    Attributes:
        architecture: a name from ``networks/architectures.py``, e.g. ``fcn32s-resnet18``.
        class_names: one name per class index.
        palette: one RGB colour (0-255) per class index.
        mean: per-channel mean of RGB in [0, 1] that the network subtracts.
        std: per-channel standard deviation of RGB in [0, 1] that it divides by.
        image_sizes: sizes of the training images, for choosing optimization profiles.
        input_shape: the batches that it takes; networks of ours take all.
    """

    architecture: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    image_sizes: SizeRange
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    input_shape: InputShape = ANY_SHAPE

    def __post_init__(self) -> None:
        if not 2 <= len(self.class_names) <= MAX_CLASSES:
            raise ArtifactError(
                f"a model needs 2 to {MAX_CLASSES} classes, not {len(self.class_names)}",
                "merge or list classes in classes.txt",
            )
        if len(self.palette) != len(self.class_names):
            raise ArtifactError(
                f"{len(self.class_names)} classes but {len(self.palette)} palette colours"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes C: the channels of the logits."""
        return len(self.class_names)

    @property
    def default_profile(self) -> ShapeProfile:
        """The batches that an engine is built for, where nothing else is asked for."""
        return ShapeProfile.default_for(self.image_sizes, self.input_shape)

    def to_json(self) -> str:
        """Return the spec as one line of JSON, for a file's metadata."""
        fields = {"schema": SPEC_SCHEMA, **asdict(self)}
        if self.input_shape.takes_all:  # as in files from before there was anything else
            del fields["input_shape"]
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Read what :meth:`to_json` wrote.

        Raises:
            ArtifactError: the text is no spec, or one of a newer schema.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            schema = fields.pop("schema")
            if schema != SPEC_SCHEMA:
                raise ArtifactError(
                    f"the model's spec has schema {schema}, this version reads {SPEC_SCHEMA}",
                    "install the fcn-deploy that wrote it, or export again",
                )
            return cls(
                architecture=str(fields["architecture"]),
                class_names=tuple(str(name) for name in fields["class_names"]),
                palette=tuple(_colour(entry) for entry in fields["palette"]),
                image_sizes=SizeRange(
                    smallest=_size(fields["image_sizes"]["smallest"]),
                    typical=_size(fields["image_sizes"]["typical"]),
                    largest=_size(fields["image_sizes"]["largest"]),
                ),
                mean=_triple(fields["mean"]),
                std=_triple(fields["std"]),
                input_shape=InputShape.from_json(fields.get("input_shape")),
            )
        except (
            KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError,
        ) as error:  # fmt: skip
            raise ArtifactError(f"the model's spec is unreadable ({error!r})") from error


def _colour(entry: Any) -> tuple[int, int, int]:
    red, green, blue = (int(channel) for channel in entry)
    if not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError(f"{entry} is no colour")
    return red, green, blue


def _triple(entry: Any) -> tuple[float, float, float]:
    red, green, blue = entry
    return float(red), float(green), float(blue)


def _size(entry: Any) -> tuple[int, int]:
    height, width = entry
    return int(height), int(width)


def ordered_outputs(names: Iterable[str]) -> tuple[str, ...]:
    """Return the outputs asked for in the deploy graph's order; ``mask`` is always among them.

    Raises:
        InputError: a name that the deploy graph does not have.
    """
    asked = {"mask", *names}
    unknown = sorted(asked - set(OUTPUT_NAMES))
    if unknown:
        raise InputError(f"unknown output {unknown[0]!r}", f"choose of {', '.join(OUTPUT_NAMES)}")
    return tuple(name for name in OUTPUT_NAMES if name in asked)


#: (N, H, W) of an image batch; the channel axis is always 3.
BatchShape = tuple[int, int, int]
#: How far a default profile reaches at least, (height, width) in pixels: the bench's default
#: picture and the odd sizes of the parity gate fit, however small the training images were.
DEFAULT_PROFILE_REACH = (576, 768)
#: Batch of a default profile at its largest.
DEFAULT_PROFILE_BATCH = 8
#: TensorRT keeps sizes, and the number of values in a tensor, in signed 32-bit integers.
MAX_VALUES = 2**31 - 1
#: No size of more digits is worth reading: Python itself refuses to, from 4301 on.
_MAX_DIGITS = 18


@dataclass(frozen=True)
class ShapeProfile:
    """Batch shapes (N, H, W) that a TensorRT engine takes: an optimization profile.

    Written ``1x32x32:1x320x480:8x1024x2048``.

    Attributes:
        smallest: the least N, H and W (TensorRT's ``min``).
        typical: the shape that the engine is tuned for (``opt``).
        largest: the greatest N, H and W (``max``).
    """

    smallest: BatchShape
    typical: BatchShape
    largest: BatchShape

    def __post_init__(self) -> None:
        for low, middle, high in zip(self.smallest, self.typical, self.largest, strict=True):
            if not 1 <= low <= middle <= high:
                raise InputError(
                    f"profile {self} does not rise from 1: each of N, H, W must grow from MIN "
                    "over OPT to MAX",
                    "write e.g. 1x32x32:1x320x480:8x1024x2048",
                )
        # Sizes are at least 1 here, so this bounds each of them too.
        if 3 * math.prod(self.largest) > MAX_VALUES:
            raise InputError(
                f"profile {self} is too large: N·H·W·3 of MAX must stay below 2^31",
                "choose a smaller MAX, e.g. 1x32x32:1x320x480:8x1024x2048",
            )

    def __str__(self) -> str:
        return ":".join("x".join(map(str, shape)) for shape in self.shapes)

    @property
    def shapes(self) -> tuple[BatchShape, BatchShape, BatchShape]:
        """Smallest, typical and largest shape."""
        return self.smallest, self.typical, self.largest

    @classmethod
    def from_text(cls, text: str) -> ShapeProfile:
        """Read ``MIN:OPT:MAX``, each N×H×W.

        Raises:
            InputError: the text is no profile, its shapes do not rise, or are too large.
        """
        shapes = [_batch_shape(part) for part in text.lower().replace("×", "x").split(":")]
        if len(shapes) != 3 or None in shapes:
            raise InputError(
                f"{text!r} is no profile",
                "write MIN:OPT:MAX with NxHxW each, e.g. 1x32x32:1x320x480:8x1024x2048",
            )
        smallest, typical, largest = (shape for shape in shapes if shape is not None)
        return cls(smallest, typical, largest)

    @classmethod
    def default_for(cls, sizes: SizeRange, taken: InputShape = ANY_SHAPE) -> ShapeProfile:
        """Return the default profile for a network trained on images of these sizes.

        It is tuned for one typical image and starts at a single pixel, since the network takes
        any size and the parity gate tries 1×1.  Of very large images it takes fewer at a time.

        Args:
            sizes: of the training images.
            taken: the batches that the network takes, if not all.

        Raises:
            InputError: a single image is larger than TensorRT takes.
        """
        height, width = (
            max(size, reach)
            for size, reach in zip(sizes.largest, DEFAULT_PROFILE_REACH, strict=True)
        )
        fitting = MAX_VALUES // (3 * height * width)
        batch = max(1, min(DEFAULT_PROFILE_BATCH, fitting))
        return cls(
            (taken.batch or 1, *taken.fitted(1, 1)),
            (taken.batch or 1, *taken.fitted(*sizes.typical)),
            (taken.batch or batch, *taken.fitted(height, width)),
        )

    def to_json(self) -> list[list[int]]:
        """Return the three shapes as lists."""
        return [list(shape) for shape in self.shapes]

    @classmethod
    def from_json(cls, entry: Any) -> ShapeProfile:
        """Read what :meth:`to_json` wrote.

        Raises:
            ArtifactError: it is no profile.
        """
        try:
            smallest, typical, largest = (
                (int(n), int(height), int(width)) for n, height, width in entry
            )
            return cls(smallest, typical, largest)
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"an engine's profile is unreadable ({error!r})") from error

    def contains(self, shape: BatchShape) -> bool:
        """Say whether an engine with this profile takes a batch of that shape."""
        return self.distance(shape) == 0

    def distance(self, shape: BatchShape) -> int:
        """Return by how many images and pixels ``shape`` lies outside, summed over the axes."""
        return sum(
            max(low - size, 0, size - high)
            for low, size, high in zip(self.smallest, shape, self.largest, strict=True)
        )

    def widened_to(self, shape: BatchShape) -> ShapeProfile:
        """Return the profile widened just enough to take ``shape``.

        Raises:
            InputError: it would be larger than TensorRT takes.
        """
        smallest = _zip_shape(min, self.smallest, shape)
        return ShapeProfile(smallest, self.typical, _zip_shape(max, self.largest, shape))


def _batch_shape(text: str) -> BatchShape | None:
    words = text.strip().split("x")
    if len(words) != 3 or not all(word.isascii() and word.isdigit() for word in words):
        return None
    if any(len(word) > _MAX_DIGITS for word in words):
        return None
    images, height, width = map(int, words)
    return images, height, width


def _zip_shape(choose: Callable[[int, int], int], one: BatchShape, other: BatchShape) -> BatchShape:
    images, height, width = (choose(a, b) for a, b in zip(one, other, strict=True))
    return images, height, width
