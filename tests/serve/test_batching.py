"""What is computed together, in which order, and what is not computed at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, BatchShapeError
from fcn_deploy.runners.base import Outputs
from fcn_deploy.serve.errors import status_of
from fcn_deploy.serve.service import Answer, Service, State
from fcn_deploy.serve.settings import Settings
from tests.fakes import FakeRunner
from tests.serve.clients import Asked, HeldRunner, asking, error_of, mask_of, masks, pictures
from tests.serve.served import until

pytestmark = pytest.mark.anyio


async def send(asked: Asked, images: Any, waiting: int) -> asyncio.Task[httpx.Response]:
    """Send a request; so many wait then behind the batch in the runner."""
    task = asyncio.create_task(asked.infer(images))
    await until(lambda: asked.service._batcher.waiting == waiting)
    return task


@asynccontextmanager
async def busy(
    runner: HeldRunner, settings: Settings | None = None
) -> AsyncIterator[tuple[Asked, list[asyncio.Task[httpx.Response]]]]:
    """A service whose runner holds a first request, and the list of those sent; all get masks."""
    async with asking(runner, settings) as asked:
        tasks = [await send(asked, pictures(1), 0)]
        await runner.begun()
        yield asked, tasks
        for response in await asyncio.gather(*tasks):
            mask_of(response)


async def test_what_waits_in_equal_sizes_goes_together() -> None:
    runner = HeldRunner()
    alike = [pictures(1, seed=seed) for seed in range(4)]
    sent = [alike[0], alike[1], pictures(1, 9, 4), *alike[2:]]
    async with busy(runner) as (asked, tasks):
        tasks += [await send(asked, images, n) for n, images in enumerate(sent[1:], start=1)]
        runner.release(3)
        for response, images in zip(await asyncio.gather(*tasks), sent, strict=True):
            assert np.array_equal(mask_of(response), masks(images))
    assert runner.batches == [1, 3, 1]  # the other size did not wait behind later ones


async def test_a_batch_has_no_more_pictures_than_it_may() -> None:
    runner = HeldRunner()
    async with busy(runner, Settings(max_batch=3)) as (asked, tasks):
        for waiting, images in enumerate((2, 2, 1), start=1):
            tasks.append(await send(asked, pictures(images, seed=images), waiting))
        runner.release(3)
    assert runner.batches == [1, 3, 2]


async def test_the_one_that_waited_longest_is_never_passed_over() -> None:
    runner = HeldRunner()
    async with busy(runner) as (asked, tasks):
        rare = await send(asked, pictures(1, 3, 3), 1)
        for waiting in range(2, 6):
            tasks.append(await send(asked, pictures(1), waiting))
        runner.release()
        await runner.begun()
        assert runner.shapes[-1] != (1, 3, 3, 3)  # in the runner, held
        runner.release()
        mask_of(await rare)
        assert asked.service._batcher.waiting == 0
        runner.release()
    assert runner.batches == [1, 1, 4]


async def test_a_full_queue_refuses_and_forgets_nobody() -> None:
    runner = HeldRunner()
    async with busy(runner, Settings(max_queue=2)) as (asked, tasks):
        tasks += [await send(asked, pictures(1), waiting) for waiting in (1, 2)]
        refused = await asked.infer(pictures(1))
        assert "waiting" in error_of(refused, 503)
        assert refused.headers["retry-after"] == "1"
        runner.release(2)


async def test_a_failure_costs_only_the_request_that_made_it() -> None:
    def fail(images: Any, outputs: Outputs) -> Outputs:
        if (images == 255).all(axis=(1, 2, 3)).any():
            raise BackendError("white is too bright")
        return outputs

    runner = HeldRunner()
    runner._bug = fail
    async with busy(runner) as (asked, tasks):
        bright = await send(asked, np.full((1, 5, 7, 3), 255, dtype=np.uint8), 1)
        tasks.append(await send(asked, pictures(1, seed=5), 2))
        runner.release(4)
        assert "too bright" in error_of(await bright, 500)
        assert np.array_equal(mask_of(await tasks[1]), masks(pictures(1, seed=5)))
    assert runner.batches == [1, 2, 1, 1]


async def test_a_mask_of_logits_that_are_not_finite_is_an_error_of_its_request() -> None:
    """Of numbers that are none the argmax is class 0, a mask like any other."""
    black, grey = np.zeros((1, 5, 7, 3), np.uint8), pictures(1)
    asked: list[NDArray[np.uint8]] = []

    def has_finite_logits(image: NDArray[np.uint8]) -> bool:
        asked.append(image)
        return False

    runner = FakeRunner()
    service = Service(runner, Settings(), has_finite_logits=has_finite_logits)
    service.state = State.READY
    sound, broken = await asyncio.gather(
        service.infer(grey), service.infer(black), return_exceptions=True
    )
    assert isinstance(sound, Answer)
    assert np.array_equal(sound.mask, masks(grey))
    assert isinstance(broken, BackendError)
    assert "logits are not finite" in str(broken)
    assert status_of(broken) == 500
    await service.close()
    assert all(not image.any() for image in asked)  # those of class 0 alone
    assert asked


async def test_a_network_without_finite_logits_does_not_start() -> None:
    def nothing(images: NDArray[np.uint8], outputs: Outputs) -> Outputs:
        return Outputs(np.zeros_like(outputs.mask))

    service = Service(FakeRunner(bug=nothing), Settings(), has_finite_logits=lambda image: False)
    with pytest.raises(BackendError, match="logits are not finite"):
        await service.start()
    assert not service.ready
    await service.close()


async def test_a_delay_gathers_a_batch_and_a_full_one_does_not_wait_for_it() -> None:
    runner = FakeRunner()
    async with asking(runner, Settings(max_batch=3, max_delay_ms=3_600_000)) as asked:
        warmed = len(runner.shapes)
        for response in await asyncio.gather(*[asked.infer(pictures(1)) for _ in range(3)]):
            mask_of(response)  # in less than the hour, as the batch is full
        assert [shape[0] for shape in runner.shapes[warmed:]] == [3]


async def test_a_lone_request_waits_no_longer_than_the_delay() -> None:
    async with asking(settings=Settings(max_delay_ms=1)) as asked:
        mask_of(await asked.infer(pictures(1)))


async def test_closing_answers_what_waits_and_takes_nothing_more() -> None:
    runner = HeldRunner()
    async with busy(runner) as (asked, tasks):
        tasks.append(await send(asked, pictures(1, seed=1), 1))
        closing = asyncio.create_task(asked.service.close())
        await asyncio.sleep(0)
        assert "shutting down" in error_of(await asked.infer(pictures(1)), 503)
        assert not runner.closed
        runner.release(2)
    await closing
    assert runner.closed


async def test_a_draining_service_is_not_ready_and_serves() -> None:
    async with asking() as asked:
        asked.service.drain()
        for path in ("/v2/health/ready", "/v2/models/fcn/ready"):
            assert "draining" in error_of(await asked.http.get(path), 503)
        assert (await asked.http.get("/v2/health/live")).status_code == 200
        response = await asked.infer(pictures(1))
        mask_of(response)
        assert "connection" not in response.headers


async def test_no_batch_is_larger_than_the_runner_takes() -> None:
    """As an engine that was built for batches of up to 3."""

    def at_most_three(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if len(images) > 3:
            raise BatchShapeError("the engine takes batches of up to 3")
        return images

    runner = FakeRunner(see=at_most_three)
    async with asking(runner) as asked:
        assert asked.service.max_batch == 2  # half of half of 8
        assert (await asked.http.get("/v2/models/fcn/config")).json()["max_batch_size"] == 2
        warmed = len(runner.shapes)
        for response in await asyncio.gather(*[asked.infer(pictures(1)) for _ in range(5)]):
            mask_of(response)
        assert max(shape[0] for shape in runner.shapes[warmed:]) <= 2


async def test_a_warm_up_ends_between_two_sizes_once_the_server_ends() -> None:
    runner = FakeRunner()
    service = Service(runner, Settings())
    await service.start(lambda line: service.drain())
    assert len(runner.shapes) == 1
    assert not service.ready
    await service.close()


async def test_nothing_is_computed_before_the_warm_up() -> None:
    runner = FakeRunner()
    async with asking(runner, started=False) as asked:
        assert "starting" in error_of(await asked.http.get("/v2/health/ready"), 503)
        assert "warming up" in error_of(await asked.infer(pictures(1)), 503)
        await asked.service.start()
        mask_of(await asked.infer(pictures(1)))
    # The training's sizes, the typical one also in a full batch, then what was asked.
    assert [shape[:3] for shape in runner.shapes] == [
        (1, 48, 64), (1, 97, 131), (8, 48, 64), (1, 5, 7),
    ]  # fmt: skip
