"""Live sources: the newest frame, nothing queued, and a film that is whole whenever it ends."""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import pytest

from fcn_deploy.core.errors import InputError
from fcn_deploy.predict.video import job as job_module
from fcn_deploy.predict.video.decode import Film, Frame
from fcn_deploy.predict.video.live import LiveLimits, NewestFrames
from tests.fakes import FakeRunner
from tests.predict.films import MILLI, masks_in, picture, run_films, write_film
from tests.predict.jobs import journal_lines

Limits = Callable[[FakeRunner], LiveLimits]
ADDRESS = "rtsp://user:secret@camera.local:554/door/1?token=2"


class Camera:
    """A camera that sends so many frames as it is told to while the network computes."""

    time_base, rate, name, ended_early = MILLI, Fraction(25), "camera", None
    left = False

    def __init__(self, total: int) -> None:
        self._total = total
        self._wanted, self._sent = threading.Semaphore(1), threading.Semaphore(0)

    def frames(self) -> Iterator[Frame]:
        for number in range(self._total):
            self._wanted.acquire()
            shown = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            yield Frame(number, 40 * number, shown, None, "camera")
            self._sent.release()  # the frame was put in its place

    def send(self, count: int) -> None:
        """Send more frames, and return when the newest of them is there to be taken."""
        for _ in range(count):
            self._wanted.release()
        for _ in range(count):
            self._sent.acquire()

    def seconds(self, stamp: int | None) -> float | None:
        return None if stamp is None else float(stamp * self.time_base)

    def __call__(self, *_: Any, **__: Any) -> Camera:
        return self

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None: ...


def run_live(
    out: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits, more: int, runs: int
) -> tuple[Any, list[int]]:
    """Film a camera that sends `more` frames during each computation, and ends after so many."""
    camera = Camera(1 + more * runs)
    monkeypatch.setattr(job_module, "Film", camera)

    def see(images: Any) -> Any:
        if len(runner.shapes) == 1:
            camera._sent.acquire()  # the first frame, which came by itself
        camera.send(more)
        return images

    runner = FakeRunner(see=see)
    (done,) = run_films([ADDRESS], out, runner=runner, limits=limits(runner))
    (film,) = out.glob("*.mkv")
    return done, list(masks_in(film))


def test_an_error_of_the_source_is_raised_where_its_frames_are_taken() -> None:
    film = Camera(0)
    film.frames = lambda: (1 // 0 for _ in "a")  # type: ignore[assignment, return-value, method-assign]
    with NewestFrames(film, LiveLimits()) as newest, pytest.raises(ZeroDivisionError):  # type: ignore[arg-type]
        next(iter(newest))


def test_a_source_that_never_sends_a_frame_ends_when_its_time_is_up() -> None:
    film = Camera(0)

    def packets() -> Iterator[Frame]:
        while not film.left:
            time.sleep(0.01)
        yield from ()

    film.frames = packets  # type: ignore[method-assign]
    limits = LiveLimits(seconds=5.0, clock=itertools.count(step=5).__next__)
    with NewestFrames(film, limits) as newest:  # type: ignore[arg-type]
        assert list(newest) == []


def test_what_the_network_is_too_slow_for_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, stamps = run_live(tmp_path, monkeypatch, lambda _: LiveLimits(frames=4), more=3, runs=4)
    assert stamps == [0, 120, 240, 360]  # of frames 0, 3, 6, 9
    assert (done.frames, done.broken) == (4, 0)
    (line,) = journal_lines(tmp_path)
    assert (line["frames"], line["dropped"]) == (4, done.dropped)
    assert done.dropped == 8
    assert line["source"] == "rtsp://camera.local:554/door/1"
    assert line["mask"].startswith("camera-local-554-door-1-2")
    (shares,) = tmp_path.glob("*.csv")
    assert [row.split(",")[0] for row in shares.read_text().splitlines()] == [
        "frame", "0", "3", "6", "9",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "limits",
    [
        lambda runner: LiveLimits(seconds=5.0, clock=lambda: 2.0 * len(runner.shapes)),
        lambda runner: LiveLimits(stopped=lambda: len(runner.shapes) == 3),
    ],
    ids=["time", "a request"],
)
def test_an_end_leaves_a_whole_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits
) -> None:
    done, stamps = run_live(tmp_path, monkeypatch, limits, more=1, runs=3)
    assert stamps == [0, 40, 80]
    assert done.frames == 3


def test_a_stream_is_taken_from_the_network(tmp_path: Path) -> None:
    write_film(tmp_path / "a.ts", codec="mpeg2video", time_base=Fraction(1, 25), stamps=range(12))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            (done,) = run_films([f"{address}/a.ts"], tmp_path / "out")
            (none,) = run_films([f"{address}/none.ts"], tmp_path / "none")
        finally:
            server.shutdown()
            thread.join()
    assert done.frames + done.dropped + done.broken == 12
    assert done.masks is not None
    assert len(masks_in(done.masks)) == done.frames >= 1
    assert none.masks is None
    assert "none.ts cannot be read as a film" in str(none.error)


def test_a_build_without_cameras_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "formats_available", {"mp4"})
    with pytest.raises(InputError, match=r"without v4l2.*name rtsp://"):
        Film("/dev/video0", "camera:0", form="v4l2", live=True)
