"""What the routes share: a body read up to its limit, and inference for a request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from fcn_deploy.serve.errors import ClientGoneError, RequestError, TooLargeError
from fcn_deploy.serve.service import Answer, Service


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request, read as it comes and no further than its limit.

    Args:
        request: whose body has not been read.
        limit: bytes that it may have.

    Raises:
        TooLargeError: it has, or says that it has, more.
        ClientGoneError: the client closed its connection in the middle.
    """
    declared = request.headers.get("content-length")
    if declared is not None:
        if not (declared.isascii() and declared.isdigit()):
            raise RequestError("Content-Length is no number")
        if len(declared) > 18 or int(declared) > limit:
            raise _too_large(limit)
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("the client closed its connection")
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def take_memory(request: Request, size: int) -> None:
    """Count memory that a request needs beside its body, until it has its answer.

    Args:
        request: the request.
        size: bytes.

    Raises:
        UnavailableError: all requests together would have too much.
    """
    request.state.take_memory(size)


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the body has more than {limit} bytes", "send smaller or fewer pictures")


@contextmanager
def client_watched(request: Request) -> Iterator[asyncio.Future[Any]]:
    """Give what is done once the client of a request, whose body has been read, has gone."""
    # Behind a whole body there is but one message to come: that the client has gone.
    gone = asyncio.ensure_future(request.receive())
    try:
        yield gone
    finally:
        gone.cancel()


async def infer(
    request: Request, service: Service, images: NDArray[np.uint8], gone: asyncio.Future[Any]
) -> Answer:
    """Segment the pictures of a request, unless its client goes away.

    Args:
        request: the request.
        service: which computes.
        images: uint8 [N, H, W, 3], RGB.
        gone: of :func:`client_watched`.

    Raises:
        FcnDeployError: see :meth:`fcn_deploy.serve.service.Service.infer`.
    """
    answer = await service.infer(images, gone=gone)
    request.state.answer = answer
    return answer
