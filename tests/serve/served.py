"""Servers under test on real sockets: on this event loop, or in a process of their own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import IO, Any

from fcn_deploy.runners.base import Runner
from fcn_deploy.serve.server import Server, listen
from fcn_deploy.serve.service import Service
from fcn_deploy.serve.settings import Settings
from tests.fakes import FakeRunner

ROOT = Path(__file__).parents[2]


async def until(holds: Callable[[], object]) -> None:
    """Wait until something holds, which others on this loop bring about."""
    while not holds():
        await asyncio.sleep(0.001)


@asynccontextmanager
async def served(
    settings: Settings | None = None, runner: Runner | None = None
) -> AsyncIterator[tuple[int, Server]]:
    """Serve on a free port of this event loop; yields the port and the server."""
    service = Service(FakeRunner() if runner is None else runner, settings or Settings())
    with listen("127.0.0.1", 0) as bound:
        server = Server(service)
        serving = asyncio.create_task(server.serve([bound]))
        try:
            await until(lambda: server.started and service.ready)
            yield bound.getsockname()[1], server
        finally:
            server.should_exit = True
            await serving


@dataclass(frozen=True)
class Response:
    """An answer off the wire; status 0: the connection was closed without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> str:
        fields = json.loads(self.body)
        assert list(fields) == ["error"]
        assert isinstance(fields["error"], str)
        return str(fields["error"])


async def read_response(reader: asyncio.StreamReader) -> Response:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except (asyncio.IncompleteReadError, ConnectionError):
        return Response(0, {}, b"")
    return Response(int(first.split()[1]), headers, body)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Callable[[bytes], Awaitable[Response]]]:
    """Keep a connection open; gives what sends bytes over it and returns the next answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask(content: bytes = b"") -> Response:
        writer.write(content)
        return await asyncio.wait_for(read_response(reader), 60)

    try:
        yield ask
    finally:
        writer.close()


async def exchange(port: int, *parts: bytes, pause: float = 0.0) -> Response:
    """Send bytes, with a pause behind each part, and return the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            if pause:
                await asyncio.sleep(pause)
        return await asyncio.wait_for(read_response(reader), 60)
    finally:
        writer.close()


def request(body: bytes, *lines: str, path: str = "/v2/models/fcn/infer") -> bytes:
    """An HTTP request, with lines of its head beside the usual ones."""
    head = [f"POST {path} HTTP/1.1", "Host: serve", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


@dataclass
class Process:
    """A server in a process of its own, and the lines of its log so far."""

    process: subprocess.Popen[str]
    log: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0

    def end(self) -> int:
        """Return its exit code, once it has ended and its log is whole."""
        code = self.process.wait(timeout=120)
        self._reader.join(timeout=30)
        return code

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == name]

    def __post_init__(self) -> None:
        stream = self.process.stderr
        assert stream is not None
        for line in stream:
            self._add(line)
            if self.events("ready"):
                break
        else:
            raise AssertionError(f"the server has ended: {self.log}")
        self.port = int(self.events("listening")[0]["url"].rpartition(":")[2])
        self._reader = Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._add(line)

    def _add(self, line: str) -> None:
        try:
            self.log.append(json.loads(line))
        except ValueError:
            self.log.append({"event": line})


@contextmanager
def process(*words: str | Path) -> Iterator[Process]:
    """Start ``python -m WORDS``, a server, and wait until it is ready."""
    started = subprocess.Popen(
        [sys.executable, "-m", *map(str, words)], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        yield Process(started)
    finally:
        started.kill()
        started.wait()


def fake_process(seconds: float, **settings: Any) -> Any:
    """A server of :mod:`tests.serve.fake_server` on a free port."""
    fields = json.dumps({"port": 0, **settings})
    return process("tests.serve.fake_server", str(seconds), fields)


def statuses(responses: Sequence[Response]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for response in responses:
        counts[response.status] = counts.get(response.status, 0) + 1
    return counts
