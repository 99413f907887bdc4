"""Sources: files, folders, patterns, lists and archives, and the masks' names."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from fcn_deploy.core.errors import ImageError, InputError
from fcn_deploy.predict import archives
from fcn_deploy.predict.batches import MaskNames
from fcn_deploy.predict.sources import Sources
from tests.predict.jobs import draw, journal_lines, masks_of, run_job

Pack = Callable[[Path, dict[str, bytes]], Path]


def names_of(*words: str | Path, recursive: bool = False, stdin: bytes = b"") -> list[str]:
    with Sources(
        [str(word) for word in words], recursive=recursive, stdin=io.BytesIO(stdin)
    ) as sources:
        listed = [item.name for item in sources]
        assert [item.name for item in sources] == listed  # a second time
        return listed


def masks_named(*words: str | Path, full: bool = False, recursive: bool = False) -> list[str]:
    with Sources([str(word) for word in words], recursive=recursive) as sources:
        names = MaskNames(sources.shared_folder() if full else None)
        found = [mask for batch in sources.batches() for mask in batch.masks(names)]
        assert found == [names.of(item) for item in sources]
        return found


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("in/b.jpg", "in/a.png", "in/cam2/a.png", "in/cam1/a.png", "in/.hidden/x.png"):
        draw(tmp_path / name, 0)
    (tmp_path / "in/note.txt").write_text("no picture")
    (tmp_path / "in/cam1/phone.heic").write_bytes(b"no")
    return tmp_path


def test_folders_are_searched_one_level_or_all(tree: Path) -> None:
    assert names_of("in") == names_of("./in/") == ["in/a.png", "in/b.jpg"]
    everything = ["in/a.png", "in/b.jpg", "in/cam1/a.png", "in/cam2/a.png"]
    assert names_of("in", recursive=True) == everything
    assert masks_named("in", recursive=True) == ["a.png", "b.png", "cam1/a.png", "cam2/a.png"]
    draw(tree / "in/scene.png/a.png", 0)
    assert names_of("in", recursive=True) == [*everything, "in/scene.png/a.png"]
    shutil.rmtree(tree / "in/scene.png")
    (tree / "in/cam1/loop").symlink_to(tree / "in")
    assert names_of("in", recursive=True) == everything
    with Sources(["in"], recursive=True) as sources:
        list(sources)
        assert sources.notes() == ["1 file passed over (.heic): save it as PNG or JPEG"]


def test_the_current_folder_has_short_names(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "in")
    assert names_of(".") == ["a.png", "b.jpg"]
    assert masks_named(".", recursive=True)[2:] == ["cam1/a.png", "cam2/a.png"]


def test_patterns_lists_and_standard_input(tree: Path) -> None:
    assert names_of("in/*.png") == ["in/a.png"]
    assert names_of("in/**/a.*") == ["in/a.png", "in/cam1/a.png", "in/cam2/a.png"]
    (tree / "list.txt").write_bytes(b"\xef\xbb\xbfin/b.jpg\r\n\n./in/cam1/a.png\nin/gone.png")
    listed = ["in/b.jpg", "in/cam1/a.png", "in/gone.png"]
    assert names_of("@list.txt") == listed
    assert names_of("-", stdin=b"in/b.jpg\nin/cam1/a.png\nin/gone.png\n") == listed
    assert masks_named("@list.txt") == ["b.png", "a.png", "gone.png"]
    assert masks_named("@list.txt", full=True) == ["b.jpg.png", "cam1/a.png.png", "gone.png.png"]
    out = tree / "out"
    _, done = run_job(["@list.txt"], out)
    assert [prediction.error is None for prediction in done] == [True, True, False]
    errors = {line["source"]: line["error"] for line in journal_lines(out)}
    assert list(errors.values()).count(None) == 2
    assert "no such picture: in/gone.png" in errors["in/gone.png"]


def test_a_list_through_links_names_each_picture_once(tree: Path) -> None:
    (tree / "alias").symlink_to(tree / "in")
    lines = ["in/b.jpg", "alias/b.jpg", str(tree / "in/cam1/a.png"), "in/cam1/../cam1/a.png"]
    (tree / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    _, done = run_job(["@list.txt"], tree / "out")
    assert [str(prediction.source) for prediction in done] == [lines[0], lines[2]]


def test_words_that_name_nothing_are_refused(tree: Path) -> None:
    (tree / "empty").mkdir()
    (tree / "none.txt").write_text("\n")
    for word, reason in (
        ("gone", "no such file or folder"),
        ("@gone.txt", "cannot read the list gone.txt"),
        ("empty", "no pictures in empty"),
        ("in/*.bmp", "no pictures in"),
        ("@none.txt", "no names in the list"),
    ):
        with pytest.raises(ImageError, match=reason):
            names_of(word)
    with pytest.raises(ImageError, match="no names in the list"):
        names_of("-", stdin=b"")
    with pytest.raises(ImageError, match="-print0"):
        names_of("-", stdin=b"in/a.png\0in/b.jpg\0")


def test_full_names_keep_suffixes_and_folders(tree: Path) -> None:
    found = masks_named("in", "in/cam1", "in/cam2", full=True)
    assert found == ["a.png.png", "b.jpg.png", "cam1/a.png.png", "cam2/a.png.png"]


def packed_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def packed_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


PACKERS = pytest.mark.parametrize(("pack", "suffix"), [(packed_tar, "tar"), (packed_zip, "zip")])


@PACKERS
def test_pictures_of_archives_get_the_masks_of_their_files(
    tree: Path, pack: Pack, suffix: str
) -> None:
    members = {
        f"./{path.relative_to('in')}": path.read_bytes()
        for path in sorted(Path("in").rglob("*"))
        if path.is_file()
    }
    archive = pack(tree / f"in.{suffix}", members)
    run_job(["in"], tree / "files", recursive=True)
    _, done = run_job([archive.name], tree / "archive")
    assert masks_of(tree / "archive") == masks_of(tree / "files")
    assert len(done) == 4
    assert f"in.{suffix}/cam1/a.png" in [line["source"] for line in journal_lines(tree / "archive")]
    assert run_job([archive.name], tree / "archive", resume=True)[1] == []
    assert masks_named(archive.name, "in/b.jpg", full=True)[-1] == "in/b.jpg.png"
    assert f"in.{suffix}/cam1/a.png.png" in masks_named(archive.name, "in/b.jpg", full=True)
    with Sources([archive.name]) as sources:
        list(sources)
        assert sources.notes() == ["1 file passed over (.heic): save it as PNG or JPEG"]
    # Nothing is extracted.
    assert sorted(path.name for path in tree.iterdir()) == sorted(
        ["in", archive.name, "files", "archive"]
    )


@PACKERS
def test_names_that_lead_out_of_an_archive_write_nothing_outside(
    tree: Path, pack: Pack, suffix: str
) -> None:
    picture = Path("in/a.png").read_bytes()
    names = ["../out.png", "x/../../out.png", "..\\win.png", "C:\\win.png", "/root.png", "ok/a.png"]
    archive = pack(tree / f"evil.{suffix}", dict.fromkeys(names, picture))
    out = tree / "masks" / "inner"
    with Sources([archive.name]) as sources:
        assert [item.name for item in sources] == [
            f"evil.{suffix}/root.png", f"evil.{suffix}/ok/a.png",
        ]  # fmt: skip
        (note,) = sources.notes()
        assert note == f"4 passed over in evil.{suffix}: with names that lead out of it"
    for full_names in (False, True):
        run_job([archive.name], out, full_names=full_names)
    written = sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*root*"))
    assert written == ["masks/inner/root.png", "masks/inner/root.png.png"]
    assert not (tree / "masks/out.png").exists()
    assert not (tree / "out.png").exists()


def test_links_and_devices_in_archives_are_passed_over(tree: Path) -> None:
    with tarfile.open("links.tar", "w") as tar:
        tar.add("in/a.png", "a.png")
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo(f"{kind.decode()}.png")
            entry.type, entry.linkname = kind, "a.png"
            tar.addfile(entry)
    with zipfile.ZipFile("links.zip", "w") as archive:
        link = zipfile.ZipInfo("soft.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.write("in/a.png", "b.png")
    with Sources(["links.tar", "links.zip"]) as sources:
        assert [item.name for item in sources] == ["links.tar/a.png", "links.zip/b.png"]
        assert sources.notes() == [
            "3 passed over in links.tar: links and devices",
            "1 passed over in links.zip: links and devices",
        ]


def test_members_that_cannot_be_read_are_errors_of_their_own(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = Path("in/a.png").read_bytes()
    packed_zip(tree / "bomb.zip", {"bomb.png": bytes(5000), "good.png": picture})
    packed_tar(tree / "torn.tar", {"whole.png": picture, "torn.png": picture * 100})
    torn = (tree / "torn.tar").read_bytes()
    (tree / "torn.tar").write_bytes(torn[: 512 * 4 + len(picture)])
    damaged = bytearray(packed_zip(tree / "damaged.zip", {"d.png": picture}).read_bytes())
    damaged[damaged.index(b"d.png") + 20] ^= 0xFF
    (tree / "damaged.zip").write_bytes(damaged)
    other_name = packed_zip(tree / "name.zip", {"\u00e9.png": picture}).read_bytes()
    (tree / "name.zip").write_bytes(other_name.replace("\u00e9".encode(), b"\xff\xff", 1))
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 4000)
    _, done = run_job(["bomb.zip", "damaged.zip", "name.zip"], tree / "out")
    errors = {str(prediction.source): str(prediction.error) for prediction in done}
    assert "unfolds to 5,000 bytes, more than 4,000" in errors["bomb.zip/bomb.png"]
    assert errors["bomb.zip/good.png"] == "None"
    assert "cannot be read" in errors["damaged.zip/d.png"]
    assert "cannot be read" in errors["name.zip/\u00e9.png"]
    with pytest.raises(ImageError, match=r"torn\.tar cannot be read"):
        names_of("torn.tar")


def test_a_zip_that_is_cut_short_while_it_is_read_fails_picture_by_picture(tree: Path) -> None:
    picture = Path("in/a.png").read_bytes()
    archive = packed_zip(tree / "in.zip", {"a.png": picture, "b.png": picture})
    with closing(archives.ZipArchive(str(archive))) as opened_zip:
        items = list(opened_zip.items())
        os.truncate(archive, 10)
        for item in items:
            with pytest.raises(ImageError, match="cannot be read"):
                item.read(lambda size: None)


def test_a_tar_with_a_time_that_is_no_number_is_read(tree: Path) -> None:
    picture = Path("in/a.png").read_bytes()
    with tarfile.open("time.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, time in (("a.png", "nan"), ("b.png", "inf")):
            entry = tarfile.TarInfo(name)
            entry.size, entry.pax_headers = len(picture), {"mtime": time}
            tar.addfile(entry, io.BytesIO(picture))
    _, done = run_job(["time.tar"], tree / "out")
    assert [each.error for each in done] == [None, None]
    assert run_job(["time.tar"], tree / "out", resume=True)[1] == []


def test_a_picture_of_too_many_pixels_is_refused_in_an_archive_too(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcn_deploy.data.images.MAX_PIXELS", 40)
    packed_zip(tree / "large.zip", {"large.png": Path("in/a.png").read_bytes()})
    _, (done,) = run_job(["large.zip"], tree / "out")
    assert "large.zip/large.png has 8×6 pixels, more than 40" in str(done.error)


def test_archives_that_are_none_or_compressed_as_a_whole_are_refused(tree: Path) -> None:
    for name, reason in (
        ("a.tar", "pack it anew"), ("a.zip", "pack it anew"), ("a.tgz", "`gunzip a.tgz`"),
        ("b c.tar.gz", "`gunzip 'b c.tar.gz'`"), ("a.tar.bz2", "`bunzip2 "), ("A.TXZ", "`unxz "),
        ("a.tar.zst", "`unzstd "),
    ):  # fmt: skip
        (tree / name).write_bytes(b"no archive" * 200)
        with pytest.raises(ImageError, match=reason):
            names_of(name)


def test_one_name_in_two_archives_or_folders_is_refused_or_told_apart(tree: Path) -> None:
    for name in ("one.zip", "two.zip"):
        packed_zip(tree / name, {"a.png": Path("in/a.png").read_bytes()})
    with pytest.raises(InputError, match=r"one\.zip/a\.png and two\.zip/a\.png would both"):
        run_job(["one.zip", "two.zip"], tree / "out")
    run_job(["one.zip", "two.zip"], tree / "out", full_names=True)
    assert sorted(masks_of(tree / "out")) == ["one.zip/a.png.png", "two.zip/a.png.png"]


def test_names_that_are_no_utf_8_go_through(tree: Path) -> None:
    try:
        Image.new("RGB", (3, 2)).save(os.fsdecode(b"in/cam1/\xff.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    _, done = run_job(["in/cam1"], tree / "out")
    assert [prediction.error for prediction in done] == [None, None]
    assert run_job(["in/cam1"], tree / "out", resume=True)[1] == []
