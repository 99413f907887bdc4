"""Films → films of masks: each frame's mask, at its time, or an error in its place."""

from __future__ import annotations

import csv
import itertools
import os
import shutil
import signal
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from fcn_deploy.core.errors import ArtifactError, BackendError, ImageError, InputError
from fcn_deploy.data.masks import overlay
from fcn_deploy.predict.journal import Journal
from fcn_deploy.predict.shard import Shard
from fcn_deploy.predict.sources import Sources
from fcn_deploy.predict.video.decode import Film
from fcn_deploy.predict.video.encode import MaskFilm
from fcn_deploy.predict.video.outputs import FilmOutputs
from tests.fakes import FAKE_SPEC, FakeRunner
from tests.predict.films import HEIGHT, MILLI, WIDTH, decoded, masks_in, run_films, write_film
from tests.predict.jobs import journal_lines, masks_of, put_on_another_device


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("films") / "a.mkv")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film whose frame of number 7, at 280 ms, is broken."""
    return write_film(tmp_path_factory.mktemp("films") / "b.mkv", broken=(7,))


@pytest.mark.parametrize(
    ("codec", "broken"), [("mpeg4", ()), ("mpeg4", (7,)), ("libx264", (7,)), ("mjpeg", (7,))]
)
def test_each_frame_s_mask_stands_at_its_time_and_a_broken_one_is_missed(
    tmp_path: Path, codec: str, broken: tuple[int, ...]
) -> None:
    film, out = write_film(tmp_path / "b.mkv", codec=codec, broken=broken), tmp_path / "out"
    (done,) = run_films([film], out, batch_size=3)
    whole = [number for number in range(12) if number not in broken]
    assert (done.frames, done.broken, done.error) == (len(whole), len(broken), None)
    frames, masks = decoded(film), masks_in(out / "b.mkv")
    assert list(masks) == list(frames) == [40 * number for number in whole]
    for stamp, frame in frames.items():
        assert np.array_equal(masks[stamp], FakeRunner().run(frame[None]).mask[0])
    rows = rows_of(out / "b.csv")
    assert [(int(row["frame"]), row["seconds"]) for row in rows] == [
        (number, f"{0.04 * number:.6f}") for number in range(12)
    ]
    assert {int(row["frame"]): row["red"] for row in rows if row["error"]} == dict.fromkeys(
        broken, ""
    )
    for number in whole:
        share = (masks[40 * number] == 1).mean()
        assert float(rows[number]["red"]) == pytest.approx(share, abs=1e-6)
    (line,) = journal_lines(out)
    assert (line["source"], line["mask"], line["size"]) == (str(film), "b.mkv", [HEIGHT, WIDTH])
    assert (line["frames"], line["broken"]) == (len(whole), len(broken))
    assert sum(line["shares"].values()) == pytest.approx(1, abs=1e-4)


def test_uneven_time_stamps_are_kept(tmp_path: Path) -> None:
    stamps = [900, 3903, 3999, 9009, 90000, 180045]
    film = write_film(tmp_path / "a.mp4", stamps, codec="libx264", time_base=Fraction(1, 90000))
    out = tmp_path / "out"
    run_films([film], out, with_overlay=True)
    assert [row["seconds"] for row in rows_of(out / "a.csv")] == [
        f"{stamp / 90000:.6f}" for stamp in stamps
    ]
    expected = [10, 43, 44, 100, 1000, 2001]  # Matroska's unit
    assert list(masks_in(out / "a.mkv")) == expected
    assert list(decoded(out / "overlays/a.mkv")) == expected


@pytest.mark.parametrize(
    "rotation", list(itertools.product((0, 90, 180, -90), (False, True), (False,))), ids=str
)
def test_films_are_turned_upright(tmp_path: Path, rotation: tuple[int, bool, bool]) -> None:
    path = write_film(tmp_path / "a.mp4", range(0, 80, 40), rotation=rotation)
    with Film(str(path), "a") as film:
        turned = [frame.read() for frame in film.frames()]
    for found, stored in zip(turned, decoded(path).values(), strict=True):
        expected = np.rot90(stored, rotation[0] // 90)
        assert np.array_equal(found, expected[:, ::-1] if rotation[1] else expected)
        assert found.flags.c_contiguous


def test_frames_are_files_of_their_own(broken: Path, tmp_path: Path) -> None:
    write_film(tmp_path / "b.mp4", range(2))
    run_films([tmp_path / "b.mp4"], tmp_path, as_frames=True)
    run_films([broken], tmp_path, as_frames=True)  # what was there is ours, and is replaced
    run_films([broken], tmp_path / "film")
    names = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert names == [f"{n:06}.png" for n in range(12) if n != 7]
    assert not (tmp_path / "b.mkv").exists()
    for name, mask in zip(names, masks_in(tmp_path / "film/b.mkv").values(), strict=True):
        with Image.open(tmp_path / "b" / name) as image:
            assert image.mode == "P"
            assert np.array_equal(np.asarray(image), mask)


@pytest.mark.parametrize("as_frames", [True, False])
def test_films_in_a_folder_of_another_file_system_are_whole_too(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_frames: bool
) -> None:
    out, usual = tmp_path / "out", tmp_path / "usual"
    run_films([film], usual, as_frames=as_frames, with_overlay=True)
    put_on_another_device(monkeypatch)
    for _ in range(2):  # the second takes the place of the first
        run_films([film], out, as_frames=as_frames, with_overlay=True)
    names = sorted(path.relative_to(usual) for path in usual.rglob("*"))
    assert names == sorted(path.relative_to(out) for path in out.rglob("*"))
    assert masks_of(out) == masks_of(usual)


@pytest.mark.parametrize("as_frames", [True, False])
def test_a_name_that_is_too_long_fails_one_film_alone(
    film: Path, tmp_path: Path, as_frames: bool
) -> None:
    long = tmp_path / f"{'a' * 252}.ts"  # with .mkv or .csv it has a letter too many
    shutil.copy(film, long)
    first, second = run_films([long, film], tmp_path / "out", as_frames=as_frames)
    assert "cannot be called" in (first.error or "")
    assert second.masks is not None
    (again,) = run_films([long, film], tmp_path / "out", as_frames=as_frames, resume=True)
    assert again.error == first.error
    assert [line["error"] is None for line in journal_lines(tmp_path / "out")] == [True, False]


def test_a_frame_that_the_network_refuses_is_missed_alone(film: Path, tmp_path: Path) -> None:
    def refuse_the_fifth(images: Any) -> Any:
        if len(runner.shapes) == 6:
            raise BackendError("no memory")
        return images

    runner = FakeRunner(see=refuse_the_fifth)
    (done,) = run_films([film], tmp_path, runner=runner)
    assert (done.frames, done.broken) == (11, 1)
    assert rows_of(tmp_path / "a.csv")[5]["error"] == "no memory"


def _kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


#: Where a kill -9 falls: the class, the method, at which call.
MOMENTS = {
    "among the frames": (FilmOutputs, "write", 5),
    "before the end": (FilmOutputs, "finish", 0),
    "before a name": (FilmOutputs, "_named", 1),
    "before the line": (Journal, "append", 0),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is killed in a fork")
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_leaves_no_half_film(film: Path, tmp_path: Path, moment: str) -> None:
    owner, name, at = MOMENTS[moment]
    usual, calls = getattr(owner, name), iter(range(100))
    child = os.fork()
    if not child:
        try:
            setattr(owner, name, lambda *v, **o: (_kill if next(calls) == at else usual)(*v, **o))
            run_films([film], tmp_path, resume=True)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "a.mkv").exists() == (moment == "before the line")
    (done,) = run_films([film], tmp_path, resume=True)
    assert len(masks_in(tmp_path / "a.mkv")) == done.frames == 12
    assert len(journal_lines(tmp_path)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.csv", "a.mkv", "predictions.jsonl",
    ]  # fmt: skip


def test_films_are_resumed_and_shared_out_whole(film: Path, broken: Path, tmp_path: Path) -> None:
    run_films([film], tmp_path)
    before = (tmp_path / "a.mkv").stat()
    done = run_films([film, broken], tmp_path, resume=True)
    assert [Path(each.source).name for each in done] == ["b.mkv"]
    assert (tmp_path / "a.mkv").stat() == before
    with pytest.raises(InputError, match="of another model"):
        run_films([film], tmp_path, resume=True, runner=FakeRunner(digest="sha256:other"))
    (tmp_path / "a.mkv").unlink()
    assert len(run_films([film, broken], tmp_path, resume=True)) == 1
    shards = [run_films([film, broken], tmp_path / "n", shard=Shard(i, 3)) for i in range(3)]
    assert sorted(Path(each.source).name for done in shards for each in done) == ["a.mkv", "b.mkv"]


def test_nothing_that_is_not_ours_is_replaced(film: Path, tmp_path: Path) -> None:
    own = tmp_path / "a.mkv"
    own.write_bytes(film.read_bytes())
    with pytest.raises(InputError, match=r"a\.mkv would overwrite its picture"):
        run_films([own], tmp_path)
    with pytest.raises(InputError, match=r"a\.mkv exists and was not written by fcn-deploy"):
        run_films([film], tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/notes.txt").touch()
    with pytest.raises(InputError, match="a exists and was not written"):
        run_films([film], tmp_path, as_frames=True)
    with pytest.raises(InputError, match=r"would both be written .*--full-names"):
        run_films([film, own], tmp_path / "out")
    assert len(run_films([film, own], tmp_path / "out", full_names=True)) == 2
    assert own.read_bytes() == film.read_bytes()


def test_what_is_no_film_is_said_in_the_journal(film: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    with av.open(str(tmp_path / "sound.mkv"), "w") as sound:
        stream = sound.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        sound.mux(stream.encode(frame))
    out = tmp_path / "out"
    done = run_films([tmp_path / "text.mp4", tmp_path / "sound.mkv", film], out)
    assert [each.masks and each.masks.name for each in done] == [None, None, "a.mkv"]
    lines = journal_lines(out)
    assert "text.mp4 cannot be read as a film" in lines[0]["error"]
    assert "sound.mkv holds no pictures" in lines[1]["error"]
    assert lines[2]["error"] is None
    assert len(run_films([tmp_path / "text.mp4", film], out, resume=True)) == 1
    with pytest.raises(ImageError, match="no such file"):
        run_films([tmp_path / "none.mp4"], out)
    with pytest.raises(InputError, match="runs of their own"):
        run_films([film, tmp_path], out)


def test_a_film_that_is_read_back_otherwise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.mkv"
    masks = MaskFilm(path, (4, 6), MILLI, Fraction(25))
    mask = np.arange(24, dtype=np.uint8).reshape(4, 6)
    masks.write(mask, 0)
    masks._written[0] = (0, 1)
    with pytest.raises(ArtifactError, match="read back otherwise"):
        masks.close()
    other = MaskFilm(path, (4, 6), MILLI, Fraction(25))
    other._decoder = type("Other", (), {"decode": lambda self, packet: []})()  # type: ignore[assignment]
    with pytest.raises(ArtifactError, match="at time stamp 5"):
        other.write(mask, 5)
    other.abandon()


def test_overlays_are_written_without_h264_too(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mjpeg"})
    run_films([film], tmp_path, with_overlay=True)
    overlays, masks = decoded(tmp_path / "overlays/a.mkv"), masks_in(tmp_path / "a.mkv")
    assert list(overlays) == list(masks)
    for stamp, frame in decoded(film).items():
        expected = overlay(frame, masks[stamp], FAKE_SPEC.palette)
        assert np.abs(overlays[stamp].astype(int) - expected).mean() < 12


def test_a_folder_of_pictures_is_not_searched_for_films(film: Path, tmp_path: Path) -> None:
    (tmp_path / "b.mp4").write_bytes(film.read_bytes())
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with Sources([str(tmp_path)]) as sources:
        assert [item.base for item in sources] == ["a.png"]


def test_times_before_zero_begin_at_zero(tmp_path: Path) -> None:
    masks = MaskFilm(tmp_path / "m.mkv", (4, 6), MILLI, Fraction(25))
    for stamp in (-80, -40, 7):
        masks.write(np.full((4, 6), stamp + 100, np.uint8), stamp)
    masks.close()
    assert {at: int(mask[0, 0]) for at, mask in masks_in(tmp_path / "m.mkv").items()} == {
        0: 20, 40: 60, 87: 107,
    }  # fmt: skip
