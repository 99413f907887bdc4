"""Chromium without a window, driven by Playwright, for the tests of pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: What Chromium needs as root, in a container without a GPU.
FLAGS = ["--no-sandbox", "--disable-gpu"]
SCREENSHOTS = Path(__file__).parent.parent / "build" / "screenshots"
DESKTOP, PHONE = (1280, 900), (390, 844)


def absent(reason: str) -> None:
    """Skip the test, or fail it where ``FCN_DEPLOY_REQUIRE_BROWSER=1``."""
    if os.environ.get("FCN_DEPLOY_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{reason}, and FCN_DEPLOY_REQUIRE_BROWSER=1 asks for it")
    pytest.skip(reason)


@contextmanager
def chromium(flags: Sequence[str] = ()) -> Iterator[Browser]:
    """Start the system's browser; without one the tests are skipped."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("playwright is not installed (pip install playwright)")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        absent(f"no {' or '.join(BROWSERS)} on the PATH (apt-get install chromium)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=[*FLAGS, *flags])
        yield started
        started.close()
