"""Journals of `predict` → the few predictions that a person should look at.

Lines are read one by one, once, and few of them are kept: a journal may hold millions.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fcn_deploy.core.errors import ArtifactError
from fcn_deploy.results.fields import Fields, finite

#: Of a journal's head, its first line.
KIND, SCHEMA = "predictions", 1
#: Longest head that is read: thousands of names of classes fit.
HEAD_BYTES = 1 << 20
#: Most pictures that are chosen, and how many of one class before the next class has its turn.
CHOSEN, OF_A_CLASS = 24, 3


def state_of(size: int, mark: int) -> int:
    """Return 64 bits of a picture's size and of its time or checksum; never 0, which is none."""
    return (mark * 0x9E3779B97F4A7C15 + size * 0xBF58476D1CE4E5B9 + 1) & (1 << 64) - 1 or 1


@dataclass(frozen=True)
class PredictedPicture:
    """A line of a journal, with the line's names; ``uncertainty`` is None where it is not known."""

    source: str
    mask: str
    state: str
    size: tuple[int, int]
    shares: Mapping[str, float]
    uncertainty: float | None


class Predictions:
    """What the journals of one folder hold.

    Attributes:
        folder: of the journals and the masks.
        model: backend and precision.
        class_names: by class index.
        pictures, failed, unknown: how many have a mask, have none, have a mask and no uncertainty.
        others: how many maps and films have a mask.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model, self.class_names = "", tuple[str, ...]()
        self.pictures = self.failed = self.unknown = self.others = 0
        self._uncertain = _First()
        self._of_class: dict[str, _First] = defaultdict(_First)

    def read(self, file: Path) -> None:
        """Add a journal.

        Raises:
            ArtifactError: it cannot be read, or is none.
        """
        repair = "run `fcn-deploy predict` again, or delete it"
        try:
            with file.open("rb") as stream:
                try:
                    head = json.loads(stream.readline(HEAD_BYTES))
                    known = (head["kind"], head["schema"]) == (KIND, SCHEMA)
                except (ValueError, TypeError, KeyError):
                    known = False
                if not known:
                    raise ArtifactError(f"{file} does not begin as a journal does", repair)
                fields = Fields(head, file, repair)
                self.model = f"{fields.text('backend')} {fields.text('precision')}"
                self.class_names = fields.texts("classes")
                for line in stream:
                    self._add(line)
        except OSError as error:
            raise ArtifactError(f"cannot read {file}: {error.strerror}", repair) from error

    def _add(self, content: bytes) -> None:
        """Count a line; one that a kill has torn, or a person has damaged, counts for nothing."""
        try:
            line = json.loads(content)
            if line["mask"] is None:
                self.failed += 1
                return
            source, mask, state = (str(line[name]) for name in ("source", "mask", "state"))
            if not mask.endswith(".png"):
                self.others += 1
                return
            height, width = (int(length) for length in line["size"])
            shares = line["shares"]
            areas = {name: round(share * height * width) for name, share in shares.items()}
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return
        uncertainty = finite(line.get("uncertainty"))
        picture = PredictedPicture(source, mask, state, (height, width), shares, uncertainty)
        self.pictures += 1
        if uncertainty is None:
            self.unknown += 1
        else:
            self._uncertain.add(uncertainty, picture)
        for name, area in areas.items():
            self._of_class[name].add(shares[name], picture, area)

    def classes(self) -> Iterator[tuple[str, float, int]]:
        """Yield each class's name, share of all pixels and number of pictures, the rarest first."""
        total = sum(each.pixels for each in self._of_class.values()) or 1
        for name, each in sorted(
            self._of_class.items(), key=lambda entry: (entry[1].pixels, entry[0])
        ):
            yield name, each.pixels / total, each.pictures

    def chosen(self) -> Iterator[tuple[str | None, PredictedPicture]]:
        """Yield the pictures to look at, those of rare classes with the class.

        Half are the least certain ones, where uncertainties are known; then come those of the
        rarest class, of the next one, and so on, and again from the first.
        """
        taken: set[str] = set()
        for picture in _fresh(self._uncertain, taken, CHOSEN // 2):
            yield None, picture
        waiting = [(name, iter(self._of_class[name])) for name, _, _ in self.classes()]
        while waiting:
            left = []
            for name, pictures in waiting:
                some = list(_fresh(pictures, taken, min(OF_A_CLASS, CHOSEN - len(taken))))
                yield from ((name, picture) for picture in some)
                if some:
                    left.append((name, pictures))
            waiting = left


class _First:
    """Of many pictures those of the largest values, then by their names.

    Attributes:
        pictures, pixels: how many there are in all.
    """

    def __init__(self) -> None:
        self.pictures = self.pixels = 0
        self._least = -math.inf
        self._kept: list[tuple[float, str, PredictedPicture]] = []

    def add(self, value: float, picture: PredictedPicture, pixels: int = 0) -> None:
        self.pictures += 1
        self.pixels += pixels
        if value >= self._least:
            self._kept.append((-value, picture.source, picture))
        if len(self._kept) > 4 * CHOSEN:
            self._cut()
            self._least = -self._kept[-1][0]

    def _cut(self) -> None:
        self._kept.sort(key=lambda entry: entry[:2])
        del self._kept[2 * CHOSEN :]  # some may be chosen for another reason

    def __iter__(self) -> Iterator[PredictedPicture]:
        self._cut()
        return (picture for _, _, picture in self._kept)


def _fresh(
    pictures: Iterable[PredictedPicture], taken: set[str], count: int
) -> Iterator[PredictedPicture]:
    """Yield at most so many pictures whose masks are not taken yet, and take these."""
    for picture in islice((each for each in pictures if each.mask not in taken), count):
        taken.add(picture.mask)
        yield picture


def read_predictions(folder: Path) -> Predictions | None:
    """Read all journals of a folder; None where there is none."""
    found = Predictions(folder)
    for file in sorted(folder.glob("predictions*.jsonl")):
        found.read(file)
    return found if found.model else None
