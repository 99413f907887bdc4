"""Journals of `predict` → the few predictions that a person should look at.

Lines are read one by one, once, and few of them are kept: a journal may hold millions.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Predictions:
    """What the journals of one folder hold.

    Attributes:
        folder: of the journals and the masks.
        model: backend and precision.
        class_names: by class index.
        pictures, failed: how many have a mask, and how many have none.
        unknown: of how many the uncertainty is not known.
        classes: (name, share of all pixels, number of pictures), that of the fewest pixels first.
        least_certain: of those chosen.
        rarest: the others, each with the class that it was chosen for.
    """

    folder: Path
    model: str
    class_names: tuple[str, ...]
    pictures: int
    failed: int
    unknown: int
    classes: tuple[tuple[str, float, int], ...]
    least_certain: tuple[PredictedPicture, ...]
    rarest: tuple[tuple[str, PredictedPicture], ...]


def read_predictions(folder: Path) -> Predictions | None:
    """Read all journals of a folder; None where there is none.

    Half of the pictures that are chosen are the least certain ones, where uncertainties are known.

    Raises:
        ArtifactError: one cannot be read, or is none.
    """
    found, head = _Found(), None
    for file in sorted(folder.glob("predictions*.jsonl")):
        head = _read_journal(file, found)
    if head is None:
        return None
    taken: set[str] = set()
    return Predictions(
        folder,
        f"{head.text('backend')} {head.text('precision')}",
        head.texts("classes"),
        found.pictures,
        found.failed,
        found.unknown,
        tuple(found.classes()),
        tuple(_fresh(_first(found.uncertain), taken, CHOSEN // 2)),
        tuple(found.of_rare_classes(taken)),
    )


def _read_journal(file: Path, found: _Found) -> Fields:
    """Read a journal's lines; return its head."""
    repair = "run `fcn-deploy predict` again, or delete it"
    try:
        with file.open("rb") as stream:
            try:
                head = json.loads(stream.readline(HEAD_BYTES))
                known = (head["kind"], head["schema"]) == (KIND, SCHEMA)
            except (ValueError, TypeError, KeyError):
                known = False
            if not known:
                raise ArtifactError(f"{file} does not begin as a journal of predict does", repair)
            for line in stream:
                found.add(line)
    except OSError as error:
        raise ArtifactError(f"cannot read {file}: {error.strerror}", repair) from error
    return Fields(head, file, repair)


#: Pictures with the negative of the value by which they are ordered.
_Kept = list[tuple[float, PredictedPicture]]


def _keep(kept: _Kept, value: float, picture: PredictedPicture) -> None:
    """Add a picture to those of the largest values, of which few are kept."""
    kept.append((-value, picture))
    if len(kept) > 4 * CHOSEN:
        kept.sort(key=_order)
        del kept[2 * CHOSEN :]  # some may be chosen for another reason


def _order(entry: tuple[float, PredictedPicture]) -> tuple[float, str]:
    return entry[0], entry[1].source


def _first(kept: _Kept) -> Iterator[PredictedPicture]:
    return (picture for _, picture in sorted(kept, key=_order))


@dataclass
class _Found:
    """What the lines read so far say."""

    pictures: int = 0
    failed: int = 0
    unknown: int = 0
    pixels: Counter[str] = field(default_factory=Counter)
    occurs_in: Counter[str] = field(default_factory=Counter)
    uncertain: _Kept = field(default_factory=list)
    of_class: dict[str, _Kept] = field(default_factory=lambda: defaultdict(list))

    def add(self, content: bytes) -> None:
        """Count a line; one that a kill has torn, or a person has damaged, counts for nothing."""
        try:
            line = json.loads(content)
            if line["mask"] is None:
                self.failed += 1
                return
            source, mask, state = (str(line[name]) for name in ("source", "mask", "state"))
            height, width = (int(length) for length in line["size"])
            shares = {name: float(share) for name, share in line["shares"].items()}
            areas = {name: round(share * height * width) for name, share in shares.items()}
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return
        uncertainty = finite(line.get("uncertainty"))
        picture = PredictedPicture(source, mask, state, (height, width), shares, uncertainty)
        self.pictures += 1
        if uncertainty is None:
            self.unknown += 1
        else:
            _keep(self.uncertain, uncertainty, picture)
        self.pixels.update(areas)
        self.occurs_in.update(shares.keys())
        for name, share in shares.items():
            _keep(self.of_class[name], share, picture)

    def classes(self) -> Iterator[tuple[str, float, int]]:
        """Yield name, share of all pixels and number of pictures of each, the rarest first."""
        total = sum(self.pixels.values()) or 1
        for name, pixels in sorted(self.pixels.items(), key=lambda entry: (entry[1], entry[0])):
            yield name, pixels / total, self.occurs_in[name]

    def of_rare_classes(self, taken: set[str]) -> Iterator[tuple[str, PredictedPicture]]:
        """Yield pictures of the rarest class, of the next one, and so on, then from the first on.

        Args:
            taken: masks of pictures that are chosen already; it grows to :data:`CHOSEN`.
        """
        waiting = [(name, _first(self.of_class[name])) for name, _, _ in self.classes()]
        while waiting:
            left = []
            for name, pictures in waiting:
                some = list(_fresh(pictures, taken, min(OF_A_CLASS, CHOSEN - len(taken))))
                yield from ((name, picture) for picture in some)
                if some:
                    left.append((name, pictures))
            waiting = left


def _fresh(
    pictures: Iterable[PredictedPicture], taken: set[str], count: int
) -> Iterator[PredictedPicture]:
    """Yield at most so many pictures whose masks are not taken yet, and take these."""
    for picture in islice((each for each in pictures if each.mask not in taken), count):
        taken.add(picture.mask)
        yield picture
