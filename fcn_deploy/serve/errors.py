"""Refusals that carry their HTTP status, and the one rendering of every error as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import Response

from fcn_deploy.core.errors import (
    BatchShapeError,
    DataError,
    DeviceMemoryError,
    FcnDeployError,
    InputError,
)

#: Seconds after which a client that was refused for want of room may come again.
RETRY_AFTER = 1


class RequestError(FcnDeployError):
    """A request is refused; ``status`` is the HTTP status, ``headers`` go out with it."""

    status = 400
    headers: Mapping[str, str] = {}


class UnauthorizedError(RequestError):
    """The request bears no token, or a wrong one."""

    status = 401
    headers = {"WWW-Authenticate": "Bearer"}  # noqa: RUF012 (read only)


class UnsupportedError(RequestError):
    """The request needs a part of the protocol that this server does not have."""


class NotFoundError(RequestError):
    """There is no such model, version or place."""

    status = 404


class TooLargeError(RequestError):
    """The body, or the pictures in it, are larger than the server takes."""

    status = 413


class UnsupportedEncodingError(RequestError):
    """The body is compressed or typed in a way that the server does not read."""

    status = 415


class ClientGoneError(RequestError):
    """The client closed its connection before its request was computed; nobody reads this."""

    status = 499


class UnavailableError(RequestError):
    """The server cannot take the request now; later it may."""

    status = 503
    headers = {"Retry-After": str(RETRY_AFTER)}  # noqa: RUF012 (read only)


class QueueFullError(UnavailableError):
    """As many requests wait as may."""


class MemoryFullError(UnavailableError):
    """The requests in work have as much in memory as they may."""


class NotReadyError(UnavailableError):
    """The runner is still warming up."""


class ClosingError(UnavailableError):
    """The server ends and takes nothing any more."""


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, HTTPException):
        return error.status_code
    if isinstance(error, (BatchShapeError, InputError, DataError)):
        return 400
    return 503 if isinstance(error, DeviceMemoryError) else 500


def sentence_of(error: Exception) -> str:
    """Return what a client is told of an error."""
    if isinstance(error, FcnDeployError):
        return str(error)
    if isinstance(error, HTTPException):
        return error.detail
    # A mistake of ours: what it says is for the log, and not for strangers.
    return "the server failed; its log says more"


def error_body(sentence: str) -> bytes:
    """Return the body of every answer that is an error: ``{"error": "…"}``."""
    return json.dumps({"error": sentence}, ensure_ascii=False).encode()


def error_response(error: Exception) -> Response:
    """Return the answer to a request that failed, of any error."""
    headers: Mapping[str, str] = {}
    if isinstance(error, RequestError):
        headers = error.headers
    elif isinstance(error, HTTPException):
        headers = error.headers or {}
    elif isinstance(error, DeviceMemoryError):
        headers = UnavailableError.headers
    return Response(
        error_body(sentence_of(error)),
        status_of(error),
        headers=dict(headers),
        media_type="application/json",
    )
