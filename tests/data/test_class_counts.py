"""How often classes occur, and the weights that follow from it."""

import hypothesis.extra.numpy as npst
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fcn_deploy.data.class_counts import ClassCounts, median_frequency


@given(
    masks=st.lists(
        npst.arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, 3, 255])),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_median_frequency_by_its_definition(masks: list[NDArray[np.uint8]]) -> None:
    counts = ClassCounts.of(masks[0], 5)
    for mask in masks[1:]:
        counts = counts + ClassCounts.of(mask, 5)
    assert counts.void == sum(int((mask == 255).sum()) for mask in masks)
    frequency = {}
    for label in range(5):
        holding = [mask for mask in masks if (mask == label).any()]
        assert counts.images[label] == len(holding)
        pixels = sum(int((mask == label).sum()) for mask in holding)
        if holding:
            frequency[label] = pixels / sum(int((mask < 5).sum()) for mask in holding)
    middle = np.median(list(frequency.values())) if frequency else 0
    expected = [middle / frequency[label] if label in frequency else 1 for label in range(5)]
    weights = median_frequency(counts)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
