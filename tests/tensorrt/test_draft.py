"""Drafts of engines: two builds at once, builds that ended before their end, refused plans."""

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from fcn_deploy.core.errors import ArtifactError, MissingStageError
from fcn_deploy.tensorrt.draft import Draft, refused_path, take_draft, write_draft
from fcn_deploy.tensorrt.engine_file import EngineSidecar, read_engine, sidecar_path
from tests.tensorrt import engine_files
from tests.tensorrt.engine_files import plan_bytes, sidecar_of

plan = engine_files.plan
LAYERS = {"fp16": 7}


def drafted(plan: Path, end: bytes = b"new") -> Draft:
    return write_draft(plan, memoryview(plan_bytes() + end), sidecar_of(plan))


def any_fits(_: EngineSidecar) -> bool:
    return True


def test_a_crash_between_the_moves_leaves_a_refused_engine(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_replace = os.replace
    moved: list[Path] = []

    def crash(source: Path, target: Path) -> None:
        if moved:
            raise KeyboardInterrupt
        moved.append(target)
        real_replace(source, target)

    with drafted(plan) as draft:
        monkeypatch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            draft.accept(LAYERS, "engine inspector")
    with pytest.raises(MissingStageError, match="has no sidecar"):
        read_engine(plan)
    assert moved == [plan]


def test_a_full_disk_leaves_the_older_engine_and_the_draft(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_engine(plan)

    def disk_full(descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with drafted(plan) as draft:
        assert read_engine(plan) == before
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", disk_full)
            with pytest.raises(ArtifactError, match="disk is full"):
                draft.accept(LAYERS, "engine inspector")
        assert read_engine(plan) == before
        accepted = draft.accept(LAYERS, "engine inspector")
    assert read_engine(plan) == accepted
    assert (accepted.layers, accepted.layers_from) == (LAYERS, "engine inspector")
    assert plan.read_bytes().endswith(b"new")
    assert sorted(plan.parent.iterdir()) == [plan, sidecar_path(plan)]


def test_two_builds_at_once_each_vouch_for_their_own_plan(plan: Path) -> None:
    with drafted(plan, b"one") as one, drafted(plan, b"two") as two:
        assert take_draft(plan, any_fits) is None  # both are being built
        first = one.accept({"fp16": 1}, "engine inspector")
        assert plan.read_bytes().endswith(b"one")
        assert read_engine(plan) == first
        second = two.accept({"fp16": 2}, "engine inspector")
    assert plan.read_bytes().endswith(b"two")
    assert read_engine(plan) == second
    assert sorted(plan.parent.iterdir()) == [plan, sidecar_path(plan)]


def test_a_plan_that_somebody_took_away_costs_no_older_engine(plan: Path) -> None:
    before = read_engine(plan)
    with drafted(plan) as draft:
        draft.plan.unlink()
        with pytest.raises(ArtifactError, match="went while its layers were counted; run"):
            draft.accept(LAYERS, "engine inspector")
    assert read_engine(plan) == before


def test_a_draft_left_behind_is_taken_by_a_build_that_it_fits(plan: Path) -> None:
    drafted(plan).close()
    assert take_draft(plan, lambda found: found.precision.value == "int8") is None
    left = take_draft(plan, any_fits)
    assert left is not None
    with left:
        assert take_draft(plan, any_fits) is None  # by one build alone
        accepted = left.accept(left.sidecar.layers, left.sidecar.layers_from)
    assert read_engine(plan) == accepted
    assert take_draft(plan, any_fits) is None


def test_a_damaged_draft_is_not_taken_and_goes_with_the_next_engine(plan: Path) -> None:
    with drafted(plan) as draft:
        draft.plan.write_bytes(plan_bytes() + b"bad")
    assert take_draft(plan, any_fits) is None
    with drafted(plan) as whole:
        accepted = whole.accept(LAYERS, "engine inspector")
    assert read_engine(plan) == accepted
    assert sorted(plan.parent.iterdir()) == [plan, sidecar_path(plan)]


def test_a_refused_plan_is_kept_and_never_taken(plan: Path) -> None:
    with drafted(plan) as draft:
        draft.refuse()
    assert refused_path(plan).read_bytes().endswith(b"new")
    assert take_draft(plan, any_fits) is None
    assert sorted(plan.parent.iterdir()) == [plan, sidecar_path(plan), refused_path(plan)]
