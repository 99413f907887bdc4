"""The views of the worst pictures inside a result."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.parity.compare import save
from fcn_deploy.parity.tally import WorstCandidate
from fcn_deploy.parity.worst_pictures import rendered
from fcn_deploy.runners.base import Outputs
from tests.fakes import FAKE_SPEC, FakeRunner
from tests.parity.comparisons import Images, made_up, result_of


def test_the_worst_pictures_are_drawn(tmp_path: Path) -> None:
    def flip_second(images: Images, outputs: Outputs) -> Outputs:
        if np.array_equal(images[0], made_up()[1].image):
            return replace(outputs, mask=(outputs.mask + 1) % 5)
        return outputs

    result = result_of(FakeRunner(bug=flip_second))
    save([result], tmp_path / "r.json")
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["kind"] == "parity"
    entries = document["results"][0]["pictures"]
    assert entries[0]["name"] == "p1"
    assert entries[0]["flips"] == entries[0]["pixels"] == 96 * 128
    views = {name: unpacked(uri) for name, uri in entries[0]["views"].items()}
    assert list(views) == ["image", "reference", "candidate", "flips", "margin"]
    assert {view.size for view in views.values()} == {(128, 96)}
    assert views["image"].format == "JPEG"
    shown = np.asarray(views["candidate"].convert("RGB"))
    palette = np.array(FAKE_SPEC.palette, np.uint8)
    reference = FakeRunner().run(made_up()[1].image[None]).mask[0]
    assert np.array_equal(shown, palette[(reference + 1) % 5])
    scale = entries[0]["margin_scale"]
    assert scale["low"] == 0 < scale["high"]
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def unpacked(uri: str) -> Image.Image:
    head, _, content = uri.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_a_wide_picture_is_shrunk_and_no_flip_is_lost() -> None:
    height, width = 1000, 1500
    reference = np.zeros((height, width), np.uint8)
    reference[:, 700:] = 1
    candidate = reference.copy()
    candidate[501, 333] = 2
    generator = np.random.default_rng(0)
    drawing = WorstCandidate(
        "wide",
        1,
        reference.size,
        generator.integers(0, 256, (height, width, 3), dtype=np.uint8),
        reference,
        candidate,
        np.linspace(0, 8, reference.size, dtype=np.float32).reshape(reference.shape),
    )
    (entry,) = rendered([drawing], FAKE_SPEC.palette, budget=10**9)
    views = {name: unpacked(view.uri) for name, view in entry.views.items()}
    assert (entry.name, entry.flips, entry.pixels) == ("wide", 1, height * width)
    assert entry.size == (height, width)
    assert {(view.width, view.height) for view in entry.views.values()} == {(960, 640)}
    assert {view.size for view in views.values()} == {(960, 640)}
    pink = (np.asarray(views["flips"].convert("RGB")) == (255, 0, 160)).all(axis=2)
    assert np.argwhere(pink).mean(axis=0).tolist() == [501 * 640 // 1000, 333 * 960 // 1500]
    assert pink.sum() == 9
    assert set(np.unique(np.asarray(views["reference"]))) == {0, 1}
    assert entry.margin_scale.high == pytest.approx(0.95 * 8, rel=1e-3)
    heat = np.asarray(views["margin"].convert("RGB")).astype(int)
    brightness = heat[..., 1].mean(axis=1)  # green grows along the whole of viridis
    assert brightness[0] < brightness[320] < brightness[639]
    # Noise compresses badly: a small budget makes the pictures smaller.
    (small,) = rendered([drawing], FAKE_SPEC.palette, budget=300_000)
    assert sum(len(view.uri) for view in small.views.values()) <= 300_000
    assert unpacked(small.views["image"].uri).width < 960
