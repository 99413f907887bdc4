"""A server on a free port of this machine, in a thread, and a client of it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from fcn_deploy.runners.base import Runner
from fcn_deploy.serve.app import create_app
from fcn_deploy.serve.service import Service
from fcn_deploy.serve.settings import Settings
from tests.decoding import PATIENCE
from tests.fakes import FakeRunner


@contextmanager
def live(runner: Runner, **settings: Any) -> Iterator[str]:
    """Give the address of a server that is ready; it is stopped at the end of the block."""
    listening = socket.create_server(("127.0.0.1", 0))
    service = Service(runner, Settings(**settings), name="streets")
    server = uvicorn.Server(uvicorn.Config(create_app(service), log_level="warning"))
    ready = threading.Event()

    async def serve() -> None:
        await service.start()
        ready.set()
        await server.serve(sockets=[listening])
        await service.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(PATIENCE)  # connections wait in the socket until the server accepts them
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@contextmanager
def asked(**settings: Any) -> Iterator[httpx.Client]:
    """Give a client of such a server; its runner is a fake."""
    with (
        live(FakeRunner(), **settings) as address,
        httpx.Client(base_url=address, timeout=PATIENCE) as client,
    ):
        yield client
