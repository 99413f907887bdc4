"""YOLO: labels/NAME.txt beside images/NAME, each line a class and the corners of a polygon."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import DataError
from fcn_deploy.core.extras import require_extra
from fcn_deploy.data.convert.annotations import (
    Annotations,
    Picture,
    Region,
    damaged,
    split_of_image,
    stem_of,
)
from fcn_deploy.data.convert.regions import polygon, require_pycocotools
from fcn_deploy.data.images import is_image_name

#: Class, middle and size of a box: the labels of a detector.
_BOX = 5


def read_yolo(source: Path) -> Annotations:
    """Read a folder of YOLO's segmentation labels; the classes are those of data.yaml.

    An image without a file of labels has nothing on it.

    Raises:
        DataError: there are no labels, no list of classes, one is damaged, the labels are boxes,
            or pycocotools or PyYAML is not installed.
    """
    require_pycocotools()
    labels = _labels(source)
    images = [path for path in sorted(source.rglob("*")) if is_image_name(path)]
    if not images or not any(_text_of(path, source).is_file() for path in images):
        raise DataError(
            f"no images/ with labels/*.txt in {source}", "name the folder that holds data.yaml"
        )

    def pictures() -> Iterator[Picture]:
        for image in images:
            text = _text_of(image, source)

            def regions(size: tuple[int, int], text: Path = text) -> Iterator[tuple[str, Region]]:
                return _regions(text, labels, size)

            split = split_of_image(image, source)
            yield Picture(stem_of(image, source), split, image, None, regions)

    return Annotations(tuple(labels.values()), {}, len(images), pictures)


def _labels(source: Path) -> dict[int, str]:
    """Return number → label, of data.yaml or of classes.txt."""
    listed = next((source / name for name in ("classes.txt", "obj.names")
                   if (source / name).is_file()), None)  # fmt: skip
    files = sorted([*source.glob("*.yaml"), *source.glob("*.yml")])
    if not files and listed is not None:
        lines = listed.read_text(encoding="utf-8-sig").splitlines()
        return dict(enumerate(line.strip() for line in lines if line.strip()))
    if len(files) != 1:
        raise DataError(
            f"{len(files)} .yaml files in {source}", "one, data.yaml, is to name the classes"
        )
    require_extra(f"reading {files[0].name}", "convert", "yaml")
    import yaml

    try:
        names: Any = yaml.safe_load(files[0].read_text(encoding="utf-8-sig"))["names"]
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        return {int(number): str(name) for number, name in sorted(pairs)}
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        damaged(files[0], ValueError(str(error).splitlines()[0]))


def _text_of(image: Path, root: Path) -> Path:
    """Return the file of labels of an image: the last ``images`` of its path is ``labels``."""
    parts = list(image.relative_to(root).with_suffix(".txt").parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return root.joinpath(*parts)


def _regions(
    text: Path, labels: dict[int, str], size: tuple[int, int]
) -> Iterator[tuple[str, Region]]:
    height, width = size
    if not text.is_file():
        return
    for place, line in enumerate(text.read_text(encoding="utf-8-sig").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) == _BOX:
            raise DataError(
                f"{text}:{place} is a box, not a polygon", "export the labels of a segmentation"
            )
        try:
            number, numbers = int(words[0]), [float(word) for word in words[1:]]
            if number not in labels:
                raise ValueError(f"line {place}: class {number} has no name")
            if len(numbers) % 2 or not all(-0.5 <= one <= 1.5 for one in numbers):
                raise ValueError(f"line {place}: corners are x y pairs from 0 to 1")
        except ValueError as error:
            damaged(text, error)
        corners = zip(numbers[::2], numbers[1::2], strict=True)
        yield labels[number], polygon([(x * width, y * height) for x, y in corners], size)
