"""Measures fakes with few words, for the tests of bench."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcn_deploy.bench import loadgen
from fcn_deploy.bench.inputs import Inputs, make_inputs
from fcn_deploy.bench.measure import BenchPlan, measure_rows
from fcn_deploy.bench.scenarios import Scenario
from fcn_deploy.results.bench import BenchRow
from fcn_deploy.results.scenarios import HOST
from fcn_deploy.runners.base import Runner

needs_loadgen = pytest.mark.skipif(
    loadgen.unavailable_reason() is not None, reason="LoadGen has no wheel for this Python"
)


def measure(
    runners: Sequence[Runner],
    inputs: Sequence[Inputs],
    batch_sizes: Sequence[int],
    scenario: Scenario,
    folder: Path,
    *,
    tiers: Sequence[str] = (HOST,),
    repeats: int = 3,
    seconds: float = 0.5,
    order_seed: int = 0,
    **told: Any,
) -> tuple[BenchRow, ...]:
    """Measure in memory, with as few repeats as there may be, unless told otherwise."""
    plan = BenchPlan(
        runners, inputs, scenario, folder, batch_sizes, tiers, repeats, seconds,
        order_seed=order_seed,
    )  # fmt: skip
    return measure_rows(plan, **told)


def random_inputs(folder: Path, count: int) -> Inputs:
    """Return inputs of 24×32 that are made of so many pictures of noise."""
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(count)]
    return make_inputs(pictures, (24, 32), folder)
