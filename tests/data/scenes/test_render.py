"""What a training run relies on in the synthetic scenes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fcn_deploy.core.spec import IGNORE_INDEX
from fcn_deploy.data.scenes.render import SCENE_CLASS_NAMES, draw_scene

VOID = IGNORE_INDEX
seeds = st.integers(0, 2**32)
indices = st.integers(0, 10_000)
sides = st.integers(1, 80)


def touching_classes(mask: NDArray[np.uint8]) -> set[tuple[int, int]]:
    """Pairs of different classes, void aside, found on 4-adjacent pixels."""
    pairs: set[tuple[int, int]] = set()
    for first, second in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
        touching = (first != second) & (first != VOID) & (second != VOID)
        pairs |= set(zip(first[touching].tolist(), second[touching].tolist(), strict=True))
    return pairs


@given(seed=seeds, index=indices, height=sides, width=sides)
@settings(max_examples=40, deadline=None)
def test_shapes_dtypes_and_labels_at_any_size(
    seed: int, index: int, height: int, width: int
) -> None:
    image, mask = draw_scene(seed, index, (height, width))
    assert image.shape == (height, width, 3)
    assert mask.shape == (height, width)
    assert image.dtype == mask.dtype == np.uint8
    assert image.flags.c_contiguous
    assert mask.flags.c_contiguous
    assert set(np.unique(mask).tolist()) <= {*range(len(SCENE_CLASS_NAMES)), VOID}


@pytest.mark.parametrize("size", [(1, 1), (1, 80), (80, 1), (2, 3)])
def test_the_smallest_sizes_are_drawn(size: tuple[int, int]) -> None:
    for index in range(20):
        image, mask = draw_scene(0, index, size)
        assert image.shape == (*size, 3)
        assert mask.shape == size


@given(seed=seeds, index=indices, height=sides, width=sides)
@settings(max_examples=15, deadline=None)
def test_the_same_arguments_give_the_same_bits(
    seed: int, index: int, height: int, width: int
) -> None:
    image, mask = draw_scene(seed, index, (height, width))
    draw_scene(seed, index + 1, (height, width))
    again, mask_again = draw_scene(seed, index, (height, width))
    assert np.array_equal(image, again)
    assert np.array_equal(mask, mask_again)


def test_a_size_taken_from_an_array_gives_the_same_bits() -> None:
    height, width = np.array([160, 240])
    for index in range(10):
        image, _ = draw_scene(0, index, (160, 240))
        assert np.array_equal(image, draw_scene(0, index, (height, width))[0])


def test_another_process_draws_the_same_bits() -> None:
    script = (
        "import hashlib; from fcn_deploy.data.scenes.render import draw_scene; "
        "image, mask = draw_scene(3, 5, (61, 80)); "
        "print(hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest())"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    image, mask = draw_scene(3, 5, (61, 80))
    digest = hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest()
    assert elsewhere.stdout.strip() == digest


def test_masks_are_the_same_on_every_platform() -> None:
    # Recorded once. Another digest means that figures measured on these scenes cannot be compared
    # with those of earlier versions, or of the machine that this one differs from.
    digest = hashlib.sha256()
    for index in range(8):
        digest.update(draw_scene(0, index, (96, 144))[1].tobytes())
    assert digest.hexdigest() == "29d8486ddaab83adfd98f0f61f24cd5ef0fef80cc38cff7f1cee8746f4dbe663"


def test_each_seed_and_index_is_a_scene_of_its_own() -> None:
    scenes = [draw_scene(seed, index, (48, 64)) for seed in range(4) for index in range(6)]
    assert len({image.tobytes() for image, _ in scenes}) == len(scenes)
    assert len({mask.tobytes() for _, mask in scenes}) == len(scenes)


@given(seed=seeds, index=indices)
@settings(max_examples=15, deadline=None)
def test_another_size_shows_the_same_scene(seed: int, index: int) -> None:
    image, mask = draw_scene(seed, index, (60, 80))
    large_image, large_mask = draw_scene(seed, index, (180, 240))
    # The centre of each 3 x 3 block is the centre of the small scene's pixel.
    block_centres = large_mask[1::3, 1::3]
    labelled = (mask != VOID) & (block_centres != VOID)
    assert labelled.mean() > 0.5
    assert np.array_equal(mask[labelled], block_centres[labelled])
    block_means = large_image.reshape(60, 3, 80, 3, 3).mean(axis=(1, 3))
    assert np.abs(image - block_means).mean() < 8  # of 255 levels


@given(seed=seeds, index=indices, height=st.integers(64, 96), width=st.integers(64, 96))
@settings(max_examples=25, deadline=None)
def test_void_parts_the_classes(seed: int, index: int, height: int, width: int) -> None:
    _, mask = draw_scene(seed, index, (height, width))
    assert touching_classes(mask) == set()
    assert 0 < (mask == VOID).mean() < 0.4


def test_the_void_band_is_about_three_pixels_wide_at_320_by_480() -> None:
    # Along the rows, a band met squarely shows its width; met aslant, more.
    widths: list[int] = []
    for index in range(4):
        _, mask = draw_scene(0, index, (320, 480))
        edges = np.diff(np.pad(mask == VOID, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        starts, stops = np.nonzero(edges == 1)[1], np.nonzero(edges == -1)[1]
        widths += (stops - starts).tolist()
    assert 2 <= np.median(widths) <= 5


def test_every_class_appears_and_none_crowds_out_the_rest() -> None:
    counts = np.zeros(256, np.int64)
    for index in range(40):
        _, mask = draw_scene(0, index, (64, 96))
        counts += np.bincount(mask.ravel(), minlength=256)
    shares = counts[: len(SCENE_CLASS_NAMES)] / counts.sum()
    assert 0.3 < shares[0] < 0.8  # the background
    assert shares[1:].min() > 0.01
    assert shares[1:].max() < 0.15


def test_a_scene_holds_several_shapes_large_enough_for_a_stride_of_32() -> None:
    foreground = [
        ((mask != 0) & (mask != VOID)).mean()
        for mask in (draw_scene(0, index, (120, 180))[1] for index in range(20))
    ]
    assert min(foreground) > 0.05


def test_images_are_coloured_and_textured() -> None:
    for index in range(12):
        image, mask = draw_scene(0, index, (80, 80))
        assert image.std(axis=(0, 1)).min() > 4
        assert np.ptp(image, axis=2).max() > 20  # some pixel is no grey
        ground = image[mask == 0]
        assert ground.std(axis=0).max() > 1


@dataclass(frozen=True)
class Statistics:
    """What can be measured of shapes without knowing their outline; one row per shape."""

    colour: NDArray[np.float64]  # [n, 3], the mean
    texture: NDArray[np.float64]  # [n, 3], how much brightness varies, and from pixel to pixel
    label: NDArray[np.int64]  # [n], the class

    @classmethod
    def of_scenes(cls, seed: int, count: int) -> Statistics:
        rows: list[list[float]] = []
        labels: list[int] = []
        for index in range(count):
            image, mask = draw_scene(seed, index, (96, 144))
            grey = image.mean(axis=2)
            slope = np.hypot(np.diff(grey, axis=0)[:, :-1], np.diff(grey, axis=1)[:-1])
            for label in set(np.unique(mask).tolist()) - {0, VOID}:
                on_it = mask == label
                # A slope is of the shape if the three pixels that it is taken from are.
                inside = on_it[:-1, :-1] & on_it[1:, :-1] & on_it[:-1, 1:]
                if inside.sum() < 150:
                    continue
                slopes = slope[inside]
                rows.append(
                    [
                        *image[on_it].mean(axis=0).tolist(),
                        float(grey[on_it].std()),
                        float(slopes.mean()),
                        float(slopes.std()),
                    ]
                )
                labels.append(label)
        table = np.array(rows)
        return cls(table[:, :3], table[:, 3:], np.array(labels, np.int64))


def accuracy_of_nearest_class(
    known: NDArray[np.float64],
    known_label: NDArray[np.int64],
    new: NDArray[np.float64],
    new_label: NDArray[np.int64],
) -> float:
    """Share of right answers of the class whose mean is nearest, in standard deviations."""
    spread = known.std(axis=0)
    classes = np.unique(known_label)
    means = np.stack([known[known_label == c].mean(axis=0) for c in classes])
    distance = (((new[:, None] - means) / spread) ** 2).sum(axis=2)
    return float((classes[distance.argmin(axis=1)] == new_label).mean())


def test_colour_and_texture_tell_the_class_together_and_neither_does_alone() -> None:
    known, new = Statistics.of_scenes(1, 60), Statistics.of_scenes(2, 60)

    def accuracy(*features: str) -> float:
        def table(of: Statistics) -> NDArray[np.float64]:
            return np.concatenate([getattr(of, name) for name in features], axis=1)

        return accuracy_of_nearest_class(table(known), known.label, table(new), new.label)

    chance = 1 / (len(SCENE_CLASS_NAMES) - 1)
    assert chance < accuracy("colour") < 0.7
    assert chance < accuracy("texture") < 0.7
    assert accuracy("colour", "texture") > 0.9


def test_no_class_has_one_colour() -> None:
    statistics = Statistics.of_scenes(1, 60)
    for label in range(1, len(SCENE_CLASS_NAMES)):
        colours = statistics.colour[statistics.label == label]
        assert len(colours) >= 10
        assert colours.std(axis=0).max() > 20  # of 255 levels, from shape to shape


def test_class_names_begin_with_the_background() -> None:
    assert SCENE_CLASS_NAMES[0] == "background"
    assert len(set(SCENE_CLASS_NAMES)) == len(SCENE_CLASS_NAMES) >= 7


@pytest.mark.parametrize(
    ("seed", "index", "size", "message"),
    [
        (-1, 0, (8, 8), "seed -1"),
        (0, -2, (8, 8), "index -2"),
        (0, 0, (0, 8), r"got \(0, 8\)"),
        (0, 0, (8, -3), r"got \(8, -3\)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    seed: int, index: int, size: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw_scene(seed, index, size)
