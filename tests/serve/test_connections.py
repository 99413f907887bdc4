"""Connections of real sockets: heads and bodies that do not come, refusals, the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from unittest.mock import Mock

import pytest

from fcn_deploy.core.errors import BackendError, InputError
from fcn_deploy.runners.base import Outputs
from fcn_deploy.serve.errors import ClientGoneError
from fcn_deploy.serve.protocol import _PASSED_OVER
from fcn_deploy.serve.server import GIVEN_UP, listen, serve, url_of
from fcn_deploy.serve.service import Service
from fcn_deploy.serve.settings import Settings
from fcn_deploy.serve.tensors import HEADER_LENGTH
from tests.fakes import FakeRunner
from tests.serve.clients import HeldRunner, binary_request, masks, pictures
from tests.serve.served import Response, connected, exchange, read_response, request, served, until

pytestmark = pytest.mark.anyio

#: Long enough for an honest request on a busy machine is not asked of these: they all fail.
IMPATIENT = Settings(head_seconds=0.1, body_seconds=0.1, max_head_bytes=2000, max_headers=20)


async def refused(*parts: bytes, settings: Settings = IMPATIENT, pause: float = 0.0) -> Response:
    async with served(settings) as (port, _):
        return await exchange(port, *parts, pause=pause)


def good_request(*lines: str) -> bytes:
    body, length = binary_request(pictures())
    return request(body, f"{HEADER_LENGTH}: {length}", *lines)


def is_good(response: Response) -> bool:
    return response.status == 200 and response.body.endswith(masks(pictures()).tobytes())


async def test_a_body_of_many_pieces_is_put_together() -> None:
    head, _, body = good_request().partition(b"\r\n\r\n")
    head = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
    pieces = [b"1\r\n%c\r\n" % byte for byte in body]  # more than are gathered at once
    assert is_good(await refused(head, b"\r\n\r\n", *pieces, b"0\r\n\r\n", settings=Settings()))


@pytest.mark.parametrize(
    ("kind", "parts", "status"),
    [
        ("a long line", [b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\n\r\n"], 431),
        ("a long header", [b"GET / HTTP/1.1\r\na: " + b"x" * 3000 + b"\r\n\r\n"], 431),
        ("a header that does not end", [b"GET / HTTP/1.1\r\na: " + b"x" * 3000], 431),
        ("many headers", [b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 30 + b"\r\n"], 431),
        ("half a head", [b"GET / HTTP/1.1\r\na: b\r\n"], 408),
        ("half a body", [request(b"x" * 100)[:-50]], 408),
        ("line ends for ever", [b"\r\n"], 408),
        ("no HTTP", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], 400),
        ("another protocol", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], 400),
        ("two lengths", [b"POST / HTTP/1.1\r\nContent-Length: 1\r\n" * 2 + b"\r\n"], 400),
    ],
)  # fmt: skip
async def test_what_is_no_request_in_time_is_refused(
    kind: str, parts: list[bytes], status: int
) -> None:
    response = await refused(*parts)
    assert (response.status, response.headers["connection"]) == (status, "close")
    assert response.error()


async def test_a_drop_at_a_time_does_not_hold_a_connection() -> None:
    head = [b"GET / HTTP/1.1\r\n", *[b"a: b\r\n"] * 15]
    response = await refused(*head, pause=0.02)
    assert response.status in (0, 408)  # 0: it was sent on into the closed socket


async def test_a_connection_on_which_nothing_is_sent_is_closed() -> None:
    assert (await refused()).status == 0


async def test_a_body_may_take_longer_the_more_of_it_has_come() -> None:
    settings = Settings(body_seconds=0.05, min_bytes_per_second=1.0)
    whole = good_request()
    assert is_good(await refused(whole[:-100], whole[-100:], settings=settings, pause=0.2))


async def test_answers_that_are_not_read_count_as_memory() -> None:
    async with served() as (port, server), connected(port) as ask:
        assert is_good(await ask(good_request()))
        (slow,) = server.server_state.connections
        slow.pause_writing()  # as its transport does, once too much waits
        (transport,) = server.service.unsent
        assert transport is slow.transport
        server.service.unsent.clear()
        unread = Mock()
        unread.get_write_buffer_size.return_value = Settings().max_memory_bytes
        server.service.unsent.add(unread)
        full = await exchange(port, good_request())
        assert (full.status, "memory" in full.error()) == (503, True)
        server.service.unsent.clear()
        slow.pause_writing()
        slow.resume_writing()
        assert not server.service.unsent
        assert is_good(await exchange(port, good_request()))


async def test_too_many_connections_are_refused_and_those_that_are_open_work() -> None:
    async with served(Settings(max_connections=1)) as (port, _), connected(port) as ask:
        assert is_good(await ask(good_request()))
        second = await exchange(port)
        assert (second.status, second.headers["retry-after"]) == (503, "1")
        assert second.error()
        assert is_good(await ask(good_request()))


async def test_a_body_that_is_refused_unread_leaves_the_connection_usable() -> None:
    async with served(Settings(max_pixels=1000)) as (port, _), connected(port) as ask:
        assert (await ask(request(bytes(200_000)))).status == 413
        assert is_good(await ask(good_request()))


async def test_a_body_that_is_refused_unread_is_not_taken_for_ever() -> None:
    """A client that sends on for as long as it is let."""
    settings = Settings(max_pixels=1000)
    taken = 2 * settings.max_body_bytes + _PASSED_OVER
    async with served(settings) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(b"", path="/predict").replace(b": 0", b": 99999999999"))
        assert (await read_response(reader)).status == 413
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 20 * taken:
                writer.write(bytes(65536))
                await writer.drain()
                sent += 65536
        writer.transport.abort()
    assert sent < 20 * taken


@pytest.mark.parametrize(
    ("second", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\na: " + b"x" * 3000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
async def test_a_refusal_waits_for_the_answers_before_it(second: bytes, status: int) -> None:
    runner = HeldRunner()
    async with served(Settings(max_head_bytes=2000), runner) as (port, _):
        runner.held = True
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(good_request() + second + good_request())
        await runner.begun()
        runner.release()
        assert is_good(await read_response(reader))
        assert (await read_response(reader)).status == status
        assert await reader.read() == b""
        writer.close()
    assert runner.batches == [1]


async def test_a_body_with_an_upgrade_is_refused_and_not_taken_for_none() -> None:
    """As Java's HttpClient sends it, unless it is told to speak HTTP/1.1."""
    lines = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAE")
    response = await refused(good_request(*lines), settings=Settings())
    assert (response.status, response.headers["connection"]) == (400, "close")
    assert "HTTP/1.1" in response.error()
    asked = await refused(b"GET /v2 HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    assert asked.status == 200


async def test_a_client_that_asks_before_it_sends_a_body_is_told() -> None:
    async with served(Settings(max_pixels=1000)) as (port, _), connected(port) as ask:
        body, length = binary_request(pictures())
        whole = request(body, f"{HEADER_LENGTH}: {length}", "Expect: 100-continue")
        assert (await ask(whole[: -len(body)])).status == 100
        assert is_good(await ask(body))
        refused = await ask(request(bytes(200_000), "Expect: 100-continue")[:-200_000])
        assert (refused.status, refused.headers["connection"]) == (413, "close")


async def test_a_client_that_leaves_is_not_computed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fcn_deploy.serve")
    runner = HeldRunner()
    async with served(runner=runner) as (port, server):
        runner.held = True
        first = asyncio.create_task(exchange(port, good_request()))
        await runner.begun()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(good_request())
        await until(lambda: server.service._batcher.waiting == 1)
        writer.close()
        await until(lambda: server.service._batcher.waiting == 0)
        runner.release()
        assert is_good(await first)
    assert runner.batches == [1]
    ends = [getattr(record, "fields", {}).get("status") for record in caplog.records]
    assert 499 in ends


async def test_a_picture_whose_client_has_left_is_not_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner, go = FakeRunner(), threading.Event()
    refusals: list[Exception] = []

    def late(body: bytes, content_type: str, before: Callable[[tuple[int, int]], None]) -> None:
        assert go.wait(30)
        try:
            before((7, 5))
        except ClientGoneError as error:
            refusals.append(error)
            raise

    monkeypatch.setattr("fcn_deploy.serve.pictures.decode", late)
    async with served(runner=runner) as (port, server):
        warmed = len(runner.shapes)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(b"a picture", path="/predict"))
        await until(lambda: server.service.metrics.accepted)
        writer.close()
        await until(lambda: not server.server_state.connections)
        go.set()
        await until(lambda: not server.server_state.tasks)
        assert len(runner.shapes) == warmed
    assert len(refusals) == 1


async def test_a_signal_drains_then_ends_and_answers_all_that_was_accepted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "fcn_deploy.serve")
    runner = HeldRunner()
    async with served(Settings(drain_seconds=3600), runner) as (port, server):
        runner.held = True
        early = asyncio.create_task(exchange(port, good_request()))
        await runner.begun()
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: not server.service.ready)
        health = await exchange(port, b"GET /v2/health/ready HTTP/1.1\r\n\r\n")
        assert (health.status, health.headers.get("connection")) == (503, None)
        late = asyncio.create_task(exchange(port, good_request()))  # a new connection
        await until(lambda: server.service._batcher.waiting == 1)
        assert not server.should_exit
        os.kill(os.getpid(), signal.SIGTERM)  # the second ends the draining
        await until(lambda: server.should_exit)
        runner.release(2)
        assert is_good(await early)
        assert is_good(await late)
    (stopped,) = [record for record in caplog.records if record.getMessage() == "stopped"]
    assert getattr(stopped, "fields", {}) == {"accepted": 2, "answered": 2}
    assert runner.closed


async def test_a_third_signal_ends_what_does_not_end_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = HeldRunner()
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    async with served(Settings(drain_seconds=3600), runner) as (port, server):
        runner.held = True
        asking = asyncio.create_task(exchange(port, good_request()))
        await runner.begun()
        for sent in range(1, 4):
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda sent=sent: server.signals_seen == sent)
            assert codes == [GIVEN_UP] * (sent == 3)
        runner.release()
        assert is_good(await asking)


async def test_a_signal_while_the_runner_is_closed_changes_nothing() -> None:
    class Signalled(FakeRunner):
        def close(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            super().close()

    runner = Signalled()
    async with served(runner=runner):
        pass
    # SIGTERM's own way would end the tests here
    assert runner.closed


def test_a_network_that_does_not_compute_ends_the_server() -> None:
    def fail(*arguments: object) -> Outputs:
        raise BackendError("it does not compute")

    with listen("127.0.0.1", 0) as bound:
        service = Service(FakeRunner(bug=fail), Settings())
        with pytest.raises(BackendError, match="does not compute"):
            serve(service, bound)


def test_an_address_that_is_taken_is_an_error_of_one_line() -> None:
    with listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert url_of(bound) == f"http://127.0.0.1:{port}"
        with pytest.raises(InputError, match=f"port {port}.*--port"):
            listen("127.0.0.1", port)
    with pytest.raises(InputError, match="--host"):
        listen("no.such.host.invalid", 0)


def test_ipv6_is_written_in_brackets() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        bound = listen("::1", 0)
    except InputError:
        pytest.skip("no IPv6 loopback here")
    with bound:
        assert url_of(bound).startswith("http://[::1]:")


async def test_statistics_of_refusals_by_the_parser_are_in_the_metrics() -> None:
    async with served(IMPATIENT) as (port, _):
        await exchange(port, b"GARBAGE\r\n\r\n")
        metrics = await exchange(port, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert b'fcn_deploy_requests_total{code="400",route="protocol"} 1.0' in metrics.body


async def test_errors_are_json_over_a_socket_too() -> None:
    response = await refused(b"GET /nowhere HTTP/1.1\r\n\r\n")
    assert (response.status, response.error()) == (404, "GET /nowhere: nothing here")
