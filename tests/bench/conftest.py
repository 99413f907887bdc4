"""Fixtures that the tests of bench share."""

from pathlib import Path

import pytest

from fcn_deploy.bench.inputs import Inputs
from tests.bench.measuring import random_inputs


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return random_inputs(tmp_path, 3)
