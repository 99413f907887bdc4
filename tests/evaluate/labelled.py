"""Labelled pictures that a fake runner segments without an error, unless it is told to err."""

import numpy as np

from fcn_deploy.core.spec import IGNORE_INDEX
from fcn_deploy.data.dataset import CachedDataset, Sample
from fcn_deploy.data.masks import mask_to_colour
from tests.fakes import FAKE_SPEC


def labelled(count: int, *, classes: int = 4, seed: int = 0, void: bool = True) -> CachedDataset:
    """Return pictures of two sizes in turn; the top row is void, the last class occurs nowhere."""
    generator = np.random.default_rng(seed)
    samples = []
    for index in range(count):
        height, width = ((12, 16), (9, 20))[index % 2]
        mask = generator.integers(0, classes, (height, width), dtype=np.uint8)
        image = mask_to_colour(mask, FAKE_SPEC.palette)
        if void:
            mask[0] = IGNORE_INDEX
        samples.append(Sample(f"picture {index}", image, mask))
    return CachedDataset(FAKE_SPEC.class_names, "made up (val)", tuple(samples))
