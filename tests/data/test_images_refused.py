"""Files that are no picture, damaged or too large are one error that names the file."""

import os
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, ImageFile

from fcn_deploy.core.errors import FcnDeployError, ImageError, PixelLimitError
from fcn_deploy.data.images import MAX_PIXELS, EncodedPicture, image_size, read_image
from fcn_deploy.data.masks import written_by_us
from tests.data.pictures import WHOLE, picture, png_of

Read = Callable[[Path], object]


def refused(read: Read, path: Path, match: str) -> str:
    """Read a file; return the text of the ImageError that must come, with file and repair."""
    with pytest.raises(ImageError, match=match) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert caught.value.repair
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


READERS = pytest.mark.parametrize("read", [read_image, image_size])


def png_header(width: int, height: int) -> bytes:
    """A well-formed PNG that declares a size and holds next to nothing."""
    return png_of((width, height, 8, 2), bytes(64))


def test_a_mode_that_is_not_converted_to_rgb_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(image: Image.Image, mode: str) -> Image.Image:  # as of LAB without LittleCMS
        raise ValueError("conversion not supported")

    path = tmp_path / "lab.tif"
    Image.new("LAB", (4, 3)).save(path)
    monkeypatch.setattr(Image.Image, "convert", convert)
    with pytest.raises(ImageError, match=r"lab\.tif is of mode LAB; save it as RGB"):
        read_image(path)


@pytest.mark.parametrize("error", [struct.error("8 bytes"), KeyError(258), MemoryError()])
def test_whatever_a_decoder_raises_is_an_error_of_the_picture(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(image: Image.Image) -> None:
        raise error

    path = tmp_path / "a.png"
    Image.new("RGB", (4, 3)).save(path)
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(ImageError, match=r"a\.png cannot be decoded \(.+\)"):
        read_image(path)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp", ".ppm"])
def test_a_truncated_picture_is_an_error(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"half{suffix}"
    Image.fromarray(picture(120, 160)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    refused(read_image, path, "half")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"hello, I am a text file\n", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"<html></html>",
        # Formats that Pillow would open.
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n",
        b"%PDF-1.4\n%%EOF\n", b"\x00\x00\x01\x00\x01\x00" + bytes(64),
    ],
    ids=["empty", "text", "jpeg-start", "png-start", "html", "PostScript", "PDF", "icon"],
)  # fmt: skip
@READERS
def test_a_file_that_is_no_picture(tmp_path: Path, read: Read, content: bytes) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(content)
    for other in (path, tmp_path):  # a folder is none either
        refused(read, other, "not a picture")
    refused(read, tmp_path / "gone.jpg", "no such picture")


@READERS
@pytest.mark.parametrize(
    "size", [(12_000, 12_000), (60_000, 60_000), (2**31 - 1, 1)], ids=["ours", "Pillow's", "line"]
)
def test_a_decompression_bomb_is_refused_by_its_header(
    tmp_path: Path, size: tuple[int, int], read: Read
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "shrink" in refused(read, path, "pixels")
    assert not written_by_us(path)


def test_the_largest_picture_allowed_is_not_called_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (MAX_PIXELS // 10_000, 10_000)).save(path, compress_level=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_size(path) == (10_000, MAX_PIXELS // 10_000)


def test_floats_of_unknown_range_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "depth.tif"
    Image.fromarray(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)).save(path)
    refused(read_image, path, "float")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "private.jpg").touch()
    monkeypatch.setattr(Image, "open", refuse)  # root may read everything
    refused(read_image, tmp_path / "private.jpg", "Permission denied")


def test_postscript_reaches_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands it to Ghostscript, which runs it."""
    path = tmp_path / "photo.jpg"
    Image.fromarray(picture()).save(path, format="EPS")
    with Image.open(path) as image:  # Pillow takes it, by its content
        assert image.format == "EPS"
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("was run"))
    with pytest.raises(ImageError, match="not a picture"):
        read_image(path)


@READERS
def test_a_pipe_is_not_waited_for(tmp_path: Path, read: Read) -> None:
    os.mkfifo(tmp_path / "photo.jpg")
    with pytest.raises(ImageError, match=r"photo\.jpg is a pipe or a device"):
        read(tmp_path / "photo.jpg")
    assert not written_by_us(tmp_path / "photo.jpg")


def tiff_of(tags: list[tuple[int, int]], pixels: bytes) -> bytes:
    """A TIFF of one part with these tags, where each place, of 8, is that of the pixels."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    start = struct.pack("<2sHI", b"II", 42, 8 + len(pixels))
    return start + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def tiff_of_channels(channels: int) -> bytes:
    """A TIFF of one pixel, of so many 8-bit channels."""
    tags = [(256, 1), (257, 1), (259, 1), (262, 1), (273, 8), (277, channels), (279, channels)]
    return tiff_of(tags, bytes(channels).ljust(16))


def tiff_in_tiles_of(side: int) -> bytes:
    """A TIFF of 8×8 grey pixels in one tile; of a large one, without its content."""
    sizes = [(256, 8), (257, 8), (258, 8), (259, 1), (262, 1), (277, 1), (322, side), (323, side)]
    tile = bytes(side * side) if side < 1000 else b""
    return tiff_of([*sizes, (324, 8), (325, side * side)], tile)


def test_a_small_tiff_in_a_huge_tile_is_refused_by_its_header() -> None:
    """Its tile would be decoded whole: 800 MB, of a file of 800 KB, for a picture of 8×8."""
    for side in (16, 512):
        assert read_image(EncodedPicture(tiff_in_tiles_of(side), "tiles")).shape == (8, 8, 3)
    with pytest.raises(PixelLimitError, match="tiles of 16384×16384; save it without"):
        read_image(EncodedPicture(tiff_in_tiles_of(16_384), "tiles"))
    number, text = (struct.pack("<HHII", 322, kind, 1, 16) for kind in (4, 2))
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_image(EncodedPicture(tiff_in_tiles_of(16).replace(number, text), "tiles"))


def test_a_tiff_of_many_channels_is_told_apart(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "satellite.tif"
    path.write_bytes(tiff_of_channels(8))
    refused(read_image, path, "holds 8 channels; save three of them as RGB")
    assert capfd.readouterr() == ("", "")  # Pillow logs what it finds


def test_a_kind_that_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(ImageError, match=r"\.heic files are not read; save it as PNG or JPEG"):
        read_image(tmp_path / "phone.HEIC")


@given(
    format=st.sampled_from(sorted(WHOLE)),
    damage=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6),
    kept=st.integers(0, 6000),
)
@settings(max_examples=250)
def test_damaged_files_give_a_picture_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, format: str, damage: list[tuple[int, int]], kept: int
) -> None:
    content = bytearray(WHOLE[format])
    for place, value in damage:
        content[place % min(len(content), 200)] = value  # the headers, where parsers stumble
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    path.write_bytes(content[:kept])
    refusals = []
    for read in (read_image, image_size):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow's would be a second line on stderr
            try:
                read(path)
            except FcnDeployError as error:
                refusals.append(str(error))
    assert all(str(path) in refusal for refusal in refusals)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the upload is not a picture"),
        (WHOLE["JPEG"][:400], "the upload cannot be decoded"),
        (png_header(12_000, 12_000), "the upload has 12000×12000 pixels"),
        (tiff_of_channels(8), "the upload holds 8 channels"),
    ],
)
def test_bytes_are_refused_by_their_name(content: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        read_image(EncodedPicture(content, "the upload"))
    assert caught.value.repair


def test_a_damaged_tiff_is_one_line(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    damaged = bytearray(tiff_of_channels(8))
    damaged[28 + 7] = 255  # the count of the first tag's values
    (tmp_path / "damaged.tif").write_bytes(damaged[:60])
    with pytest.raises(ImageError):
        read_image(tmp_path / "damaged.tif")
    assert not recwarn.list
