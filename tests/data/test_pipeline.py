"""Decode ‖ compute ‖ write: what overlaps is shown by events that wait for each other.

Where things happened one after another instead, such an event never comes and the test fails by
its long timeout; no figure of a clock decides anything.
"""

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.core.errors import ImageError
from fcn_deploy.data import pipeline
from fcn_deploy.data.pipeline import (
    Picture,
    Unreadable,
    all_readable,
    decoded_ahead,
    loaded_ahead,
    lookahead,
    picture_threads,
    written_behind,
)
from tests.decoding import PATIENCE, Read, living_threads


def files(count: int) -> list[Path]:
    return [Path(f"{number}.jpg") for number in range(count)]


def picture_of(path: Path) -> NDArray[np.uint8]:
    return np.full((2, 3, 3), int(path.stem), np.uint8)


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


def test_what_cannot_be_read_is_delivered_where_it_stands(read_by: Callable[[Read], None]) -> None:
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


def sized(monkeypatch: pytest.MonkeyPatch, side_of: Callable[[int], int]) -> list[int]:
    """Let the n-th file hold a picture of so many pixels a side; return the places decoded."""
    decoded: list[int] = []

    def read(path: Path, before: Callable[[tuple[int, int]], None]) -> NDArray[np.uint8]:
        place = int(path.stem)
        side = side_of(place)
        before((side, side))
        decoded.append(place)
        return np.full((side, side, 3), place, np.uint8)

    monkeypatch.setattr(pipeline, "read_image", read)
    return decoded


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_large_pictures_are_bounded_by_their_bytes(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    side = 20
    monkeypatch.setattr(pipeline, "HELD_BYTES", 2 * at_once * 7 * side * side)
    decoded = sized(monkeypatch, lambda place: side)
    with picture_threads(4) as pool:
        for taken, picture in enumerate(decoded_ahead(files(40), pool, 16), start=1):
            assert picture.place == taken - 1
            assert len(decoded) <= taken + at_once
    assert sorted(decoded) == list(range(40))


@pytest.mark.parametrize("at_once", [1, 3])
def test_whatever_is_loaded_is_bounded_by_the_bytes_it_reserves(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(pipeline, "HELD_BYTES", 2 * at_once * 100)
    loaded: list[str] = []

    def load(item: str, reserve: Callable[[int], None]) -> str:
        reserve(100)
        loaded.append(item)
        return item.upper()

    letters = "abcdefghijklmnop"
    with picture_threads(4) as pool:
        for taken, letter in enumerate(loaded_ahead(letters, load, pool, 8), start=1):
            assert letter == letters[taken - 1].upper()
            assert len(loaded) <= taken + at_once
    assert sorted(loaded) == list(letters)


@pytest.mark.parametrize("workers", [1, 4])
def test_pictures_of_all_sizes_come_in_order(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    # Of 7 bytes a pixel: 2 fit into a place of the window, 14 into its room, 60 into neither.
    sides = [1, 2, 14, 60]
    monkeypatch.setattr(pipeline, "HELD_BYTES", 2 * 7 * 14 * 14)
    sized(monkeypatch, lambda place: sides[place * place % 7 % 4])
    with picture_threads(workers) as pool:
        pictures = list(all_readable(decoded_ahead(files(60), pool, 8)))
    assert [int(picture.image[0, 0, 0]) for picture in pictures] == list(range(60))
    assert [len(p.image) for p in pictures] == [sides[n * n % 7 % 4] for n in range(60)]


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


def test_answers_that_wait_to_be_written_are_bounded_by_their_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "HELD_BYTES", 25)
    sizes = [10, 10, 10, 40, 1, 10, 10, 10, 10]
    lock = threading.Lock()
    unwritten: list[int] = []

    def computed() -> Iterator[int]:
        for size in sizes:
            with lock:
                assert sum(unwritten) <= 25
                unwritten.append(size)
            yield size

    def write(size: int) -> int:
        with lock:
            unwritten.remove(size)
        return size

    with picture_threads(2) as pool:
        assert list(written_behind(computed(), write, pool, 100, lambda size: size)) == sizes


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
