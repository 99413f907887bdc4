from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.errors import ArtifactError, InputError
from fcn_deploy.masks import read_mask
from fcn_deploy.predict import mask_paths, predict
from tests.fakes import FAKE_SPEC, FakeRunner


def save_picture(path: Path, size: tuple[int, int] = (7, 9)) -> Path:
    truth = np.arange(size[0] * size[1]).reshape(size) % FAKE_SPEC.num_classes
    Image.fromarray(np.array(FAKE_SPEC.palette, np.uint8)[truth]).save(path)
    return path


def test_masks_have_the_picture_s_size_and_classes(tmp_path: Path) -> None:
    pictures = [save_picture(tmp_path / f"{h}.png", (h, 9)) for h in (1, 7, 33)]
    out = tmp_path / "out"
    done = list(predict(FakeRunner(), pictures, out, with_overlay=True))
    assert [p.mask for p in done] == [out / "1.png", out / "7.png", out / "33.png"]
    for picture, height in zip(done, (1, 7, 33), strict=True):
        assert picture.mask is not None
        with Image.open(picture.mask) as image:
            assert image.mode == "P"
        mask = read_mask(picture.mask, FAKE_SPEC.palette)
        np.testing.assert_array_equal(
            mask, np.arange(height * 9).reshape(height, 9) % FAKE_SPEC.num_classes
        )
        assert Image.open(picture.mask.with_suffix(".overlay.png")).size == (9, height)


def test_one_broken_picture_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    broken = tmp_path / "b.png"
    broken.write_bytes(b"no picture")
    pictures = [save_picture(tmp_path / "a.png"), broken, save_picture(tmp_path / "c.png")]
    done = list(predict(FakeRunner(), pictures, tmp_path / "out"))
    assert [p.error is None for p in done] == [True, False, True]
    assert "b.png is not a picture" in str(done[1].error)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    picture = save_picture(tmp_path / "a.png")
    before = picture.read_bytes()
    with pytest.raises(InputError, match="would overwrite a picture"):
        list(predict(FakeRunner(), [picture], tmp_path))
    assert picture.read_bytes() == before
    with pytest.raises(InputError, match="would both be written"):
        mask_paths([Path("a.jpg"), Path("b/a.png")], tmp_path)


def test_an_unwritable_folder_is_explained(tmp_path: Path) -> None:
    picture = save_picture(tmp_path / "a.png")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match=r"cannot write.*--out"):
        list(predict(FakeRunner(), [picture], tmp_path / "file"))
