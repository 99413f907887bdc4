"""``POST /predict`` answers what ``fcn-deploy predict`` writes, and refuses what that refuses."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fcn_deploy.data.images import read_image
from fcn_deploy.predict.folder import predict
from fcn_deploy.serve import pictures
from fcn_deploy.serve.errors import UnavailableError
from tests.data.pictures import WHOLE, encoded, picture
from tests.data.test_images_refused import png_header, tiff_in_tiles_of, tiff_of_channels
from tests.decoding import PATIENCE
from tests.fakes import FAKE_SPEC, FakeRunner
from tests.serve.clients import error_of
from tests.serve.live import asked

SERVING = Path(__file__).parents[2] / "docs" / "serving.md"
JSON = {"Accept": "application/json"}


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, format=format, **options)
    return stream.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.fromarray(picture()), "JPEG", exif=exif)


def odd() -> dict[str, bytes]:
    """Pictures whose reading has several right answers, of which ``predict`` has chosen one."""
    rgb = Image.fromarray(picture())
    grey = np.arange(30 * 42, dtype=np.uint16).reshape(30, 42) * 52
    clear = rgb.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    frames = [rgb, Image.new("RGB", rgb.size, "red")]
    return {
        "16-bit grey": saved(Image.fromarray(grey), "PNG"),
        "CMYK": saved(rgb.convert("CMYK"), "JPEG"),
        "alpha": saved(clear, "PNG"),
        "palette with a transparent colour": saved(rgb.quantize(), "PNG", transparency=3),
        "turned by EXIF": turned(),
        "animated GIF": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated WebP": saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "bits": saved(rgb.convert("1"), "TIFF"),
    }


READABLE = {**WHOLE, **odd()}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with asked(max_pixels=4000) as client:
        yield client


@pytest.mark.parametrize("name", READABLE)
def test_the_answers_are_the_files_of_predict(
    client: httpx.Client, tmp_path: Path, name: str
) -> None:
    content = READABLE[name]
    source = tmp_path / "picture"
    source.write_bytes(content)
    (written,) = predict(FakeRunner(), [source], tmp_path / "out", with_overlay=True)
    assert written.mask is not None
    mask = client.post("/predict", content=content)
    assert (mask.status_code, mask.headers["content-type"]) == (200, "image/png")
    assert mask.content == written.mask.read_bytes()
    overlay = client.post("/predict?overlay=true", content=content)
    assert overlay.content == (tmp_path / "out" / "overlays" / "picture.png").read_bytes()
    # Without opacity it is the picture as the network saw it.
    unseen = client.post("/predict?overlay=0", content=content)
    np.testing.assert_array_equal(
        np.asarray(Image.open(BytesIO(unseen.content))), read_image(source)
    )


def test_the_share_of_each_class(client: httpx.Client) -> None:
    truth = np.repeat(np.array([[0, 0, 1, 4]], np.uint8), 3, axis=0)
    colours = np.array(FAKE_SPEC.palette, np.uint8)[truth]
    content = encoded("PNG", Image.fromarray(colours))
    answer = client.post("/predict", content=content, headers=JSON)
    assert answer.headers["content-type"] == "application/json"
    said = answer.json()
    assert (said["width"], said["height"]) == (4, 3)
    assert [entry["name"] for entry in said["classes"]] == list(FAKE_SPEC.class_names)
    assert [entry["index"] for entry in said["classes"]] == [0, 1, 2, 3, 4]
    assert [entry["pixels"] for entry in said["classes"]] == [6, 3, 0, 0, 3]
    assert [entry["share"] for entry in said["classes"]] == [0.5, 0.25, 0, 0, 0.25]
    assert said["classes"][1]["colour"] == "#800000"
    assert said["model"] == {
        "name": "streets", "backend": "fake", "precision": "fp32", "digest": "sha256:fake",
    }  # fmt: skip
    assert list(said["milliseconds"]) == ["decode", "queue", "compute", "encode"]
    assert all(value >= 0 for value in said["milliseconds"].values())


def test_the_stages_stand_in_the_headers(client: httpx.Client) -> None:
    answer = client.post("/predict", content=WHOLE["PNG"])
    stages = [part.partition(";dur=") for part in answer.headers["server-timing"].split(", ")]
    assert [name for name, _, _ in stages] == ["decode", "queue", "compute", "encode"]
    assert all(float(milliseconds) >= 0 for _, _, milliseconds in stages)
    assert answer.headers["vary"] == "Accept"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    counted = client.get("/metrics").text
    assert 'fcn_deploy_stage_seconds_count{stage="decode"} 0.0' not in counted
    assert 'fcn_deploy_stage_seconds_count{stage="encode"} 0.0' not in counted


@pytest.mark.parametrize(
    "content_type",
    [
        "image/jpeg",
        "image/png",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "",
    ],
)
def test_the_content_says_what_it_is(client: httpx.Client, content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = client.post("/predict", content=WHOLE["WEBP"], headers=headers)
    assert answer.content == client.post("/predict", content=WHOLE["WEBP"]).content
    assert answer.status_code == 200


def test_a_form_carries_the_same_picture(client: httpx.Client) -> None:
    files = {"image": ("photo.jpg", WHOLE["JPEG"], "image/jpeg")}
    answer = client.post("/predict", files=files, data={"note": "hello"})
    assert answer.status_code == 200
    assert answer.content == client.post("/predict", content=WHOLE["JPEG"]).content


FLOATS = saved(Image.fromarray(np.zeros((3, 4), np.float32)), "TIFF")


@pytest.mark.parametrize(
    ("content", "query", "headers", "status", "sentence"),
    [
        (b"", "", {}, 400, "the body is empty"),
        (b"hello, I am a text", "", {}, 415, "the body is not a picture; send a JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "", {}, 415, "not a picture"),
        (WHOLE["JPEG"][:400], "", {}, 400, "the body cannot be decoded"),
        (FLOATS, "", {}, 400, "32-bit floats"),
        (tiff_of_channels(8), "", {}, 415, "holds 8 channels; save three"),
        (tiff_in_tiles_of(16_384), "", {}, 413, "8×8 pixels in tiles of 16384×16384; save"),
        (png_header(100, 41), "", {}, 413, "100×41 pixels, more than 4,000; shrink it"),
        (png_header(12_000, 12_000), "", {}, 413, "12000×12000 pixels"),
        (png_header(60_000, 60_000), "", {}, 413, "too many pixels"),
        (bytes(3 * 4000 + 65_537), "", {}, 413, "more than"),
        (WHOLE["PNG"], "", {"Content-Encoding": "gzip"}, 415, "'gzip' is not taken"),
        (WHOLE["PNG"], "", {"Content-Type": "multipart/form-data"}, 400, "no boundary"),
        (WHOLE["PNG"], "", {"Accept": "text/html"}, 406, "image/png or application/json"),
        (WHOLE["PNG"], "?overlay=true", JSON, 406, "overlays come as image/png"),
        (WHOLE["PNG"], "?overlay=2", {}, 400, "'2' is no opacity"),
        (WHOLE["PNG"], "?overlay=nan", {}, 400, "no opacity"),
        (WHOLE["PNG"], "?overlay=", {}, 400, "no opacity"),
        (WHOLE["PNG"], "?mask=true", {}, 400, "unknown query parameter 'mask'"),
    ],
)
def test_what_is_refused(
    client: httpx.Client,
    content: bytes,
    query: str,
    headers: dict[str, str],
    status: int,
    sentence: str,
) -> None:
    answer = client.post(f"/predict{query}", content=content, headers=headers)
    assert sentence in error_of(answer, status)
    assert answer.headers["content-type"] == "application/json"
    assert client.post("/predict", content=WHOLE["PNG"]).status_code == 200


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_examples_of_the_documentation(
    client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = SERVING.read_text(encoding="utf-8").partition("\n## Pictures over HTTP\n")[2]
    found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found is not None
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(WHOLE["JPEG"])
    mask = client.post("/predict", content=WHOLE["JPEG"]).content
    said = ""
    for command in found[1].splitlines():
        words = shlex.split(command.replace("http://127.0.0.1:8000/", str(client.base_url)))
        said = subprocess.run(
            [*words, "--silent"], capture_output=True, check=True, text=True, timeout=PATIENCE
        ).stdout
        if "--output" in words and "overlay.png" not in words:
            assert Path("mask.png").read_bytes() == mask
            Path("mask.png").unlink()
    overlay = client.post("/predict?overlay=true", content=WHOLE["JPEG"]).content
    assert Path("overlay.png").read_bytes() == overlay
    assert '"share"' in said


def test_another_method_is_refused(client: httpx.Client) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = client.request(method, "/predict")
        assert "/predict" in error_of(answer, 405)
        assert answer.headers["allow"] == "POST"


def test_a_token_is_asked_for() -> None:
    with asked(token=b"secret") as client:
        assert client.post("/predict", content=WHOLE["PNG"]).status_code == 401
        headers = {"Authorization": "Bearer secret"}
        assert client.post("/predict", content=WHOLE["PNG"], headers=headers).status_code == 200


def test_pictures_that_wait_to_be_decoded_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on = threading.Semaphore(0), threading.Event()
    decode = pictures.decode

    def held_up(*arguments: Any) -> Any:
        inside.release()
        assert go_on.wait(PATIENCE)
        return decode(*arguments)

    monkeypatch.setattr(pictures, "usable_cores", lambda: 2)
    monkeypatch.setattr(pictures, "decode", held_up)
    with asked(max_queue=2) as client, ThreadPoolExecutor(2) as callers:

        def send() -> httpx.Response:
            return client.post("/predict", content=WHOLE["PNG"])

        first = [callers.submit(send) for _ in range(2)]
        try:
            for _ in first:
                assert inside.acquire(timeout=PATIENCE)
            refused = send()
        finally:
            go_on.set()
        assert "2 pictures are waiting" in error_of(refused, 503)
        assert refused.headers["retry-after"] == "1"
        assert [one.result().status_code for one in first] == [200, 200]
        assert send().status_code == 200


def test_pixels_in_work_are_bounded_and_freed() -> None:
    room = pictures._PixelRoom(100)
    with room.holding() as take:
        take(500)  # alone it fits, whatever its size
        with room.holding() as other, pytest.raises(UnavailableError):
            other(1)
    with room.holding() as take, room.holding() as other:
        take(60)
        with pytest.raises(UnavailableError):
            other(41)
        other(40)
    with room.holding() as take:
        take(100)


@given(
    format=st.sampled_from(sorted(WHOLE)),
    damage=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=6),
    kept=st.integers(0, 6000),
)
@settings(max_examples=25)
def test_damaged_pictures_are_answered(
    client: httpx.Client, format: str, damage: list[tuple[int, int]], kept: int
) -> None:
    content = bytearray(WHOLE[format])
    for place, value in damage:
        content[place % len(content)] = value
    answer = client.post("/predict", content=bytes(content[:kept]))
    assert answer.status_code in (200, 400, 413, 415)
    if answer.status_code != 200:
        error_of(answer, answer.status_code)
