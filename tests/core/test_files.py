"""Files of a run: whole or not at all, and a missing one names its command."""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fcn_deploy.core import files
from fcn_deploy.core.errors import ArtifactError, MissingStageError
from fcn_deploy.core.files import (
    atomic_path,
    file_digest,
    probe,
    read_json,
    write_bytes,
    write_json,
)
from fcn_deploy.core.run import Run

OneLine = Callable[[Exception], str]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def disk_full(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# -- atomic_path --------------------------------------------------------------------------------


def test_a_file_appears_only_when_its_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "model.png"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        assert not target.exists()
        assert temporary.suffix == ".png"  # libraries choose the format by it
    assert target.read_bytes() == b"new"
    assert files_in(target.parent) == ["model.png"]


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_every_file_has_the_umask_s_mode(tmp_path: Path, mask: int) -> None:
    """A library may write a file of its own mode in the temporary one's place."""

    def write_privately(path: Path) -> None:
        path.unlink()
        path.touch(0o600)

    before = os.umask(mask)
    try:
        with atomic_path(tmp_path / "one") as temporary:
            write_privately(temporary)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"one": 0o666 & ~mask}


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_bytes(b"old and longer")
    write_bytes(target, b"new")
    assert target.read_bytes() == b"new"
    assert files_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), ArtifactError("no")])
def test_on_failure_the_old_file_stays_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    target = tmp_path / "a.txt"
    target.write_bytes(b"old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"half of the n")
            raise error

    with pytest.raises(type(error)) as caught:
        write_half()
    assert caught.value is error
    assert target.read_bytes() == b"old"
    assert files_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, one_line: OneLine
) -> None:
    target = tmp_path / "a.txt"
    target.write_bytes(b"old")
    monkeypatch.setattr(files.os, step, disk_full)
    with pytest.raises(ArtifactError) as caught:
        write_bytes(target, b"new")
    text = one_line(caught.value)
    assert str(target) in text
    assert "disk is full: free some space, or write elsewhere" in text
    assert target.read_bytes() == b"old"
    assert files_in(tmp_path) == ["a.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_a_disk_that_fills_up_while_writing(tmp_path: Path, one_line: OneLine) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def fill_the_disk() -> None:
        with atomic_path(target) as temporary:
            temporary.unlink()
            temporary.symlink_to("/dev/full")
            temporary.write_bytes(bytes(100_000))

    with pytest.raises(ArtifactError, match="disk is full") as caught:
        fill_the_disk()
    assert str(target) in one_line(caught.value)
    assert target.read_bytes() == b"old"
    assert files_in(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("below", ["out/a.txt", "out/deeper/a.txt"])
def test_a_file_where_a_folder_should_be(tmp_path: Path, below: str, one_line: OneLine) -> None:
    (tmp_path / "out").write_bytes(b"in the way")
    with pytest.raises(ArtifactError) as caught:
        write_bytes(tmp_path / below, b"new")
    assert str(tmp_path / below) in one_line(caught.value)
    assert "; choose another place" in one_line(caught.value)
    assert (tmp_path / "out").read_bytes() == b"in the way"


def test_a_folder_where_the_file_should_be(tmp_path: Path, one_line: OneLine) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(ArtifactError) as caught:
        write_bytes(tmp_path / "a.txt", b"new")
    assert str(tmp_path / "a.txt") in one_line(caught.value)
    assert files_in(tmp_path) == ["a.txt"]


def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path, one_line: OneLine) -> None:
    fifo, link = tmp_path / "fifo", tmp_path / "null"
    os.mkfifo(fifo)
    link.symlink_to("/dev/null")
    for target in (fifo, link):
        with pytest.raises(ArtifactError, match="it is no regular file") as caught:
            write_bytes(target, b"new")
        assert "; choose another place" in one_line(caught.value)
        with pytest.raises(ArtifactError, match="it is no regular file"):
            probe(target)
    assert fifo.is_fifo()
    assert link.is_symlink()
    assert files_in(tmp_path) == ["fifo", "null"]


def test_a_name_too_long_for_the_disk(tmp_path: Path, one_line: OneLine) -> None:
    with pytest.raises(ArtifactError, match="cannot write") as caught:
        write_bytes(tmp_path / ("x" * 300), b"new")
    one_line(caught.value)


def test_a_folder_without_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write everywhere
    with pytest.raises(ArtifactError, match="Permission denied") as caught:
        write_bytes(tmp_path / "out" / "a.txt", b"new")
    assert "; choose another place" in one_line(caught.value)


# -- probe --------------------------------------------------------------------------------------


def test_probing_refuses_what_writing_would(tmp_path: Path, one_line: OneLine) -> None:
    (tmp_path / "a.txt").mkdir()
    (tmp_path / "file").touch()
    for target in (tmp_path / "a.txt", tmp_path / "file" / "b.txt"):
        with pytest.raises(ArtifactError, match="choose another place with --here") as caught:
            probe(target, flags="--here")
        assert str(target) in one_line(caught.value)
    probe(tmp_path / "new" / "b.txt")
    assert files_in(tmp_path / "new") == []


def test_a_probe_makes_the_folder_and_leaves_nothing_in_it(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "new")
    files.probe(run.checkpoint)
    assert files_in(run.root) == []


def test_a_probe_keeps_what_is_in_the_folder(tmp_path: Path) -> None:
    names = ["notes.txt", "test.txt", "writable.txt"]
    for name in names:
        (tmp_path / name).write_text("mine")
    files.probe(Run(tmp_path).checkpoint)
    assert files_in(tmp_path) == names
    assert {(tmp_path / name).read_text() for name in names} == {"mine"}


def test_a_probe_finds_a_folder_that_cannot_be_written(tmp_path: Path, one_line: OneLine) -> None:
    (tmp_path / "runs").write_bytes(b"a file")
    with pytest.raises(ArtifactError, match="cannot write") as caught:
        files.probe(Run(tmp_path / "runs" / "fcn").checkpoint)
    assert "; choose another place" in one_line(caught.value)


# -- digests and JSON ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1])
def test_the_digest_is_sha256_of_the_bytes(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "a.bin").write_bytes(content[:size])
    expected = "sha256:" + hashlib.sha256(content[:size]).hexdigest()
    assert file_digest(tmp_path / "a.bin") == expected


@pytest.mark.parametrize("name", ["gone.bin", "."])
def test_the_digest_of_what_cannot_be_read(tmp_path: Path, name: str, one_line: OneLine) -> None:
    with pytest.raises(ArtifactError, match="cannot read") as caught:
        file_digest(tmp_path / name)
    assert str(tmp_path) in one_line(caught.value)


def test_json_goes_there_and_back(tmp_path: Path) -> None:
    content = {"name": "Straße", "values": [1, 2.5, None, True], "deep": {"er": {}}}
    write_json(tmp_path / "a" / "b.json", content)
    assert read_json(tmp_path / "a" / "b.json", "-") == content
    assert (tmp_path / "a" / "b.json").read_bytes().endswith(b"\n")


@pytest.mark.parametrize("content", [{"x": float("nan")}, {"x": float("inf")}, {"x": object()}])
def test_what_json_cannot_say_is_refused_and_the_old_file_stays(
    tmp_path: Path, content: Any
) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert files_in(tmp_path) == ["a.json"]


def test_a_missing_json_names_the_stage(tmp_path: Path, one_line: OneLine) -> None:
    with pytest.raises(MissingStageError) as caught:
        read_json(tmp_path / "a.json", "run `fcn-deploy bench` first")
    text = one_line(caught.value)
    assert str(tmp_path / "a.json") in text
    assert "fcn-deploy bench" in text


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b"null", b"\xff\xfe", b'{"x": 1} {', b"3"]
)
def test_a_broken_json_is_an_error_with_the_repair(
    tmp_path: Path, content: bytes, one_line: OneLine
) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        read_json(tmp_path / "a.json", "run it again")
    assert not isinstance(caught.value, MissingStageError)
    text = one_line(caught.value)
    assert str(tmp_path / "a.json") in text
    assert text.endswith("run it again")


@pytest.mark.parametrize("path", ["folder", "file/a.json"])
def test_a_json_that_cannot_be_read(tmp_path: Path, path: str, one_line: OneLine) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError) as caught:
        read_json(tmp_path / path, "run it again")
    assert str(tmp_path / path) in one_line(caught.value)
