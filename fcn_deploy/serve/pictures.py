"""``POST /predict``: an encoded picture in, a mask, an overlay or the share of each class out."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.masks import mask_to_image, overlay
from fcn_deploy.data.png import png_bytes
from fcn_deploy.machine.description import usable_cores
from fcn_deploy.serve.accept import preferred
from fcn_deploy.serve.compressed import is_compressed
from fcn_deploy.serve.errors import (
    ClientGoneError,
    QueueFullError,
    RequestError,
    TooLargeError,
    UnavailableError,
    UnsupportedEncodingError,
)
from fcn_deploy.serve.picture_body import decode
from fcn_deploy.serve.requests import client_watched, infer, read_body
from fcn_deploy.serve.service import Service

_Result = TypeVar("_Result")
_PNG, _JSON = "image/png", "application/json"
#: What the time of a request is spent on, in this order; ``queue`` is all waiting for a thread.
STAGES = ("decode", "queue", "compute", "encode")
#: Opacity of the mask's colours where ``overlay=true`` asks for an overlay, as ``predict`` has it.
_OPACITY = 0.5
#: Bytes of a pixel in work, at most: what Pillow holds while it converts a picture with a palette
#: or alpha, or CMYK; later its array, its mask and an overlay take fewer.
_PIXEL_BYTES = 16


class NotAcceptableError(RequestError):
    """The client takes no form of the answer."""

    status = 406


def routes(service: Service) -> list[BaseRoute]:
    """Return the route; limits are ``service.settings``'."""
    pictures = _Pictures(service)

    async def predict(request: Request) -> Response:
        return await pictures.answer(request)

    return [Route("/predict", predict, methods=["POST"])]


@dataclass(frozen=True)
class Wanted:
    """The form of an answer.

    Attributes:
        media_type: ``image/png`` or ``application/json``.
        opacity: of the mask over its picture, 0 to 1; None: the mask alone.
    """

    media_type: str
    opacity: float | None = None

    @classmethod
    def by(cls, request: Request) -> Wanted:
        """Return what a request asks for, by its query and its ``Accept``.

        Raises:
            RequestError: the query is not understood (400).
            NotAcceptableError: there is no such form (406).
        """
        for name in request.query_params:
            if name != "overlay":
                raise RequestError(
                    f"unknown query parameter {name[:40]!r}", "there is overlay alone"
                )
        opacity = _opacity(request.query_params.get("overlay", "false"))
        offered = (_PNG, _JSON) if opacity is None else (_PNG,)
        media_type = preferred(",".join(request.headers.getlist("accept")), offered)
        if media_type is None:
            what = "answers" if opacity is None else "overlays"
            raise NotAcceptableError(
                f"{what} come as {' or '.join(offered)}", "ask for that with Accept"
            )
        return cls(media_type, opacity)


def _opacity(text: str) -> float | None:
    """Return the opacity that ``overlay=…`` asks for, or None where it asks for no overlay."""
    if text in ("true", "false"):
        return _OPACITY if text == "true" else None
    try:
        opacity = float(text)
    except ValueError:
        opacity = -1.0
    if not 0 <= opacity <= 1:  # NaN is neither
        raise RequestError(
            f"overlay={text[:40]!r} is no opacity", "give true, or a number from 0 to 1"
        )
    return opacity


class _PixelRoom:
    """A bound on the pixels that are decoded at once; a picture that is alone always fits."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._held = 0
        self._lock = threading.Lock()  # pictures are decoded on several threads

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """Give a function that takes pixels, or raises an UnavailableError; they are freed here."""
        mine = 0

        def take(pixels: int) -> None:
            nonlocal mine
            with self._lock:
                if self._held and self._held + pixels > self._pixels:
                    raise UnavailableError("the pictures in work fill the memory", "try later")
                self._held += pixels
                mine += pixels

        try:
            yield take
        finally:
            with self._lock:
                self._held -= mine


class _Pictures:
    """Decodes, infers and encodes; the first and the last on threads, one for each core.

    So the event loop stays free, and the next picture is decoded while the runner computes.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._threads = ThreadPoolExecutor(usable_cores(), thread_name_prefix="pictures")
        self._room = _PixelRoom(service.settings.max_memory_bytes // _PIXEL_BYTES)
        self._to_decode = 0

    async def answer(self, request: Request) -> Response:
        """Answer one request.

        Raises:
            FcnDeployError: it is refused, or the backend failed.
        """
        wanted = Wanted.by(request)
        self._service.require_room()
        coding = request.headers.get("content-encoding", "")
        if is_compressed(coding):
            raise UnsupportedEncodingError(
                f"Content-Encoding {coding[:40]!r} is not taken: pictures are compressed already",
                "send the file as it is",
            )
        body = await read_body(request, self._service.settings.max_body_bytes)
        times = dict.fromkeys(STAGES, 0.0)
        with self._room.holding() as take, client_watched(request) as gone:

            def before(size: tuple[int, int]) -> None:
                if gone.done():
                    raise ClientGoneError("the client closed its connection")
                self._require_size(size)
                take(size[0] * size[1])

            content_type = request.headers.get("content-type", "")
            image = await self._decoded(body, content_type, before, times)
            answer = await infer(request, self._service, image[None], gone)
            times["queue"] += answer.queue_seconds
            times["compute"] = answer.compute_seconds
            mask, spec = answer.mask[0], self._service.spec
            if wanted.media_type == _PNG:
                content = await self._in_thread("encode", times, _png, wanted, image, mask, spec)
            else:
                classes = await self._in_thread("encode", times, class_shares, mask, spec)
                content = json.dumps(self._document(image, classes, times)).encode()
        return Response(content, media_type=wanted.media_type, headers=_headers(times))

    def _require_size(self, size: tuple[int, int]) -> None:
        (width, height), most = size, self._service.settings.max_pixels
        if width * height > most:
            raise TooLargeError(
                f"the picture has {width}×{height} pixels, more than {most:,}",
                "shrink it, or start the server with a larger --max-pixels",
            )

    async def _decoded(
        self,
        body: bytes,
        content_type: str,
        before: Callable[[tuple[int, int]], None],
        times: dict[str, float],
    ) -> NDArray[np.uint8]:
        most = self._service.settings.max_queue
        if self._to_decode >= most:
            raise QueueFullError(f"{most} pictures are waiting already", "try later")
        self._to_decode += 1
        try:
            return await self._in_thread("decode", times, decode, body, content_type, before)
        finally:
            self._to_decode -= 1

    async def _in_thread(
        self,
        stage: str,
        times: dict[str, float],
        function: Callable[..., _Result],
        *arguments: object,
    ) -> _Result:
        """Call a function on one of the threads; the wait for a free one counts as queueing."""

        def timed() -> tuple[_Result, float, float]:
            began = time.perf_counter()
            return function(*arguments), began, time.perf_counter()

        asked = time.perf_counter()
        loop = asyncio.get_running_loop()
        result, began, ended = await loop.run_in_executor(self._threads, timed)
        times["queue"] += began - asked
        times[stage] = ended - began
        self._service.metrics.stage_seconds[stage].observe(ended - began)
        return result

    def _document(
        self, image: NDArray[np.uint8], classes: list[dict[str, Any]], times: dict[str, float]
    ) -> dict[str, Any]:
        height, width, _ = image.shape
        return {
            "width": width,
            "height": height,
            "classes": classes,
            "milliseconds": {stage: round(1000 * seconds, 3) for stage, seconds in times.items()},
            "model": model_json(self._service),
        }


def model_json(service: Service) -> dict[str, Any]:
    """Return which network answers: its name, backend, precision and the digest of its file."""
    described = service.description
    return {
        "name": service.name,
        "backend": described.backend,
        "precision": described.precision,
        "digest": described.digest,
    }


def classes_json(spec: ModelSpec) -> list[dict[str, Any]]:
    """Return index, name and colour of each class."""
    return [
        {"index": index, "name": name, "colour": "#{:02x}{:02x}{:02x}".format(*colour)}
        for index, (name, colour) in enumerate(zip(spec.class_names, spec.palette, strict=True))
    ]


def class_shares(mask: NDArray[np.uint8], spec: ModelSpec) -> list[dict[str, Any]]:
    """Return each class with its pixels in a mask, uint8 [H, W], and their share of all pixels."""
    counts = np.bincount(mask.ravel(), minlength=spec.num_classes)
    return [
        {**entry, "pixels": int(count), "share": int(count) / mask.size}
        for entry, count in zip(classes_json(spec), counts, strict=True)
    ]


def _png(
    wanted: Wanted, image: NDArray[np.uint8], mask: NDArray[np.uint8], spec: ModelSpec
) -> bytes:
    """Return the file that ``predict`` writes: of the mask, or of the overlay."""
    if wanted.opacity is None:
        return png_bytes(mask_to_image(mask, spec.palette))
    return png_bytes(Image.fromarray(overlay(image, mask, spec.palette, wanted.opacity)))


def _headers(times: dict[str, float]) -> dict[str, str]:
    stages = ", ".join(f"{stage};dur={1000 * seconds:.3f}" for stage, seconds in times.items())
    return {
        "Server-Timing": stages,
        "Vary": "Accept",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
