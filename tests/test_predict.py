from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
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
        assert Image.open(out / "overlays" / picture.mask.name).size == (9, height)


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
    with pytest.raises(InputError, match="would overwrite its picture"):
        list(predict(FakeRunner(), [picture], tmp_path))
    assert picture.read_bytes() == before
    with pytest.raises(InputError, match="would both be written"):
        mask_paths([Path("a.jpg"), Path("b/a.png")], tmp_path)


def test_an_unwritable_folder_is_explained(tmp_path: Path) -> None:
    picture = save_picture(tmp_path / "a.png")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match=r"cannot write.*--out"):
        list(predict(FakeRunner(), [picture], tmp_path / "file"))


def test_files_of_others_are_never_replaced_and_ours_are(tmp_path: Path) -> None:
    Image.new("RGB", (9, 7)).save(tmp_path / "a.jpg")
    label = save_picture(tmp_path / "a.png")  # the label beside its picture
    before = label.read_bytes()
    with pytest.raises(InputError, match="not written by fcn-deploy"):
        list(predict(FakeRunner(), [tmp_path / "a.jpg"], tmp_path))
    assert label.read_bytes() == before
    (tmp_path / "out" / "overlays").mkdir(parents=True)
    save_picture(tmp_path / "out" / "overlays" / "a.png")
    with pytest.raises(InputError, match="overlays"):
        list(predict(FakeRunner(), [label], tmp_path / "out", with_overlay=True))
    assert not (tmp_path / "out" / "a.png").exists()
    for _ in range(2):
        (done,) = predict(FakeRunner(), [label], tmp_path / "again", with_overlay=True)
        assert done.error is None


def test_a_picture_that_the_backend_cannot_take_is_reported(tmp_path: Path) -> None:
    def short_of_memory(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if images.shape[1] > 10:
            raise MemoryError("too large")
        return images

    pictures = [save_picture(tmp_path / "a.png", (20, 9)), save_picture(tmp_path / "b.png")]
    large, small = predict(FakeRunner(see=short_of_memory), pictures, tmp_path / "out")
    assert "smaller pictures" in str(large.error)
    assert small.error is None
