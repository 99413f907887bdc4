"""The HTTP parser's limits, which uvicorn leaves to a proxy: heads, time, connections.

A head (request line and headers) is bounded in bytes, headers and seconds; a body in seconds by how
much of it has come; a client that does not read its answer is cut off.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from fcn_deploy.serve.errors import RETRY_AFTER, error_body
from fcn_deploy.serve.metrics import Metrics
from fcn_deploy.serve.service import Service
from fcn_deploy.serve.settings import Settings

#: Bytes of a body that are gathered before the application is told of them: a picture of 320×480.
_READ_AHEAD = 512 * 1024
#: Pieces in which they may come, each of which takes memory of its own.
_MOST_PIECES = 64
#: Bytes of a body that is refused unread which are passed over, beside twice what a body may have:
#: a client that sends it to its end reads the refusal, and keeps its connection.
_PASSED_OVER = 1024 * 1024


def bounded_protocol(service: Service) -> type[asyncio.Protocol]:
    """Return the protocol of connections that keep a service's limits."""

    class Bounded(_BoundedProtocol):
        settings = service.settings
        metrics = service.metrics
        unsent = service.unsent

    return Bounded


class _HeadError(Exception):
    """Raised inside the parser, which ends the connection with ``_refusal``."""


class _BoundedProtocol(HttpToolsProtocol):
    settings: ClassVar[Settings]
    metrics: ClassVar[Metrics]
    unsent: ClassVar[set[asyncio.Transport]]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._refusal = (400, "this is no HTTP request")
        self._last_words: tuple[int, str] | None = None  # a refusal that waits for its turn
        self._in_body = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._pieces: list[bytes] = []  # of a body, gathered
        self._gathered = 0  # bytes of these
        self._url_and_headers = 0
        self._began = 0.0  # the loop's time at which the body began

    # --- the connection ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            self._refuse(503, f"{self.settings.max_connections} connections are open already")
            return
        self._arm(self.settings.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._sent()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._last_words is not None:
            return
        if not self._in_body:
            # Counted before it is parsed: the parser itself keeps a header that does not end.
            self._head_bytes += len(data)
            if self._timer is None:
                self._arm(self.settings.head_seconds)
        super().data_received(data)
        if not self._in_body and self._head_bytes > self.settings.max_head_bytes:
            self._refuse(431, self._head_words())

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unsent.add(self.transport)
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(
                self.settings.send_seconds, self.transport.abort
            )

    def resume_writing(self) -> None:
        super().resume_writing()
        self._sent()

    def _sent(self) -> None:
        self.unsent.discard(self.transport)
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    # --- the parser's calls -----------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._url_and_headers = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        if len(self.headers) >= self.settings.max_headers:
            self._refusal = (431, f"the request has more than {self.settings.max_headers} headers")
            raise _HeadError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self._announces_body():
            # The parser takes what follows for another protocol, and the body would be lost.
            self._refusal = (
                400,
                "a request with a body is not upgraded: send it as HTTP/1.1 alone",
            )
            raise _HeadError
        self._in_body = True
        self._body_bytes = 0
        self._began = self.loop.time()
        self._arm(self.settings.body_seconds)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        cycle = self.cycle
        if cycle.response_complete:  # it was refused unread
            if self._body_bytes > 2 * self.settings.max_body_bytes + _PASSED_OVER:
                self.transport.close()
            return
        # A small body is handed over when it is whole: each piece would cost a turn.
        self._pieces.append(body)
        self._gathered += len(body)
        if self._gathered > _READ_AHEAD or len(self._pieces) >= _MOST_PIECES:
            self._hand_over()
            super().on_body(b"")

    def _hand_over(self) -> None:
        # As bytes, of which uvicorn makes no further copy.
        whole = b"".join((self.cycle.body, *self._pieces))
        self.cycle.body = whole  # type: ignore[assignment]
        self._pieces, self._gathered = [], 0

    def on_message_complete(self) -> None:
        self._hand_over()
        self._in_body = False
        self._head_bytes = 0
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.cycle.response_complete:  # else it is the next one's
            # Of a request that was refused unread.
            self.cycle.body, self._pieces, self._gathered = bytearray(), [], 0
        super().on_response_complete()
        if self._last_words is not None and not self._owes_answers():
            words, self._last_words = self._last_words, None
            self._refuse(*words)

    def _announces_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
            for name, value in self.headers
        )

    def _count(self, size: int) -> None:
        self._url_and_headers += size
        if self._url_and_headers > self.settings.max_head_bytes:
            self._refusal = (431, self._head_words())
            raise _HeadError

    def _head_words(self) -> str:
        return f"the request's headers have more than {self.settings.max_head_bytes} bytes"

    # --- time -------------------------------------------------------------------------------

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        """End a request that does not come, unless it is the server that does not read it."""
        self._timer = None
        answering = self.cycle is not None and not self.cycle.response_complete
        if self._in_body:
            settings = self.settings
            allowed = settings.body_seconds + self._body_bytes / settings.min_bytes_per_second
            left = self._began + allowed - self.loop.time()
            if left > 0:
                self._arm(left)
            elif self.flow.read_paused:
                self._arm(settings.body_seconds)
            elif answering and not self.cycle.response_started:
                self._refuse(408, "the body did not come in time")
            else:
                self.transport.close()
        elif answering:  # the head of the next request, sent before the answer to this one
            self._arm(self.settings.head_seconds)
        elif self._head_bytes:
            self._refuse(408, "the headers did not come in time")
        else:
            self.transport.close()

    # --- refusals ---------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refused; called by uvicorn with words of its own."""
        self._refuse(*self._refusal)

    def _owes_answers(self) -> bool:
        """Say whether requests that came whole before the one in hand have no answer yet."""
        if self._in_body:
            return bool(self.pipeline)
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: int, sentence: str) -> None:
        if self.transport.is_closing():
            return
        self._disarm()
        if self._owes_answers():  # else the client would take this for the answer to an earlier one
            self._last_words = (status, sentence)
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # whatever is said to this request, nothing more is sent
        body = error_body(sentence)
        retry = b"retry-after: %d\r\n" % RETRY_AFTER if status == 503 else b""
        lines = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        self.transport.write(
            STATUS_LINE[status] + lines + retry + b"connection: close\r\n\r\n" + body
        )
        self.transport.close()
        self.metrics.request_done("protocol", status)
