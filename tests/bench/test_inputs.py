"""Pictures to measure with."""

from pathlib import Path

import numpy as np
import pytest

from fcn_deploy.bench.inputs import NUM_INPUTS, Inputs, make_inputs
from fcn_deploy.core.errors import InputError
from fcn_deploy.data.images import read_image


def test_inputs_are_distinct_hashed_and_the_same_on_disk_and_in_memory(inputs: Inputs) -> None:
    assert inputs.images.shape == (NUM_INPUTS, 24, 32, 3)
    for path, image in zip(inputs.files, inputs.images, strict=True):
        np.testing.assert_array_equal(read_image(path), image)
    assert inputs.distinct == 3  # of three pictures
    assert inputs.digest.startswith("sha256:")


def test_queries_walk_through_all_inputs(inputs: Inputs) -> None:
    assert {index for query in range(4) for index in inputs.query(query, 2)} == set(range(8))
    assert inputs.batch(inputs.query(0, 11)).shape == (11, 24, 32, 3)
    np.testing.assert_array_equal(inputs.batch([5, 2])[1], inputs.images[2])


def test_no_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--images"):
        make_inputs([], (8, 8), tmp_path)
