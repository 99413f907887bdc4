"""A server on a free port of this machine, in a thread, and a client of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from fcn_deploy.runners.base import Runner
from fcn_deploy.serve.server import Server, listen, url_of
from fcn_deploy.serve.service import Service
from fcn_deploy.serve.settings import Settings
from tests.decoding import PATIENCE
from tests.fakes import FakeRunner


class ThreadServer(Server):
    """The server as it is, but for signals, which Python handles in the main thread alone."""

    @contextmanager
    def signals(self) -> Iterator[None]:
        yield


@contextmanager
def live(runner: Runner, **settings: Any) -> Iterator[str]:
    """Give the address of a server that is ready; it is stopped at the end of the block."""
    with live_server(runner, Settings(**settings), "streets") as (address, _):
        yield address


@contextmanager
def live_server(runner: Runner, settings: Settings, name: str) -> Iterator[tuple[str, Server]]:
    """The same, with the server."""
    service = Service(runner, settings, name)
    with listen("127.0.0.1", 0) as bound:
        server = ThreadServer(service)
        ready = threading.Event()

        async def serve() -> None:
            serving = asyncio.create_task(server.serve([bound]))
            while not (service.ready and server.started) and not serving.done():
                await asyncio.sleep(0.005)
            ready.set()
            await serving

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        try:
            assert ready.wait(PATIENCE)
            yield f"{url_of(bound)}/", server
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def asked(**settings: Any) -> Iterator[httpx.Client]:
    """Give a client of such a server; its runner is a fake."""
    with (
        live(FakeRunner(), **settings) as address,
        httpx.Client(base_url=address, timeout=PATIENCE) as client,
    ):
        yield client
