"""Film: a file or a stream → its frames in the order of time, none lost without a word.

Packets of which no frame comes are broken frames.  A frame is converted to RGB and turned upright
when it is read, on whichever thread does so.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from fcn_deploy.core.errors import ImageError, InputError
from fcn_deploy.data.images import MAX_PIXELS
from fcn_deploy.predict.items import Before

#: Seconds that a stream may take to open, and to send the next packet.
PATIENCE = 10.0
#: What a stream is opened with: over UDP frames would be lost.
_LIVE_OPTIONS = {"rtsp_transport": "tcp"}
_DAMAGED = "the frame is damaged"
_DISORDER = "its time stamp is not later than that of the frame before"


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a film: its place, its time in units of the time base, why it is broken."""

    number: int
    stamp: int | None
    picture: VideoFrame | None
    error: str | None
    film: str

    def read(self, before: Before = lambda size: None) -> NDArray[np.uint8]:
        """Return uint8 [H, W, 3], RGB, upright; raise an ImageError where it is broken."""
        if self.picture is None:
            raise ImageError(f"frame {self.number} of {self.film}: {self.error}")
        before((self.picture.width, self.picture.height))
        image = self.picture.to_ndarray(format="rgb24", threads=1).astype(np.uint8, copy=False)
        return upright(image, _matrix(self.picture))


def _matrix(picture: VideoFrame) -> tuple[int, int, int, int] | None:
    for found in cast("Iterable[SideData]", picture.side_data):  # its type says names
        if found.type is Type.DISPLAYMATRIX:
            a, b, _, c, d, *_ = np.frombuffer(bytes(found), np.int32).tolist()
            return a, b, c, d
    return None


def upright(
    image: NDArray[np.uint8], matrix: tuple[int, int, int, int] | None
) -> NDArray[np.uint8]:
    """Turn and mirror an image [H, W, 3] as a display matrix a, b, c, d says.

    The pixel (x, y) is shown at (ax + cy, bx + dy), but for a shift.  Where that is no turn by
    right angles, the image stays as it is.
    """
    if matrix is None:
        return image
    a, b, c, d = matrix
    if a == d == 0 and b and c:
        image, a, d = image.transpose(1, 0, 2), c, b
    elif b or c or not (a and d):
        return image
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


class Film(AbstractContextManager["Film"]):
    """A film or a live source that is open.

    Attributes:
        time_base: seconds of one unit of the time stamps.
        rate, expected: about so many frames a second, and in all, or None.
        ended_early: why the film could not be read to its end, or None.
        left: set by another thread, it ends the frames at the next packet.

    Raises:
        ImageError: it cannot be read, or has no pictures.
        InputError: this build of PyAV cannot read such devices.
    """

    def __init__(
        self, address: str, name: str, *, form: str | None = None, live: bool = False
    ) -> None:
        self.name = name
        self.ended_early: str | None = None
        self.left = False
        self._numbers = itertools.count()
        self._last: int | None = None
        if form is not None and form not in av.formats_available:
            raise InputError(
                f"{name}: PyAV was built without {form}, which reads webcams",
                "build it on this machine's FFmpeg, pip install --no-binary av av, or offer the "
                "camera as a stream and name rtsp://…",
            )
        self._container = _opened(address, name, form, live)
        try:
            self._stream = self._container.streams.best("video")
            self._prepare()
        except BaseException:
            self._container.close()
            raise

    def _prepare(self) -> None:
        stream = self._stream
        if not isinstance(stream, VideoStream) or stream.codec_context is None:
            what = "holds no pictures" if stream is None else "is of a codec that PyAV lacks"
            raise ImageError(f"{self.name} {what}", "name a film that a player shows")
        if stream.width * stream.height > MAX_PIXELS:
            raise ImageError(f"{self.name} has frames of more than {MAX_PIXELS:,} pixels")
        stream.thread_count = 1  # how a decoder conceals damage depends on how many threads it has
        self.time_base: Fraction = stream.time_base or Fraction(1, 90_000)
        self.rate: Fraction = stream.average_rate or stream.guessed_rate or Fraction(25)
        computed = round((stream.duration or 0) * self.time_base * self.rate)
        self.expected: int | None = stream.frames or computed or None

    def frames(self) -> Iterator[Frame]:
        """Yield the frames, in the order of time; broken ones as such."""
        assert isinstance(self._stream, VideoStream)
        sent: list[int] = []  # stamps of packets, a heap
        damaged = False  # until then, a packet without a frame is half of an interlaced one
        for packet in self._packets():
            if packet.size and packet.pts is not None and not packet.is_discard:
                heapq.heappush(sent, packet.pts)
            try:
                pictures = self._stream.decode(packet)
            except av.FFmpegError:
                damaged = True
                if packet.size and packet.pts is None:
                    yield self._broken(None, _DAMAGED)
                continue
            for picture in pictures:
                damaged |= picture.is_corrupt
                while sent and picture.pts is not None and sent[0] <= picture.pts:
                    stamp = heapq.heappop(sent)
                    if damaged and stamp < picture.pts:
                        yield self._broken(stamp, _DAMAGED)
                yield self._frame(picture)
        while sent and damaged:
            yield self._broken(heapq.heappop(sent), _DAMAGED)

    def _packets(self) -> Iterator[Packet[Any]]:
        try:
            # Of all streams: where the video alone stops, its next packet would never come.
            for packet in self._container.demux():
                if self.left:
                    return
                if packet.stream is self._stream:
                    yield packet
        except av.FFmpegError as error:
            self.ended_early = f"{self.name} ends before its end ({error.strerror})"

    def _frame(self, picture: VideoFrame) -> Frame:
        stamp = picture.pts
        if stamp is None:
            step = max(1, round(1 / (self.rate * self.time_base)))
            stamp = 0 if self._last is None else self._last + step
        if picture.is_corrupt:
            return self._broken(stamp, _DAMAGED)
        if self._last is not None and stamp <= self._last:
            return self._broken(stamp, _DISORDER)
        self._last = stamp
        return Frame(next(self._numbers), stamp, picture, None, self.name)

    def _broken(self, stamp: int | None, error: str) -> Frame:
        if stamp is not None:
            self._last = stamp if self._last is None else max(stamp, self._last)
        return Frame(next(self._numbers), stamp, None, error, self.name)

    def seconds(self, stamp: int | None) -> float | None:
        """Return a time stamp in seconds."""
        return None if stamp is None else float(stamp * self.time_base)

    def __exit__(self, *error: object) -> None:
        self._container.close()


def _opened(address: str, name: str, form: str | None, live: bool) -> InputContainer:
    try:
        return av.open(
            address,
            "r",
            format=form,
            options=_LIVE_OPTIONS if live and form is None else {},
            metadata_errors="ignore",
            timeout=PATIENCE if live else None,
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ImageError(
            f"{name} cannot be read as a film ({why})",
            "check the address" if live else "remove or replace it",
        ) from error


def milliseconds(stamp: int, time_base: Fraction) -> int:
    """Return a time stamp in the unit of Matroska, rounded as FFmpeg does."""
    return math.floor(stamp * time_base * 1000 + Fraction(1, 2))
