"""A folder in VOC layout that lists each training picture of another one eight times.

    python eightfold.py DATA FOLDER

For the rate of training alone: an epoch of CamVid's 367 pictures is over in a fifth of a second on
a GPU, and what happens between two epochs would hide what the loading processes can keep up.  The
copies are links, and the decoded pictures just fit the memory that the trainer keeps them in.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from fcn_deploy.core.errors import InputError
from fcn_deploy.data.voc import VocDataset, VocLayout

TIMES = 8


def eightfold(data: Path, folder: Path) -> None:
    """Write the folder; a former one is replaced."""
    train, val = VocDataset.open(data, "train"), VocDataset.open(data, "val")
    if folder.resolve() in (data.resolve(), *data.resolve().parents):
        raise InputError(f"{folder} would replace the data that it is made of", "name another one")
    shutil.rmtree(folder, ignore_errors=True)
    for split, dataset, times in (("train", train, TIMES), ("val", val, 1)):
        names = []
        for copy in range(times):
            for name, image, mask in zip(
                dataset.names, dataset.image_paths, dataset.mask_paths, strict=True
            ):
                names.append(f"{name}-{copy}")
                for source, target in (
                    (image, folder / "JPEGImages"),
                    (mask, VocLayout(folder).mask_folder(split)),
                ):
                    target.mkdir(parents=True, exist_ok=True)
                    (target / f"{names[-1]}{source.suffix}").symlink_to(source.resolve())
        listed = VocLayout(folder).list_place(split)
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("\n".join(names) + "\n", encoding="utf-8")
    classes = data / "classes.txt"
    if classes.is_file():
        shutil.copy(classes, folder)


if __name__ == "__main__":
    eightfold(Path(sys.argv[1]), Path(sys.argv[2]))
