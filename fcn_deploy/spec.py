"""What every stage must know of a model, in one frozen value that rides inside each file.

Standard library only: a target device reads it without torch, numpy or onnx.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from fcn_deploy.errors import ArtifactError, InputError

SPEC_SCHEMA = 1
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
    """Arithmetic of the network between the uint8 image and the logits."""

    FP32 = "fp32"
    FP16 = "fp16"


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
        architecture: a name from the table in ``model.py``, e.g. ``fcn32s-resnet18``.
        class_names: one name per class index.
        palette: one RGB colour (0-255) per class index.
        mean: per-channel mean of RGB in [0, 1] that the network subtracts.
        std: per-channel standard deviation of RGB in [0, 1] that it divides by.
        image_sizes: sizes of the training images, for choosing optimization profiles.
    """

    architecture: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    image_sizes: SizeRange
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

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

    def to_json(self) -> str:
        """Return the spec as one line of JSON, for a file's metadata."""
        return json.dumps({"schema": SPEC_SCHEMA, **asdict(self)}, sort_keys=True)

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
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
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
