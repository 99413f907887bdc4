"""Annotations: what every format is read as, and how it becomes a mask.

    reader(folder) ─▶ Annotations(labels, pictures) ─paint─▶ masks ─▶ images/, masks/, classes.json

A reader says what is where; only pixels decide what lies on top.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import DataError
from fcn_deploy.core.spec import IGNORE_INDEX
from fcn_deploy.data.class_json import Colour
from fcn_deploy.data.images import is_image_name
from fcn_deploy.data.layout import SPLITS

Region = NDArray[np.bool_]
#: Labels that mean void in every format.
VOID_LABELS = frozenset({"void", "ignore", "__ignore__", "unlabeled", "unlabelled"})
#: Labels that mean what nobody has drawn.
BACKGROUND_LABELS = frozenset({"background", "_background_", "bg"})
_ANEW = "export the annotations anew"
#: Folders that stand in no picture's name.
_UNNAMED = {"images", "image", "img", "imgs"}.union(*SPLITS.values())


@dataclass(frozen=True)
class Picture:
    """One annotated picture.

    Attributes:
        name: without suffix; sub-folders with ``/``.
        split: ``train``, ``val``, ``test``; None where the format has no lists.
        image: the file.
        size: (height, width) by the annotation; None where it does not say.
        regions: (label, bool [H, W]), the lower ones first; made when they are asked for, for the
            size of the image.
        embedded: the file's content where only the annotation holds it.
    """

    name: str
    split: str | None
    image: Path
    size: tuple[int, int] | None
    regions: Callable[[tuple[int, int]], Iterable[tuple[str, Region]]]
    embedded: bytes | None = None


@dataclass(frozen=True)
class Annotations:
    """Everything that was annotated.

    Attributes:
        labels: in the order of the format.
        colours: of the labels that have one.
        count: of pictures.
        pictures: one after another.
    """

    labels: tuple[str, ...]
    colours: dict[str, Colour]
    count: int
    pictures: Callable[[], Iterator[Picture]]


def paint(
    regions: Iterable[tuple[str, Region]],
    size: tuple[int, int],
    index_of: dict[str, int],
    unlabelled: int,
) -> NDArray[np.uint8]:
    """Return a mask of classes: later regions lie on top.

    Args:
        regions: label and where it is.
        size: (height, width).
        index_of: label → class; void labels need not be in it.
        unlabelled: what pixels of no region are.

    Returns:
        uint8 [H, W].

    Raises:
        DataError: a region has another label.
    """
    mask = np.full(size, unlabelled, np.uint8)
    for label, region in regions:
        if label not in index_of and label.lower() not in VOID_LABELS:
            raise DataError(f"a region is labelled {label}, which no list of labels has", _ANEW)
        mask[region] = index_of.get(label, IGNORE_INDEX)
    return mask


class ImageIndex:
    """Finds images below a folder by what annotations call them.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(self.root.rglob("*")):
            if is_image_name(path):
                found[path.name].append(path)
        return found

    def find(self, called: str, annotation: Path, *others: str) -> Path:
        """Return the image that an annotation means.

        Args:
            called: a name, or a path of which the end counts.
            annotation: the file that calls it so; of several images the nearest is meant.
            others: names to try besides.

        Raises:
            DataError: there is none, or several are as near.
        """
        for text in (called, *others):
            parts = PurePosixPath(text.replace("\\", "/")).parts
            candidates = self._by_name.get(parts[-1], []) if parts else []
            for length in range(len(parts), 0, -1):
                fitting = [path for path in candidates if path.parts[-length:] == parts[-length:]]
                if fitting:
                    return self._nearest(fitting, annotation, called)
        raise DataError(
            f"{annotation} names the image {called}, which is not below {self.root}",
            "put the images into that folder",
        )

    def _nearest(self, fitting: list[Path], annotation: Path, called: str) -> Path:
        if len(fitting) == 1:
            return fitting[0]
        same = [
            path
            for path in fitting
            if split_of_image(path, self.root) == split_of(annotation, self.root)
        ]
        if len(same) == 1:
            return same[0]
        raise DataError(
            f"{annotation} names the image {called}, and there are {len(fitting)} of that name "
            f"below {self.root}",
            "give the images names of their own",
        )


def split_of(path: Path, root: Path) -> str | None:
    """Return the list that a file of annotations is, by its folders or its own name, or None."""
    relative = path.relative_to(root)
    return _split_in((*relative.parts[:-1], relative.stem))


def split_of_image(path: Path, root: Path) -> str | None:
    """Return the list that one image belongs to by its folders, or None.

    Its own name says nothing: `train_station.jpg` may be for testing.
    """
    return _split_in(path.relative_to(root).parts[:-1])


def _split_in(parts: Sequence[str]) -> str | None:
    for part in reversed(parts):
        words = "".join(c if c.isalpha() else " " for c in part.lower()).split()
        for split, names in SPLITS.items():
            if {*words} & {*names}:
                return split
    return None


def read_object(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path} ({error})", _ANEW) from error


def json_objects(
    source: Path, is_one: Callable[[Any], bool], refusal: tuple[str, str]
) -> dict[Path, Any]:
    """Return the JSON files of a format, below a folder or the one named, with their contents.

    Raises:
        DataError: one is not JSON; or there is none, in the words of ``refusal``.
    """
    found = {path: content for path in json_files(source) if is_one(content := read_object(path))}
    if not found:
        raise DataError(*refusal)
    return found


def json_files(source: Path) -> list[Path]:
    """Return the JSON files below a folder, or the file itself."""
    if source.is_file():
        return [source]
    return [path for path in sorted(source.rglob("*.json")) if not path.name.startswith(".")]


def damaged(path: Path, error: Exception) -> NoReturn:
    """Raise that an annotation is not as its format has it."""
    words = f"no {error}" if isinstance(error, KeyError) else str(error)
    raise DataError(f"{path} is not as its format has it ({words})", _ANEW) from error


def root_of(source: Path) -> Path:
    """Return the folder of a source that may be a single file."""
    return source if source.is_dir() else source.parent


def stem_of(image: Path, root: Path) -> str:
    """Return the name of an image without its suffix and the folders of lists and images."""
    *folders, name = image.relative_to(root).with_suffix("").parts
    own = [one for one in folders if _split_in([one]) is None and one.lower() not in _UNNAMED]
    return "/".join([*own, name])
