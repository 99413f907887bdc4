"""When neither of two rows is faster."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.results.workload import tie

#: Milliseconds of the same repeats of two rows.
PAIRS = st.lists(st.tuples(st.floats(0.1, 1000), st.floats(0.1, 1000)), min_size=3, max_size=9)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((1.0, 2.0), (3.0, 4.0), False),
        ((1.0, 3.0), (2.0, 4.0), True),
        ((1.0, 2.0), (2.0, 4.0), True),
        ((1.0, 9.0), (2.0, 4.0), True),
    ],
)
def test_overlapping_spreads_are_a_tie(
    one: tuple[float, float], other: tuple[float, float], expected: bool
) -> None:
    assert tie(one, other) is tie(other, one) is expected


@given(PAIRS)
def test_repeats_that_contradict_each_other_are_a_tie(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*pairs, strict=True)
    ratios = [b / a for a, b in pairs]
    if min(ratios) <= 1 <= max(ratios):
        assert tie((min(ours), max(ours)), (min(theirs), max(theirs)))
