"""Findings: what `data check` has seen so far."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import DataError
from fcn_deploy.data.check_report import Fault
from fcn_deploy.data.class_counts import ClassCounts
from fcn_deploy.data.class_list import ClassList
from fcn_deploy.data.label_statistics import LabelStatistics
from fcn_deploy.data.layout import Layout
from fcn_deploy.data.near_duplicates import Fingerprint
from fcn_deploy.data.voc import AUGMENTED

#: Lists to learn from, and to score on: no sample may be in both kinds.
TRAINING, VALIDATION = ("train", AUGMENTED), ("val",)


@dataclass
class Findings:
    """What grows while the samples pass by.

    Attributes:
        layout: where the folder's files lie.
        lists: list → its names, each once.
        learned: the list that training takes.
        classes: names and colours.
        counts: how often each class occurs, over all readable samples.
        pixels: int64 [256], values of the masks of ``learned``.
        statistics: which classes occur together, and in which regions, over the same samples.
        faults: what has to be mended.
        seen: digest of a picture → the lists and names under which it has been seen.
        turned: images that EXIF turns, but not their masks.
        void_beside_one: masks that hold one class and void alone.
        fingerprints: list → name → what the image looks like.
        said: kind and file of what has been said of samples: one may be in several lists.
    """

    layout: Layout
    lists: dict[str, tuple[str, ...]]
    learned: str
    classes: ClassList
    counts: ClassCounts
    statistics: LabelStatistics
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    faults: list[Fault] = field(default_factory=list)
    seen: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    turned: dict[str, Path] = field(default_factory=dict)
    void_beside_one: dict[str, Path] = field(default_factory=dict)
    fingerprints: dict[str, dict[str, Fingerprint]] = field(default_factory=dict)
    said: set[tuple[str, str]] = field(default_factory=set)

    def add(self, kind: str, file: Path, error: DataError) -> None:
        """Keep what is wrong with a file."""
        self.faults.append(Fault(kind, str(file), error.message, error.repair or "mend the file"))

    def add_once(self, kind: str, file: Path, error: DataError, name: str = "") -> None:
        """Keep what is wrong with a sample's file, or with its line in a list, ``name``."""
        if (kind, f"{file} {name}") not in self.said:
            self.said.add((kind, f"{file} {name}"))
            self.add(kind, file, error)
