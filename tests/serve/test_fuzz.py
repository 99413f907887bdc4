"""Damaged requests: refused with a sentence, and the next good one is answered right."""

from __future__ import annotations

import asyncio
import os

import pytest

from fcn_deploy.serve.settings import Settings
from tests.serve.damage import damaged
from tests.serve.served import Response, exchange, served, statuses
from tests.serve.test_connections import good_request, is_good

AT_ONCE = 16
#: What does not come ends after this, and a good request has come by then even here.
SETTINGS = Settings(max_pixels=100_000, head_seconds=0.5, body_seconds=0.5)


def check(seed: int, response: Response) -> None:
    if response.status == 200:  # the damage was in a pixel, or in a header that means nothing
        return
    assert 400 <= response.status < 500, (seed, response)
    assert response.error(), seed


def answers(seeds: range, every: int) -> list[Response]:
    async def talk() -> list[Response]:
        async with served(SETTINGS) as (port, server):
            found = []
            for first in range(seeds.start, seeds.stop, every):
                batch = range(first, min(first + every, seeds.stop))
                limit = asyncio.Semaphore(AT_ONCE)

                async def one(seed: int, limit: asyncio.Semaphore = limit) -> Response:
                    async with limit:
                        response = await exchange(port, damaged(seed))
                        if response.status == 0:
                            # On a busy machine the time for a head may be over before its first
                            # byte is read: then the connection is closed as an idle one is.
                            response = await exchange(port, damaged(seed))
                        return response

                responses = await asyncio.gather(*[one(seed) for seed in batch])
                for seed, response in zip(batch, responses, strict=True):
                    check(seed, response)
                assert is_good(await exchange(port, good_request()))
                found += responses
            while server.server_state.connections:  # those of the clients that have just left
                await asyncio.sleep(0.01)
            return found

    return asyncio.run(talk())


def test_damaged_requests_are_refused() -> None:
    counts = statuses(answers(range(250), every=125))
    assert counts[400] > 100
    assert {404, 405, 408, 413, 431} <= set(counts)


@pytest.mark.slow
def test_thousands_of_damaged_requests_are_refused() -> None:
    total = int(os.environ.get("FCN_DEPLOY_FUZZED", "10000"))
    counts = statuses(answers(range(1000, 1000 + total), every=500))
    print(f"{total} damaged requests: {counts}")
    assert sum(counts.values()) == total
