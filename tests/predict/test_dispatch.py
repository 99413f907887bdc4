"""Blocks for workers that die, with threads in the place of a cluster's processes."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Sequence

import pytest

from fcn_deploy.core.errors import ArtifactError, BackendError
from fcn_deploy.predict.dispatch import ATTEMPTS_ALONE, LOSSES_IN_A_ROW, Dispatch, WorkerLostError
from fcn_deploy.predict.engine import Outcome

COUNT = 50


class Fakes:
    """Workers that die of some pictures so many times; what they had done before is on the disk."""

    def __init__(self, deaths: dict[int, int] | None = None) -> None:
        self.deaths = Counter(deaths or {})
        self.masks: Counter[int] = Counter()
        self.blocks: list[tuple[int, ...]] = []
        self.starts = itertools.count()
        self.failed: set[int] = set()
        self.stopped = threading.Event()

    def start(self) -> Fakes:
        next(self.starts)
        return self

    def __call__(self, places: Sequence[int]) -> list[Outcome]:
        self.blocks.append(tuple(places))
        for place in places:
            if self.deaths[place]:
                self.deaths[place] -= 1
                raise WorkerLostError("shot")
            self.masks[place] += 1
        return [Outcome(place, 1, {}) for place in places]

    def found(self, place: int) -> Outcome | None:
        return Outcome(place, 1, {}) if self.masks[place] else None

    def killed(self, place: int, how: str) -> Outcome:
        self.failed.add(place)
        return Outcome(place, 0, {}, BackendError(how))

    def run(self, workers: int = 1, most: int = COUNT + 1) -> list[int]:
        before = threading.active_count()
        dispatch = Dispatch(
            COUNT, workers, self.start, self.stopped.set, self.found, self.killed
        )  # fmt: skip
        running = dispatch.outcomes()
        try:
            return sorted(outcome.place for outcome in itertools.islice(running, most))
        finally:
            running.close()
            assert self.stopped.is_set()
            assert threading.active_count() == before


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("deaths", [0, 1, ATTEMPTS_ALONE, 100])
def test_each_picture_is_told_of_once_and_the_deadly_one_fails(workers: int, deaths: int) -> None:
    fakes = Fakes({1: deaths, 2: deaths})
    assert fakes.run(workers) == list(range(COUNT))
    # The block dies of the first already: the second ends one worker less.
    assert fakes.failed == {100: {1, 2}, ATTEMPTS_ALONE: {2}}.get(deaths, set())
    assert fakes.masks == Counter(set(range(COUNT)) - fakes.failed)  # none is computed twice
    assert fakes.blocks.count((1,)) == min(deaths, ATTEMPTS_ALONE)


def test_deadly_pictures_side_by_side_do_not_end_the_job() -> None:
    fakes = Fakes(dict.fromkeys([3, 4, 5, 6], 100))
    assert fakes.run() == list(range(COUNT))
    assert fakes.failed == {3, 4, 5, 6}


def test_workers_that_never_live_end_the_job_with_the_reason() -> None:
    class Stillborn(Fakes):
        def start(self) -> Fakes:
            super().start()
            raise WorkerLostError("no such library")

    fakes = Stillborn()
    with pytest.raises(BackendError, match=f"{LOSSES_IN_A_ROW} workers .*no such library"):
        fakes.run(2)
    assert next(fakes.starts) == 2 * LOSSES_IN_A_ROW


def test_a_worker_without_a_place_in_the_cluster_holds_nothing_up() -> None:
    class Full(Fakes):
        def start(self) -> Fakes:
            if next(self.starts) == 0:
                assert self.stopped.wait(60)
                raise WorkerLostError("all were stopped")
            return self

    assert Full().run(2) == list(range(COUNT))


def test_what_concerns_all_pictures_ends_the_job() -> None:
    class DiskFull(Fakes):
        def __call__(self, places: Sequence[int]) -> list[Outcome]:
            raise ArtifactError("the disk is full")

    with pytest.raises(ArtifactError, match="the disk is full"):
        DiskFull().run(2)
    assert len(Fakes().run(2, most=1)) == 1  # left early
