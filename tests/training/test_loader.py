"""Crops, their order, and that chance is a function of seed, epoch and index."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors

from fcn_deploy.core.spec import IGNORE_INDEX
from fcn_deploy.data.dataset import Sample, check_and_cache
from fcn_deploy.data.scenes.dataset import SceneDataset
from fcn_deploy.training.augmentation import RandomScaledCrop, training_transform
from fcn_deploy.training.loader import TrainingImages, batches
from fcn_deploy.training.recipes import RECIPES
from fcn_deploy.training.sampler import Draw, EpochOrder, RunOrder, seed_of

SMALL = dataclasses.replace(RECIPES["scratch"], crop_size=(64, 96))


@given(
    length=st.integers(1, 40), batch=st.integers(1, 9), ranks=st.integers(1, 3),
    epoch=st.integers(1, 5), data=st.data(),
)  # fmt: skip
def test_an_epoch_is_a_permutation_split_among_the_ranks(
    length: int, batch: int, ranks: int, epoch: int, data: st.DataObject
) -> None:
    orders = [EpochOrder(length, batch, 7, rank, ranks) for rank in range(ranks)]
    for order in orders:
        order.epoch = epoch
    by_rank = [list(order) for order in orders]
    assert {len(batches) for batches in by_rank} == {len(orders[0])}
    drawn = [draw for batches in by_rank for batch_ in batches for draw in batch_]
    assert {draw.epoch for draw in drawn} == {epoch}
    indices = [draw.index for draw in drawn]
    assert len(set(indices)) == len(indices)
    assert len(indices) == min(length, len(orders[0]) * batch * ranks)
    # From any batch on, the rest is the same.
    start = data.draw(st.integers(0, len(orders[0])))
    orders[0].start = start
    assert list(orders[0]) == by_rank[0][start:]


def test_two_ranks_see_what_one_with_twice_the_batch_sees() -> None:
    together = [[draw.index for draw in batch] for batch in EpochOrder(12, 4, 3)]
    first, second = (list(EpochOrder(12, 2, 3, rank, 2)) for rank in (0, 1))
    split = [
        [d.index for d in a] + [d.index for d in b] for a, b in zip(first, second, strict=True)
    ]
    assert split == together


def test_every_epoch_has_an_order_of_its_own() -> None:
    order = EpochOrder(20, 4, 0)
    first = list(order)
    order.epoch = 2
    assert [d.index for b in order for d in b] != [d.index for b in first for d in b]


@given(length=st.integers(1, 9), batch=st.integers(1, 4), data=st.data())
def test_a_run_goes_through_its_epochs_from_wherever_it_begins(
    length: int, batch: int, data: st.DataObject
) -> None:
    epochs = []
    for number in (1, 2, 3):
        epochs.append(EpochOrder(length, batch, 7))
        epochs[-1].epoch = number
    order = EpochOrder(length, batch, 7)
    order.epoch = data.draw(st.integers(1, 3))
    order.start = data.draw(st.integers(0, len(order)))
    begun, *untouched = epochs[order.epoch - 1 :]
    expected = list(begun)[order.start :] + [drawn for epoch in untouched for drawn in epoch]
    assert list(RunOrder(order, epochs=3)) == expected


def test_seeds_depend_on_every_number_and_its_place() -> None:
    seeds = {seed_of(*numbers) for numbers in ((0, 0), (0, 1), (1, 0), (1, 1), (0, 0, 0), (0,))}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


class Ramp(SceneDataset):
    """One picture 128×384, whose value is its column, halved."""

    def __getitem__(self, index: int) -> Sample:
        image = np.broadcast_to(
            (np.arange(384) // 2).astype(np.uint8)[None, :, None], (128, 384, 3)
        )
        return Sample("ramp", image.copy(), np.zeros((128, 384), np.uint8))


@pytest.mark.parametrize("scale", [None, (1.0, 1.0)])
def test_the_first_epochs_show_as_much_at_half_size(scale: tuple[float, float] | None) -> None:
    recipe = dataclasses.replace(
        RECIPES["scratch"], crop_size=(128, 192), scale=scale, half_size=0.5, epochs=4,
        flip=False, colour_jitter=0,
    )  # fmt: skip
    examples = TrainingImages(Ramp(0, 1, (128, 384)), recipe, seed=0)
    for epoch, size in ((1, (64, 96)), (2, (64, 96)), (3, (128, 192)), (4, (128, 192))):
        image, mask = examples[Draw(epoch, 0)]
        assert tuple(image.shape[1:]) == tuple(mask.shape) == size
        # From left to right the crop spans half of the picture's columns, at either size.
        assert int(image[0, 0, -1]) - int(image[0, 0, 0]) == pytest.approx(96, abs=2)


def test_half_a_crop_that_is_too_small_is_left_whole() -> None:
    recipe = dataclasses.replace(RECIPES["scratch"], half_size=0.5, epochs=4)
    assert dataclasses.replace(recipe, crop_size=(128, 192)).half_size_epochs == 2
    assert dataclasses.replace(recipe, crop_size=(126, 192)).half_size_epochs == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_an_example_does_not_depend_on_what_was_drawn_before(workers: int) -> None:
    dataset = check_and_cache(SceneDataset(0, 4, (80, 112)))
    examples = TrainingImages(dataset, SMALL, seed=5)
    alone = examples[Draw(2, 3)]
    torch.rand(10)
    order = EpochOrder(4, 4, seed=1)
    order.epoch = 2
    before = torch.random.get_rng_state()
    ((images, masks),) = list(batches(examples, order, workers=workers, pinned=False))
    assert torch.equal(torch.random.get_rng_state(), before)
    place = [draw.index for draw in next(iter(order))].index(3)
    assert torch.equal(images[place], alone[0])
    assert torch.equal(masks[place], alone[1])
    assert not torch.equal(examples[Draw(3, 3)][0], alone[0])


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_crops_keep_image_and_mask_together(name: str) -> None:
    recipe = dataclasses.replace(RECIPES[name], crop_size=(64, 96), colour_jitter=0.0)
    transform = training_transform(recipe)
    image, mask = torch.zeros(3, 80, 112, dtype=torch.uint8), torch.zeros(80, 112)
    image[:, 20:60, 30:80], mask[20:60, 30:80] = 255, 1
    torch.manual_seed(0)
    for _ in range(10):
        seen, label = transform(tv_tensors.Image(image), tv_tensors.Mask(mask.to(torch.uint8)))
        assert seen.shape == (3, 64, 96)
        assert label.shape == (64, 96)
        values = set(np.unique(label.numpy()).tolist())
        assert values <= {0, 1, IGNORE_INDEX}
        bright = (seen[0] > 127) & (label != IGNORE_INDEX)
        # antialiasing and nearest-neighbour labels may differ along the edge
        assert (bright == (label == 1))[label != IGNORE_INDEX].float().mean() > 0.93


def test_where_a_crop_reaches_beyond_the_picture_nothing_is_learned() -> None:
    recipe = dataclasses.replace(RECIPES["tutorial"], crop_size=(64, 96))
    image, mask = (
        torch.full((3, 32, 96), 9, dtype=torch.uint8),
        torch.ones(32, 96, dtype=torch.uint8),
    )
    seen, label = training_transform(recipe)(tv_tensors.Image(image), tv_tensors.Mask(mask))
    assert (label == IGNORE_INDEX).sum() == 32 * 96
    assert ((seen == 9).all(0) == (label == 1)).all()


def test_colours_vary_and_labels_do_not() -> None:
    recipe = dataclasses.replace(SMALL, scale=None, flip=False, colour_jitter=0.5)
    image, mask = torch.full((3, 64, 96), 100, dtype=torch.uint8), torch.ones(64, 96)
    torch.manual_seed(0)
    seen, label = training_transform(recipe)(tv_tensors.Image(image), tv_tensors.Mask(mask))
    assert not torch.equal(seen, image)
    assert torch.equal(label, mask)


@given(
    picture=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    crop=st.tuples(st.integers(8, 64), st.integers(8, 64)),
    low=st.floats(0.3, 1.0), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_scaled_crop_stays_inside_the_picture(
    picture: tuple[int, int], crop: tuple[int, int], low: float, seed: int
) -> None:
    torch.manual_seed(seed)
    image = torch.zeros(3, *picture, dtype=torch.uint8)
    scaled = RandomScaledCrop(crop, low, 1.5)
    params = scaled.make_params([image])
    assert 0 <= params["top"] <= picture[0] - params["height"]
    assert 0 <= params["left"] <= picture[1] - params["width"]
    assert scaled.transform(image, params).shape == (3, *crop)
    factor = crop[0] / params["height"]
    # Rounded to whole pixels; a picture that is too small is enlarged.
    fits = max(crop[0] / picture[0], crop[1] / picture[1])
    assert max(low, fits) - 0.1 * factor <= factor <= max(1.5, fits) + 0.1 * factor
