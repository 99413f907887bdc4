"""COCO: instances_*.json with polygons or run lengths.

Regions overlap in COCO, and the format does not say which lies on top.  Crowds lie at the bottom;
of the others larger ones lie below smaller ones, so that none is hidden; of equal ones the later
lies on top.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import DataError
from fcn_deploy.data.convert.annotations import (
    Annotations,
    ImageIndex,
    Picture,
    Region,
    damaged,
    json_objects,
    root_of,
    split_of,
    split_of_image,
    stem_of,
)
from fcn_deploy.data.convert.regions import packed, require_pycocotools, unpacked

_KEYS = {"images", "annotations", "categories"}


def read_coco(source: Path) -> Annotations:
    """Read a COCO file, or all that lie below a folder.

    Raises:
        DataError: there is none, it is damaged, two files name categories differently, or
            pycocotools is not installed.
    """
    require_pycocotools()
    files = json_objects(
        source,
        lambda content: isinstance(content, dict) and {*content} >= _KEYS,
        (f"no COCO file in {source}", "name a JSON file with images, annotations and categories"),
    )
    labels: dict[int, str] = {}
    for path, content in files.items():
        try:
            for category in content["categories"]:
                number, name = int(category["id"]), str(category["name"])
                if labels.setdefault(number, name) != name:
                    raise DataError(
                        f"{path} calls category {number} {name}, another file {labels[number]}",
                        "convert the files one by one",
                    )
        except (KeyError, TypeError, ValueError) as error:
            damaged(path, error)
    index = ImageIndex(root_of(source))

    def pictures() -> Iterator[Picture]:
        for path, content in files.items():
            try:
                yield from _pictures(path, content, labels, index)
            except (KeyError, TypeError, ValueError) as error:
                damaged(path, error)

    used = {
        one.get("category_id")
        for content in files.values()
        for one in content["annotations"]
        if isinstance(one, dict)
    }
    # Roboflow writes a category above all others, which nothing is annotated with.
    names = tuple(dict.fromkeys(labels[i] for i in sorted(labels) if i in used or i != min(labels)))
    return Annotations(names, {}, sum(len(one["images"]) for one in files.values()), pictures)


def _pictures(
    path: Path, content: dict[str, Any], labels: dict[int, str], index: ImageIndex
) -> Iterator[Picture]:
    by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    for entry in content["images"]:
        image = index.find(str(entry["file_name"]), path)
        annotations = by_image.get(entry["id"], [])

        def regions(
            size: tuple[int, int], annotations: list[dict[str, Any]] = annotations
        ) -> Iterator[tuple[str, Region]]:
            return _stacked(path, annotations, labels, size)

        yield Picture(
            stem_of(image, index.root),
            split_of(path, index.root) or split_of_image(image, index.root),
            image,
            (int(entry["height"]), int(entry["width"])),
            regions,
        )


def _stacked(
    path: Path, annotations: list[dict[str, Any]], labels: dict[int, str], size: tuple[int, int]
) -> Iterator[tuple[str, Region]]:
    found = []
    for annotation in annotations:
        try:
            label = labels[annotation["category_id"]]
            region, pixels = packed(annotation["segmentation"], size)
        except (KeyError, TypeError, ValueError) as error:
            damaged(path, error)
        found.append((not annotation.get("iscrowd"), -pixels, label, region))
    for _, _, label, region in sorted(found, key=lambda one: one[:2]):
        yield label, unpacked(region)
