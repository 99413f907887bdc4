"""convert: annotations of another program → images/, masks/ and classes.json."""

import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fcn_deploy.core.errors import DataError
from fcn_deploy.core.files import write_error
from fcn_deploy.core.spec import IGNORE_INDEX
from fcn_deploy.data.class_json import Colour, class_json, write_class_json
from fcn_deploy.data.convert.annotations import (
    BACKGROUND_LABELS,
    VOID_LABELS,
    Annotations,
    Picture,
    paint,
)
from fcn_deploy.data.convert.coco import read_coco
from fcn_deploy.data.convert.cvat import read_cvat
from fcn_deploy.data.convert.label_studio import read_label_studio
from fcn_deploy.data.convert.labelme import read_labelme
from fcn_deploy.data.convert.supervisely import read_supervisely
from fcn_deploy.data.convert.yolo import read_yolo
from fcn_deploy.data.images import image_size
from fcn_deploy.data.masks import voc_palette, write_mask

Unlabelled = Literal["background", "void"]
READERS: dict[str, Callable[[Path], Annotations]] = {
    "coco": read_coco,
    "labelme": read_labelme,
    "cvat": read_cvat,
    "label-studio": read_label_studio,
    "yolo": read_yolo,
    "supervisely": read_supervisely,
}


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        pictures: how many of each list; of ``all`` where there are no lists.
        class_names: by index.
    """

    pictures: dict[str, int]
    class_names: tuple[str, ...]


def read_annotations(format_name: str, source: Path) -> Annotations:
    """Read annotations of a format.

    Args:
        format_name: of :data:`READERS`.
        source: a folder, or a file where the format has one.

    Raises:
        DataError: there are none, or they are damaged.
    """
    if not source.exists():
        raise DataError(f"no such file or folder: {source}", "check the path")
    annotations = READERS[format_name](source)
    if not annotations.count:
        raise DataError(f"{source} names no images", "export the annotations anew")
    return annotations


def convert(
    annotations: Annotations,
    target: Path,
    unlabelled: Unlabelled = "background",
    on_picture: Callable[[], None] = lambda: None,
) -> Converted:
    """Write annotations as images/, masks/ and classes.json, all of it or nothing.

    Args:
        annotations: what to write.
        target: a new or empty folder.
        unlabelled: what pixels of no region are.
        on_picture: called after each picture.

    Raises:
        DataError: the folder is not empty, an annotation does not fit its image, or two images
            would get one name.
        ArtifactError: the folder cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target} is not empty", "name a new folder with --out")
    names, palette = _classes(annotations, unlabelled)
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        aside.mkdir(parents=True)
        counts: dict[str, int] = {}
        taken: dict[Path, Path] = {}
        for picture in annotations.pictures():
            place = Path(picture.split or "") / picture.name
            if place in taken:
                raise DataError(
                    f"{picture.image} and {taken[place]} would both be {place}",
                    "rename one of them",
                )
            taken[place] = picture.image
            _write(picture, aside, place, names, unlabelled)
            split = picture.split or "all"
            counts[split] = counts.get(split, 0) + 1
            on_picture()
        if len(counts) > 1 and "all" in counts:
            listed = ", ".join(sorted({*counts} - {"all"}))
            raise DataError(
                f"{counts['all']} images are in no list, others in {listed}",
                "lay all images into train/, val/ or test/, or none",
            )
        write_class_json(aside, class_json(names, palette))
        if target.exists():
            target.rmdir()
        os.replace(aside, target)
    except OSError as error:
        raise write_error(target, error, flags="--out") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Converted(counts, names)


def _classes(
    annotations: Annotations, unlabelled: Unlabelled
) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    labels = [one for one in annotations.labels if one.lower() not in VOID_LABELS]
    if unlabelled == "background" and not any(one.lower() in BACKGROUND_LABELS for one in labels):
        labels.insert(0, "background")
    if not 2 <= len(labels) <= IGNORE_INDEX:
        raise DataError(
            f"the annotations have {len(labels)} labels ({', '.join(labels[:3])})",
            f"2 to {IGNORE_INDEX} can be classes",
        )
    given = [annotations.colours.get(label) for label in labels]
    shown = tuple(colour for colour in given if colour is not None)
    whole = len({*shown}) == len(labels)
    return tuple(labels), shown if whole else voc_palette(len(labels))


def _write(
    picture: Picture, folder: Path, place: Path, names: tuple[str, ...], unlabelled: Unlabelled
) -> None:
    image = folder / "images" / f"{place}{picture.image.suffix}"
    image.parent.mkdir(parents=True, exist_ok=True)
    if picture.embedded is not None:
        image.write_bytes(picture.embedded)
    size = image_size(picture.image if picture.embedded is None else image)
    if picture.size is not None and picture.size != size:
        annotated = "×".join(map(str, picture.size))
        raise DataError(
            f"{picture.image} is {size[0]}×{size[1]}, but was annotated at {annotated} "
            "(height×width)",
            "put the images there that were annotated",
        )
    index_of = {name: index for index, name in enumerate(names)}
    background = next((i for n, i in index_of.items() if n.lower() in BACKGROUND_LABELS), None)
    outside = IGNORE_INDEX if unlabelled == "void" or background is None else background
    mask = paint(picture.regions(size), size, index_of, outside)
    write_mask(folder / "masks" / f"{place}.png", mask, voc_palette(len(names)))
    if picture.embedded is None:
        shutil.copyfile(picture.image, image)
