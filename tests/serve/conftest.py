"""Tests that are coroutines run on asyncio's loop, in the main thread."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
