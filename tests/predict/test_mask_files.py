"""Which files are written: none that is there already, and no two of one name."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fcn_deploy.core.errors import InputError
from fcn_deploy.predict.folder import predict
from tests.fakes import FakeRunner
from tests.predict.test_folder import save_picture


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    picture = save_picture(tmp_path / "a.png")
    before = picture.read_bytes()
    with pytest.raises(InputError, match="would overwrite its picture"):
        list(predict(FakeRunner(), [picture], tmp_path))
    assert picture.read_bytes() == before
    with pytest.raises(InputError, match="would both be written"):
        list(predict(FakeRunner(), [Path("a.jpg"), Path("b/a.png")], tmp_path))


def test_full_names_tell_suffixes_and_folders_apart(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    pictures = [save_picture(tmp_path / name) for name in ("a.png", "a.bmp", "x/a.png")]
    done = predict(FakeRunner(), pictures, tmp_path / "out", full_names=True)
    assert [each.mask for each in done] == [
        tmp_path / "out" / name for name in ("a.png.png", "a.bmp.png", "x/a.png.png")
    ]


def test_a_mask_and_an_overlay_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "overlays").mkdir()
    pictures = [save_picture(tmp_path / "a.png"), save_picture(tmp_path / "overlays" / "a.png")]
    with pytest.raises(InputError, match="a mask and an overlay would both be written"):
        list(predict(FakeRunner(), pictures, tmp_path / "o", with_overlay=True, full_names=True))
    assert not (tmp_path / "o").exists()


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
