"""Early argmax gives what the transposed convolution gives, at every size."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fcn_deploy.core.errors import ArchitectureError
from fcn_deploy.core.spec import OUTPUT_NAMES
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.networks.tails import EarlyArgmax, LateArgmax
from fcn_deploy.networks.upsampling import bilinear_kernel
from tests.networks.tails import ROUNDING, noise, upsampling, whole_numbers

#: Pictures of 1×1 to 70×70, the sizes that all rewritten tails are tried on.
LARGEST = 70
#: Classes and strides; 150 classes at stride 32 would be 400 MB of weights.
CASES = [
    (2, 8), (2, 32), (21, 8), (21, 16), (21, 32), (150, 8),
    pytest.param(150, 16, marks=pytest.mark.slow),
]  # fmt: skip


def weight_of(kind: str, classes: int, stride: int) -> Tensor:
    shape = (classes, classes, 2 * stride, 2 * stride)
    if kind == "dense":
        return noise(*shape, seed=1)
    # As training leaves it: bilinear, with a little of everything added.
    return bilinear_kernel(classes, classes, 2 * stride) + 0.01 * noise(*shape, seed=1)


def exact_weight_of(kind: str, classes: int, stride: int) -> Tensor:
    """The same in whole numbers: bilinear weights are multiples of 1 / (2s)²."""
    size = 2 * stride
    dense = whole_numbers(classes, classes, size, size, seed=1)
    if kind == "dense":
        return dense
    return (bilinear_kernel(classes, classes, size) * size**2).round() + dense


@functools.cache
def exact_upsampling(kind: str, classes: int, stride: int) -> nn.ConvTranspose2d:
    return upsampling(classes, stride, exact_weight_of(kind, classes, stride))


def grids(stride: int) -> Iterator[tuple[int, int]]:
    """The sizes of score grids that pictures of up to 70×70 have."""
    yield from itertools.product(range(1, math.ceil(LARGEST / stride) + 1), repeat=2)


def both(
    upsample: nn.ConvTranspose2d, scores: Tensor, height: int, width: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Mask, logits and margin of the late and of the early argmax."""
    with torch.inference_mode():
        late = LateArgmax(upsample, 0, OUTPUT_NAMES)(scores, height, width)
        early = EarlyArgmax(upsample, OUTPUT_NAMES)(scores, height, width)
    return late, early


@pytest.mark.parametrize("kind", ["dense", "trained"])
@pytest.mark.parametrize(("classes", "stride"), CASES)
def test_early_argmax_is_exact_where_nothing_is_rounded(
    classes: int, stride: int, kind: str
) -> None:
    upsample, most = exact_upsampling(kind, classes, stride), math.ceil(LARGEST / stride)
    late, early = LateArgmax(upsample, 0, OUTPUT_NAMES), EarlyArgmax(upsample, OUTPUT_NAMES)
    early.requires_grad_(False)
    ties = 0
    few = {(1, 1), (1, most), (most, 1), (2, 3), (most, most)} if classes > 100 else None
    for h, w in few or grids(stride):
        # Pictures of one grid are crops of its largest at the top left.
        scores = whole_numbers(1, classes, h, w, seed=h * 100 + w, largest=3)
        expected = late(scores, h * stride, w * stride)
        given = early(scores, h * stride, w * stride)
        for name, wanted, got in zip(OUTPUT_NAMES, expected, given, strict=True):
            assert wanted.dtype == got.dtype
            assert torch.equal(wanted, got), (name, h, w)
        ties += int((expected[1] == expected[1].amax(dim=1, keepdim=True)).sum())
        ties -= expected[0].numel()
    assert ties > 0  # which therefore went to the lowest class


@pytest.mark.parametrize("kind", ["dense", "trained"])
@pytest.mark.parametrize(("classes", "stride"), CASES)
def test_early_argmax_differs_by_rounding_alone(classes: int, stride: int, kind: str) -> None:
    # The same products are added up in another order.
    upsample = upsampling(classes, stride, weight_of(kind, classes, stride))
    late, early = LateArgmax(upsample, 0, OUTPUT_NAMES), EarlyArgmax(upsample, OUTPUT_NAMES)
    early.requires_grad_(False)
    for h, w in ((1, 1), (1, 3), (2, 1), (3, 4)):
        scores = noise(2, classes, h, w, seed=h * 100 + w)
        mask, logits, margin = late(scores, h * stride, w * stride)
        early_mask, early_logits, early_margin = early(scores, h * stride, w * stride)
        allowed = ROUNDING * logits.abs().max()
        assert (early_logits - logits).abs().max() <= allowed
        assert (early_margin - margin).abs().max() <= 2 * allowed
        assert (margin[early_mask != mask] <= 2 * allowed).all()
        # Whatever was rounded: its three outputs belong together.
        assert torch.equal(early_mask.long(), early_logits.argmax(dim=1))
        np.testing.assert_array_equal(early_margin, margin_of(early_logits.numpy()))


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_every_size_of_picture_is_cropped_right(stride: int) -> None:
    size = 2 * stride
    upsample = upsampling(2, stride, whole_numbers(2, 2, size, size, seed=1))
    late, early = LateArgmax(upsample, 0, ("mask",)), EarlyArgmax(upsample, ("mask",))
    # Each row and each column, with some of the other; every pair of them is the next test's.
    every, some = range(1, LARGEST + 1), (1, stride - 1, stride, stride + 1, LARGEST)
    sizes = {*itertools.product(every, some), *itertools.product(some, every)}
    with torch.inference_mode():
        for h, w in grids(stride):
            scores = whole_numbers(1, 2, h, w, seed=h * 100 + w)
            (largest,) = late(scores, h * stride, w * stride)
            for height, width in sizes & pairs_of(h, w, stride):
                (mask,) = early(scores, height, width)
                assert torch.equal(mask, largest[:, :height, :width]), (height, width)


def pairs_of(h: int, w: int, stride: int) -> set[tuple[int, int]]:
    """The sizes of pictures up to 70×70 that have a grid of h×w scores."""
    heights, widths = (
        range((count - 1) * stride + 1, min(count * stride, LARGEST) + 1) for count in (h, w)
    )
    return {*itertools.product(heights, widths)}


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_every_pair_of_height_and_width_shows_the_same_pixels(stride: int) -> None:
    early, seen = EarlyArgmax(upsampling(2, stride), OUTPUT_NAMES), 0
    for h, w in grids(stride):
        # Each pixel of the cells is told from all others.
        count = (h + 1) * (w + 1) * stride**2
        index = torch.arange(count, dtype=torch.float32).view(1, h + 1, w + 1, stride**2)
        logits = torch.cat([index, -index], dim=3)  # of two classes
        largest = early._in_place(index, h * stride, w * stride)
        assert largest.unique().numel() == largest.numel() == h * w * stride**2
        for height, width in pairs_of(h, w, stride):
            shown = largest[:, :height, :width]
            assert torch.equal(early._in_place(index, height, width), shown)
            both_classes = torch.stack([shown, -shown], dim=1)
            assert torch.equal(early._logits(logits, height, width), both_classes)
            seen += 1
    assert seen == LARGEST**2


@given(
    height=st.integers(1, LARGEST),
    width=st.integers(1, LARGEST),
    case=st.sampled_from([(2, 8), (2, 32), (21, 16), (21, 32), (150, 8)]),
    kind=st.sampled_from(["dense", "trained"]),
)
@settings(max_examples=30)
def test_early_argmax_of_any_size_class_count_and_weights(
    height: int, width: int, case: tuple[int, int], kind: str
) -> None:
    classes, stride = case
    grid = math.ceil(height / stride), math.ceil(width / stride)
    scores = whole_numbers(1, classes, *grid, seed=height * 100 + width, largest=3)
    upsample = exact_upsampling(kind, classes, stride)
    for wanted, got in zip(*both(upsample, scores, height, width), strict=True):
        assert torch.equal(wanted, got)


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    stride=st.sampled_from([2, 4, 8, 16, 32]),
    classes=st.integers(2, 6),
    batch=st.integers(1, 3),
)
@settings(max_examples=40)
def test_early_argmax_of_larger_pictures(
    height: int, width: int, stride: int, classes: int, batch: int
) -> None:
    size = 2 * stride
    upsample = upsampling(classes, stride, whole_numbers(classes, classes, size, size, seed=2))
    grid = math.ceil(height / stride), math.ceil(width / stride)
    scores = whole_numbers(batch, classes, *grid, seed=height)
    for wanted, got in zip(*both(upsample, scores, height, width), strict=True):
        assert torch.equal(wanted, got)


def test_ties_go_to_the_lowest_class() -> None:
    weight = weight_of("trained", 4, 8)
    weight[:, 3] = weight[:, 1]  # the classes 1 and 3 have the same logits everywhere
    scores = noise(1, 4, 5, 6, seed=0)
    upsample = upsampling(4, 8, weight)
    for mask, _, margin in both(upsample, scores, 40, 48):
        assert not (mask == 3).any()
        assert (mask == 1).any()
        assert (margin[mask == 1] == 0).all()
    for mask, _, margin in both(upsample, torch.zeros(1, 4, 2, 2), 16, 16):
        assert not mask.any()
        assert not margin.any()


@pytest.mark.parametrize(
    "changed",
    [
        {"kernel_size": 12},
        {"padding": 3},
        {"stride": 4},
        {"bias": True},
        {"groups": 3},
        {"output_padding": 1},
        {"dilation": 2},
        {"kernel_size": 6, "stride": 3, "padding": 1},
    ],
    ids=str,
)
def test_another_upsampling_is_refused(
    changed: dict[str, int], one_line: Callable[[Exception], str]
) -> None:
    form = {"kernel_size": 16, "stride": 8, "padding": 4, "bias": False, **changed}
    with pytest.raises(ArchitectureError, match="use --tail deconv") as caught:
        EarlyArgmax(nn.ConvTranspose2d(3, 3, **form), ("mask",))  # type: ignore[arg-type]
    one_line(caught.value)
