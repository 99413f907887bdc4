"""The tutorial's validation figure: crops of large enough images, void as background."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fcn_deploy.core.spec import IGNORE_INDEX, ModelSpec
from fcn_deploy.data.dataset import CachedDataset, Sample
from fcn_deploy.training.recipes import RECIPES, Recipe
from fcn_deploy.training.validation import ValidationCrops, evaluate

CROP = (64, 72)
RECIPE = dataclasses.replace(RECIPES["tutorial"], crop_size=CROP)


def dataset(*sizes: tuple[int, int]) -> CachedDataset:
    """Return images whose pixels tell their place: red the row, green the column."""
    samples = []
    for index, (height, width) in enumerate(sizes):
        rows, columns = np.mgrid[:height, :width].astype(np.uint8)
        image = np.stack([rows, columns, np.full_like(rows, index)], axis=2)
        mask = (rows % 5).astype(np.uint8)
        mask[:, ::9] = IGNORE_INDEX
        samples.append(Sample(f"image {index}", image, mask))
    return CachedDataset(tuple("abcde"), "made up", tuple(samples))


def crops_of(data: CachedDataset, recipe: Recipe = RECIPE, seed: int = 0) -> ValidationCrops:
    crops = ValidationCrops.of(data, recipe, seed)
    assert crops is not None
    return crops


def test_small_images_are_dropped_and_the_others_cropped() -> None:
    crops = crops_of(dataset((100, 120), (63, 120), (100, 71), CROP))
    assert len(crops) == 2
    for index, source in enumerate((0, 3)):
        image = crops[index].image
        assert image.shape == (*CROP, 3)
        assert (image[..., 2] == source).all()
        top, left = image[0, 0, :2].tolist()  # a window of the image, not a picture resized
        np.testing.assert_array_equal(image[..., 0], (top + np.mgrid[:64, :72][0]).astype(np.uint8))
        np.testing.assert_array_equal(
            image[..., 1], (left + np.mgrid[:64, :72][1]).astype(np.uint8)
        )


def test_void_counts_as_background_and_the_labels_lie_on_their_pixels() -> None:
    sample = crops_of(dataset((100, 120)))[0]
    expected = (sample.image[..., 0] % 5).astype(np.uint8)
    expected[sample.image[..., 1] % 9 == 0] = 0
    np.testing.assert_array_equal(sample.mask, expected)


def test_the_places_depend_on_seed_and_image_alone() -> None:
    data = dataset(*[(200, 220)] * 6)
    places = [tuple(crops_of(data)[index].image[0, 0, :2].tolist()) for index in range(6)]
    again = [tuple(crops_of(data)[index].image[0, 0, :2].tolist()) for index in range(6)]
    other = [tuple(crops_of(data, seed=1)[index].image[0, 0, :2].tolist()) for index in range(6)]
    assert places == again
    assert places != other
    assert len(set(places)) > 1


@pytest.mark.parametrize("name", ["tutorial", "tutorial-keras"])
def test_both_tutorial_recipes_ask_for_it_and_scratch_does_not(name: str) -> None:
    recipe = dataclasses.replace(RECIPES[name], crop_size=CROP)
    assert ValidationCrops.of(dataset((100, 120)), recipe, 0) is not None
    scratch = dataclasses.replace(RECIPES["scratch"], crop_size=CROP)
    assert ValidationCrops.of(dataset((100, 120)), scratch, 0) is None
    assert ValidationCrops.of(dataset((40, 40)), recipe, 0) is None


class Background(nn.Module):
    """A network that answers class 0 everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 5, *images.shape[2:])
        logits[:, 0] = 1
        return logits


def test_the_accuracy_is_that_of_all_pixels_of_the_crops(tiny_spec: ModelSpec) -> None:
    crops = crops_of(dataset((100, 120), (90, 90)))
    confusion = evaluate(Background(), tiny_spec, crops, torch.device("cpu"))
    background = [crops[index].mask == 0 for index in range(2)]
    assert confusion.pixel_accuracy() == np.mean(background)
    assert int(confusion.counts.sum()) == 2 * 64 * 72
