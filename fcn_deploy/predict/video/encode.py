"""Films that are written: masks without loss, checked, and overlays as people look at them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from fcn_deploy.core.errors import ArtifactError
from fcn_deploy.core.files import write_error
from fcn_deploy.data.png import SOFTWARE
from fcn_deploy.predict.video.decode import milliseconds

#: FFV1 of version 3, which has a checksum of each of its slices; each frame stands by itself.
_LOSSLESS = {"level": "3", "slicecrc": "1", "slices": "4", "g": "1"}
#: Metadata by which films of ours are known.
_TAG = "WRITTEN_WITH"


class FilmWriter:
    """A Matroska file of one stream of pictures, (height, width) large."""

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        time_base: Fraction,
        rate: Fraction,
        codec: tuple[str, str, dict[str, str]],
    ) -> None:
        name, pixels, options = codec
        self._path, self._time_base = path, time_base
        self._start: int | None = None
        with self._failing():
            self._container = av.open(str(path), "w", format="matroska")
            self._container.metadata.update({_TAG: SOFTWARE})
            stream = self._container.add_stream(name, rate=rate, options=options)
            assert isinstance(stream, VideoStream)
            self._stream: VideoStream = stream
            stream.height, stream.width = size
            stream.pix_fmt = pixels
            stream.codec_context.time_base = time_base
            if name == "ffv1":
                stream.thread_count = 1  # no frame waits in it: each gives its packet
            self._container.start_encoding()

    def write(self, image: NDArray[np.uint8], stamp: int) -> None:
        """Append a picture, uint8 [H, W, 3], at a time later than the one before."""
        self._encode(VideoFrame.from_ndarray(image, format="rgb24"), stamp)

    def _encode(self, frame: VideoFrame, stamp: int) -> list[Packet[Any]]:
        if self._start is None:
            self._start = min(0, stamp)  # Matroska has no times below zero
        frame.pts, frame.time_base = stamp - self._start, self._time_base
        with self._failing():
            packets = self._stream.encode(frame)
            self._container.mux(packets)
        return packets

    def close(self) -> None:
        """Finish the file."""
        with self._failing():
            self._container.mux(self._stream.encode(None))
            self._container.close()

    def abandon(self) -> None:
        """Close a file that is not wanted."""
        with suppress(av.FFmpegError, OSError):
            self._container.close()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise write_error(self._path, error, flags="--out") from error
        except av.FFmpegError as error:
            raise ArtifactError(
                f"cannot write {self._path} ({error})", "choose another --out"
            ) from error


class MaskFilm(FilmWriter):
    """Masks without loss: each is decoded again as soon as it is encoded, and compared.

    When the file is whole it is read once more: its packets and their times must be those.
    """

    def __init__(
        self, path: Path, size: tuple[int, int], time_base: Fraction, rate: Fraction
    ) -> None:
        super().__init__(path, size, time_base, rate, ("ffv1", "gray", _LOSSLESS))
        decoder = av.CodecContext.create("ffv1", "r")
        assert isinstance(decoder, VideoCodecContext)
        self._decoder: VideoCodecContext = decoder
        decoder.extradata = self._stream.codec_context.extradata
        decoder.height, decoder.width = size
        decoder.pix_fmt = "gray"
        self._written: list[tuple[int, int]] = []  # the time and the checksum of each packet

    def write(self, mask: NDArray[np.uint8], stamp: int) -> None:
        """Append a mask, uint8 [H, W], at a time later than the one before."""
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(mask), format="gray")
        packets = self._encode(frame, stamp)
        try:
            found = [each for packet in packets for each in self._decoder.decode(packet)]
        except av.FFmpegError:
            found = []
        if len(found) != 1 or not np.array_equal(found[0].to_ndarray(), mask):
            raise self._unlike(f"at time stamp {stamp}")
        assert self._start is not None
        at = milliseconds(stamp - self._start, self._time_base)
        self._written += [(at, zlib.crc32(memoryview(packet))) for packet in packets]

    def close(self) -> None:
        """Finish the file and compare it with what was to be written.

        Raises:
            ArtifactError: it holds something else.
        """
        super().close()
        with av.open(str(self._path)) as film:
            found = [
                (packet.pts, zlib.crc32(memoryview(packet)))
                for packet in film.demux(video=0)
                if packet.size
            ]
        if found != self._written:
            raise self._unlike("after it was closed")

    def _unlike(self, where: str) -> ArtifactError:
        return ArtifactError(
            f"the film of masks is read back otherwise than it was written, {where}",
            "write PNG files with --frames",
        )


def overlay_film(
    path: Path, size: tuple[int, int], time_base: Fraction, rate: Fraction
) -> FilmWriter:
    """Begin a film of overlays: H.264, or Motion JPEG where PyAV was built without it."""
    # Colours of pairs of pixels need even sides.
    colours = "444p" if size[0] % 2 or size[1] % 2 else "420p"
    if "libx264" in av.codecs_available:
        codec = "libx264", f"yuv{colours}", {"crf": "20", "preset": "veryfast"}
    else:
        codec = "mjpeg", f"yuvj{colours}", {"q": "3"}
    return FilmWriter(path, size, time_base, rate, codec)


def film_written_by_us(path: Path) -> bool:
    """Say whether a file is a film that this module wrote."""
    try:
        with av.open(str(path), metadata_errors="ignore") as film:
            return bool(film.metadata.get(_TAG) == SOFTWARE)
    except (av.FFmpegError, OSError, ValueError):
        return False
