"""Which batch shapes an engine should be built for, given the pictures that there are.

    sizes of the pictures ─▶ heads: the k most frequent sizes ─▶ every size joins the nearest head
                          ─▶ a profile per head ─▶ Choice(memory, batches, pictures well served)

TensorRT tunes a profile for one shape, its optimum, and keeps scratch memory for its largest.  More
profiles put more pictures at an optimum and let small ones have large batches where memory is short
for large ones, and take longer to build.  Memory is an estimate: weights, the most bytes of
activations that are alive at once, by the count of `graph_cost`, and the inputs and outputs of the
batches in flight.  TensorRT fuses layers and needs less of these, and more for some of its kernels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.spec import BatchShape, ShapeProfile
from fcn_deploy.data.images import find_images, image_size, is_image_name
from fcn_deploy.data.sources import labelled_images
from fcn_deploy.graph.cost import peak_bytes

if TYPE_CHECKING:
    import onnx

#: (height, width) in pixels.
Size = tuple[int, int]
#: So many pictures that are served well are enough, as a share.
ENOUGH = 0.95
#: Each profile is tuned for itself: more would make a build take very long.
MOST_PROFILES = 8
#: Batches whose inputs and outputs the `trt` runner keeps on the device: two of a stream, one of a
#: run.
SLOTS = 3


@dataclass(frozen=True)
class Choice:
    """Profiles that take all the pictures.

    Attributes:
        profiles: the one of the most pictures first.
        pictures: how many there are.
        at_optimum: how many of them have exactly the size that their profile is tuned for.
        served: how many of these also get as large a batch as memory allows for their size.
        mean_batch: the largest batch of a picture's profile, on the average over the pictures.
        memory: bytes that the largest shape takes, estimated.
    """

    profiles: tuple[ShapeProfile, ...]
    pictures: int
    at_optimum: int
    served: int
    mean_batch: float
    memory: int

    @property
    def static(self) -> bool:
        """Whether every profile takes one picture size only."""
        return all(p.smallest[1:] == p.largest[1:] for p in self.profiles)

    @property
    def batches(self) -> tuple[int, ...]:
        """The largest batch of each profile."""
        return tuple(profile.largest[0] for profile in self.profiles)


def engine_bytes(model: onnx.ModelProto, shape: BatchShape) -> int:
    """Estimate the device memory of an engine of this graph that has seen a batch of that shape.

    Raises:
        OnnxFileError: the graph's shapes cannot be inferred.
    """
    peak = peak_bytes(model, {"image": (*shape, 3)})
    return peak.weights + peak.activations + SLOTS * peak.edges


def picture_sizes(folder: Path) -> Counter[Size]:
    """Count the sizes of the pictures in a folder, or of those that are labelled in it.

    Headers alone are read.

    Raises:
        ImageError: there are none, or one has no readable header.
    """
    inside = folder / "JPEGImages"
    holds = folder.is_dir() and any(map(is_image_name, folder.iterdir()))
    if inside.is_dir() and not holds:
        files = find_images([inside])
    else:
        files = (None if holds else labelled_images(folder)) or find_images([folder])
    return Counter(image_size(path) for path in files)


def choices(
    sizes: Counter[Size],
    memory_of: Callable[[BatchShape], int],
    *,
    batch: int = 1,
    limit: int | None = None,
) -> list[Choice]:
    """Return what could be built, from one profile for all to one for each size.

    Args:
        sizes: of the pictures, with how many there are of each; not empty.
        memory_of: bytes that a batch of that shape takes.
        batch: pictures at once at most; fewer where ``limit`` asks for it.
        limit: bytes that no choice may exceed; None for no limit.

    Raises:
        InputError: no choice fits, not even for one picture at once, or a picture is larger than
            TensorRT takes.
    """
    heads = [size for size, _ in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))]
    found: list[Choice] = []
    too_large: InputError | None = None
    for count in range(1, min(len(heads), MOST_PROFILES) + 1):
        try:
            found.append(_choice(sizes, heads[:count], memory_of, batch, limit))
        except InputError as error:  # more profiles are smaller ones: they may fit
            too_large = error
    if too_large is not None and not found:
        raise too_large
    return found


def _choice(
    sizes: Counter[Size],
    heads: Sequence[Size],
    memory_of: Callable[[BatchShape], int],
    batch: int,
    limit: int | None,
) -> Choice:
    groups = _groups(sizes, heads)
    profiles = tuple(_profile(head, group, memory_of, batch, limit) for head, group in groups)
    given = [profile.largest[0] for profile in profiles]
    return Choice(
        profiles,
        pictures=sizes.total(),
        at_optimum=sum(sizes[head] for head in heads),
        served=sum(
            sizes[head]
            for (head, _group), images in zip(groups, given, strict=True)
            if images == _largest_batch(head, memory_of, batch, limit)
        ),
        mean_batch=sum(
            images * sum(sizes[size] for size in group)
            for (_head, group), images in zip(groups, given, strict=True)
        )
        / sizes.total(),
        memory=max(memory_of(profile.largest) for profile in profiles),
    )


def choose(found: Sequence[Choice]) -> Choice:
    """Return the choice with the fewest profiles that is good enough, else the best there is."""
    for choice in found:
        if choice.served >= ENOUGH * choice.pictures:
            return choice
    return max(found, key=lambda choice: (choice.served, choice.mean_batch))


def _groups(sizes: Counter[Size], heads: Sequence[Size]) -> list[tuple[Size, list[Size]]]:
    """Let every size join the head that is nearest in height and width, by their ratios."""
    groups: dict[Size, list[Size]] = {head: [] for head in heads}
    for size in sorted(sizes):
        groups[min(heads, key=lambda head: (_distance(size, head), head))].append(size)
    return list(groups.items())


def _distance(one: Size, other: Size) -> float:
    return sum(abs(math.log(a / b)) for a, b in zip(one, other, strict=True))


def _profile(
    head: Size,
    group: Sequence[Size],
    memory_of: Callable[[BatchShape], int],
    batch: int,
    limit: int | None,
) -> ShapeProfile:
    heights, widths = zip(*group, strict=True)
    largest = max(heights), max(widths)
    images = _largest_batch(largest, memory_of, batch, limit)
    if images:
        return ShapeProfile((1, min(heights), min(widths)), (images, *head), (images, *largest))
    needed = memory_of((1, *largest))
    height, width = largest
    raise InputError(
        f"one picture of {height}×{width} takes about {mebibytes(needed)}, more than --memory",
        f"allow --memory {math.ceil(needed / 2**20)}MiB, or make the pictures smaller",
    )


def _largest_batch(
    size: Size, memory_of: Callable[[BatchShape], int], batch: int, limit: int | None
) -> int:
    """Return how many pictures of a size fit at once, ``batch`` at most; 0 for none."""
    fitting = (
        images
        for images in range(batch, 0, -1)
        if limit is None or memory_of((images, *size)) <= limit
    )
    return next(fitting, 0)


def mebibytes(count: int) -> str:
    """Return bytes in words."""
    return f"{count / 2**20:.0f} MiB"
