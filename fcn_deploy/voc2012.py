"""PASCAL VOC 2012: where it lies, and how it is fetched.

    data/VOCdevkit/VOC2012/   the official release: 1,464 training and 1,449 validation images
      ImageSets/Segmentation/trainaug.txt   if present: 10,582 training images, with SBD's masks
      SegmentationClassAug/                 if present: those masks

The augmented list is that of Hariharan et al., "Semantic Contours from Inverse Detectors" (2011),
in the layout in which it is passed around; nobody publishes it for download in one piece.
"""

from __future__ import annotations

from pathlib import Path

from fcn_deploy.dataset import find_voc_root
from fcn_deploy.errors import DataError

#: Where VOC 2012 is looked for, and fetched to.
DATA_FOLDER = Path("data")
URL = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"


def find_voc2012(folder: Path = DATA_FOLDER, *, download: bool = False) -> Path:
    """Return the folder in VOC layout.

    Args:
        folder: holds ``VOCdevkit/VOC2012``, or is to.
        download: fetch what is missing through torchvision, 2 GB.

    Raises:
        DataError: it is not there, or cannot be fetched.
    """
    try:
        return find_voc_root(folder)
    except DataError as error:
        if not download:
            raise DataError(
                f"no VOC 2012 in {folder}",
                f"add --download (2 GB), or unpack {URL} there; or name its folder with --data",
            ) from error
    _download(folder)
    return find_voc_root(folder)


def _download(folder: Path) -> None:
    from torchvision.datasets import VOCSegmentation

    try:
        VOCSegmentation(str(folder), year="2012", image_set="trainval", download=True)
    except (OSError, RuntimeError) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"VOC 2012 cannot be fetched ({words})", f"unpack {URL} in {folder} by other means"
        ) from error
