"""Small labelled folders in each layout, all with the same pictures and masks."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.data.known_classes import camvid_classes, cityscapes_classes
from fcn_deploy.data.masks import mask_to_colour

#: Sample → indices of a few classes, and void.
Masks = Mapping[str, NDArray[np.uint8]]
SIZE = (6, 8)


def small_masks(count: int = 10) -> dict[str, NDArray[np.uint8]]:
    """Return masks of the classes 0 to 3 and void, each with all of them."""
    random = np.random.default_rng(0)
    masks = {}
    for index in range(count):
        mask = random.choice(np.array([0, 1, 2, 3, 255], np.uint8), SIZE)
        mask[0, :5] = [0, 1, 2, 3, 255]
        masks[f"a{index}"] = mask
    return masks


def write_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_values(path: Path, values: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write_pairs(
    masks: Masks,
    image_of: Callable[[str], Path],
    mask_of: Callable[[str], Path],
    stored: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = lambda mask: mask,
) -> None:
    """Write a random picture and its mask for each sample."""
    for name, mask in masks.items():
        write_image(image_of(name), int(name.removeprefix("a")))
        write_values(mask_of(name), stored(mask))


def write_classes(root: Path) -> None:
    (root / "classes.txt").write_text("a\nb\nc\nd\n")


def _parts(masks: Masks) -> dict[str, dict[str, NDArray[np.uint8]]]:
    names = list(masks)
    cut = len(names) // 2
    return {
        "train": {name: masks[name] for name in names[:cut]},
        "val": {name: masks[name] for name in names[cut:]},
    }


def images_and_masks(root: Path, masks: Masks, folder: str = "masks") -> None:
    write_pairs(masks, lambda n: root / "images" / f"{n}.jpg", lambda n: root / folder / f"{n}.png")
    write_classes(root)


def split_below(root: Path, masks: Masks) -> None:
    for split, part in _parts(masks).items():
        images, labels = root / "images" / split, root / "masks" / split
        write_pairs(
            part, (lambda n, i=images: i / f"{n}.jpg"), (lambda n, m=labels: m / f"{n}.png")
        )
    write_classes(root)


def split_above(root: Path, masks: Masks) -> None:
    for split, part in _parts(masks).items():
        inside = root / ("valid" if split == "val" else split)
        write_pairs(
            part,
            (lambda n, i=inside: i / "images" / f"{n}.jpg"),
            (lambda n, m=inside: m / "masks" / f"{n}_mask.PNG"),
        )
    write_classes(root)


def _labels_of_cityscapes(ending: str, values: list[int]) -> Callable[[Path, Masks], None]:
    table = np.zeros(256, np.uint8)
    table[:4], table[255] = values[:4], values[4]

    def write(root: Path, masks: Masks) -> None:
        for split, part in _parts(masks).items():
            images, labels = root / "leftImg8bit" / split, root / "gtFine" / split
            write_pairs(
                part,
                (lambda n, i=images: i / "ulm" / f"{n}_leftImg8bit.png"),
                (lambda n, m=labels: m / "ulm" / f"{n}_gtFine_{ending}.png"),
                lambda mask: table[mask],
            )

    return write


cityscapes_ids = _labels_of_cityscapes("labelIds", [7, 8, 11, 12, 4])
cityscapes_train_ids = _labels_of_cityscapes("labelTrainIds", [0, 1, 2, 3, 255])


def camvid(root: Path, masks: Masks) -> None:
    classes = camvid_classes()

    def coloured(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        colours = mask_to_colour(mask, classes.palette)
        colours[mask == 255] = 0
        return colours

    write_pairs(
        masks,
        lambda n: root / "701_StillsRaw_full" / f"{n}.png",
        lambda n: root / "LabeledApproved_full" / f"{n}_L.png",
        coloured,
    )


def segnet(root: Path, masks: Masks) -> None:
    table = np.arange(256, dtype=np.uint8)
    table[255] = 11
    for split, part in _parts(masks).items():
        write_pairs(
            part,
            (lambda n, i=root / split: i / f"{n}.png"),
            (lambda n, m=root / f"{split}annot": m / f"{n}.png"),
            lambda mask: table[mask],
        )


def ade(root: Path, masks: Masks) -> None:
    for split, part in _parts(masks).items():
        folder = "training" if split == "train" else "validation"
        write_pairs(
            part,
            (lambda n, f=folder: root / "images" / f / f"ADE_{f}_{n}.jpg"),
            (lambda n, f=folder: root / "annotations" / f / f"ADE_{f}_{n}.png"),
            lambda mask: mask + np.uint8(1),  # void, 255, becomes 0
        )
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    rows += [
        f"{i + 1}\t0.1\t1\t1\t0\t{name}, other word"
        for i, name in enumerate(("wall", "sky", "floor", "tree"))
    ]
    (root / "objectInfo150.txt").write_text("\n".join(rows) + "\n")


LAYOUTS: dict[str, Callable[[Path, Masks], None]] = {
    "images/ and masks/": images_and_masks,
    "images/ and labels/": lambda root, masks: images_and_masks(root, masks, "labels"),
    "images/train/": split_below,
    "train/images/": split_above,
    "Cityscapes ids": cityscapes_ids,
    "Cityscapes train ids": cityscapes_train_ids,
    "CamVid": camvid,
    "CamVid of SegNet": segnet,
    "ADE20K": ade,
}
KNOWN = {
    "Cityscapes ids": cityscapes_classes(False).names,
    "Cityscapes train ids": cityscapes_classes(True).names,
    "CamVid": camvid_classes().names,
}
