"""Any picture a user may have comes in upright as RGB."""

import struct
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.data import images
from fcn_deploy.data.images import IMAGE_SUFFIXES, EncodedPicture, image_size, read_image
from tests.data.pictures import WHOLE, picture
from tests.decoding import PATIENCE

ORIENTATION_TAG = 0x0112
#: EXIF orientation → what a camera stored, given the upright picture.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


# -- pictures that are read ---------------------------------------------------------------------


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_we_look_for_can_be_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(picture()).save(path)
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.shape == (30, 42, 3)
    assert image_size(path) == (30, 42)
    assert np.abs(image.astype(int) - picture()).mean() < 12  # some formats lose a little


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_upright(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    upright = picture()
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    path = tmp_path / f"turned{suffix}"
    stored.save(path, exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(read_image(path), upright)
    assert image_size(path) == (30, 42)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_a_jpeg(tmp_path: Path, orientation: int) -> None:
    corner_is_red = np.zeros((32, 48, 3), np.uint8)
    corner_is_red[:16, :16] = (255, 0, 0)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](corner_is_red)))
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    path = tmp_path / "camera.jpg"
    stored.save(path, exif=exif, quality=95)
    image = read_image(path)
    assert image.shape == corner_is_red.shape
    assert image_size(path) == (32, 48)
    assert np.abs(image.astype(int) - corner_is_red).mean() < 5


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_is_scaled_to_eight(tmp_path: Path, suffix: str) -> None:
    grey = np.array([[0, 128, 129, 257], [32768, 65535, 65407, 65406]], np.uint16)
    path = tmp_path / f"grey{suffix}"
    Image.fromarray(grey).save(path)
    expected = np.rint(grey / 257).astype(np.uint8)
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.repeat(expected[:, :, None], 3, axis=2))
    assert image_size(path) == (2, 4)


def test_every_sixteen_bit_value_is_rounded_to_the_nearest_of_eight(tmp_path: Path) -> None:
    grey = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    expected = np.rint(grey / 257).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png")[:, :, 1], expected)


def test_big_endian_sixteen_bit_grey(tmp_path: Path) -> None:
    grey = np.array([[0, 257 * 7], [257 * 200, 65535]], np.uint16)
    path = tmp_path / "grey.tif"
    Image.frombytes("I;16B", (2, 2), grey.astype(">u2").tobytes()).save(path)
    np.testing.assert_array_equal(read_image(path)[:, :, 1], [[0, 7], [200, 255]])


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "grey.png"), np.repeat(grey[:, :, None], 3, axis=2)
    )


def test_black_and_white_becomes_0_and_255(tmp_path: Path) -> None:
    bits = np.array([[True, False], [False, True]])
    Image.fromarray(bits).save(tmp_path / "fax.png")
    np.testing.assert_array_equal(read_image(tmp_path / "fax.png")[:, :, 2], [[255, 0], [0, 255]])


def test_alpha_is_dropped(tmp_path: Path) -> None:
    alpha = np.full((30, 42, 1), 77, np.uint8)
    Image.fromarray(np.concatenate([picture(), alpha], axis=2)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture())


def test_grey_with_alpha(tmp_path: Path) -> None:
    Image.merge("LA", [Image.new("L", (4, 3), 90), Image.new("L", (4, 3), 10)]).save(
        tmp_path / "la.png"
    )
    np.testing.assert_array_equal(read_image(tmp_path / "la.png"), np.full((3, 4, 3), 90))


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128, 255])])
def test_palette_pictures_give_their_colours_without_a_warning(
    tmp_path: Path, transparency: int | bytes | None
) -> None:
    indices = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    colours = np.array([(10, 20, 30), (200, 0, 90), (0, 255, 7)], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    extra = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "palette.png", **extra)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), colours[indices])


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=100)
    red, green, blue = (int(value) for value in read_image(tmp_path / "print.jpg")[8, 8])
    assert red > 245
    assert max(green, blue) < 10


def test_a_single_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "dot.png")
    np.testing.assert_array_equal(read_image(tmp_path / "dot.png"), [[[1, 2, 3]]])


# -- JPEGs --------------------------------------------------------------------------------------


def as_pillow_reads(content: bytes) -> NDArray[np.uint8]:
    with Image.open(BytesIO(content)) as image:
        return np.array(image.convert("RGB"))


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    quality=st.integers(1, 100),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    progressive=st.booleans(),
    restart=st.integers(0, 5),
    seed=st.integers(0, 2**16),
)
def test_every_jpeg_gives_the_pixels_that_pillow_gives(
    tmp_path_factory: pytest.TempPathFactory,
    height: int,
    width: int,
    quality: int,
    subsampling: str,
    progressive: bool,
    restart: int,
    seed: int,
) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    stream = BytesIO()
    Image.fromarray(noise).save(
        stream, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive,
        restart_marker_blocks=restart,
    )  # fmt: skip
    path = tmp_path_factory.getbasetemp() / "any.jpg"
    path.write_bytes(stream.getvalue())
    image = read_image(path)
    assert image.flags.writeable
    np.testing.assert_array_equal(image, as_pillow_reads(stream.getvalue()))


@pytest.mark.parametrize(
    ("mode", "options"),
    [("L", {}), ("CMYK", {}), ("RGB", {"keep_rgb": True})],
    ids=["grey", "print", "RGB unconverted"],
)
def test_jpegs_of_other_colours(tmp_path: Path, mode: str, options: dict[str, bool]) -> None:
    path = tmp_path / "other.jpg"
    Image.fromarray(picture()).convert(mode).save(path, **options)
    np.testing.assert_array_equal(read_image(path), as_pillow_reads(path.read_bytes()))


def test_an_orientation_that_stands_in_xmp(tmp_path: Path) -> None:
    """Pillow's releases differ in whether they heed it; we follow the one that is installed."""
    path = tmp_path / "edited.jpg"
    xmp = b'http://ns.adobe.com/xap/1.0/\x00<x tiff:Orientation="6"/>'
    segment = b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp
    path.write_bytes(WHOLE["JPEG"][:2] + segment + WHOLE["JPEG"][2:])
    assert image_size(path) == read_image(path).shape[:2]


def test_the_first_picture_of_several_counts(tmp_path: Path) -> None:
    path = tmp_path / "stereo.jpg"
    first, second = Image.fromarray(picture()), Image.new("RGB", (42, 30))
    first.save(path, format="MPO", save_all=True, append_images=[second])
    np.testing.assert_array_equal(read_image(path), as_pillow_reads(path.read_bytes()))
    assert read_image(path).any()


# -- threads ------------------------------------------------------------------------------------


def test_threads_that_decode_leave_the_warnings_filters_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_inside, first_has_left = threading.Barrier(2), threading.Event()
    files = [tmp_path / "first.png", tmp_path / "last.png"]
    for path in files:
        Image.new("RGB", (3, 2)).save(path)

    def upright(image: Image.Image, *, in_place: bool) -> None:
        both_inside.wait(PATIENCE)
        assert "first" in str(image.filename) or first_has_left.wait(PATIENCE)  # type: ignore[attr-defined]

    monkeypatch.setattr(images.ImageOps, "exif_transpose", upright)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        with ThreadPoolExecutor(2) as pool:
            first, last = (pool.submit(read_image, path) for path in files)
            first.result(PATIENCE)
            first_has_left.set()
            last.result(PATIENCE)
        assert list(warnings.filters) == before


@pytest.mark.parametrize("format", sorted(WHOLE))
def test_bytes_are_read_as_their_file_is(tmp_path: Path, format: str) -> None:
    path = tmp_path / "picture"
    path.write_bytes(WHOLE[format])
    in_memory = EncodedPicture(WHOLE[format], "the upload")
    np.testing.assert_array_equal(read_image(in_memory), read_image(path))
