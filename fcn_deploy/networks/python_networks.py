"""Networks from somebody's Python code: any module that gives one score per class and place.

    images ─pad─▶ network ─▶ logits [N, C, h, w] ─bilinear where small─▶ ─crop─▶ [N, C, H, W]

The padding is zeros at the right and at the bottom of the normalised image, as a convolution pads:
the mean's colour.  It is part of the network, in PyTorch and in every file that is exported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fcn_deploy.core.code_trust import code_is_trusted
from fcn_deploy.core.errors import ArchitectureError
from fcn_deploy.core.spec import MAX_CLASSES
from fcn_deploy.networks.fcn import SegmentationNetwork
from fcn_deploy.networks.first_convolution import first_convolution_of
from fcn_deploy.networks.python_recipe import PythonRecipe, spoken
from fcn_deploy.networks.upsampling import cropped, interpolated

#: (height, width) of the images that a network is tried on: of many factors two, of few, flat, one.
TRIED = ((64, 96), (97, 131), (33, 160), (1, 1))
#: Multiples that are tried where a network takes no odd sizes.
_MULTIPLES = (2, 4, 8, 16, 32, 64, 128)
#: Entries of a dictionary that may hold the logits.
_ENTRIES = ("out", "logits")


class PythonNetwork(SegmentationNetwork):
    """A module of somebody else's, for images of any size.

    Args:
        network: float [N, 3, H, W] → logits [N, C, h, w]; see :func:`logits_of`.
        num_classes: C.
        multiple_of: what it takes: height and width are padded to multiples of this.
        whole: its logits have the size of the image that it was given.
    """

    def __init__(
        self, network: nn.Module, num_classes: int, multiple_of: int, *, whole: bool
    ) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.multiple_of = multiple_of
        self.whole = whole

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of the image that the module is given."""
        step = self.multiple_of
        return (height + step - 1) // step * step, (width + step - 1) // step * step

    def scores(self, images: Tensor) -> Tensor:
        """Return the module's logits [N, C, h, w] of normalised float images [N, 3, H, W]."""
        if self.multiple_of > 1:
            height, width = self.padded_size(images.shape[2], images.shape[3])
            border = (0, width - images.shape[3], 0, height - images.shape[2])
            images = nn.functional.pad(images, border)
        return logits_of(self.network(images))

    def logits(self, scores: Tensor, height: int, width: int) -> Tensor:
        """Bring scores [N, C, h, w] to the picture's size."""
        if not self.whole:
            scores = interpolated(scores, *self.padded_size(height, width))
        if self.multiple_of > 1:
            scores = cropped(scores, 0, height, width)
        return scores

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, C, H, W]; see :meth:`SegmentationNetwork.forward`."""
        return self.logits(self.scores(images), images.shape[2], images.shape[3])

    def first_convolution(self) -> nn.Conv2d | None:
        """Return the convolution that alone reads the image, or None: it is found by trying."""
        size = self.padded_size(*TRIED[0])
        return first_convolution_of(
            self.network, lambda image: logits_of(self.network(image)), *size
        )


def logits_of(output: object) -> Tensor:
    """Return the logits of what a module gives: a tensor, the first of several, or an entry.

    Raises:
        TypeError: it gives something else.
    """
    if isinstance(output, Mapping):
        output = next((output[entry] for entry in _ENTRIES if entry in output), output)
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise TypeError(
            f"it gives {type(output).__name__}, not a tensor, a tuple that begins with one, or a "
            f"dictionary with {' or '.join(_ENTRIES)}"
        )
    return output


def build_python_network(architecture: str, num_classes: int | None) -> PythonNetwork:
    """Build a network from Python and find out what it gives.

    Args:
        architecture: a name that :class:`PythonRecipe` reads.
        num_classes: C; None: what the factory makes of itself.

    Raises:
        ArchitectureError: the user has not said that its code may run, or it does not do what a
            segmentation network does.
    """
    recipe = PythonRecipe.from_name(architecture)
    _require_trust(recipe)
    made = recipe.call(num_classes)
    if not isinstance(made, nn.Module):
        raise ArchitectureError(
            f"{recipe.callee} gives {type(made).__name__}, not a torch.nn.Module",
            "name a class or a function that makes a network",
        )
    try:
        made = made.to(device="cpu", dtype=torch.float32)
    except Exception as error:  # of any kind; it may have no weights yet
        raise ArchitectureError(
            f"{recipe.callee} makes what does not go to the CPU ({spoken(error)})",
            "let it make its weights on the CPU",
        ) from error
    tried = _tried(made, recipe)
    if num_classes not in (None, tried.num_classes):
        count = recipe.class_count()
        raise ArchitectureError(
            f"{recipe.callee} gives {tried.num_classes} classes, not {num_classes}",
            f"drop --arg {count}"
            if count in dict(recipe.arguments)
            else "give it the number with --arg, by the name that it has there",
        )
    whole = PythonNetwork(made, tried.num_classes, recipe.multiple_of, whole=tried.whole)
    return whole.train()


def same_network(one: nn.Module, other: nn.Module) -> bool:
    """Say whether two networks from Python give the same logits once they have the same weights.

    The other one is given the weights of the first.
    """
    with suppress(RuntimeError):  # weights of other names or shapes
        other.load_state_dict(one.state_dict())
        image = torch.rand(1, 3, *TRIED[0], generator=torch.Generator().manual_seed(0))
        modes = one.training, other.training
        with torch.no_grad():
            logits, found = (network.eval()(image) for network in (one, other))
        one.train(modes[0])
        other.train(modes[1])
        allowed = 1e-4 * float(logits.nan_to_num(0, 0, 0).abs().max())
        return logits.shape == found.shape and torch.allclose(found, logits, 0, allowed)
    return False


def try_python_network(architecture: str) -> None:
    """Build a network before the data says how many classes it is to have, to refuse it early.

    Args:
        architecture: as for :func:`build_python_network`.

    Raises:
        ArchitectureError: likewise.
    """
    recipe = PythonRecipe.from_name(architecture)
    _require_trust(recipe)
    build_python_network(architecture, recipe.stand_in_classes())


def _require_trust(recipe: PythonRecipe) -> None:
    if not code_is_trusted():
        raise ArchitectureError(
            f"its network is built by {recipe.callee}, and no code is imported unasked",
            "add --trust-code if you trust both that code and the file that names it",
        )


@dataclass(frozen=True)
class _Tried:
    """What a network gave: so many classes, and whether its logits are as large as its input."""

    num_classes: int
    whole: bool


def _tried(network: nn.Module, recipe: PythonRecipe) -> _Tried:
    """Run a network on images of several sizes.

    Raises:
        ArchitectureError: it refuses one, or gives no class scores.
    """
    network.eval()
    found: list[tuple[int, bool]] = []
    grids: list[tuple[tuple[int, int], tuple[int, int]]] = []
    for size in TRIED:
        try:
            logits = _run(network, size, recipe.multiple_of)
        except Exception as error:  # the code is foreign: it may raise anything
            raise _refusal(network, recipe, size, error) from error
        found.append((logits.shape[1], logits.shape[2:] == _padded(size, recipe.multiple_of)))
        grids.append((_padded(size, recipe.multiple_of), (logits.shape[2], logits.shape[3])))
    counts = {count for count, _ in found}
    if len(counts) > 1 or not 2 <= found[0][0] <= MAX_CLASSES:
        raise ArchitectureError(
            f"{recipe.callee} gives {', '.join(map(str, sorted(counts)))} classes, and a mask of "
            f"bytes holds 2 to {MAX_CLASSES}",
            "give it one channel per class, background among them"
            if found[0][0] < 2
            else "merge classes",
        )
    _require_grids(recipe, grids)
    return _Tried(found[0][0], all(whole for _, whole in found))


def _require_grids(
    recipe: PythonRecipe, grids: Sequence[tuple[tuple[int, int], tuple[int, int]]]
) -> None:
    """Refuse scores that do not lie over the image: of another share of its height than width.

    Raises:
        ArchitectureError: naming the first such sizes.
    """
    (height, width), (rows, columns) = grids[0]
    for size, grid in grids:
        # Some round up to their stride: 64 for 33, and 8 for 1.  Twice as far off is another grid.
        shares = [got * height / (whole * rows) for got, whole in zip(grid, size, strict=True)]
        if min(size) > 1 and not all(0.5 < share < 2 for share in shares):
            raise ArchitectureError(
                f"{recipe.callee} gives scores of {grid[0]}×{grid[1]} for {size[0]}×{size[1]} "
                f"pixels, and of {rows}×{columns} for {height}×{width}: they do not lie over the "
                "image",
                "name a factory of a segmentation network",
            )


def _run(network: nn.Module, size: tuple[int, int], multiple_of: int) -> Tensor:
    """Return the logits for an image of noise.

    Raises:
        Exception: of any kind, from the network; a TypeError where it gives no class scores.
    """
    height, width = _padded(size, multiple_of)
    noise = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = logits_of(network(noise))
    if logits.dim() != 4 or logits.shape[0] != 1 or not logits.is_floating_point():
        shape = "×".join(map(str, logits.shape))
        raise TypeError(f"it gives {logits.dtype} of {shape}, not class scores [N, C, h, w]")
    return logits


def _refusal(
    network: nn.Module, recipe: PythonRecipe, size: tuple[int, int], error: Exception
) -> ArchitectureError:
    """Return what to say of a network that does not take a size: and the multiple that it takes."""
    if isinstance(error, TypeError) and str(error).startswith("it gives "):
        return ArchitectureError(
            f"{recipe.callee}: {error}", "name a factory of a segmentation network"
        )
    for multiple in _MULTIPLES:
        if multiple <= recipe.multiple_of:
            continue
        try:
            for other in TRIED:
                _run(network, other, multiple)
        except Exception:  # the next one may do
            continue
        return ArchitectureError(
            f"{recipe.callee} takes no image of {size[0]}×{size[1]} ({spoken(error)})",
            f"add --multiple-of {multiple}, which pads images inside the network",
        )
    return ArchitectureError(
        f"{recipe.callee} takes no image of {size[0]}×{size[1]} ({spoken(error)})",
        "a network for images of any size is needed: see --arg and --multiple-of",
    )


def _padded(size: tuple[int, int], multiple_of: int) -> tuple[int, int]:
    height, width = (-(-length // multiple_of) * multiple_of for length in size)
    return height, width
