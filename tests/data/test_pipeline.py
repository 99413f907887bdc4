"""Decode ‖ compute ‖ write: what overlaps is shown by events that wait for each other.

Where things happened one after another instead, such an event never comes and the test fails by
its long timeout; no figure of a clock decides anything.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.bench.case import Case
from fcn_deploy.bench.inputs import make_inputs
from fcn_deploy.core.errors import ImageError
from fcn_deploy.data import images, pipeline
from fcn_deploy.data.images import read_image
from fcn_deploy.data.pipeline import (
    THREAD_NAME,
    WINDOW,
    Picture,
    Unreadable,
    all_readable,
    batches_of_one_size,
    decoded_ahead,
    in_order,
    lookahead,
    picture_threads,
    written_behind,
)
from fcn_deploy.results.bench import END_TO_END, HOST
from tests.fakes import FakeRunner

#: Seconds after which a wait is given up: on any machine far more than the work takes.
PATIENCE = 30.0
Read = Callable[[Path], NDArray[np.uint8]]


def files(count: int) -> list[Path]:
    return [Path(f"{number}.jpg") for number in range(count)]


def picture_of(path: Path) -> NDArray[np.uint8]:
    return np.full((2, 3, 3), int(path.stem), np.uint8)


@pytest.fixture
def read_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Read], None]:
    """Put a decoder in the place of the one for files."""
    return lambda read: monkeypatch.setattr(pipeline, "read_image", read)


def living_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(THREAD_NAME)]


@pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (1, 5), (4, 1), (4, 7)])
def test_pictures_come_in_order(read_by: Callable[[Read], None], workers: int, ahead: int) -> None:
    read_by(picture_of)
    with picture_threads(workers) as pool:
        decoded = list(all_readable(decoded_ahead(files(40), pool, ahead)))
    assert [picture.place for picture in decoded] == list(range(40))
    assert [int(picture.image[0, 0, 0]) for picture in decoded] == list(range(40))


def test_a_slow_picture_holds_its_place(read_by: Callable[[Read], None]) -> None:
    last_is_decoded = threading.Event()

    def read(path: Path) -> NDArray[np.uint8]:
        if path.stem == "0":
            assert last_is_decoded.wait(PATIENCE)
        elif path.stem == "3":
            last_is_decoded.set()
        return picture_of(path)

    read_by(read)
    with picture_threads(2) as pool:
        assert [p.place for p in decoded_ahead(files(4), pool, 4)] == [0, 1, 2, 3]


def test_what_cannot_be_read_is_delivered_where_it_stands(
    read_by: Callable[[Read], None],
) -> None:
    def read(path: Path) -> NDArray[np.uint8]:
        if int(path.stem) % 3 == 1:
            raise ImageError(f"{path} is not a picture")
        return picture_of(path)

    read_by(read)
    with picture_threads(3) as pool:
        decoded = list(decoded_ahead(files(7), pool, 4))
        assert [p.place for p in decoded] == list(range(7))
        assert [p.place for p in decoded if isinstance(p, Unreadable)] == [1, 4]
        with pytest.raises(ImageError, match=r"1\.jpg"):
            list(all_readable(decoded_ahead(files(7), pool, 4)))


def test_a_bug_in_a_decoder_is_no_unreadable_picture(read_by: Callable[[Read], None]) -> None:
    def read(path: Path) -> NDArray[np.uint8]:
        raise ZeroDivisionError

    read_by(read)
    with pytest.raises(ZeroDivisionError), picture_threads(2) as pool:
        list(decoded_ahead(files(3), pool, 2))
    assert not living_threads()


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_no_more_pictures_are_in_memory_than_asked_for(
    read_by: Callable[[Read], None], ahead: int
) -> None:
    workers, lock = 3, threading.Lock()
    begun = taken = living = 0

    def dies() -> None:
        nonlocal living
        with lock:
            living -= 1

    def read(path: Path) -> NDArray[np.uint8]:
        nonlocal begun, living
        image = picture_of(path)
        with lock:
            begun += 1
            living += 1
            assert begun - taken <= ahead
        weakref.finalize(image, dies)
        return image

    read_by(read)
    with picture_threads(workers) as pool:
        for _picture in decoded_ahead(files(60), pool, ahead):
            with lock:
                taken += 1
                # One is the taker's, and each thread may be about to let go of its last one.
                assert living <= ahead + 1 + workers
    del _picture
    assert (taken, living) == (60, 0)


def test_the_next_picture_is_decoded_while_the_present_one_is_computed(
    read_by: Callable[[Read], None],
) -> None:
    started = [threading.Event() for _ in range(6)]

    def read(path: Path) -> NDArray[np.uint8]:
        started[int(path.stem)].set()
        return picture_of(path)

    read_by(read)
    with picture_threads(1) as pool:
        for picture in decoded_ahead(files(6), pool, 2):
            # "Computing" ends only after the next picture's decoding has begun.
            if picture.place < 5:
                assert started[picture.place + 1].wait(PATIENCE)


def test_a_mask_is_written_while_the_next_one_is_computed() -> None:
    next_is_computing = [threading.Event() for _ in range(5)]

    def computed() -> Iterator[int]:
        for number in range(5):
            if number:
                next_is_computing[number - 1].set()
            yield number

    def write(number: int) -> int:
        # "Writing" ends only after the next one's computing has begun.
        assert number == 4 or next_is_computing[number].wait(PATIENCE)
        return number

    with picture_threads(1) as pool:
        assert list(written_behind(computed(), write, pool, 3)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("behind", [1, 3])
def test_writes_that_wait_are_bounded(behind: int) -> None:
    lock = threading.Lock()
    unwritten = most = 0

    def computed() -> Iterator[int]:
        nonlocal unwritten, most
        for number in range(50):
            with lock:
                unwritten += 1
                most = max(most, unwritten)
            yield number

    def write(number: int) -> int:
        nonlocal unwritten
        with lock:
            unwritten -= 1
        return number

    with picture_threads(2) as pool:
        assert list(written_behind(computed(), write, pool, behind)) == list(range(50))
    assert most <= behind


def test_a_failed_write_comes_after_the_results_before_it_and_stops_the_work() -> None:
    asked: list[int] = []

    def computed() -> Iterator[int]:
        for number in range(100):
            asked.append(number)
            yield number

    def write(number: int) -> int:
        if number == 3:
            raise OSError("disk full")
        return number

    seen: list[int] = []
    with picture_threads(2) as pool:
        done = (seen.append(number) for number in written_behind(computed(), write, pool, 4))
        with pytest.raises(OSError, match="disk full"):
            list(done)
    assert seen == [0, 1, 2]
    assert len(asked) <= 3 + 4
    assert not living_threads()


def test_a_result_is_passed_on_as_soon_as_it_is_there() -> None:
    class AtOnce(ThreadPoolExecutor):
        """Writes before `submit` returns."""

        def submit(self, *arguments, **options):  # type: ignore[no-untyped-def]
            future = super().submit(*arguments, **options)
            future.exception(PATIENCE)
            return future

    asked: list[int] = []

    def computed() -> Iterator[int]:
        for number in range(5):
            asked.append(number)
            yield number

    with AtOnce(1) as pool:
        for number in written_behind(computed(), lambda n: n, pool, 100):
            assert asked == list(range(number + 1))


def test_close_ends_the_threads_and_drops_what_waits(
    read_by: Callable[[Read], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    shut = threading.Event()
    begun: list[str] = []

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            shut.set()
            super().shutdown(wait=wait)

    def read(path: Path) -> NDArray[np.uint8]:
        begun.append(path.stem)
        assert path.stem == "0" or shut.wait(PATIENCE)
        return picture_of(path)

    def pictures() -> Iterator[Picture]:
        with picture_threads(1) as pool:
            yield from all_readable(decoded_ahead(files(50), pool, 10))

    monkeypatch.setattr(pipeline, "ThreadPoolExecutor", Pool)
    read_by(read)
    running = pictures()
    assert next(running).place == 0
    assert living_threads()
    running.close()
    assert not living_threads()
    assert begun in (["0"], ["0", "1"])  # the one in hand is finished, the others never begun


def test_ctrl_c_ends_the_threads(read_by: Callable[[Read], None]) -> None:
    def interrupted() -> None:
        with picture_threads(2) as pool:
            for picture in decoded_ahead(files(50), pool, 5):
                if picture.place == 3:
                    raise KeyboardInterrupt

    read_by(picture_of)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not living_threads()


def test_the_lookahead_holds_the_next_batch_and_work_for_every_thread() -> None:
    assert lookahead(1, workers=2) >= 1 + 2
    assert lookahead(32, workers=2) >= 32 + 2


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


@pytest.mark.parametrize("tier", [HOST, END_TO_END])
def test_offline_runs_the_same_batches_at_both_tiers(tmp_path: Path, tier: str) -> None:
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(8)]
    inputs = make_inputs(pictures, (24, 32), tmp_path)
    seen: list[NDArray[np.uint8]] = []
    runner = FakeRunner(see=lambda images: (seen.append(images), images)[1])
    case = Case(runner, tier, 4, inputs, tmp_path)
    asked = [7, 0, 3, 3, 1, 2, 6, 5, 4, 0]
    assert list(case.stream(asked)) == [4, 4, 2]
    assert (np.concatenate(seen) == inputs.images[asked]).all()
    assert not living_threads()


def test_offline_decodes_the_next_batch_while_one_is_computed(
    tmp_path: Path, read_by: Callable[[Read], None]
) -> None:
    inputs = make_inputs([np.zeros((20, 30, 3), np.uint8)], (24, 32), tmp_path)
    begun = [threading.Event() for _ in inputs.files]

    def read(path: Path) -> NDArray[np.uint8]:
        number = inputs.files.index(path)
        begun[number].set()
        return inputs.images[number]

    def see(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # "Computing" ends only after the decoding of the next batch has begun.
        next_batch = 2 * len(runner.shapes)
        assert next_batch >= len(begun) or begun[next_batch].wait(PATIENCE)
        return images

    read_by(read)
    runner = FakeRunner(see=see)
    case = Case(runner, END_TO_END, 2, inputs, tmp_path)
    assert list(case.stream(range(8))) == [2, 2, 2, 2]


@pytest.mark.parametrize("threads", [1, 3])
def test_offline_decodes_on_as_many_threads_as_are_pinned(
    tmp_path: Path, read_by: Callable[[Read], None], threads: int
) -> None:
    inputs = make_inputs([np.zeros((20, 30, 3), np.uint8)], (24, 32), tmp_path)
    decoders: set[int] = set()
    together = threading.Barrier(threads)

    def read(path: Path) -> NDArray[np.uint8]:
        decoders.add(threading.get_ident())
        if inputs.files.index(path) < threads:
            together.wait(PATIENCE)  # none of them may do the work of two
        return inputs.images[inputs.files.index(path)]

    read_by(read)
    case = Case(FakeRunner(), END_TO_END, 2, inputs, tmp_path, threads)
    assert list(case.stream(range(8))) == [2, 2, 2, 2]
    assert len(decoders) == threads


def test_threads_that_decode_leave_the_warnings_filters_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_inside, first_has_left = threading.Barrier(2), threading.Event()
    files = [tmp_path / "first.png", tmp_path / "last.png"]
    for path in files:
        Image.new("RGB", (3, 2)).save(path)

    def upright(image: Image.Image, *, in_place: bool) -> None:
        both_inside.wait(PATIENCE)
        assert "first" in str(image.filename) or first_has_left.wait(PATIENCE)  # type: ignore[attr-defined]

    monkeypatch.setattr(images.ImageOps, "exif_transpose", upright)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        with ThreadPoolExecutor(2) as pool:
            first, last = (pool.submit(read_image, path) for path in files)
            first.result(PATIENCE)
            first_has_left.set()
            last.result(PATIENCE)
        assert list(warnings.filters) == before
