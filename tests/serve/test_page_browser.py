"""The page in a real browser: Chromium without a window, driven by Playwright.

Without Chromium these tests are skipped; with ``FCN_DEPLOY_REQUIRE_BROWSER=1`` they fail instead.
Screenshots are kept in ``build/screenshots/``.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.spec import ModelSpec, SizeRange
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.data.scenes.render import SCENE_CLASS_NAMES, draw_scene
from fcn_deploy.runners.base import Outputs
from tests.browser import LOOKS, PHONE, Tab, chromium
from tests.data.pictures import encoded
from tests.fakes import FakeRunner
from tests.serve.live import live

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

#: Two classes have one colour: only their indices tell them apart.
SPEC = ModelSpec(
    architecture="fcn32s-resnet18",
    class_names=("sky", "road", "pavement", "car", "person"),
    palette=((200, 0, 0), (0, 160, 0), (0, 160, 0), (0, 0, 220), (250, 250, 0)),
    image_sizes=SizeRange(smallest=(48, 64), typical=(48, 64), largest=(48, 64)),
)
#: The middle of each quarter, as parts of the picture's width and height, by its class.
QUARTERS = {0: (0.25, 0.25), 1: (0.75, 0.25), 2: (0.25, 0.75), 3: (0.75, 0.75)}
GREY = (90, 90, 90)
NBSP = "\N{NO-BREAK SPACE}"
PICTURE = encoded("PNG", Image.new("RGB", (64, 48), GREY))


def quarters(images: NDArray[np.uint8], outputs: Outputs) -> Outputs:
    """Give the four quarters of any picture the classes 0 to 3."""
    _, height, width, _ = images.shape
    mask = np.zeros(images.shape[:3], np.uint8)
    mask[:, :, width // 2 :] += 1
    mask[:, height // 2 :] += 2
    return Outputs(mask=mask)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with live(FakeRunner(SPEC, outputs=("mask",), bug=quarters)) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with chromium(camera) as started:
        yield started


class Opened(Tab):
    """The page in a tab."""

    def segment(self) -> None:
        """Drop the picture on the page, and wait for its mask."""
        self.drop(PICTURE)
        self.wait_for_mask()

    def drop(self, content: bytes, name: str = "street.png", kind: str = "image/png") -> None:
        """Drop a file on the page."""
        self._give(
            "new DragEvent('drop', {dataTransfer: files, bubbles: true})", content, name, kind
        )

    def paste(self, content: bytes, name: str = "street.png", kind: str = "image/png") -> None:
        event = "new ClipboardEvent('paste', {clipboardData: files, bubbles: true})"
        self._give(event, content, name, kind)

    def _give(self, event: str, content: bytes, name: str, kind: str) -> None:
        script = f"""([text, name, type]) => {{
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const files = new DataTransfer();
            files.items.add(new File([bytes], name, {{ type }}));
            document.querySelector("#drop").dispatchEvent({event});
        }}"""
        self.page.evaluate(script, [base64.b64encode(content).decode(), name, kind])

    def wait_for_mask(self, name: str = "street.png") -> None:
        self.page.get_by_role("status").filter(has_text=f"{name} is segmented").wait_for()

    def drawn(self) -> dict[int, tuple[int, ...]]:
        """Return the colour that is seen in the middle of each quarter, by the quarter's class."""
        content = self.page.locator("#stage").screenshot()
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        height, width, _ = pixels.shape
        return {
            index: tuple(int(value) for value in pixels[int(y * height), int(x * width)])
            for index, (x, y) in QUARTERS.items()
        }

    def opacity(self, percent: int) -> None:
        self.page.get_by_label("Opacity of the mask").fill(str(percent))


@pytest.fixture
def tab(browser: Browser, address: str) -> Iterator[Opened]:
    with Opened(browser, address) as opened:
        yield opened


def near(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 2


def between(mask: tuple[int, ...], share: float) -> tuple[int, ...]:
    return tuple(round(m * share + g * (1 - share)) for m, g in zip(mask, GREY, strict=True))


def test_a_dropped_picture_is_segmented_and_nothing_else_is_asked(
    tab: Opened, address: str
) -> None:
    assert tab.page.locator("#model").text_content() == "streets, 5 classes"
    tab.segment()
    seen = tab.drawn()
    assert all(near(seen[i], between(SPEC.palette[i], 0.6)) for i in QUARTERS)
    names = tab.page.locator("#classes .name").all_text_contents()
    assert sorted(names) == ["car", "pavement", "road", "sky"]
    assert tab.page.locator("#classes .figure").all_text_contents() == [f"25.0{NBSP}%"] * 4
    assert tab.page.locator("#absent").text_content() == "Not in the picture: person."
    stages = tab.page.locator("#times th").all_text_contents()
    assert stages[:4] == ["decode", "wait", "compute", "encode"]
    assert stages[-1] == "in all"
    for figure in tab.page.locator("#times .figure").all_text_contents():
        assert re.fullmatch(r"\d+(\.\d)?\sms", figure)
    assert tab.said == []
    assert all(url.startswith((address, "blob:")) for url in tab.asked)
    assert sum(url.endswith("/predict") for url in tab.asked) == 1


def test_toggles_change_their_class_alone_even_of_one_colour(tab: Opened) -> None:
    tab.segment()
    tab.opacity(100)
    assert all(near(tab.drawn()[i], SPEC.palette[i]) for i in QUARTERS)
    tab.page.get_by_role("checkbox", name="road").uncheck()
    seen = tab.drawn()
    assert near(seen[1], GREY)
    assert all(near(seen[i], SPEC.palette[i]) for i in (0, 2, 3))
    tab.page.get_by_role("button", name="Hide all").click()
    assert all(near(colour, GREY) for colour in tab.drawn().values())
    tab.page.get_by_role("checkbox", name="car").check()
    assert near(tab.drawn()[3], SPEC.palette[3])
    # What was switched off stays off for the next picture.
    tab.drop(PICTURE, "next.png")
    tab.wait_for_mask("next.png")
    assert [i for i in QUARTERS if not near(tab.drawn()[i], GREY)] == [3]
    tab.page.get_by_role("button", name="Show all").click()
    assert not any(near(colour, GREY) for colour in tab.drawn().values())
    assert tab.said == []


def test_the_slider_blends(tab: Opened) -> None:
    tab.segment()
    for percent in (0, 50, 100):
        tab.opacity(percent)
        expected = {i: between(SPEC.palette[i], percent / 100) for i in QUARTERS}
        seen = tab.drawn()
        assert all(near(seen[i], expected[i]) for i in QUARTERS)
        assert tab.page.locator("#opacity-value").text_content() == f"{percent}{NBSP}%"


def test_the_keyboard_alone_suffices(browser: Browser, address: str) -> None:
    answer = httpx.post(f"{address}predict", content=PICTURE)
    with Opened(browser, address) as tab:
        keyboard = tab.page.keyboard
        focused = "document.activeElement.id"

        def tab_to(what: str) -> None:
            for _ in range(20):
                keyboard.press("Tab")
                if tab.page.evaluate(what):
                    return
            raise AssertionError(f"{what} gets no focus")

        outline = "getComputedStyle(document.activeElement).outlineStyle"
        tab_to(f"{focused} === 'choose'")
        assert tab.page.evaluate(outline) == "solid"  # the focus can be seen
        # The browser's own dialog is not the page's: it is enough that it would open.
        tab.page.evaluate("""document.querySelector("#file").addEventListener("click", (event) => {
            event.preventDefault();
            window.wouldOpen = true;
        })""")
        keyboard.press("Enter")
        assert tab.page.evaluate("window.wouldOpen")
        tab.page.set_input_files(
            "#file", {"name": "street.png", "mimeType": "image/png", "buffer": PICTURE}
        )
        tab.wait_for_mask()
        tab_to(f"{focused} === 'opacity'")
        assert tab.page.evaluate(outline) == "solid"
        keyboard.press("End")
        assert near(tab.drawn()[0], SPEC.palette[0])
        keyboard.press("Home")
        assert near(tab.drawn()[0], GREY)
        keyboard.press("End")
        tab_to("document.activeElement.type === 'checkbox'")
        switched = int(tab.page.evaluate("document.activeElement.dataset.index"))
        keyboard.press("Space")
        assert near(tab.drawn()[switched], GREY)
        tab_to(f"{focused} === 'download'")
        with tab.page.expect_download() as download:
            keyboard.press("Enter")
        assert download.value.suggested_filename == "street.png"
        # The mask as the server made it, whatever is switched off on the page.
        assert download.value.path().read_bytes() == answer.content
        assert tab.said == []


def test_what_a_screen_reader_says(tab: Opened) -> None:
    tab.segment()
    described = tab.page.get_by_role("img").get_attribute("aria-label") or ""
    assert described.startswith("street.png with its mask: ")
    assert "pavement 25.0" in described
    assert tab.page.get_by_role("group", name="Classes in the picture").is_visible()
    assert tab.page.get_by_role("table", name="Time").is_visible()
    assert tab.page.get_by_role("slider", name="Opacity of the mask").is_visible()
    tab.drop(b"no picture", "notes.txt", "text/plain")
    alert = tab.page.get_by_role("alert")
    alert.wait_for()
    assert "the body is not a picture" in (alert.text_content() or "")
    tab.segment()  # and on it goes
    assert not alert.is_visible()


def test_a_pasted_picture_and_a_frame_of_the_camera(tab: Opened) -> None:
    tab.paste(PICTURE, "pasted.png")
    tab.wait_for_mask("pasted.png")
    tab.page.get_by_role("button", name="Use the camera").click()
    tab.page.get_by_role("button", name="Segment this frame").click()
    tab.wait_for_mask("frame.png")
    assert len(set(tab.drawn().values())) > 1
    tab.page.get_by_role("button", name="Close the camera").click()
    assert tab.page.evaluate("document.querySelector('video').srcObject") is None
    assert not tab.page.locator("#viewfinder").is_visible()
    assert tab.said == []


def turned(format: str) -> bytes:
    """Return a grey picture, its left quarter white, that EXIF turns by 90°."""
    pixels = np.full((48, 64, 3), GREY, np.uint8)
    pixels[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=format, exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_format_is_shown_upright(tab: Opened, format: str) -> None:
    tab.drop(turned(format), "turned", f"image/{format.lower()}")
    tab.wait_for_mask("turned")
    tab.page.get_by_role("button", name="Hide all").click()
    assert (tab.page.locator("#under").text_content() or "").endswith("48 × 64")
    box = tab.page.locator("#stage").bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(48 / 64, abs=0.01)
    pixels = np.asarray(
        Image.open(io.BytesIO(tab.page.locator("#stage").screenshot())).convert("RGB")
    ).astype(int)
    top, bottom = pixels[: len(pixels) // 5], pixels[len(pixels) // 2 :]
    assert abs(top.mean() - 255) < 12  # the white is above: stored left, turned by 90°
    assert abs(bottom.mean() - 90) < 12
    assert tab.said == []


def test_a_token_is_typed_and_used(browser: Browser) -> None:
    runner = FakeRunner(SPEC, outputs=("mask",), bug=quarters)
    with live(runner, token=b"secret") as address, Opened(browser, address) as tab:
        field = tab.page.get_by_label("Access token of this server")
        field.wait_for()
        tab.drop(PICTURE)
        tab.page.get_by_role("alert").wait_for()
        field.fill("wrong")
        field.press("Enter")
        tab.page.get_by_role("alert").filter(has_text="refuses this token").wait_for()
        field.fill("secret")
        field.press("Enter")
        tab.page.get_by_text("streets, 5 classes").wait_for()
        assert not field.is_visible()
        tab.segment()
        assert near(tab.drawn()[0], between(SPEC.palette[0], 0.6))
        assert all("secret" not in url for url in tab.asked)
        stored = "[localStorage.length, sessionStorage.length, document.cookie]"
        assert tab.page.evaluate(stored) == [0, 0, ""]


def test_a_phone_scrolls_down_only(browser: Browser, address: str) -> None:
    with Opened(browser, address, size=PHONE) as tab:
        widest = "document.scrollingElement.scrollWidth"
        assert tab.page.evaluate(widest) <= PHONE[0]
        tab.drop(PICTURE, f"{'a-long-name-' * 20}.png")
        tab.page.locator("#result").wait_for()
        assert tab.page.evaluate(widest) <= PHONE[0]
        outside = """[...document.querySelectorAll('main *')].filter(e =>
            e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
        assert tab.page.evaluate(outside) == []
        assert tab.said == []


@pytest.mark.parametrize(("look", "size", "scheme"), LOOKS)
def test_screenshots_are_kept(
    browser: Browser, look: str, size: tuple[int, int], scheme: str
) -> None:
    image, mask = draw_scene(3, 1, (240, 320))
    palette = voc_palette(len(SCENE_CLASS_NAMES))
    spec = ModelSpec("fcn32s-resnet18", SCENE_CLASS_NAMES, palette, SPEC.image_sizes)

    def drawn(images: NDArray[np.uint8], outputs: Outputs) -> Outputs:
        return Outputs(mask=mask[None]) if images.shape[1:3] == mask.shape else outputs

    runner = FakeRunner(spec, outputs=("mask",), bug=drawn)
    with live(runner) as address, Opened(browser, address, size=size, scheme=scheme) as tab:
        tab.page.locator("#model", has_text="classes").wait_for()
        tab.keep_screenshot(f"page-{look}-empty")
        tab.drop(encoded("PNG", Image.fromarray(image)))
        tab.wait_for_mask()
        tab.keep_screenshot(f"page-{look}")
