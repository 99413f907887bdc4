"""Engine: what makes masks of a job's pictures, this process or the workers of a cluster.

Engines write masks; the journal is the job's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ImageError
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.predict.geotiff import MapMask
from fcn_deploy.predict.items import Before, Item
from fcn_deploy.predict.maps import MapOptions, segment_map
from fcn_deploy.predict.masks_on_disk import MasksOnDisk
from fcn_deploy.predict.selection import is_mask_of_map
from fcn_deploy.predict.stream import (
    PREDICTION_ERRORS,
    Failed,
    FiniteCheck,
    PredictionError,
    Segmented,
    segment,
)
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import Runner


@dataclass(frozen=True, eq=False)
class Work:
    """Pictures to be done, the paths of their masks below ``out``, and where files have no name."""

    items: Sequence[Item]
    masks: Sequence[str]
    out: Path
    unfinished: Path
    with_overlay: bool


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of the picture at a place of the work: its state and its journal's values."""

    place: int
    state: int
    values: dict[str, Any]
    error: PredictionError | None = None


#: Takes each outcome right behind its mask, on any thread.
Record = Callable[[Outcome], None]
#: Returns the outcome of a picture whose mask this run has written already, or None.
Found = Callable[[int], Outcome | None]


class Engine(ABC):
    """What makes masks, by one model; ``lost`` tells how workers died."""

    spec: ModelSpec
    lost: Sequence[str] = ()

    @abstractmethod
    def describe(self) -> RunnerDescription:
        """Say what computes them."""

    @abstractmethod
    def outcomes(self, work: Work, record: Record, found: Found) -> Generator[Outcome, None, None]:
        """Do the work, and yield what became of each picture, once, as it is finished."""


class LocalEngine(Engine):
    """A runner in this process: outcomes come in the order of the pictures.

    The first arguments are those of :func:`fcn_deploy.predict.folder.predict`; ``maps`` says how
    maps are segmented, without which they get none.
    """

    def __init__(
        self,
        runner: Runner,
        batch_size: int = 1,
        has_finite_logits: FiniteCheck = lambda _: True,
        maps: MapOptions | None = None,
    ) -> None:
        self.spec = runner.spec
        self._runner = runner
        self._batch_size = batch_size
        self._has_finite_logits = has_finite_logits
        self._maps = maps

    def describe(self) -> RunnerDescription:
        """Describe the runner."""
        return self._runner.describe()

    def outcomes(
        self, work: Work, record: Record, found: Found = lambda place: None
    ) -> Generator[Outcome, None, None]:
        """Do the work; each outcome is recorded by the thread that wrote its mask."""
        sink = MasksOnDisk(work.out, work.masks, self.spec.palette, work.unfinished)
        places = range(len(work.masks))
        for is_map, some in groupby(places, lambda place: is_mask_of_map(work.masks[place])):
            if not is_map:
                yield from self._of_pictures(work, list(some), sink, record)
                continue
            for place in some:
                outcome = self._of_map(work, place, sink)
                record(outcome)
                yield outcome

    def _of_map(self, work: Work, place: int, sink: MasksOnDisk) -> Outcome:
        item, mask, state = work.items[place], work.masks[place], 0
        with suppress(OSError):  # reading it says what is wrong
            state = item.state()
        try:
            if self._maps is None:
                raise ImageError(f"{item.name} is a map", "use --engine local, which cuts maps")
            with sink.written_in_parts(place) as path:
                found = segment_map(
                    self._runner,
                    item.path,
                    path,
                    self._maps,
                    batch_size=self._batch_size,
                    has_finite_logits=self._has_finite_logits,
                )
        except PREDICTION_ERRORS as error:
            sink.write_or_fail(Failed(place, error))
            return failed(place, item, error)
        return Outcome(place, state, map_values(item, mask, found, self.spec.class_names))

    def _of_pictures(
        self, work: Work, places: Sequence[int], sink: MasksOnDisk, record: Record
    ) -> Iterator[Outcome]:
        states: dict[int, int] = {}

        def write(answer: Segmented | Failed) -> Outcome:
            place = places[answer.place]
            written = sink.write_or_fail(replace(answer, place=place))
            item, state = work.items[place], states.pop(place, 0)
            if isinstance(written, Failed):
                outcome = failed(place, item, written.error)
            else:
                assert isinstance(answer, Segmented)
                values = line_values(
                    item, work.masks[place], answer.mask, answer.seconds, self.spec.class_names
                )
                if answer.uncertainty is not None:
                    values["uncertainty"] = answer.uncertainty
                outcome = Outcome(place, state, values)
            record(outcome)
            return outcome

        yield from segment(
            self._runner,
            (_Reading(work.items[place], place, states) for place in places),
            write,
            keep_images=work.with_overlay,
            batch_size=self._batch_size,
            has_finite_logits=self._has_finite_logits,
        )


class _Reading:
    """A picture to be read: its state is noted before that, so that no change is missed."""

    __slots__ = ("_item", "_place", "_states")

    def __init__(self, item: Item, place: int, states: dict[int, int]) -> None:
        self._item = item
        self._place = place
        self._states = states

    def read(self, before: Before) -> NDArray[np.uint8]:
        with suppress(OSError):  # reading it says what is wrong
            self._states[self._place] = self._item.state()
        return self._item.read(before)


def line_values(
    item: Item,
    mask: str,
    classes_of_pixels: NDArray[np.uint8],
    seconds: float | None,
    classes: tuple[str, ...],
) -> dict[str, Any]:
    """Return what the journal says of a picture that has its mask."""
    return {
        "source": item.name,
        "mask": mask,
        "size": list(classes_of_pixels.shape),
        "ms": None if seconds is None else round(1e3 * seconds, 1),
        "shares": class_shares(classes_of_pixels, classes),
        "error": None,
    }


def map_values(item: Item, mask: str, found: MapMask, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return what the journal says of a map that has its mask."""
    counts = found.counts.tolist()
    values = line_values(item, mask, np.zeros((1, 1), np.uint8), found.seconds, classes)
    shares = {n: round(c / sum(counts), 6) for n, c in zip(classes, counts, strict=False) if c}
    return {**values, "size": list(found.size), "shares": shares}


def failed(place: int, item: Item, error: PredictionError) -> Outcome:
    """Return the outcome of a picture that gets no mask."""
    values = {
        "source": item.name, "mask": None, "size": None, "ms": None, "shares": None,
        "error": str(error),
    }  # fmt: skip
    return Outcome(place, 0, values, error)


def class_shares(mask: NDArray[np.uint8], classes: tuple[str, ...]) -> dict[str, float]:
    """Return the share of the pixels of each class that is in a mask, by its name."""
    # Areas are counted, not pixels: of masks that takes a third of the time.
    flat = mask.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    counts = np.bincount(flat[ends - 1], weights=np.diff(ends, prepend=0))
    return {
        name: round(count / mask.size, 6)
        for name, count in zip(classes, counts.tolist(), strict=False)
        if count
    }
