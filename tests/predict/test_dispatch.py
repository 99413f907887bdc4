"""Blocks for workers that die, with objects in the place of a cluster's processes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from fcn_deploy.core.errors import ArtifactError, BackendError
from fcn_deploy.predict.dispatch import (
    ATTEMPTS_ALONE,
    LOSSES_IN_A_ROW,
    WorkerLostError,
    dispatched,
)
from fcn_deploy.predict.engine import Outcome

COUNT = 50


class Cluster:
    """Workers that die of some pictures so many times; what they had done before is on the disk.

    Those whose number is in ``stillborn`` never come to life, and the last of them never answers.
    """

    def __init__(self, deaths: dict[int, int] | None = None, stillborn: Sequence[int] = ()) -> None:
        self.deaths = Counter(deaths or {})
        self.stillborn = stillborn
        self.masks: Counter[int] = Counter()
        self.blocks: list[tuple[int, ...]] = []
        self.started = 0
        self.failed: set[int] = set()
        self.chance = random.Random(0)

    def start(self) -> Worker:
        self.started += 1
        return Worker(self, self.started - 1)

    def wait(self, workers: Sequence[Worker]) -> Worker:
        return self.chance.choice(
            [w for w in workers if w.number != max(self.stillborn, default=-1)]
        )

    def found(self, place: int) -> Outcome | None:
        return Outcome(place, 1, {}) if self.masks[place] else None

    def killed(self, place: int, how: str) -> Outcome:
        self.failed.add(place)
        return Outcome(place, 0, {}, BackendError(how))

    def run(self, workers: int) -> list[int]:
        outcomes = dispatched(COUNT, workers, self.start, self.wait, self.found, self.killed)
        return sorted(outcome.place for outcome in outcomes)


class Worker:
    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster = cluster
        self.number = number
        self.places: Sequence[int] = ()

    def begin(self, places: Sequence[int]) -> None:
        self.places = places
        self.cluster.blocks.append(tuple(places))

    def result(self) -> list[Outcome]:
        if self.number in self.cluster.stillborn:
            raise WorkerLostError("no such library")
        for place in self.places:
            if self.cluster.deaths[place]:
                self.cluster.deaths[place] -= 1
                raise WorkerLostError("shot")
            self.cluster.masks[place] += 1
        return [Outcome(place, 1, {}) for place in self.places]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("deaths", [0, 1, ATTEMPTS_ALONE, 100])
def test_each_picture_is_told_of_once_and_the_deadly_one_fails(workers: int, deaths: int) -> None:
    cluster = Cluster({1: deaths, 2: deaths})
    assert cluster.run(workers) == list(range(COUNT))
    # The block dies of the first already: the second ends one worker less.
    assert cluster.failed == {100: {1, 2}, ATTEMPTS_ALONE: {2}}.get(deaths, set())
    assert cluster.masks == Counter(set(range(COUNT)) - cluster.failed)  # none is computed twice
    assert cluster.blocks.count((1,)) == min(deaths, ATTEMPTS_ALONE)


def test_deadly_pictures_side_by_side_do_not_end_the_job() -> None:
    cluster = Cluster(dict.fromkeys([3, 4, 5, 6], 100))
    assert cluster.run(1) == list(range(COUNT))
    assert cluster.failed == {3, 4, 5, 6}


def test_a_place_in_which_no_worker_lives_is_given_up_and_the_last_ends_the_job() -> None:
    cluster = Cluster(stillborn=range(1, 1000))
    assert cluster.run(3) == list(range(COUNT))
    assert cluster.started <= 1 + 2 * LOSSES_IN_A_ROW
    cluster = Cluster(stillborn=range(1000))
    with pytest.raises(BackendError, match=f"{LOSSES_IN_A_ROW} workers .*no such library"):
        cluster.run(2)
    assert cluster.started == 2 * LOSSES_IN_A_ROW


def test_a_worker_without_a_place_in_the_cluster_holds_nothing_up() -> None:
    assert Cluster(stillborn=[1]).run(2) == list(range(COUNT))


def test_what_concerns_all_pictures_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(worker: Worker) -> list[Outcome]:
        raise ArtifactError("the disk is full")

    monkeypatch.setattr(Worker, "result", disk_full)
    with pytest.raises(ArtifactError, match="the disk is full"):
        Cluster().run(2)
