"""Small films as tests need them: rotated, of uneven pace, with broken frames; and their jobs."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from fcn_deploy.predict.video.job import FilmJob, FilmPrediction
from fcn_deploy.predict.video.names import films_of
from fcn_deploy.runners.base import Runner
from tests.fakes import FAKE_SPEC, FakeRunner

HEIGHT, WIDTH = 48, 64
MILLI = Fraction(1, 1000)


def picture(seed: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> NDArray[np.uint8]:
    """Draw areas of class colours, others for each frame, none of them symmetric."""
    classes = np.random.default_rng(seed).integers(0, 5, (size[0] // 8, size[1] // 8))
    colours = np.array(FAKE_SPEC.palette, np.uint8)[classes]
    return colours.repeat(8, axis=0).repeat(8, axis=1)


def write_film(
    path: Path,
    stamps: Sequence[int] = range(0, 12 * 40, 40),
    *,
    codec: str = "mpeg4",
    time_base: Fraction = MILLI,
    rotation: tuple[int, bool, bool] = (0, False, False),
    broken: Sequence[int] = (),
) -> Path:
    """Write a film; of the broken packets most is overwritten."""
    with av.open(str(path), "w") as film:
        stream = film.add_stream(codec, rate=25, options={"bf": "0", "g": "4", "qscale": "2"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = time_base
        degrees, hflip, vflip = rotation
        if any(rotation):
            stream.set_display_rotation(degrees, hflip, vflip)
        count = 0
        for number in [*range(len(stamps)), None]:
            frame = None
            if number is not None:
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                frame.pts, frame.time_base = stamps[number], time_base
            for packet in stream.encode(frame):
                film.mux(_damaged(packet, stream) if count in broken else packet)
                count += 1
    return path


def _damaged(packet: Packet[Any], stream: VideoStream) -> Packet[Any]:
    content = bytes(packet)
    other: Packet[Any] = Packet(content[:8].ljust(len(content), b"\xff"))
    other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
    other.stream = stream
    return other


def decoded(path: Path) -> dict[int, NDArray[np.uint8]]:
    """Decode a film without our code: time stamp → RGB, not turned."""
    found: dict[int, NDArray[np.uint8]] = {}
    with av.open(str(path)) as film:
        film.streams.video[0].thread_count = 1
        for packet in film.demux(video=0):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            for frame in frames:
                assert isinstance(frame, av.VideoFrame)
                assert frame.pts is not None
                if not frame.is_corrupt:
                    found[frame.pts] = frame.to_ndarray(format="rgb24").astype(np.uint8)
    return found


def masks_in(path: Path) -> dict[int, NDArray[np.uint8]]:
    """Read a film of masks: milliseconds → mask."""
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("ffv1", "gray")
        return {
            frame.pts: frame.to_ndarray().astype(np.uint8)
            for frame in film.decode(stream)
            if frame.pts is not None
        }


def run_films(
    words: Sequence[str | Path],
    out: Path,
    *,
    runner: Runner | None = None,
    batch_size: int = 1,
    **options: Any,
) -> list[FilmPrediction]:
    """Do films to their end."""
    runner = runner or FakeRunner()
    with FilmJob(films_of([str(word) for word in words]), out, **options) as job:
        job.begin(runner)
        return list(job.predictions(runner, batch_size=batch_size))
