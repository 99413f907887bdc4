"""Clients of a service under test, and runners that wait to be told to go on."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.runners.base import Outputs, Runner
from fcn_deploy.serve.app import create_app
from fcn_deploy.serve.service import Service
from fcn_deploy.serve.settings import Settings
from fcn_deploy.serve.tensors import HEADER_LENGTH
from tests.fakes import FAKE_SPEC, FakeRunner

T = TypeVar("T")
INFER = "/v2/models/fcn/infer"


def pictures(images: int = 1, height: int = 5, width: int = 7, seed: int = 0) -> NDArray[np.uint8]:
    """Noise, uint8 [N, H, W, 3]."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (images, height, width, 3), dtype=np.uint8)


def masks(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The masks that the fake network gives."""
    return FakeRunner().run(images).mask


class HeldRunner(FakeRunner):
    """A fake runner that computes a batch only when it is let go, but the first of all at once."""

    def __init__(self, spec: ModelSpec = FAKE_SPEC) -> None:
        super().__init__(spec)
        self.held = False
        self.batches: list[int] = []
        self._go = threading.Semaphore(0)
        self._began = threading.Semaphore(0)

    def release(self, batches: int = 1) -> None:
        for _ in range(batches):
            self._go.release()

    async def begun(self) -> None:
        """Wait until the next batch is in the runner."""
        await asyncio.to_thread(self._began.acquire)

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        if self.held:
            self.batches.append(len(images))
            self._began.release()
            assert self._go.acquire(timeout=30), "nobody let the runner go on"
        return super()._infer(images)


@dataclass(frozen=True)
class Asked:
    """What a test has in hand: the service and a client of it, on one event loop."""

    service: Service
    http: httpx.AsyncClient

    async def infer(self, images: NDArray[np.uint8], **headers: str) -> httpx.Response:
        body, length = binary_request(images)
        return await self.http.post(
            INFER, content=body, headers={HEADER_LENGTH: str(length), **headers}
        )


@asynccontextmanager
async def asking(
    runner: Runner | None = None, settings: Settings | None = None, *, started: bool = True
) -> AsyncIterator[Asked]:
    """Give a service in this process, without a socket, and a client of it."""
    runner = FakeRunner() if runner is None else runner
    service = Service(runner, settings or Settings())
    if started:
        await service.start()
    if isinstance(runner, HeldRunner):
        runner.held = True
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://serve") as http:
        try:
            yield Asked(service, http)
        finally:
            await service.close()


def ask(
    talk: Callable[[Asked], Awaitable[T]],
    runner: Runner | None = None,
    settings: Settings | None = None,
) -> T:
    """Let ``talk`` ask such a service."""

    async def run() -> T:
        async with asking(runner, settings) as asked:
            return await talk(asked)

    return asyncio.run(run())


def get(path: str, settings: Settings | None = None, **headers: str) -> httpx.Response:
    return ask(lambda asked: asked.http.get(path, headers=headers), settings=settings)


def post(
    content: Any = b"", path: str = INFER, settings: Settings | None = None, **headers: Any
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(
        lambda asked: asked.http.post(path, content=content, headers=named), settings=settings
    )


def binary_request(
    images: NDArray[np.uint8], *, data: bytes | None = None, **changes: Any
) -> tuple[bytes, int]:
    """The body of an infer request with the pixels behind the JSON, and the JSON's length."""
    tensor: dict[str, Any] = {
        "name": "image",
        "datatype": "UINT8",
        "shape": list(images.shape),
        "parameters": {"binary_data_size": images.size},
    }
    fields: dict[str, Any] = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    for name, value in changes.items():
        (tensor if name in ("name", "datatype", "shape", "parameters") else fields)[name] = value
    head = json.dumps(fields).encode()
    return head + (images.tobytes() if data is None else data), len(head)


def json_request(images: NDArray[np.uint8], **changes: Any) -> dict[str, Any]:
    """The same with the pixels in the JSON."""
    tensor = {
        "name": "image",
        "datatype": "UINT8",
        "shape": list(images.shape),
        "data": images.ravel().tolist(),
        **changes,
    }
    return {"inputs": [tensor]}


def mask_of(response: httpx.Response) -> NDArray[np.uint8]:
    """The mask of an answer, of either kind."""
    assert response.status_code == 200, response.text
    length = response.headers.get(HEADER_LENGTH)
    head = response.content if length is None else response.content[: int(length)]
    (output,) = json.loads(head)["outputs"]
    assert (output["name"], output["datatype"]) == ("mask", "UINT8")
    if length is None:
        return np.array(output["data"], dtype=np.uint8).reshape(output["shape"])
    data = response.content[int(length) :]
    assert output["parameters"]["binary_data_size"] == len(data)
    return np.frombuffer(data, dtype=np.uint8).reshape(output["shape"])


def error_of(response: httpx.Response, status: int) -> str:
    """The sentence of a refusal."""
    assert response.status_code == status, response.text
    fields = response.json()
    assert list(fields) == ["error"]
    sentence = fields["error"]
    assert isinstance(sentence, str)
    assert sentence
    return sentence
