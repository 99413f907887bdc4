"""The process: listening, warming up, draining after SIGTERM, and an exit code of 0.

SIGTERM ─▶ ready 503 ─▶ drain_seconds: all requests served ─▶ uvicorn's shutdown: no new
connections, requests in work are answered ─▶ the runner is closed
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from fcn_deploy.core.errors import FcnDeployError, InputError
from fcn_deploy.serve.app import create_app
from fcn_deploy.serve.service import Service, State

if TYPE_CHECKING:
    from fcn_deploy.serve.grpc_endpoint import GrpcEndpoint

_LOG = logging.getLogger("fcn_deploy.serve")
#: Exit code where a third signal ended the process before the requests had their answers.
GIVEN_UP = 1
#: Connections that may wait to be accepted.
_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; with port 0, on a free one.

    It listens at once, as two sockets can be bound to one address while neither listens.

    Raises:
        InputError: the address is none of this machine's, or is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(_BACKLOG)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise InputError(
            f"cannot listen on {host} port {port} ({error.strerror or error})",
            "choose another with --host and --port",
        ) from error
    return bound


def url_of(bound: socket.socket) -> str:
    """Return the address of a socket as a URL."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(service: Service, bound: socket.socket) -> None:
    """Answer requests until a signal ends it; the service is closed when this returns.

    Args:
        service: not started.
        bound: what :func:`listen` gave.

    Raises:
        FcnDeployError: the runner does not compute, seen while it was warmed up; or gRPC's port
            is taken.
    """
    server = Server(service)
    server.run([bound])
    if server.failure is not None:
        raise server.failure


class Server(uvicorn.Server):
    """uvicorn, which warms up behind an open port and drains before it shuts down.

    Args:
        service: not started.

    Attributes:
        service: what is served.
        signals_seen: how many signals have asked it to end.
        failure: why the runner did not warm up, or gRPC has no port, which ends the server.
        grpc: the endpoint of gRPC, where there is one and it listens.
    """

    def __init__(self, service: Service) -> None:
        settings = service.settings
        config = uvicorn.Config(
            create_app(service),
            http=_http(service),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=math.ceil(settings.idle_seconds),
            timeout_graceful_shutdown=math.ceil(settings.close_seconds),
            h11_max_incomplete_event_size=settings.max_head_bytes,
        )
        super().__init__(config)
        self.signals_seen = 0
        self.failure: Exception | None = None
        self.service = service
        self.grpc: GrpcEndpoint | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve; see :func:`serve`."""
        fields: dict[str, object] = {"url": url_of((sockets or [])[0])}
        try:
            self.grpc = await _grpc(self.service)
        except FcnDeployError as error:
            self.failure = error
            await self.service.close()
            return
        if self.grpc is not None:
            fields["grpc_port"] = self.grpc.port
        with self.signals():
            _LOG.info("listening", extra={"fields": fields})
            warming = asyncio.create_task(self._warm_up())
            try:
                await super().serve(sockets)
            finally:
                if self.grpc is not None:
                    await self.grpc.stop(0)
                await self.service.close()
                await warming
        metrics = self.service.metrics
        counts = {"accepted": metrics.accepted, "answered": metrics.answered}
        _LOG.info("stopped", extra={"fields": counts})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing more, and answer what was taken, over HTTP and gRPC at once."""
        closing = [super().shutdown(sockets)]
        if self.grpc is not None:
            closing.append(self.grpc.stop(self.service.settings.close_seconds))
        await asyncio.gather(*closing)

    async def _warm_up(self) -> None:
        try:
            await self.service.start(_LOG.info)
        except Exception as error:
            self.failure = error
            self.should_exit = True
        else:
            if self.service.ready:
                _LOG.info("ready", extra={"fields": {"model": self.service.name}})

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to :meth:`signals`.

        uvicorn's own way ends the process by the signal, and not with exit code 0.
        """
        yield

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Drain at the first signal, shut down at the second, give up what is left at the third.

        Until the runner is closed: a signal that comes then is one more, and does not end the
        process with another exit code.
        """
        loop = asyncio.get_running_loop()
        before = {
            number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._stop))
            for number in HANDLED_SIGNALS
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self) -> None:
        self.signals_seen += 1
        if self.signals_seen > 2:
            # What computes cannot be stopped otherwise, and whoever asks thrice means it.
            _LOG.error("given up", extra={"fields": {"signals": self.signals_seen}})
            os._exit(GIVEN_UP)
        if self.should_exit:
            return
        if self.service.state is State.READY:
            seconds = self.service.settings.drain_seconds
            _LOG.info("draining", extra={"fields": {"seconds": seconds}})
            self.service.drain()
            asyncio.get_running_loop().call_later(seconds, self._exit)
        else:  # a second signal, or nothing is served yet
            self.service.drain()
            self._exit()

    def _exit(self) -> None:
        self.should_exit = True


async def _grpc(service: Service) -> GrpcEndpoint | None:
    """Return an endpoint that listens, or None where none is wanted."""
    settings = service.settings
    if settings.grpc_port is None:
        return None
    from fcn_deploy.serve.grpc_endpoint import GrpcEndpoint

    endpoint = GrpcEndpoint(service)
    await endpoint.start(settings.host, settings.grpc_port)
    return endpoint


def _http(service: Service) -> type[asyncio.Protocol] | str:
    if find_spec("httptools") is None:  # not made for Windows: h11 bounds the head's bytes alone
        return "h11"
    from fcn_deploy.serve.protocol import bounded_protocol

    return bounded_protocol(service)
