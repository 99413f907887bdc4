"""Pictures come in batches of one size, and results back in the order of the pictures."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fcn_deploy.data import pipeline
from fcn_deploy.data.pipeline import WINDOW, Picture, batches_of_one_size, in_order

SIZES = st.sampled_from([(1, 1), (2, 3), (3, 2), (4, 4), (5, 1), (7, 7)])


@example(sizes=[], batch_size=2)
@example(sizes=[(1, 1)], batch_size=2)
@given(
    # Long enough to leave the window; None: unreadable, leaves a gap.
    sizes=st.lists(st.one_of(st.none(), SIZES), min_size=20, max_size=60),
    batch_size=st.integers(1, 5),
)
def test_batches_are_of_one_size_and_each_picture_is_in_one_of_them(
    sizes: list[tuple[int, int] | None], batch_size: int
) -> None:
    window = WINDOW * batch_size
    given_out: list[int] = []

    def pictures() -> Iterator[Picture]:
        taken: list[int] = []
        for place, size in enumerate(sizes):
            if size is None:
                continue
            taken.append(place)
            yield Picture(place, np.full((*size, 3), place, np.uint8))
            # Asked for the next: what is still held is near, so neither memory nor delay grows.
            assert all(place - held < window for held in taken if held not in given_out)

    of_one_size: dict[tuple[int, ...], list[int]] = {}
    for batch in batches_of_one_size(pictures(), batch_size):
        assert 1 <= len(batch.places) == len(batch.images) <= batch_size
        for place, image in zip(batch.places, batch.images, strict=True):
            assert image.shape[:2] == sizes[place]
            assert (image == place).all()
        given_out.extend(batch.places)
        of_one_size.setdefault(batch.images.shape[1:], []).extend(batch.places)
    unreadable = [place for place, size in enumerate(sizes) if size is None]
    assert sorted(given_out + unreadable) == list(range(len(sizes)))
    assert all(places == sorted(places) for places in of_one_size.values())
    shuffled = ((place, place) for place in unreadable + given_out)
    assert list(in_order(shuffled)) == list(range(len(sizes)))


def test_sizes_that_take_turns_fill_their_batches() -> None:
    sizes = [(2, 3), (3, 2), (4, 4)] * 8
    pictures = (Picture(n, np.zeros((*size, 3), np.uint8)) for n, size in enumerate(sizes))
    assert [len(batch.places) for batch in batches_of_one_size(pictures, 4)] == [4] * 6


def test_open_batches_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "HELD_BYTES", 3 * 18)
    images = [np.zeros((2, 3, 3), np.uint8)] * 7 + [np.zeros((9, 9, 3), np.uint8)]
    pictures = (Picture(n, image) for n, image in enumerate(images))
    batches = [batch.places for batch in batches_of_one_size(pictures, 100)]
    assert batches == [(0, 1, 2), (3, 4, 5), (6,), (7,)]


def test_one_picture_is_not_copied() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    (batch,) = batches_of_one_size([Picture(0, image)], 1)
    assert np.shares_memory(batch.images, image)


def test_values_come_out_as_soon_as_their_turn_has_come() -> None:
    asked: list[int] = []

    def numbered() -> Iterator[tuple[int, str]]:
        for place in (1, 0, 2, 4, 3):
            asked.append(place)
            yield place, "abcde"[place]

    seen = [(value, len(asked)) for value in in_order(numbered())]
    assert seen == [("a", 2), ("b", 2), ("c", 3), ("d", 5), ("e", 5)]
