"""Chromium without a window, driven by Playwright, for the tests of pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from typing_extensions import Self

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: What Chromium needs as root, in a container without a GPU.
FLAGS = ["--no-sandbox", "--disable-gpu"]
SCREENSHOTS = Path(__file__).parent.parent / "build" / "screenshots"
DESKTOP, PHONE = (1280, 900), (390, 844)
#: How a page is looked at: the end of a screenshot's name, the window's size, the colours.
LOOKS = [
    ("desktop-light", DESKTOP, "light"),
    ("desktop-dark", DESKTOP, "dark"),
    ("phone", PHONE, "light"),
]


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


class Tab:
    """A page in a tab, and what the browser said and asked for meanwhile."""

    def __init__(
        self,
        browser: Browser,
        address: str,
        *,
        size: tuple[int, int] = DESKTOP,
        scheme: str = "light",
        script: bool = True,
    ) -> None:
        self.size, self.scheme = size, scheme
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if scheme == "dark" else "light",
            java_script_enabled=script,
        )
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def keep_screenshot(self, name: str) -> None:
        """Keep a picture of the whole page, after a look whether the page is drawn on it."""
        target = SCREENSHOTS / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=target, full_page=True)
        with Image.open(target) as shown:
            pixels = np.asarray(shown.convert("RGB"))
        assert pixels.shape[1] == self.size[0]
        assert pixels.std() > 10  # neither blank nor a single colour
        assert (pixels[0, 0].mean() < 100) == (self.scheme == "dark")
