"""Gate: what happens to every request on its way in and out.

In: its id, the token, room for its body.  Out: every error as JSON, the id, a count, a line of log.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import re
import time
from collections.abc import Callable, Collection
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.serve.errors import (
    ClientGoneError,
    ClosingError,
    UnauthorizedError,
    error_response,
    status_of,
)
from fcn_deploy.serve.service import Service

_LOG = logging.getLogger("fcn_deploy.serve")
_ID_LENGTH = 64
#: Asked every few seconds for ever: counted, and logged only where they fail.
_QUIET = ("/v2/health/live", "/v2/health/ready", "/metrics")


class Gate:
    """Middleware around all routes.

    Args:
        app: the routes.
        service: whose settings and metrics hold.
        open_paths: that are answered without a token.

    Attributes:
        metrics: the service's.
    """

    def __init__(self, app: ASGIApp, service: Service, open_paths: Collection[str]) -> None:
        self._app = app
        self._service = service
        self._open_paths = frozenset(open_paths)
        self.metrics = service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever happens."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        passage = _Passage(self, self._service.take_memory, scope, receive, send)
        scope.setdefault("state", {})["take_memory"] = passage.take_memory
        error: Exception | None = None
        try:
            self._require_token(scope)
            await self._app(scope, passage.receive, passage.send)
        except Exception as caught:
            error = caught
            if not passage.status:
                await error_response(error)(scope, receive, passage.send)
            elif not isinstance(error, ClientGoneError):
                raise
        except asyncio.CancelledError:  # by uvicorn, which has waited as long as it may
            error = ClosingError("the server ended before this was computed", "try another one")
            if not passage.status:
                await error_response(error)(scope, receive, passage.send)
        finally:
            self._service.take_memory(-passage.memory)
            self._record(scope, passage, error)
            # Its traceback holds this frame: a cycle, which would keep the body for the collector.
            error = None

    def _require_token(self, scope: Scope) -> None:
        token = self._service.settings.token
        if token is None or scope["path"] in self._open_paths:
            return
        require_token(token, _header(scope, b"authorization"))

    def _record(self, scope: Scope, passage: _Passage, error: Exception | None) -> None:
        seconds = time.perf_counter() - passage.began
        status = passage.status if error is None else status_of(error)
        route = getattr(scope.get("endpoint"), "__name__", "none")
        self.metrics.request_done(route, status)
        if status < 400 and scope["path"] in _QUIET:
            return
        fields: dict[str, Any] = {
            "id": passage.id,
            "client": (scope.get("client") or ("",))[0],
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "bytes_in": passage.body_bytes,
            "ms": round(seconds * 1000, 2),
        }
        if (answer := scope.get("state", {}).get("answer")) is not None:
            self.metrics.stage_seconds["read"].observe(passage.read_seconds)
            self.metrics.stage_seconds["total"].observe(seconds)
            fields["queue_ms"] = round(answer.queue_seconds * 1000, 2)
            fields["compute_ms"] = round(answer.compute_seconds * 1000, 2)
            fields["batch"] = answer.batch_size
        if error is not None:
            fields["error"] = str(error)
        ours = error is not None and not isinstance(error, FcnDeployError) and status >= 500
        level = logging.ERROR if status >= 500 and status != 503 else logging.INFO
        _LOG.log(level, "request", extra={"fields": fields}, exc_info=error if ours else None)


class _Passage:
    """One request on its way: what came in of it and what went out."""

    def __init__(
        self,
        gate: Gate,
        take_memory: Callable[[int], None],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self.began = time.perf_counter()
        self.id = request_id(_header(scope, b"x-request-id"))
        self.status = 0  # until an answer has begun
        self.body_bytes = 0
        self.memory = 0
        self.read_seconds = 0.0
        self._is_accepted = False
        self._is_invited = not _header(scope, b"expect")
        self._gate = gate
        self._take_memory = take_memory
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        self._is_invited = True
        message = await self._receive()
        size = len(message.get("body", b""))
        if message["type"] == "http.request" and not message.get("more_body", False):
            self.read_seconds = time.perf_counter() - self.began
            self._accepted()
        self.body_bytes += size
        if size:
            self.take_memory(size)
        return message

    def take_memory(self, size: int) -> None:
        self.memory += size
        self._take_memory(size)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
            if not self._is_invited:
                # The body may never come, and what follows would be taken for it.
                message["headers"].append((b"connection", b"close"))
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._gate.metrics.answered += self._is_accepted

    def _accepted(self) -> None:
        self._gate.metrics.accepted += not self._is_accepted
        self._is_accepted = True


def require_token(token: bytes, authorization: bytes) -> None:
    """Refuse a request that does not bear the token.

    Args:
        token: that it must bear.
        authorization: the header of this name, empty where there is none.

    Raises:
        UnauthorizedError: it bears none, or a wrong one.
    """
    scheme, _, given = authorization.partition(b" ")
    if not (scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token)):
        raise UnauthorizedError(
            "the request bears no token, or a wrong one", "send Authorization: Bearer TOKEN"
        )


def _header(scope: Scope, name: bytes) -> bytes:
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return b""


def request_id(given: bytes) -> str:
    """Return the client's id, as far as it is fit for a header and a log, or a new one."""
    clean = re.sub(rb"[^A-Za-z0-9._-]", b"", given[:_ID_LENGTH]) if given else b""
    return clean.decode("ascii") or os.urandom(16).hex()
