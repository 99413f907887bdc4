"""DataReport: what `data check` found in a folder of labelled images, fault by fault."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from fcn_deploy.data.class_counts import ClassCounts, median_frequency
from fcn_deploy.data.label_statistics import LabelStatistics
from fcn_deploy.data.near_duplicates import NearDuplicate


@dataclass(frozen=True)
class Fault:
    """One thing to mend.

    Attributes:
        kind: e.g. ``missing image``.
        file: where.
        words: what is wrong.
        repair: what to do about it.
    """

    kind: str
    file: str
    words: str
    repair: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.words}; {self.repair}"


@dataclass(frozen=True)
class SplitReport:
    """One list.

    Attributes:
        name: e.g. ``train``.
        samples: lines of the list.
        readable: samples whose image and mask could be read and fit each other.
        sizes: (height, width) → how many of those.
    """

    name: str
    samples: int
    readable: int
    sizes: Counter[tuple[int, int]]


@dataclass(frozen=True)
class DataReport:
    """What a folder holds, and what is wrong with it.

    Attributes:
        source: the folder.
        class_names: one per index.
        splits: its lists, ``train`` and ``val`` first.
        counts: how often each class occurs, over all readable samples.
        statistics: which classes occur together, and in which regions, over the same samples.
        faults: what has to be mended.
        notes: what may be as it should be.
        near_duplicates: images to learn from that look like images to score on.
        recognised: how the folder is read, where it is not in VOC layout.
    """

    source: str
    class_names: tuple[str, ...]
    splits: tuple[SplitReport, ...]
    counts: ClassCounts
    statistics: LabelStatistics
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    recognised: str | None = None
    near_duplicates: tuple[NearDuplicate, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        weights = median_frequency(self.counts)
        return {
            "source": self.source,
            "recognised": self.recognised,
            "splits": [
                {
                    "name": split.name,
                    "samples": split.samples,
                    "readable": split.readable,
                    "sizes": [[*size, count] for size, count in split.sizes.most_common()],
                }
                for split in self.splits
            ],
            "classes": [
                {
                    "name": name,
                    "pixels": int(self.counts.pixels[index]),
                    "images": int(self.counts.images[index]),
                    "median_frequency_weight": float(weights[index]),
                    "regions": int(self.statistics.regions[index]),
                    "tiny_regions": int(self.statistics.tiny[index]),
                }
                for index, name in enumerate(self.class_names)
            ],
            "classes_together": self.statistics.together.tolist(),
            "near_duplicates": [asdict(pair) for pair in self.near_duplicates],
            "void_pixels": self.counts.void,
            "faults": [asdict(fault) for fault in self.faults],
            "notes": list(self.notes),
        }
