"""find_layout: which layout a folder of labelled images has."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from fcn_deploy.core.errors import DataError
from fcn_deploy.data import known_classes
from fcn_deploy.data.class_list import ClassList, read_class_list
from fcn_deploy.data.layout import SPLITS, Layout
from fcn_deploy.data.pair_layout import HELD_OUT, PairLayout, Part, is_mask_name, no_classes
from fcn_deploy.data.voc import VocLayout, voc_root

_IMAGES, _MASKS = ("images", "imgs"), ("masks", "labels", "annotations")
EXPECTED = (
    "expected images/ and masks/ (or labels/, annotations/), each with train/ and val/ or neither, "
    "or JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/{train,val}.txt, or the folders "
    "of Cityscapes, CamVid or ADE20K: see docs/data.md"
)
#: Entries of a folder that are told, before the rest is only counted.
_TOLD = 6
_CITYSCAPES_MASKS = ("_gtFine_labelTrainIds", "_gtFine_labelIds")
#: How the folder of masks is called beside a folder ``train`` of images.
_BESIDE = ("annot", "_annot", "_labels")


def find_layout(folder: Path, held_out: float | None = None) -> Layout:
    """Return the layout of a folder, or of the one folder inside it.

    Args:
        folder: that of ``--data``.
        held_out: the share of the images to keep for validation where the folder has no list for
            it; None for the usual one.

    Raises:
        DataError: missing, empty, or of no known layout or of two; or ``held_out`` for a folder
            that has lists.
    """
    if not folder.is_dir():
        raise DataError(f"no data folder {folder}", f"{EXPECTED}; or give `synthetic`")
    found = list(_fitting(folder, held_out))
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if not found and len(inside) == 1:  # as archives unpack
        found = list(_fitting(inside[0], held_out))
    if len(found) > 1:
        kinds = " and as ".join(kind for kind, _ in found)
        raise DataError(
            f"data folder {folder} can be read as {kinds}", "move all but one to another folder"
        )
    if not found:
        raise DataError(*_unknown(folder))
    layout = found[0][1]
    if held_out is not None and (not isinstance(layout, PairLayout) or layout.share is None):
        raise DataError(
            f"--split {held_out:g}, but {layout.root} has images of its own for val",
            "drop --split",
        )
    return layout


def _fitting(folder: Path, held_out: float | None) -> Iterator[tuple[str, Layout]]:
    root = voc_root(folder)
    if root is not None and not _lacks_lists(root):
        yield "VOC (JPEGImages/)", VocLayout(root)
    known: list[Callable[[Path, float], Iterable[PairLayout]]]
    known = [_voc_without_lists, _paired, _split_first, _cityscapes, _camvid, _beside]
    for recognise in known:
        for layout in recognise(folder, HELD_OUT if held_out is None else held_out):
            yield layout.kind, layout


def _unknown(folder: Path) -> tuple[str, str]:
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not entries:
        return f"data folder {folder} is empty", EXPECTED
    for labels, suffix, format_name in (
        ("labels", ".txt", "yolo"),
        ("annotations", ".json", "coco"),
    ):
        for place in (folder / labels, folder / "train" / labels):
            if place.is_dir() and any(path.suffix == suffix for path in place.rglob("*")):
                return (
                    f"{place} holds {suffix} files and no masks",
                    f"convert them: `fcn-deploy data convert {format_name} {folder} --out NEW`",
                )
    if (other := _other_masks(folder)) is not None:
        return other
    told = ", ".join(f"{path.name}/" if path.is_dir() else path.name for path in entries[:_TOLD])
    more = f" and {len(entries) - _TOLD} more" if len(entries) > _TOLD else ""
    return f"data folder {folder} is in no known layout: it holds {told}{more}", EXPECTED


def _other_masks(folder: Path) -> tuple[str, str] | None:
    """Return what to say of masks in files that are not read, beside images."""
    inside = _folders(folder)
    for masks in (inside[name] for name in _MASKS if name in inside and {*inside} & {*_IMAGES}):
        suffixes = {path.suffix.lower() for path in masks.rglob("*") if path.is_file()}
        if suffixes:
            return (
                f"{masks} holds no masks but {', '.join(sorted(suffixes))} files",
                "save masks as PNG (JPEG alters labels), under the names of their images",
            )
    return None


def _folders(folder: Path) -> dict[str, Path]:
    """Return the folders inside a folder by their names in lower case."""
    inside = (path for path in folder.iterdir() if path.is_dir())
    return {path.name.lower(): path for path in sorted(inside) if not path.name.startswith(".")}


def _splits(folder: Path) -> dict[str, Path]:
    """Return list → the folder inside that is called so."""
    inside = _folders(folder)
    found = {
        split: next((inside[name] for name in names if name in inside), None)
        for split, names in SPLITS.items()
    }
    return {split: path for split, path in found.items() if path is not None}


def _holds_masks(folder: Path) -> bool:
    return any(is_mask_name(path) for path in folder.rglob("*"))


def _images_and_masks(folder: Path) -> Iterator[tuple[Path, Path]]:
    inside = _folders(folder)
    images = next((inside[name] for name in _IMAGES if name in inside), None)
    for name in _MASKS:
        if images is not None and name in inside and _holds_masks(inside[name]):
            yield images, inside[name]


def _share(parts: dict[str, Part], held_out: float) -> float | None:
    """Return the share of the names to hold out, None where there are images for val.

    Where it is one of train/, that prefix goes: names must stay the same once val/ has been made.
    """
    if "val" in parts:
        return None
    if "train" in parts:
        parts["train"] = replace(parts["train"], prefix="")
    return held_out if {*parts} & {"train", "all"} else None


def _voc_without_lists(folder: Path, held_out: float) -> Iterator[PairLayout]:
    root = voc_root(folder)
    if root is None or not _lacks_lists(root):
        return
    yield PairLayout(
        root,
        "VOC without lists (JPEGImages/ and SegmentationClass/)",
        {"all": Part(root / "JPEGImages", root / "SegmentationClass")},
        held_out,
        known_classes=_voc_classes,
    )


def _lacks_lists(root: Path) -> bool:
    """Say whether a folder in VOC layout has masks, and no list says which are for what."""
    return not VocLayout(root).lists() and _holds_masks(root / "SegmentationClass")


def _voc_classes(layout: PairLayout) -> ClassList:
    return read_class_list(layout.root)


def _paired(folder: Path, held_out: float) -> Iterator[PairLayout]:
    for images, masks in _images_and_masks(folder):
        kind = f"{images.name}/ and {masks.name}/"
        image_splits, mask_splits = _splits(images), _splits(masks)
        if not image_splits and mask_splits:
            raise DataError(
                f"{masks} has {next(iter(mask_splits.values())).name}/, but {images} has not",
                "lay out the images as their masks are",
            )
        parts = {
            split: Part(path, _masks_of(path, masks, mask_splits, split), f"{split}/")
            for split, path in image_splits.items()
        } or {"all": Part(images, masks)}
        share = _share(parts, held_out)
        if _is_ade(folder, parts):
            yield PairLayout(folder, "ADE20K", parts, share, known_classes=_ade_classes)
        else:
            yield PairLayout(folder, kind, parts, share)


def _ade_classes(layout: PairLayout) -> ClassList:
    return known_classes.ade_classes(layout.root)


def _masks_of(images: Path, masks: Path, mask_splits: dict[str, Path], split: str) -> Path | None:
    if mask_splits:
        return mask_splits.get(split)
    return masks  # all in one folder


def _is_ade(folder: Path, parts: dict[str, Part]) -> bool:
    if (folder / known_classes.ADE_LIST).is_file():
        return True
    train = parts.get("train")
    return train is not None and any(train.images.glob("ADE_train_*"))


def _split_first(folder: Path, held_out: float) -> Iterator[PairLayout]:
    parts: dict[str, Part] = {}
    kinds = []
    for split, path in _splits(folder).items():
        pairs = list(_images_and_masks(path))
        if len(pairs) > 1:
            names = " and ".join(f"{masks.name}/" for _, masks in pairs)
            raise DataError(f"{path} has masks in {names}", "move all but one to another folder")
        images = next((_folders(path)[name] for name in _IMAGES if name in _folders(path)), None)
        if pairs:
            parts[split] = Part(*pairs[0], f"{split}/")
            kinds.append(f"{path.name}/{pairs[0][0].name}/ and {path.name}/{pairs[0][1].name}/")
        elif images is not None:
            parts[split] = Part(images, None, f"{split}/")
    if kinds:
        yield PairLayout(folder, kinds[0], parts, _share(parts, held_out))


def _cityscapes(folder: Path, held_out: float) -> Iterator[PairLayout]:
    inside = _folders(folder)
    if "leftimg8bit" not in inside or "gtfine" not in inside:
        return
    images, masks = inside["leftimg8bit"], inside["gtfine"]
    mask_splits = _splits(masks)
    parts = {split: Part(path, mask_splits.get(split)) for split, path in _splits(images).items()}
    if not parts:
        return
    trained = parts[next(iter(parts))].masks
    train_ids = trained is not None and any(trained.rglob(f"*{_CITYSCAPES_MASKS[0]}.png"))
    ending = _CITYSCAPES_MASKS[0 if train_ids else 1]

    def classes(_layout: PairLayout) -> ClassList:
        return known_classes.cityscapes_classes(train_ids)

    yield PairLayout(
        folder,
        f"Cityscapes ({ending.removeprefix('_gtFine_')})",
        parts,
        _share(parts, held_out),
        "_leftImg8bit",
        (ending,),
        classes,
    )


def _camvid(folder: Path, held_out: float) -> Iterator[PairLayout]:
    inside = _folders(folder)
    images = [path for name, path in inside.items() if name.startswith("701_stillsraw")]
    masks = [path for name, path in inside.items() if name.startswith("labeledapproved")]
    if len(images) != 1 or len(masks) != 1:
        return
    yield PairLayout(
        folder,
        f"CamVid ({images[0].name}/ and {masks[0].name}/)",
        {"all": Part(images[0], masks[0])},
        held_out,
        mask_endings=("_L", ""),
        known_classes=_camvid_classes,
    )


def _beside(folder: Path, held_out: float) -> Iterator[PairLayout]:
    """Recognise train/ beside trainannot/ (SegNet's CamVid) or train_labels/."""
    inside = _folders(folder)
    for ending in _BESIDE:
        parts = {
            split: Part(path, inside.get(path.name.lower() + ending), f"{split}/")
            for split, path in _splits(folder).items()
            if not path.name.lower().endswith(ending)
        }
        if not any(part.masks for part in parts.values()):
            continue
        segnet = ending == "annot"
        kind = f"train/ and train{ending}/"
        yield PairLayout(
            folder,
            f"CamVid as in SegNet ({kind})" if segnet else kind,
            parts,
            _share(parts, held_out),
            mask_endings=("", "_L", "_mask"),
            known_classes=_segnet_classes if segnet else no_classes,
        )


def _segnet_classes(_layout: PairLayout) -> ClassList:
    return known_classes.segnet_classes()


def _camvid_classes(_layout: PairLayout) -> ClassList:
    return known_classes.camvid_classes()
