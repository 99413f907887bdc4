"""The report in a real browser: Chromium without a window, driven by Playwright.

Without Chromium these tests are skipped; with ``FCN_DEPLOY_REQUIRE_BROWSER=1`` they fail instead.
Screenshots are kept in ``build/screenshots/``.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.report.page import write_report
from tests.browser import LOOKS, PHONE, Tab, chromium
from tests.fakes import FakeRunner
from tests.predict.jobs import draw, run_job
from tests.result_files import bisect_document, metrics, rich_bench_document

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, compared: Path) -> str:
    """The address of a report with everything in it."""
    run = Run(tmp_path_factory.mktemp("browser") / "run")
    shutil.copytree(compared, run.parity_folder)
    # A name as `parity` makes them of long folders: it must not widen a phone's page.
    long_name = f"swapped-fp32-{'a-folder-of-pictures-' * 5}limit40.json"
    (run.parity_folder / "swapped.json").rename(run.parity_folder / long_name)
    write_json(run.metrics, metrics())
    Image.new("RGB", (600, 200), (90, 120, 60)).save(run.preview)
    write_json(run.bench_folder / "all.json", rich_bench_document())
    write_json(run.bisect_folder / "all.json", bisect_document())
    for number in range(5):
        draw(run.root / "pictures" / f"{number}{'-long' * 12}.png", number, size=(60, 80))
    run_job([run.root / "pictures"], run.predictions, runner=FakeRunner(noise=3))
    (run.root / "pictures" / f"0{'-long' * 12}.png").unlink()
    return write_report(run).as_uri()


class Opened(Tab):
    """The report in a tab."""

    @property
    def viewer(self) -> Locator:
        return self.page.locator(".viewer").first

    def view(self) -> str:
        """Return the name of the one view that can be seen."""
        shown = self.viewer.locator("figure[data-view] img:visible")
        assert shown.count() == 1
        return shown.locator("xpath=..").get_attribute("data-view") or ""

    def picture(self) -> NDArray[np.uint8]:
        """Return the pixels that are drawn where the picture is."""
        content = self.viewer.locator("figure[data-view] img:visible").screenshot()
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.fixture
def tab(browser: Browser, report: str) -> Iterator[Opened]:
    with Opened(browser, report) as opened:
        yield opened


def differ(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    return one.shape != other.shape or bool((one != other).mean() > 0.01)


def test_no_error_and_no_request_to_the_network(tab: Opened, report: str) -> None:
    tab.page.mouse.wheel(0, 100_000)
    tab.page.wait_for_timeout(100)
    assert tab.said == []
    assert tab.asked[0] == report
    assert all(url.startswith(("file:", "data:")) for url in tab.asked)
    assert sum(url.startswith("file:") for url in tab.asked) == 1
    # Every picture has been decoded.
    assert tab.page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")


def test_buttons_change_the_view(tab: Opened) -> None:
    assert tab.view() == "image"
    before = tab.picture()
    drawn = [before]
    for name in ("candidate", "flips", "margin"):
        button = tab.viewer.get_by_role("button", name=name, exact=True)
        button.click()
        assert tab.view() == name
        assert button.get_attribute("aria-pressed") == "true"
        assert tab.viewer.locator("button[aria-pressed=true]").count() == 1
        drawn.append(tab.picture())
    assert all(differ(one, other) for i, one in enumerate(drawn) for other in drawn[i + 1 :])
    # The views lie on top of one another: toggling moves nothing.
    assert {picture.shape for picture in drawn} == {before.shape}
    assert tab.said == []


def test_keys_change_view_and_picture(tab: Opened) -> None:
    tab.viewer.focus()
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    tab.page.keyboard.press("3")
    assert tab.view() == "candidate"
    assert tab.page.evaluate(outline) == "solid"  # the focus can be seen
    tab.page.keyboard.press("ArrowDown")
    assert tab.view() == "flips"
    tab.page.keyboard.press("ArrowUp")
    tab.page.keyboard.press("ArrowUp")
    assert tab.view() == "reference"
    tab.page.keyboard.press("1")
    first, name = tab.picture(), tab.viewer.locator("figcaption:visible").first.text_content()
    position = tab.viewer.locator("output")
    assert (position.text_content() or "").startswith("1 of ")
    tab.page.keyboard.press("ArrowRight")
    assert (position.text_content() or "").startswith("2 of ")
    assert tab.view() == "image"  # the view stays, the picture goes
    assert differ(first, tab.picture())
    assert tab.viewer.locator("figcaption:visible").first.text_content() != name
    tab.page.keyboard.press("ArrowLeft")
    assert not differ(first, tab.picture())
    tab.page.keyboard.press("ArrowLeft")  # before the first comes the last
    last, _, count = (position.text_content() or "").split()
    assert last == count
    tab.viewer.get_by_role("button", name="Next picture").click()
    assert not differ(first, tab.picture())
    assert tab.said == []


def test_keys_beside_the_viewer_are_the_browser_s_own(tab: Opened) -> None:
    tab.page.keyboard.press("3")
    assert tab.view() == "image"


def test_without_javascript_all_but_the_viewer_is_there(browser: Browser, report: str) -> None:
    with Opened(browser, report, script=False) as tab:
        views = tab.viewer.locator("figure[data-view]")
        assert views.count() >= 5
        assert all(view.is_visible() for view in views.all())
        assert not tab.viewer.locator("button").first.is_visible()
        for section in ("in-short", "parity", "speed", "layers", "training", "machine", "again"):
            assert tab.page.locator(f"#{section}").is_visible()
        assert tab.page.locator("svg[role=img]:visible").count() > 8
        folded = tab.page.locator("details.group:not([open])")
        count = folded.count()
        folded.first.locator("> summary").click()
        assert folded.count() == count - 1


def test_predictions_are_on_the_sheet(tab: Opened) -> None:
    tab.page.get_by_role("link", name="Predictions").press("Enter")
    assert tab.page.locator(".sheet").get_by_role("img").count() == 5
    assert tab.page.get_by_role("img", name="with its mask").first.is_visible()
    assert tab.page.get_by_text("The picture cannot be read.").is_visible()


def test_a_phone_scrolls_down_only(browser: Browser, report: str) -> None:
    with Opened(browser, report, size=PHONE) as tab:
        widest = "document.scrollingElement.scrollWidth"
        assert tab.page.evaluate(widest) <= PHONE[0]
        tab.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert tab.page.evaluate(widest) <= PHONE[0]
        # Wide tables scroll inside boxes of their own, and nothing stands beyond the page unseen.
        scrolling = (
            "[...document.querySelectorAll('.scroll')].some(e => e.scrollWidth > e.clientWidth)"
        )
        assert tab.page.evaluate(scrolling)
        outside = """[...document.querySelectorAll('main *')].filter(e =>
            e.getBoundingClientRect().right > innerWidth + 1
            && !e.closest('.scroll, .tables, pre')).map(e => e.outerHTML.slice(0, 80))"""
        assert tab.page.evaluate(outside) == []


def test_a_phone_without_javascript_scrolls_down_only(browser: Browser, report: str) -> None:
    with Opened(browser, report, size=PHONE, script=False) as tab:
        for view in tab.viewer.locator("figure[data-view]").all()[:5]:
            box = view.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= PHONE[0]


def test_dark_and_light_have_colours_of_their_own(tab: Opened) -> None:
    colours = "[getComputedStyle(document.body).backgroundColor, " + ", ".join(
        f"getComputedStyle(document.querySelector('.part.s{number}')).fill" for number in (0, 1)
    )
    light = tab.page.evaluate(f"{colours}]")
    tab.page.emulate_media(color_scheme="dark")
    dark = tab.page.evaluate(f"{colours}]")
    assert all(one != other for one, other in zip(light, dark, strict=True))
    assert len(set(light)) == len(set(dark)) == 3
    assert tab.said == []


@pytest.mark.parametrize(("look", "size", "scheme"), LOOKS)
def test_screenshots_are_kept(
    browser: Browser, report: str, look: str, size: tuple[int, int], scheme: str
) -> None:
    with Opened(browser, report, size=size, scheme=scheme) as tab:
        tab.keep_screenshot(f"report-{look}")
