"""Folders and files that were named give the pictures in them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fcn_deploy.core.errors import ImageError
from fcn_deploy.data.images import find_images, passed_over

OneLine = Callable[[Exception], str]


def test_a_folder_gives_its_pictures_sorted_and_nothing_else(tmp_path: Path) -> None:
    hidden = ("._a.png", ".b.jpg")
    for name in ("b.JPG", "a.png", "c.tiff", "notes.txt", "README", "d.jpg.bak", *hidden):
        (tmp_path / name).touch()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "e.png").touch()
    assert find_images([tmp_path]) == [tmp_path / name for name in ("a.png", "b.JPG", "c.tiff")]


def test_named_files_are_taken_in_order_whatever_their_suffix(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.png").touch()
    for name in ("z.dat", "y.jpg"):
        (tmp_path / name).touch()
    sources = [tmp_path / "z.dat", tmp_path / "folder", tmp_path / "y.jpg"]
    assert find_images(sources) == [sources[0], tmp_path / "folder" / "x.png", sources[2]]


def test_a_source_that_does_not_exist(tmp_path: Path, one_line: OneLine) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(ImageError, match="no such file or folder") as caught:
        find_images([tmp_path / "a.png", tmp_path / "gone"])
    assert str(tmp_path / "gone") in one_line(caught.value)
    assert caught.value.repair


def test_a_folder_without_pictures(tmp_path: Path, one_line: OneLine) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageError, match="no pictures in") as caught:
        find_images([tmp_path])
    assert str(tmp_path) in one_line(caught.value)
    assert ".jpg" in one_line(caught.value)


def test_a_folder_of_sub_folders_says_which_to_name(tmp_path: Path) -> None:
    for name in ("b/notes.txt", "c1/a.png", ".cache/a.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with pytest.raises(ImageError, match=r"sub-folders are not searched: name .*c1"):
        find_images([tmp_path])


def test_what_is_named_twice_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, picture = Path("folder"), Path("folder/a.png")
    folder.mkdir()
    picture.touch()
    (folder / "link.png").symlink_to("a.png")
    sources = [picture, folder, tmp_path / picture, Path("folder/../folder/a.png")]
    assert find_images(sources) == [picture, folder / "link.png"]


def test_pictures_of_other_kinds_are_counted(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.HEIC", "notes.txt", "._b.heic"):
        (tmp_path / name).touch()
    assert passed_over([tmp_path]) == "1 file passed over (.heic): save it as PNG or JPEG"
    (tmp_path / "c.psd").touch()
    assert passed_over([tmp_path, tmp_path / "a.jpg"]) == (
        "2 files passed over (.heic, .psd): save them as PNG or JPEG"
    )
    assert find_images([tmp_path]) == [tmp_path / "a.jpg"]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(ImageError, match="2 files passed over"):
        find_images([tmp_path])
    assert passed_over([tmp_path / "c.psd"]) is None  # named, it is reported by itself
