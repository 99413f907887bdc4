"""PASCAL VOC 2012: where it lies, and how it is fetched.

    data/VOCdevkit/VOC2012/   the official release: 1,464 training and 1,449 validation images
      ImageSets/Segmentation/trainaug.txt   if present: 10,582 training images, with SBD's masks
      SegmentationClassAug/                 if present: those masks

The augmented list is that of Hariharan et al., "Semantic Contours from Inverse Detectors" (2011),
in the layout in which it is passed around; nobody publishes it for download in one piece.
"""

import os
import shutil
from pathlib import Path

from fcn_deploy.core.errors import DataError
from fcn_deploy.core.extras import require_extra
from fcn_deploy.data.voc import VocLayout

#: Where VOC 2012 is looked for, and fetched to.
DATA_FOLDER = Path("data")
URL = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"


#: Names of the official lists.
LISTS = {"train": 1464, "val": 1449}


def find_voc2012(folder: Path = DATA_FOLDER, *, download: bool = False) -> Path:
    """Return the folder in VOC layout.

    Args:
        folder: holds ``VOCdevkit/VOC2012``, or is to.
        download: fetch it through torchvision if it is not there, 2 GB.

    Raises:
        DataError: it is not there, not whole, or cannot be fetched.
    """
    root = folder / "VOCdevkit" / "VOC2012"
    if not root.is_dir():
        if not download:
            raise DataError(
                f"no VOC 2012 in {folder} (VOCdevkit/VOC2012)",
                f"add --download (2 GB), or unpack {URL} there; or name its folder with --data",
            )
        _download(root)
    _require_whole(root)
    return root


def _require_whole(root: Path) -> None:
    """Refuse what was unpacked in part: its first missing file would seem to be the user's fault.

    Raises:
        DataError: a list is short, or names what is not there.
    """
    layout = VocLayout(root)
    try:
        for split, length in LISTS.items():
            names = layout.lines(split)
            if len(names) != length:
                raise DataError(f"{split}.txt has {len(names)} names, not {length}")
            for name in names:
                layout.image(name, split)
                layout.mask(name, split)
    except DataError as error:
        raise DataError(
            f"VOC 2012 in {root} is not whole: {error.message}",
            f"remove it and add --download, or unpack {URL} there again",
        ) from error


def _download(root: Path) -> None:
    """Fetch and unpack beside ``root``, and move it there when it is whole."""
    require_extra(
        "downloading VOC 2012", "train", "torchvision",
        otherwise=f", or unpack {URL} in {root.parents[1]} by other means",
    )  # fmt: skip
    from torchvision.datasets import VOCSegmentation

    aside = root.parents[1] / ".voc2012"  # kept if this ends early: a whole archive is used again
    try:
        VOCSegmentation(str(aside), year="2012", image_set="trainval", download=True)
        root.parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside / "VOCdevkit" / "VOC2012", root)
    except (OSError, RuntimeError) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"VOC 2012 cannot be fetched ({words})",
            f"unpack {URL} in {root.parents[1]} by other means",
        ) from error
    shutil.rmtree(aside, ignore_errors=True)
