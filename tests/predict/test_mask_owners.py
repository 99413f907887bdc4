"""Whose mask a file is: of other pictures, of changed ones, of none, of a name that cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fcn_deploy.core.errors import InputError
from fcn_deploy.predict.job import PredictJob
from fcn_deploy.predict.shard import Shard
from fcn_deploy.predict.sources import Sources
from tests.fakes import FakeRunner
from tests.predict.jobs import draw, draw_many, journal_lines, masks_of, run_job


@pytest.mark.parametrize("count", [0, 20])  # of further masks, which are sought in another way
def test_masks_of_pictures_of_other_names_are_not_taken_over(tmp_path: Path, count: int) -> None:
    out = tmp_path / "out"
    draw(tmp_path / "cam1/a.png", 1)
    draw(tmp_path / "cam2/a.png", 2)
    for number in range(count):
        draw(tmp_path / f"cam1/b{number}.png", 0)
        draw(tmp_path / f"cam2/b{number}.png", 0)
    run_job([tmp_path / "cam1"], out)
    before, listed = masks_of(out), journal_lines(out)
    with pytest.raises(InputError, match=r"(a|b\d+)\.png is the mask of .*cam1/\1\.png, .*--out"):
        run_job([tmp_path / "cam2"], out, resume=True)
    with pytest.raises(InputError, match=r"is the mask of .*cam1/"):
        run_job([tmp_path / "cam2"], out, resume=True, shard=Shard(0, 1))
    assert masks_of(out) == before
    assert journal_lines(out) == listed


def test_a_changed_picture_s_old_mask_is_not_taken_for_the_new_one_s(tmp_path: Path) -> None:
    pictures, out = draw_many(tmp_path / "in", 2), tmp_path / "out"
    run_job([pictures], out)
    draw(pictures / "001.png", 50)
    os.utime(pictures / "001.png", ns=(5, 5))  # as `cp -p` leaves it
    with Sources([str(pictures)]) as sources, PredictJob(sources, out, resume=True) as job:
        job.begin(FakeRunner())  # and it is killed here, its line dropped
    assert len(journal_lines(out)) == 1
    job, done = run_job([pictures], out, resume=True)
    assert (job.taken_over, [each.source.name for each in done]) == (0, ["001.png"])
    run_job([pictures], tmp_path / "anew")
    assert masks_of(out) == masks_of(tmp_path / "anew")


def test_a_picture_that_is_gone_keeps_its_mask_and_one_that_fails_does_not(tmp_path: Path) -> None:
    pictures, out = draw_many(tmp_path / "in", 3), tmp_path / "out"
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in sorted(pictures.iterdir())))
    words = [f"@{tmp_path / 'list.txt'}"]
    run_job(words, out)
    (pictures / "000.png").unlink()
    (pictures / "001.png").write_bytes(b"no picture")
    _, (failed,) = run_job(words, out, resume=True)
    assert failed.source.name == "001.png"
    assert sorted(masks_of(out)) == ["000.png", "002.png"]
    listed = {Path(line["source"]).name: line["mask"] for line in journal_lines(out)}
    assert listed == {"000.png": "000.png", "001.png": None, "002.png": "002.png"}


def test_a_name_that_no_mask_can_have_fails_alone(tmp_path: Path) -> None:
    long = "x" * 251 + ".png"
    for name in ("a.jpg", "a.png/b.png", long, "z.png"):
        draw(tmp_path / "in" / name, 0)
    _, done = run_job([tmp_path / "in"], tmp_path / "short", recursive=True)
    failed = [each for each in done if each.error is not None]
    assert [each.source.name for each in failed] in (["a.jpg"], ["b.png"])
    assert "--full-names" in str(failed[0].error)
    _, done = run_job([tmp_path / "in"], tmp_path / "full", recursive=True, full_names=True)
    assert [each.source.name for each in done if each.error is not None] == [long]
    for out, full_names in (("short", False), ("full", True)):
        _, again = run_job(
            [tmp_path / "in"], tmp_path / out, recursive=True, full_names=full_names, resume=True
        )
        assert len(again) == 1


@pytest.mark.parametrize("below", ["", "masks"])
def test_masks_among_the_pictures_are_no_pictures(tmp_path: Path, below: str) -> None:
    pictures = tmp_path / "in"
    for number in range(3):
        draw(pictures / f"{number}.bmp", number)
    words = [pictures, str(pictures / "**/*.*"), pictures / "0.bmp"]
    options = {"recursive": True, "with_overlay": True}
    _, done = run_job(words, pictures / below, **options)
    assert len(done) == 3
    _, done = run_job(words, pictures / below, resume=True, **options)
    assert done == []
    job, done = run_job(words, pictures / below, **options)
    assert (job.selection.total, len(done)) == (3, 3)
