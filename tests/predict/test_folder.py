from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.errors import (
    ArtifactError,
    BackendError,
    DeviceMemoryError,
    FcnDeployError,
)
from fcn_deploy.data import pipeline
from fcn_deploy.data.masks import read_mask, write_mask
from fcn_deploy.data.pipeline import THREAD_NAME, WINDOW
from fcn_deploy.predict.folder import predict
from fcn_deploy.runners.base import Outputs
from fcn_deploy.runners.cpu_streams import in_lanes
from tests.fakes import FAKE_SPEC, FakeRunner


def save_picture(path: Path, size: tuple[int, int] = (7, 9)) -> Path:
    truth = np.arange(size[0] * size[1]).reshape(size) % FAKE_SPEC.num_classes
    Image.fromarray(np.array(FAKE_SPEC.palette, np.uint8)[truth]).save(path)
    return path


def test_masks_have_the_picture_s_size_and_classes(tmp_path: Path) -> None:
    pictures = [save_picture(tmp_path / f"{h}.png", (h, 9)) for h in (1, 7, 33)]
    out = tmp_path / "out"
    done = list(predict(FakeRunner(), pictures, out, with_overlay=True))
    assert [p.mask for p in done] == [out / "1.png", out / "7.png", out / "33.png"]
    for picture, height in zip(done, (1, 7, 33), strict=True):
        assert picture.mask is not None
        with Image.open(picture.mask) as image:
            assert image.mode == "P"
        mask = read_mask(picture.mask, FAKE_SPEC.palette)
        np.testing.assert_array_equal(
            mask, np.arange(height * 9).reshape(height, 9) % FAKE_SPEC.num_classes
        )
        assert Image.open(out / "overlays" / picture.mask.name).size == (9, height)


def test_one_broken_picture_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    broken = tmp_path / "b.png"
    broken.write_bytes(b"no picture")
    pictures = [save_picture(tmp_path / "a.png"), broken, save_picture(tmp_path / "c.png")]
    done = list(predict(FakeRunner(), pictures, tmp_path / "out"))
    assert [p.error is None for p in done] == [True, False, True]
    assert "b.png is not a picture" in str(done[1].error)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


def test_an_unwritable_folder_is_explained(tmp_path: Path) -> None:
    picture = save_picture(tmp_path / "a.png")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match=r"cannot write.*another place"):
        list(predict(FakeRunner(), [picture], tmp_path / "file"))


def test_a_picture_that_the_backend_cannot_take_is_reported(tmp_path: Path) -> None:
    def short_of_memory(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if images.shape[1] > 10:
            raise MemoryError("too large")
        return images

    pictures = [save_picture(tmp_path / "a.png", (20, 9)), save_picture(tmp_path / "b.png")]
    large, small = predict(FakeRunner(see=short_of_memory), pictures, tmp_path / "out")
    assert "smaller pictures" in str(large.error)
    assert small.error is None


SIZES = [(7, 9), (9, 7), (7, 9), (33, 9), (7, 9), (9, 7), (7, 9), (7, 9), (9, 7), (1, 1), (7, 9)]


def mixed_pictures(folder: Path, broken: Iterable[int] = ()) -> list[Path]:
    pictures = [save_picture(folder / f"{n:02}.png", size) for n, size in enumerate(SIZES)]
    for number in broken:
        pictures[number].write_bytes(b"no picture")
    return pictures


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("batch_size", [2, 4, 100])
def test_batches_give_the_same_masks_in_the_same_order(tmp_path: Path, batch_size: int) -> None:
    pictures = mixed_pictures(tmp_path)
    one_by_one = list(predict(FakeRunner(), pictures, tmp_path / "1"))
    runner = FakeRunner()
    batched = list(predict(runner, pictures, tmp_path / "n", batch_size=batch_size))
    assert [p.source for p in one_by_one] == [p.source for p in batched] == pictures
    assert len(content(tmp_path / "1")) == len(SIZES)
    assert content(tmp_path / "1") == content(tmp_path / "n")
    assert max(shape[0] for shape in runner.shapes) == min(batch_size, SIZES.count((7, 9)))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_broken_pictures_among_many_stand_where_they_stood(tmp_path: Path, batch_size: int) -> None:
    broken = [0, 4, len(SIZES) - 1]
    pictures = mixed_pictures(tmp_path, broken)
    done = list(predict(FakeRunner(), pictures, tmp_path / "out", batch_size=batch_size))
    assert [p.source for p in done] == pictures
    assert [n for n, p in enumerate(done) if p.error is not None] == broken
    assert len(content(tmp_path / "out")) == len(SIZES) - len(broken)


def test_a_mask_of_logits_that_are_not_finite_is_an_error_of_its_picture(tmp_path: Path) -> None:
    pictures = [save_picture(tmp_path / f"{n}.png", (7, 9)) for n in range(2)]
    black = np.broadcast_to(np.array(FAKE_SPEC.palette[0], np.uint8), (5, 4, 3)).copy()
    for name in ("sound", "overflowing"):
        Image.fromarray(black).save(tmp_path / f"{name}.png")
    pictures += [tmp_path / "sound.png", tmp_path / "overflowing.png"]
    asked: list[tuple[int, ...]] = []

    def has_finite_logits(image: NDArray[np.uint8]) -> bool:
        asked.append(image.shape)
        return len(asked) == 1

    out = tmp_path / "out"
    done = list(predict(FakeRunner(), pictures, out, has_finite_logits=has_finite_logits))
    assert asked == [(5, 4, 3)] * 2  # those of class 0 alone
    assert [p.error is None for p in done] == [True, True, True, False]
    assert "logits are not finite" in str(done[3].error)
    assert sorted(content(out)) == ["0.png", "1.png", "sound.png"]


def refusing(error: FcnDeployError, when: Callable[[NDArray[np.uint8]], bool]) -> FakeRunner:
    def see(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if when(images):
            raise error
        return images

    return FakeRunner(see=see)


@pytest.mark.parametrize("error", [BackendError("too large"), DeviceMemoryError("too large")])
def test_a_batch_that_is_too_large_is_done_one_by_one(
    tmp_path: Path, error: FcnDeployError
) -> None:
    pictures = mixed_pictures(tmp_path)
    runner = refusing(error, lambda images: len(images) > 1)
    done = list(predict(runner, pictures, tmp_path / "out", batch_size=4))
    assert [p.source for p in done] == pictures
    assert all(p.error is None for p in done)
    list(predict(FakeRunner(), pictures, tmp_path / "1"))
    assert content(tmp_path / "out") == content(tmp_path / "1")


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_picture_that_is_too_large_is_named_and_its_batch_goes_on(
    tmp_path: Path, batch_size: int
) -> None:
    pictures = mixed_pictures(tmp_path)
    red = np.array(FAKE_SPEC.palette[1], np.uint8)
    Image.fromarray(np.broadcast_to(red, (7, 9, 3)).copy()).save(pictures[4])
    runner = refusing(
        BackendError("too red"), lambda images: bool((images == red).all((1, 2, 3)).any())
    )
    done = list(predict(runner, pictures, tmp_path / "out", batch_size=batch_size))
    assert [p.source for p in done] == pictures
    assert [n for n, p in enumerate(done) if p.error is not None] == [4]
    assert str(done[4].error) == "too red"


def test_what_no_picture_is_to_blame_for_ends_the_work(tmp_path: Path) -> None:
    pictures = mixed_pictures(tmp_path)
    runner = refusing(ArtifactError("the engine is gone"), lambda images: images.shape[1] == 33)
    with pytest.raises(ArtifactError, match="engine is gone"):
        list(predict(runner, pictures, tmp_path / "out"))
    assert not living_threads()


class ReadsAhead(FakeRunner):
    """Takes two batches before it gives the first one's result, as a GPU's runner does."""

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        in_flight: list[Outputs] = []
        try:
            for images in batches:
                if len(in_flight) == 2:
                    yield in_flight.pop(0)
                in_flight.append(self.run(images))
        except FcnDeployError:
            yield from in_flight
            raise
        yield from in_flight


class TakesTwoAtATime(FakeRunner):
    """Takes a further batch before it runs the first: when that one is refused, two are out."""

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        taken = iter(batches)
        while pair := list(itertools.islice(taken, 2)):
            for images in pair:
                yield self.run(images)


class InLanes(FakeRunner):
    """Computes a batch only when its result is asked for, with others begun already."""

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        return in_lanes(self, batches, np.copy, self.run)


@pytest.mark.parametrize("times", [1, 100])
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("doomed", range(7))
def test_no_picture_gets_the_mask_of_the_one_behind_a_failure(
    tmp_path: Path, doomed: int, batch_size: int, times: int
) -> None:
    """Of pictures of one size, which nothing but their content tells apart."""
    pictures = [tmp_path / f"{number}.png" for number in range(7)]
    for number, picture in enumerate(pictures):
        truth = np.random.default_rng(number).integers(0, FAKE_SPEC.num_classes, (7, 9))
        Image.fromarray(np.array(FAKE_SPEC.palette, np.uint8)[truth]).save(picture)
    bad = np.array(Image.open(pictures[doomed]))
    failures = itertools.count()

    def see(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if (images == bad).all((1, 2, 3)).any() and next(failures) < times:
            raise RuntimeError("out of luck")
        return images

    list(predict(FakeRunner(), pictures, tmp_path / "right"))
    done = list(predict(InLanes(see=see), pictures, tmp_path / "out", batch_size=batch_size))
    assert [p.source for p in done] == pictures
    assert next(failures) > 0
    # One by one it gets a second try, but for a batch of one that has failed.
    lost = [] if times == 1 and batch_size == 2 and doomed < 6 else [doomed]
    assert [n for n, p in enumerate(done) if p.error is not None] == lost
    right = content(tmp_path / "right")
    assert content(tmp_path / "out") == {
        name: mask for name, mask in right.items() if name not in {f"{n}.png" for n in lost}
    }


@pytest.mark.parametrize("kind", [ReadsAhead, TakesTwoAtATime, InLanes])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_runner_with_batches_in_flight_loses_none(
    tmp_path: Path, kind: type[FakeRunner], batch_size: int
) -> None:
    def see(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if images.shape[1] == 9:
            raise BackendError("too high")
        return images

    pictures = mixed_pictures(tmp_path, [6])
    done = list(predict(kind(see=see), pictures, tmp_path / "out", batch_size=batch_size))
    assert [p.source for p in done] == pictures
    refused = [n for n, size in enumerate(SIZES) if size[0] == 9]
    assert [n for n, p in enumerate(done) if p.error is not None] == sorted([6, *refused])
    list(predict(FakeRunner(), [p.source for p in done if not p.error], tmp_path / "1"))
    assert content(tmp_path / "out") == content(tmp_path / "1")


@pytest.mark.parametrize("with_overlay", [False, True])
def test_pictures_are_kept_for_overlays_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_overlay: bool
) -> None:
    kept: list[bool] = []

    def watched(
        answers: Iterable[Any],
        write: Callable[[Any], Any],
        pool: ThreadPoolExecutor,
        behind: int,
        nbytes: Callable[[Any], int],
    ) -> Iterator[Any]:
        for answer in answers:
            kept.append(answer.image is not None)
            assert nbytes(answer) >= answer.mask.nbytes + (3 * answer.mask.nbytes) * kept[-1]
            yield write(answer)

    monkeypatch.setattr("fcn_deploy.predict.stream.written_behind", watched)
    pictures = mixed_pictures(tmp_path)
    done = list(predict(FakeRunner(), pictures, tmp_path / "out", with_overlay=with_overlay))
    assert len(done) == len(pictures)
    assert kept == [with_overlay] * len(pictures)


def living_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(THREAD_NAME)]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_network_is_asked_from_one_thread_alone(tmp_path: Path, batch_size: int) -> None:
    threads: set[int] = set()

    def see(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        threads.add(threading.get_ident())
        return images

    list(
        predict(
            FakeRunner(see=see), mixed_pictures(tmp_path), tmp_path / "out", batch_size=batch_size
        )
    )
    assert threads == {threading.get_ident()}


def test_a_failed_write_ends_the_work_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(path: Path, mask: NDArray[np.uint8], palette: object) -> None:
        if path.stem == "03":
            raise ArtifactError(f"cannot write {path}: the disk is full")
        write_mask(path, mask, FAKE_SPEC.palette)

    monkeypatch.setattr("fcn_deploy.predict.masks_on_disk.write_mask", full_disk)
    pictures, out = mixed_pictures(tmp_path), tmp_path / "out"
    seen: list[str] = []
    done = (seen.append(p.source.name) for p in predict(FakeRunner(), pictures, out))
    with pytest.raises(ArtifactError, match=r"03\.png"):
        list(done)
    assert seen == ["00.png", "01.png", "02.png"]
    assert not living_threads()
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    for path in out.iterdir():
        read_mask(path, FAKE_SPEC.palette)


def test_a_write_that_waits_for_the_disk_holds_up_no_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = pipeline.read_image
    third_is_decoded = threading.Event()

    def decoded(path: Path, before: Callable[[tuple[int, int]], None]) -> NDArray[np.uint8]:
        if path.stem == "03":
            third_is_decoded.set()
        return read(path, before)

    def slow_disk(path: Path, mask: NDArray[np.uint8], palette: object) -> None:
        # The first mask is on the disk only after that; where one thread did both, never.
        assert third_is_decoded.wait(30)
        write_mask(path, mask, FAKE_SPEC.palette)

    monkeypatch.setattr(pipeline, "usable_cores", lambda: 1)
    monkeypatch.setattr(pipeline, "read_image", decoded)
    monkeypatch.setattr("fcn_deploy.predict.masks_on_disk.write_mask", slow_disk)
    done = list(predict(FakeRunner(), mixed_pictures(tmp_path), tmp_path / "out"))
    assert len(done) == len(content(tmp_path / "out")) == len(SIZES)


def test_leaving_early_ends_the_threads_and_leaves_whole_masks(tmp_path: Path) -> None:
    pictures, out = mixed_pictures(tmp_path), tmp_path / "out"
    running = predict(FakeRunner(), pictures, out)
    assert next(running).source == pictures[0]
    assert living_threads()
    assert isinstance(running, Generator)
    running.close()
    assert not living_threads()
    for path in out.iterdir():
        read_mask(path, FAKE_SPEC.palette)


def test_a_lone_size_does_not_hold_back_the_others(tmp_path: Path) -> None:
    batch_size = 2
    sizes = [(33, 9), *[(7, 9)] * (WINDOW * batch_size * 6)]
    pictures = [save_picture(tmp_path / f"{n:03}.png", size) for n, size in enumerate(sizes)]
    runner = FakeRunner()
    first = next(predict(runner, pictures, tmp_path / "out", batch_size=batch_size))
    assert first.source == pictures[0]
    assert (1, 33, 9, 3) in runner.shapes
    assert sum(shape[0] for shape in runner.shapes) < len(pictures)
