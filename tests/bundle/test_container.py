"""The archive: any zip tool reads it, and it reads back what itself writes and nothing else."""

import io
import random
import zipfile
from pathlib import Path

import pytest

from fcn_deploy.bundle.container import Archive, name_problem, write_archive
from fcn_deploy.bundle.extraction import extract
from fcn_deploy.core.errors import BundleError, WriteError
from tests.bundle.archives import HOSTILE, contents_of, pack
from tests.bundle.conftest import Bundled

#: What is said of each kind of hostile archive; of those with several reasons, any.
SAID = {
    "traversal": ("leads out",),
    "absolute": ("absolute path",),
    "drive": ("names a drive",),
    "link": ("is a link",),
    "device": ("is a device", "other attributes"),
    "windows device": ("is a device on Windows",),
    "duplicate": ("is there twice",),
    "case collision": ("is there twice",),
    "unknown name": ("is no name", "only the archive holds"),
    "bomb": ("is compressed",),
    "truncated": ("is truncated", "end record"),
    "padded": ("truncated", "end record", "holds more"),
    "encrypted": ("is encrypted",),
    "zip64 size": ("is compressed", "zip64"),
    "zip64 place": ("zip64",),
    "larger than it is": ("is compressed",),
    "overlapping": ("overlaps",),
    "other checksum": ("header of",),
    "zip64": ("zip64",),
    "wrong count": ("end record", "directory", "files"),
}


def test_any_zip_tool_reads_it(tmp_path: Path) -> None:
    contents = {"fcn-deploy.json": b"{}", "engines/a.plan": b"\0" * 1000, "Kitfile": b""}
    packed = pack(tmp_path / "a.zip", contents)
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == contents
    assert contents_of(packed) == contents


def test_equal_files_give_equal_bytes(tmp_path: Path) -> None:
    contents = {"b.json": b"1", "a.json": b"2"}
    one, other = (pack(tmp_path / name, contents).read_bytes() for name in ("1.zip", "2.zip"))
    assert one == other
    assert list(contents_of(tmp_path / "1.zip")) == ["b.json", "a.json"]  # the order is kept


@pytest.mark.parametrize(
    "name",
    ["../a", "a/../../b", "/a", "C:a", "a\\b", "a b", "", "a//b", "a/b/c", "nul", "x.", ".x"],
)
def test_names_that_it_does_not_take(name: str, tmp_path: Path) -> None:
    assert name_problem(name) is not None
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(BundleError):
        write_archive(tmp_path / "a.zip", {name: tmp_path / "file"})
    assert not (tmp_path / "a.zip").exists()


def refusal(content: bytes, folder: Path) -> str:
    """Return what is said of an archive that must be refused before anything is written."""
    hostile, target = folder / "hostile.fcnd.zip", folder / "out"
    hostile.write_bytes(content)
    target.mkdir(exist_ok=True)
    before = sorted(folder.rglob("*"))
    with pytest.raises(BundleError) as caught:
        extract(hostile, target)
    assert sorted(folder.rglob("*")) == before
    assert list(target.iterdir()) == []
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    return line


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", HOSTILE)
def test_200_hostile_archives_are_refused_and_nothing_is_written(
    kind: str, bundled: Bundled, tmp_path: Path
) -> None:
    content = bundled.bundle.read_bytes()
    names = list(contents_of(bundled.bundle))
    assert len(HOSTILE) * 10 == 200
    for seed in range(10):
        chance = random.Random(f"{kind} {seed}")
        line = refusal(HOSTILE[kind](content, chance.choice(names[1:]), chance), tmp_path)
        assert any(words in line for words in SAID[kind]), line


def test_a_place_that_cannot_be_written_is_named_with_what_chooses_it(
    bundled: Bundled, tmp_path: Path
) -> None:
    with pytest.raises(WriteError, match=r"cannot write .* with TMPDIR"):
        extract(bundled.bundle, tmp_path / "not" / "there")


def test_no_header_can_be_changed(tmp_path: Path) -> None:
    """Every bit outside the contents is decided by the contents, so each that flips is noticed."""
    packed = pack(tmp_path / "a.zip", {"a.json": b"12345", "engines/b.plan": b"67"})
    content = packed.read_bytes()
    with packed.open("rb") as stream:
        members = Archive(packed, stream).members.values()
        inside = {
            place for member in members for place in range(member.end - member.size, member.end)
        }
    for place in sorted(set(range(len(content))) - inside):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            with pytest.raises(BundleError):
                Archive(packed, io.BytesIO(flipped))


@pytest.mark.parametrize("count", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_a_flipped_byte_is_named_by_its_file(count: int, bundled: Bundled, tmp_path: Path) -> None:
    content = bundled.bundle.read_bytes()
    with bundled.bundle.open("rb") as stream:
        members = Archive(bundled.bundle, stream).members
    chance = random.Random(count)
    for number in range(count):
        place = chance.randrange(len(content))
        flipped = bytearray(content)
        flipped[place] ^= 1 << chance.randrange(8)
        damaged, folder = tmp_path / "damaged.fcnd.zip", tmp_path / str(number)
        damaged.write_bytes(flipped)
        folder.mkdir()
        hit = [name for name, member in members.items() if member.start <= place < member.end]
        try:
            extraction = extract(damaged, folder)
        except BundleError as error:  # its form, or its manifest
            said = str(error)
            assert not hit or hit[0] in said
            assert list(folder.iterdir()) == []
        else:
            (said,) = extraction.faults
            assert said.startswith(f"{hit[0]} is damaged")
            assert not (folder / hit[0]).exists()
            with pytest.raises(BundleError, match=hit[0].replace(".", r"\.")):
                extraction.require_whole()
