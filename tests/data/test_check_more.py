"""What reviewers ask of labels: near duplicates, classes together, tiny regions; and the page."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fcn_deploy.data.check import check
from fcn_deploy.data.label_statistics import TINY, LabelStatistics, connected_regions
from fcn_deploy.data.near_duplicates import Fingerprint, near_duplicates
from tests.command_line import FcnDeploy
from tests.conftest import WriteVocFolder
from tests.data import layouts
from tests.data.layouts import small_masks
from tests.data.voc_files import image_of, mask_of


def photograph(seed: int) -> NDArray[np.uint8]:
    """Return a smooth random image: no two seeds look alike."""
    pixels = np.random.default_rng(seed).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(6)), np.float32)
    spread = (blurred - blurred.mean()) * 8 + 128
    return spread.clip(0, 255).astype(np.uint8)


def copied(image: NDArray[np.uint8], scale: float, quality: int) -> NDArray[np.uint8]:
    small = Image.fromarray(image)
    small = small.resize((int(small.width * scale), int(small.height * scale)))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=quality)
    return np.asarray(Image.open(data).convert("RGB"))


# -- near duplicates ------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "quality"), [(1, 90), (0.5, 70), (2, 40)])
def test_copies_are_found_and_others_are_not(scale: float, quality: int) -> None:
    learned = {f"t{seed}": Fingerprint.of(photograph(seed)) for seed in range(20)}
    scored = {f"v{seed}": Fingerprint.of(photograph(seed)) for seed in range(20, 30)}
    assert near_duplicates(learned, scored) == ()
    scored["v20"] = Fingerprint.of(copied(photograph(7), scale, quality))
    (pair,) = near_duplicates(learned, scored)
    assert (pair.name, pair.other) == ("t7", "v20")


def test_flat_images_of_other_brightness_are_not_alike() -> None:
    dark, light = (np.full((20, 30, 3), level, np.uint8) for level in (20, 200))
    assert near_duplicates({"a": Fingerprint.of(dark)}, {"b": Fingerprint.of(light)}) == ()
    assert near_duplicates({}, {"b": Fingerprint.of(light)}) == ()


def test_check_notes_near_duplicates_and_not_equal_pixels_twice(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(size=(96, 128))
    for seed, name in enumerate(["train_0", "train_1", "train_2", "val_0", "val_1"]):
        Image.fromarray(photograph(seed)).save(image_of(root, name), quality=95)
    assert check(root).near_duplicates == ()
    Image.fromarray(copied(photograph(1), 1, 60)).save(image_of(root, "val_1"), quality=60)
    report = check(root)
    assert report.faults == ()
    (pair,) = report.near_duplicates
    assert (pair.name, pair.other) == ("train_1", "val_1")
    assert [note for note in report.notes if "1 images of val look like images of train" in note]
    image_of(root, "val_1").write_bytes(image_of(root, "train_1").read_bytes())
    report = check(root)
    assert [fault.kind for fault in report.faults] == ["train and val overlap"]
    assert report.near_duplicates == ()


# -- classes --------------------------------------------------------------------------------------


def regions_by_hand(mask: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Flood each region pixel by pixel."""
    seen, found = np.zeros(mask.shape, np.bool_), []
    for start in np.ndindex(*mask.shape):
        if seen[start]:
            continue
        seen[start], waiting, pixels = True, [start], 0
        while waiting:
            y, x = waiting.pop()
            pixels += 1
            for place in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= place[0] < mask.shape[0] and 0 <= place[1] < mask.shape[1]
                if inside and not seen[place] and mask[place] == mask[start]:
                    seen[place] = True
                    waiting.append(place)
        found.append((int(mask[start]), pixels))
    return sorted(found)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (17, 23)])
def test_regions_are_those_of_a_flood(shape: tuple[int, int]) -> None:
    for seed in range(4):
        random = np.random.default_rng(seed)
        mask = random.choice(np.array([0, 1, 255], np.uint8), shape, p=[0.5, 0.4, 0.1])
        values, pixels = connected_regions(mask)
        assert sorted(zip(values.tolist(), pixels.tolist(), strict=True)) == regions_by_hand(mask)


def test_a_spiral_is_one_region() -> None:
    rows = ["#######", "......#", "#####.#", "#...#.#", "#.###.#", "#.....#", "#######"]
    mask = np.array([[cell == "#" for cell in row] for row in rows], np.uint8)
    values, pixels = connected_regions(mask)
    assert {*zip(values.tolist(), pixels.tolist(), strict=True)} == {(1, 31), (0, 18)}


def test_what_is_tiny_and_what_occurs_together() -> None:
    mask = np.zeros((30, 30), np.uint8)
    mask[:8, :8] = 1  # as large as the limit
    mask[20:27, 20:29] = 1  # one pixel less
    mask[29, 29] = 255
    found = LabelStatistics.of(mask, 3) + LabelStatistics.of(np.full((9, 9), 2, np.uint8), 3)
    assert TINY == 64
    assert found.regions.tolist() == [1, 2, 1]
    assert found.tiny.tolist() == [0, 1, 0]
    assert found.together.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_classes_of_tiny_regions_and_bound_ones_are_noted(voc_folder: WriteVocFolder) -> None:
    root = voc_folder(train=20, val=4, class_names=["ground", "dot", "stripe", "spot"])
    for seed, path in enumerate(sorted((root / "SegmentationClass").iterdir())):
        mask = np.zeros((48, 64), np.uint8)
        mask[seed, seed] = 1
        if seed % 2:
            mask[40:, :] = 2
            mask[30:39, 10:20] = 3
        layouts.write_values(path, mask)
    notes = check(root).notes
    assert "regions of fewer than 64 pixels: dot 100% of 24" in notes
    (bound,) = [note for note in notes if note.startswith("never seen: ")]
    assert bound.startswith("never seen: stripe without spot, spot without stripe; ")


# -- the page -------------------------------------------------------------------------------------


def test_the_page_shows_masks_over_images_and_asks_for_nothing(
    fcn_deploy: FcnDeploy, tmp_path: Path
) -> None:
    layouts.images_and_masks(tmp_path / "d", small_masks(30))
    (tmp_path / "d" / "classes.txt").write_text("a\n<script>b\nc\nd\n")
    done = fcn_deploy("data", "check", "d", "--html", "sheet.html", "--json", "check.json")
    assert done.code == 0, done.err
    assert "wrote sheet.html" in done.out
    page = (tmp_path / "sheet.html").read_text()
    assert "default-src 'none'; img-src data:" in page
    assert "<script" not in page
    assert "&lt;script&gt;b" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert page.count("with its mask") >= 20
    assert "d is read as images/ and masks/" in page
    assert "are readable. No faults." in page
    document = json.loads((tmp_path / "check.json").read_text())
    assert len(document["classes_together"]) == 4
    assert document["classes"][0]["regions"] >= 30


def test_the_page_of_a_broken_folder_shows_what_can_be_read(
    fcn_deploy: FcnDeploy, voc_folder: WriteVocFolder, tmp_path: Path
) -> None:
    root = voc_folder()
    mask_of(root, "train_1").unlink()
    image_of(root, "val_0").write_bytes(b"x")
    done = fcn_deploy("data", "check", root, "--html", "sheet.html")
    assert done.code == 1
    page = (tmp_path / "sheet.html").read_text()
    assert "missing mask: train.txt names train_1" in page
    assert page.count("with its mask") == 3
    assert fcn_deploy("data", "check", root, "--html", "data").code == 2
