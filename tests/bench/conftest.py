"""Fixtures that the tests of bench share."""

from pathlib import Path

import numpy as np
import pytest

from fcn_deploy.bench.inputs import Inputs, make_inputs


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(3)]
    return make_inputs(pictures, (24, 32), tmp_path)
