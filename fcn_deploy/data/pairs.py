"""Whether an image and its mask fit each other: their sizes, and what EXIF does to them."""

from pathlib import Path

from fcn_deploy.core.errors import DataError
from fcn_deploy.data.images import SIDEWAYS, exif_orientation

Size = tuple[int, int]


def size_mismatch(image: Path, image_size: Size, mask: Path, mask_size: Size) -> DataError | None:
    """Return what is wrong with a pair of different sizes; None if they are equal.

    Args:
        image: the image's file.
        image_size: (height, width), turned upright.
        mask: the mask's file.
        mask_size: (height, width), likewise.

    Raises:
        ImageError: a header cannot be read.
    """
    if image_size == mask_size:
        return None
    words = f"{image} is {_hw(image_size)} but its mask {mask} is {_hw(mask_size)} (height×width)"
    if image_size == mask_size[::-1]:
        for turned, other in (("image", "mask"), ("mask", "image")):
            orientation = exif_orientation(image if turned == "image" else mask)
            if orientation in SIDEWAYS:
                return DataError(
                    f"{words}: EXIF orientation {orientation} turns the {turned} by 90°",
                    f"turn the {other} by 90° too; or, if they fit as they are stored, take the "
                    f"orientation out of the {turned} (exiftool -Orientation= FILE)",
                )
    return DataError(words, "make the pair the same size or take it off the list")


def turned_alone(image: Path, mask: Path, size: Size) -> bool:
    """Say whether EXIF turns an image but not its mask, and their sizes do not tell if it should.

    Args:
        image: the image's file.
        mask: the mask's file.
        size: (height, width) of both.

    Raises:
        ImageError: a header cannot be read.
    """
    orientation = exif_orientation(image)
    if orientation in (1, exif_orientation(mask)):
        return False
    return orientation not in SIDEWAYS or size[0] == size[1]


def _hw(size: Size) -> str:
    return f"{size[0]}×{size[1]}"
