"""Limits of bodies, the token, request ids, metrics and the log."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.runners.base import Outputs
from fcn_deploy.serve.logs import JsonFormatter
from fcn_deploy.serve.settings import Settings
from fcn_deploy.serve.tensors import HEADER_LENGTH
from tests.fakes import FakeRunner
from tests.serve.clients import (
    INFER,
    Asked,
    ask,
    binary_request,
    error_of,
    get,
    mask_of,
    pictures,
    post,
)

SMALL = Settings(max_pixels=100)


def test_a_body_is_refused_by_its_length_before_it_is_read() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield bytes(1000)

    error_of(post(endless(), settings=SMALL, content_length=str(10**15)), 413)
    assert read == 0
    error_of(post(endless(), settings=SMALL), 413)
    assert 1000 * read < SMALL.max_body_bytes + 3000


def test_a_wrong_content_length_is_refused() -> None:
    assert "Content-Length" in error_of(post(content_length="-5"), 400)


def test_too_many_pixels_and_too_many_pictures_are_refused() -> None:
    def refused(images: int, height: int, width: int, status: int) -> str:
        wanted = pictures(images, height, width)
        return error_of(ask(lambda asked: asked.infer(wanted), settings=SMALL), status)

    assert "--max-pixels" in refused(1, 11, 10, 413)
    assert "--max-pixels" in refused(3, 7, 5, 413)
    assert "more than 8" in refused(9, 2, 2, 400)


def test_json_has_a_limit_of_its_own() -> None:
    settings = Settings(max_json_bytes=300)
    assert "binary" in error_of(post(b" " * 301, settings=settings), 413)
    outputs = [{"name": "mask", "parameters": {"binary_data": False}}]
    body, length = binary_request(pictures(1, 9, 9), outputs=outputs)  # a mask of 81 values
    large = post(body, settings=settings, **{HEADER_LENGTH: str(length)})
    assert "binary" in error_of(large, 413)


def test_bodies_share_their_memory_and_give_it_back() -> None:
    body, _ = binary_request(pictures(1))
    settings = Settings(max_memory_bytes=len(body))

    async def talk(asked: Asked) -> None:
        mask_of(await asked.infer(pictures(1)))
        response = await asked.infer(pictures(2))
        assert "memory" in error_of(response, 503)
        assert response.headers["retry-after"] == "1"
        mask_of(await asked.infer(pictures(1)))

    ask(talk, settings=settings)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": "Basic secret"}, 401),
        ({"authorization": "Bearer secre"}, 401),
        ({"authorization": "Bearer secret"}, 200),
        ({"authorization": "bearer secret"}, 200),
    ],
)
def test_with_a_token_only_health_is_open(sent: dict[str, str], status: int) -> None:
    settings = Settings(token=b"secret")

    async def talk(asked: Asked) -> None:
        for path in ("/v2", "/metrics", "/v2/models/fcn", "/v2/models/fcn/ready"):
            response = await asked.http.get(path, headers=sent)
            if status == 200:
                assert response.status_code == 200
            else:
                error_of(response, status)
                assert response.headers["www-authenticate"] == "Bearer"
        assert (await asked.infer(pictures(1), **sent)).status_code == status
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert (await asked.http.get(path)).status_code == 200

    ask(talk, settings=settings)


@pytest.mark.parametrize(
    ("sent", "echoed"),
    [
        (b"abc-1.2_3", "abc-1.2_3"),
        (b'"<b>\\ \t{x}', "bx"),
        (b"x" * 500, "x" * 64),
        ("\u00fc7".encode(), "7"),
    ],
)
def test_a_request_id_is_echoed_as_far_as_it_is_harmless(sent: bytes, echoed: str) -> None:
    assert post(path="/nowhere", x_request_id=sent).headers["x-request-id"] == echoed


def test_a_request_without_an_id_is_given_one() -> None:
    made = {get("/v2").headers["x-request-id"] for _ in range(2)}
    assert len({name for name in made if re.fullmatch(r"[0-9a-f]{32}", name)}) == 2


def test_metrics_count_what_was_done() -> None:
    async def talk(asked: Asked) -> str:
        await asked.infer(pictures(2))
        await asked.http.get("/nowhere")
        await asked.http.get("/v2/models/nobody")
        return (await asked.http.get("/metrics")).text

    text = ask(talk)
    for line in (
        'fcn_deploy_requests_total{code="200",route="infer"} 1.0',
        'fcn_deploy_requests_total{code="404",route="none"} 1.0',
        'fcn_deploy_requests_total{code="404",route="model_metadata"} 1.0',
        "fcn_deploy_pixels_total 70.0",
        'fcn_deploy_batch_pictures_bucket{le="1.0"} 0.0',
        'fcn_deploy_batch_pictures_bucket{le="2.0"} 1.0',
        'fcn_deploy_stage_seconds_count{stage="compute"} 1.0',
        'fcn_deploy_stage_seconds_count{stage="queue"} 1.0',
        'fcn_deploy_stage_seconds_count{stage="read"} 1.0',
        'fcn_deploy_stage_seconds_count{stage="total"} 1.0',
        "fcn_deploy_queue_depth 0.0",
        "fcn_deploy_ready 1.0",
        'fcn_deploy_model_info{backend="fake",device="cpu",digest="sha256:fake",precision="fp32"}'
        " 1.0",
    ):
        assert f"\n{line}\n" in text, line


def test_the_cpu_time_of_the_runner_is_counted() -> None:
    def work(images: NDArray[np.uint8], outputs: Outputs) -> Outputs:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        return outputs

    async def talk(asked: Asked) -> list[float]:
        seconds = []
        for _ in range(2):
            text = (await asked.http.get("/metrics")).text
            (found,) = re.findall(r"\nfcn_deploy_runner_cpu_seconds_total (.+)\n", text)
            seconds.append(float(found))
            await asked.infer(pictures(1))
        return seconds

    before, after = ask(talk, FakeRunner(bug=work))
    assert after - before >= 0.02


def test_a_request_is_one_line_of_json(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fcn_deploy.serve")

    async def talk(asked: Asked) -> None:
        caplog.clear()
        await asked.http.get("/v2/health/live")
        await asked.infer(pictures(2), **{"x-request-id": "one"})
        await asked.http.get("/no%0Awhere")

    ask(talk)
    records = [record for record in caplog.records if record.getMessage() == "request"]
    done, failed = [json.loads(JsonFormatter().format(record)) for record in records]
    assert (done["id"], done["status"], done["path"]) == ("one", 200, INFER)
    assert done["batch"] == 2
    assert {"time", "level", "queue_ms", "compute_ms", "bytes_in", "ms", "client"} <= set(done)
    assert failed["status"] == 404
    assert "\n" not in JsonFormatter().format(records[1])
