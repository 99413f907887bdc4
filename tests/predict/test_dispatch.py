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


class Fakes:
    """Workers that die of some pictures so many times; what they had done before is on the disk."""

    def __init__(self, deaths: dict[int, int] | None = None) -> None:
        self.deaths = Counter(deaths or {})
        self.masks: Counter[int] = Counter()
        self.blocks: list[tuple[int, ...]] = []
        self.starts = itertools.count()
        self.failed: list[int] = []
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
        self.failed.append(place)
        return Outcome(place, 0, {}, BackendError(how))

    def run(self, total: int = 50, workers: int = 1, most: int = 100) -> list[int]:
        before = threading.active_count()
        running = Dispatch(
            total, workers, self.start, self.stopped.set, self.found, self.killed
        ).outcomes()  # fmt: skip
        try:
            return sorted(outcome.place for outcome, _ in zip(running, range(most), strict=False))
        finally:
            running.close()
            assert self.stopped.is_set() or not total
            assert threading.active_count() == before


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("deaths", [0, 1, ATTEMPTS_ALONE, 100])
def test_each_picture_is_told_of_once_and_the_deadly_one_fails(workers: int, deaths: int) -> None:
    fakes = Fakes({1: deaths, 2: deaths})
    assert fakes.run(workers=workers) == list(range(50))
    # The block dies of the first already: the second ends one worker less.
    failed = {100: [1, 2], ATTEMPTS_ALONE: [2]}.get(deaths, [])
    assert sorted(fakes.failed) == failed
    assert fakes.masks == Counter(set(range(50)) - set(failed))  # none is computed twice
    assert fakes.blocks.count((1,)) == min(deaths, ATTEMPTS_ALONE)


def test_deadly_pictures_side_by_side_do_not_end_the_job() -> None:
    fakes = Fakes(dict.fromkeys([3, 4, 5, 6], 100))
    assert fakes.run(20) == list(range(20))
    assert sorted(fakes.failed) == [3, 4, 5, 6]


def test_workers_that_never_live_end_the_job_with_the_reason() -> None:
    class Stillborn(Fakes):
        def start(self) -> Fakes:
            super().start()
            raise WorkerLostError("no such library")

    fakes = Stillborn()
    with pytest.raises(BackendError, match=f"{LOSSES_IN_A_ROW} workers .*no such library"):
        fakes.run(workers=2)
    assert next(fakes.starts) == 2 * LOSSES_IN_A_ROW


def test_a_worker_without_a_place_in_the_cluster_holds_nothing_up() -> None:
    class Full(Fakes):
        def start(self) -> Fakes:
            if next(self.starts) == 0:
                assert self.stopped.wait(60)
                raise WorkerLostError("all were stopped")
            return self

    assert Full().run(workers=2) == list(range(50))


def test_what_concerns_all_pictures_ends_the_job() -> None:
    class DiskFull(Fakes):
        def __call__(self, places: Sequence[int]) -> list[Outcome]:
            raise ArtifactError("the disk is full")

    with pytest.raises(ArtifactError, match="the disk is full"):
        DiskFull().run(workers=2)
    assert len(Fakes().run(workers=2, most=1)) == 1  # left early
    assert Fakes().run(0) == []
