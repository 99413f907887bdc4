"""Blocks for workers that die, with threads in the place of a cluster's processes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from fcn_deploy.core.errors import ArtifactError, BackendError
from fcn_deploy.predict.dispatch import (
    ATTEMPTS_ALONE,
    LARGEST_BLOCK,
    LOSSES_IN_A_ROW,
    Crew,
    WorkerLostError,
    block_size,
    dispatched,
)
from fcn_deploy.predict.engine import Outcome


class Fakes:
    """Workers, each of which dies at some pictures so many times; masks are a set of places."""

    def __init__(self, deaths: dict[int, int] | None = None, *, tells: bool = True) -> None:
        self.left = Counter(deaths or {})
        self.tells = tells
        self.masks: Counter[int] = Counter()
        self.blocks: list[tuple[int, ...]] = []
        self.starts = 0
        self.failed: list[int] = []
        self.stopped = threading.Event()

    def start(self) -> Fakes:
        self.starts += 1
        return self

    def outcomes(self, places: Sequence[int]) -> Iterator[list[Outcome]]:
        self.blocks.append(tuple(places))
        some = []
        for place in places:
            if self.left[place]:
                self.left[place] -= 1
                raise WorkerLostError("shot")
            self.masks[place] += 1
            some.append(Outcome(place, 1, {}))
            if self.tells:
                yield some
                some = []
        yield some

    def found(self, place: int) -> Outcome | None:
        return Outcome(place, 1, {}) if self.masks[place] else None

    def killed(self, place: int, reason: str) -> Outcome:
        assert reason == "shot"
        self.failed.append(place)
        return Outcome(place, 0, {}, BackendError("killed"))

    def run(self, total: int, size: int = 8, workers: int = 1) -> list[int]:
        crew = Crew(workers, self.start, self.stopped.set)
        done = dispatched(total, size, crew, self.found, self.killed)
        return sorted(outcome.place for outcome in done)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("deaths", [0, 1, ATTEMPTS_ALONE, 100])
def test_each_picture_is_told_of_once_and_the_deadly_one_fails(
    workers: int, tells: bool, deaths: int
) -> None:
    fakes = Fakes({13: deaths, 14: deaths}, tells=tells)
    assert fakes.run(50, workers=workers) == list(range(50))
    # The block dies at 13 already: 14 ends one worker less.
    deadly = {100: [13, 14], ATTEMPTS_ALONE: [14]}.get(deaths, [])
    assert sorted(fakes.failed) == deadly
    assert fakes.masks == Counter(set(range(50)) - set(deadly))  # none is computed twice
    assert fakes.blocks.count((13,)) == min(deaths, ATTEMPTS_ALONE)
    assert fakes.stopped.is_set()


def test_many_deadly_pictures_side_by_side_do_not_end_the_job() -> None:
    fakes = Fakes(dict.fromkeys(range(3, 3 + (LOSSES_IN_A_ROW - 1) // ATTEMPTS_ALONE), 100))
    assert fakes.run(20) == list(range(20))
    assert len(fakes.failed) == 4


def test_workers_that_never_live_end_the_job_with_the_reason() -> None:
    class Stillborn(Fakes):
        def start(self) -> Fakes:
            super().start()
            raise WorkerLostError("no such library")

    fakes = Stillborn()
    with pytest.raises(BackendError, match=f"died {LOSSES_IN_A_ROW} times .*no such library"):
        fakes.run(50, workers=2)
    assert fakes.starts == 2 * LOSSES_IN_A_ROW
    assert fakes.stopped.is_set()


def test_a_worker_without_a_place_in_the_cluster_holds_nothing_up() -> None:
    class Full(Fakes):
        def start(self) -> Fakes:
            super().start()
            if threading.current_thread().name == "worker 0":
                assert self.stopped.wait(60)
                raise WorkerLostError("all were stopped")
            return self

    assert Full().run(50, workers=2) == list(range(50))


def test_what_concerns_all_pictures_ends_the_job_and_its_threads() -> None:
    class DiskFull(Fakes):
        def outcomes(self, places: Sequence[int]) -> Iterator[list[Outcome]]:
            raise ArtifactError("the disk is full")

    fakes = DiskFull()
    with pytest.raises(ArtifactError, match="the disk is full"):
        fakes.run(50, workers=2)
    assert fakes.stopped.is_set()
    assert not [t for t in threading.enumerate() if t.name.startswith("worker ")]


def test_leaving_early_ends_the_workers() -> None:
    fakes = Fakes()
    crew = Crew(2, fakes.start, fakes.stopped.set)
    running = dispatched(50, 4, crew, fakes.found, fakes.killed)
    next(running)
    running.close()
    assert fakes.stopped.is_set()
    assert not [t for t in threading.enumerate() if t.name.startswith("worker ")]
    assert Fakes().run(0) == []


def test_a_block_is_a_fair_share_of_the_pictures() -> None:
    assert block_size(60, 2, 1) == 8
    assert block_size(60, 2, 16) == 16
    assert block_size(10_000_000, 100, 4) == LARGEST_BLOCK
    assert block_size(1, 8, 1) == 1
