"""Jobs with a journal: stopped at any moment, resumed, shared out."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.core.errors import ArtifactError, InputError
from fcn_deploy.core.spec import Precision
from fcn_deploy.data.images import read_image
from fcn_deploy.predict import selection
from fcn_deploy.predict.engine import class_shares
from fcn_deploy.predict.journal import Journal
from fcn_deploy.predict.journal_head import JournalHead
from fcn_deploy.predict.shard import Shard
from tests.fakes import FakeRunner
from tests.predict.jobs import (
    MOMENTS,
    draw,
    draw_many,
    journal_lines,
    masks_of,
    put_on_another_device,
    run_job,
    run_killed,
    stamps_of,
)

COUNT = 12
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is killed in a fork")


def test_the_journal_tells_what_became_of_each_picture(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(draw(tmp_path / "in/a.png", 0).parent / "b.png")
    (tmp_path / "in/c.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    _, done = run_job([tmp_path / "in"], out)
    head = json.loads((out / "predictions.jsonl").read_text().splitlines()[0])
    assert (head["kind"], head["backend"], head["precision"]) == ("predictions", "fake", "fp32")
    assert (head["digest"], head["shard"]) == ("sha256:fake", None)
    lines = {Path(line["source"]).name: line for line in journal_lines(out)}
    assert len(lines) == len(done) == 3
    assert lines["b.png"]["mask"] == "b.png"
    assert lines["b.png"]["size"] == [2, 3]
    assert lines["b.png"]["shares"] == {"background": 1.0}
    assert lines["b.png"]["ms"] >= 0
    assert lines["b.png"]["error"] is None
    assert sum(lines["a.png"]["shares"].values()) == pytest.approx(1)
    assert len(lines["a.png"]["shares"]) > 1
    assert lines["c.png"]["mask"] is None
    assert "c.png is not a picture" in lines["c.png"]["error"]


def test_class_shares_are_those_of_the_pixels() -> None:
    names = tuple("abcde")
    for seed, size in enumerate([(1, 1), (1, 7), (13, 1), (40, 60)]):
        mask = np.random.default_rng(seed).integers(1, 5, size).astype(np.uint8)
        shares = {
            name: round(float((mask == index).mean()), 6)
            for index, name in enumerate(names)
            if (mask == index).any()
        }
        assert class_shares(mask, names) == pytest.approx(shares, abs=1e-6)


def test_uncertainties_are_those_of_the_margins(tmp_path: Path) -> None:
    pictures, runner = draw_many(tmp_path / "in", 3), FakeRunner(noise=4)
    run_job([pictures], tmp_path / "out", runner=runner)
    for line in journal_lines(tmp_path / "out"):
        margin = runner.run(read_image(Path(line["source"]))[None]).margin
        assert margin is not None
        assert line["uncertainty"] == pytest.approx(float(np.exp(-margin).mean()), abs=1e-6)
    run_job([pictures], tmp_path / "out", runner=FakeRunner(outputs=("mask",)))
    assert not any("uncertainty" in line for line in journal_lines(tmp_path / "out"))


@needs_fork
@pytest.mark.parametrize("moment", MOMENTS)
def test_after_a_kill_no_finished_mask_is_computed_again(tmp_path: Path, moment: str) -> None:
    pictures, out = draw_many(tmp_path / "in", COUNT), tmp_path / "out"
    run_job([pictures], tmp_path / "undisturbed")
    run_killed([pictures], out, moment, 2)
    run_killed([pictures], out, moment, 3)
    before = stamps_of(out)
    job, done = run_job([pictures], out, resume=True)
    after = stamps_of(out)
    assert {name: after[name] for name in before} == before
    assert len(done) == COUNT - len(before)
    assert job.taken_over >= (moment in ("between mask and line", "within the line"))
    assert job.journal.cut_off == (moment == "within the line")
    assert masks_of(out) == masks_of(tmp_path / "undisturbed")
    sources = [line["source"] for line in journal_lines(out)]
    assert sorted(sources) == sorted(str(path) for path in pictures.iterdir())
    left = [path.name for path in out.iterdir() if path.suffix != ".png"]
    assert left == ["predictions.jsonl"]
    _, done = run_job([pictures], out, resume=True)
    assert done == []


def test_another_model_s_masks_are_not_taken_for_finished(tmp_path: Path) -> None:
    pictures, out = draw_many(tmp_path / "in", 3), tmp_path / "out"
    run_job([pictures], out)
    before = stamps_of(out)
    for other in (
        FakeRunner(precision=Precision.FP16),
        FakeRunner(digest="sha256:other"),
        FakeRunner(backend="fake-2"),
    ):
        with pytest.raises(InputError, match=r"of another model .*drop --resume") as refused:
            run_job([pictures], out, resume=True, runner=other)
        its_own_file = other.describe().digest == "sha256:fake"
        assert ("go on with --backend fake, choose" in str(refused.value)) == its_own_file
    with pytest.raises(InputError, match=r"of other options .*not of these \(.* --bands 3,2,1\)"):
        run_job([pictures], out, resume=True, reading="--bands 3,2,1")
    with pytest.raises(InputError, match="without --overlay"):
        run_job([pictures], out, resume=True, with_overlay=True)
    assert stamps_of(out) == before
    _, done = run_job([pictures], out, runner=FakeRunner(precision=Precision.FP16))
    assert len(done) == 3
    assert not set(stamps_of(out).items()) & set(before.items())
    head = json.loads((out / "predictions.jsonl").read_text().splitlines()[0])
    assert head["precision"] == "fp16"
    with pytest.raises(InputError, match=r"delete that file"):
        run_job([pictures], out, shard=Shard(0, 2))


def test_masks_from_before_the_journal_are_not_taken_over(tmp_path: Path) -> None:
    pictures, out = draw_many(tmp_path / "in", 3), tmp_path / "out"
    run_job([pictures], out, runner=FakeRunner(digest="sha256:older"))
    (out / "predictions.jsonl").unlink()
    for mask in out.glob("*.png"):
        os.utime(mask, ns=(1, 1))
    job, done = run_job([pictures], out, resume=True)
    assert (job.taken_over, len(done)) == (0, 3)
    (out / "001.png").unlink()
    os.utime(out / "002.png", ns=(1, 1))
    job, done = run_job([pictures], out, resume=True)
    assert [prediction.source.name for prediction in done] == ["001.png"]


def test_what_has_changed_is_lost_or_failed_is_done_again(tmp_path: Path) -> None:
    pictures, out = draw_many(tmp_path / "in", 5), tmp_path / "out"
    (pictures / "003.png").write_bytes(b"no picture")
    run_job([pictures], out)
    draw(pictures / "000.png", 100)
    os.utime(pictures / "000.png", ns=(5, 5))  # older than its mask, as `cp -p` makes it
    (out / "001.png").unlink()
    draw(pictures / "003.png", 3)
    draw(pictures / "new.png", 9)
    job, done = run_job([pictures], out, resume=True)
    names = ["000.png", "001.png", "003.png", "new.png"]
    assert [prediction.source.name for prediction in done] == names
    assert (job.selection.changed, job.selection.lost, job.selection.failed) == (1, 1, 1)
    sources = [Path(line["source"]).name for line in journal_lines(out)]
    assert sorted(sources) == ["000.png", "001.png", "002.png", "003.png", "004.png", "new.png"]
    run_job([pictures], tmp_path / "anew")
    assert masks_of(out) == masks_of(tmp_path / "anew")


def test_damaged_lines_are_dropped_and_their_pictures_done(tmp_path: Path) -> None:
    pictures, out = draw_many(tmp_path / "in", 4), tmp_path / "out"
    run_job([pictures], out)
    journal = out / "predictions.jsonl"
    head, *lines = journal.read_bytes().splitlines(keepends=True)
    lines[1] = b"\0" * len(lines[1][:-1]) + b"\n"
    lines[2] = lines[2].replace(b'"key":"', b'"key":"Z')
    journal.write_bytes(head + b"".join(lines))
    before = stamps_of(out)
    job, _ = run_job([pictures], out, resume=True)
    assert job.journal.damaged == 2
    assert len(journal_lines(out)) == 4
    assert stamps_of(out) == before  # the masks were whole: their lines alone were missing


def test_of_many_finished_pictures_the_journal_is_believed_unless_all_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, out = draw_many(tmp_path / "in", 4), tmp_path / "out"
    run_job([pictures], out, full_names=True)
    (out / "001.png.png").unlink()
    draw(pictures / "002.png", 50)
    os.utime(pictures / "002.png", ns=(5, 5))
    monkeypatch.setattr(selection, "CHECKED_UP_TO", 3)
    monkeypatch.setattr(selection, "_LISTED_FROM", 1)
    job, done = run_job([pictures], out, full_names=True, resume=True)
    assert (job.selection.checked, done) == (False, [])
    job, done = run_job([pictures], out, full_names=True, resume=True, check_all=True)
    assert [prediction.source.name for prediction in done] == ["001.png", "002.png"]
    assert (job.selection.changed, job.selection.lost) == (1, 1)


def test_a_line_that_the_disk_has_no_room_for_leaves_nothing_of_itself(tmp_path: Path) -> None:
    class Full:
        def __init__(self, file: BinaryIO) -> None:
            self.file = file

        def write(self, line: bytes) -> int:
            return self.file.write(line[:5])

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

    out = tmp_path / "out"
    with Journal(out, None, resume=False) as journal:
        journal.begin(JournalHead("sha256:0", "fp32", "fake", overlay=False, classes=("a", "b")))
        journal.append(b"a line\n")
        before = journal.path.read_bytes()
        assert journal._file is not None
        journal._file = cast(BinaryIO, Full(journal._file))
        with pytest.raises(ArtifactError, match="the disk is full"):
            journal.append(b"another line\n")
        assert journal.path.read_bytes() == before


def test_masks_in_a_folder_of_another_file_system_are_whole_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, out = draw_many(tmp_path / "in", 3), tmp_path / "out"
    run_job([pictures], tmp_path / "usual")
    put_on_another_device(monkeypatch)
    run_job([pictures], out)
    assert masks_of(out) == masks_of(tmp_path / "usual")


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    pictures, out = draw_many(tmp_path / "in", 1), tmp_path / "out"
    out.mkdir()
    for content in (b"", b"no journal\n", b"[1]\n", b'{"kind":"predictions","schema":99}\n'):
        (out / "predictions.jsonl").write_bytes(content)
        with pytest.raises(ArtifactError, match="does not begin as a journal"):
            run_job([pictures], out, resume=True)


def test_shards_together_are_one_run(tmp_path: Path) -> None:
    pictures, out = draw_many(tmp_path / "in", COUNT), tmp_path / "out"
    run_job([pictures], tmp_path / "one")
    shards = [Shard(index, 3) for index in range(3)]
    workers = [
        threading.Thread(target=run_job, args=([pictures], out), kwargs={"shard": shard})
        for shard in shards
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert masks_of(out) == masks_of(tmp_path / "one")
    parts = [journal_lines(out, f"predictions.{index}-of-3.jsonl") for index in range(3)]
    sources = [line["source"] for part in parts for line in part]
    assert sorted(sources) == sorted(str(path) for path in pictures.iterdir())
    # Other numbers of shards, and none, know what these have done.
    for shard in (Shard(1, 2), None):
        _, done = run_job([pictures], out, shard=shard, resume=True)
        assert done == []


def test_shards_are_the_same_on_every_machine() -> None:
    assert [Shard(0, 4).has(f"photos/{number}.jpg") for number in range(8)] == [
        number in SHARD_0_OF_4 for number in range(8)
    ]
    for text in ("4/4", "1", "-1/2", "a/b", "1/0"):
        with pytest.raises(InputError, match="--shard"):
            Shard.from_text(text)
    assert str(Shard.from_text("3/8")) == "3/8"


#: Of photos/0.jpg to photos/7.jpg, those of shard 0/4.  Another hash would do some pictures twice
#: and others never where workers are of two versions.
SHARD_0_OF_4 = {3, 4, 7}


def test_two_pictures_of_one_mask_are_refused_in_every_shard(tmp_path: Path) -> None:
    for name in ("cam1/a.jpg", "cam2/a.jpg"):
        draw(tmp_path / name, 0)
    for index in range(2):
        with pytest.raises(InputError, match=r"would both be written to .*--full-names"):
            run_job([tmp_path / "cam1", tmp_path / "cam2"], tmp_path / "o", shard=Shard(index, 2))
    assert not (tmp_path / "o").exists()


def test_one_journal_has_one_run(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="files are locked on POSIX alone")
    pictures, out = draw_many(tmp_path / "in", 2), tmp_path / "out"
    run_job([pictures], out)
    with Journal(out, None, resume=True):
        for resume in (True, False):
            with pytest.raises(InputError, match="another run of predict writes"):
                run_job([pictures], out, resume=resume)
    assert run_job([pictures], out, resume=True)[1] == []


def test_runs_that_begin_at_one_moment_are_told_apart(tmp_path: Path) -> None:
    pictures, out = draw_many(tmp_path / "in", 2), tmp_path / "out"
    head = JournalHead("sha256:fake", "fp32", "fake", overlay=False, classes=("a", "b"))
    with (
        Journal(out, None, resume=True) as late,
        Journal(out, Shard(0, 2), resume=True) as other_shard,
    ):
        run_job([pictures], out)  # when the others have looked already
        with pytest.raises(InputError, match="another run of predict writes"):
            late.begin(head)
        with pytest.raises(InputError, match="of another model"):
            other_shard.begin(replace(head, precision="int8"))
        assert not other_shard.path.exists()
        other_shard.begin(head)
    with Journal(tmp_path / "new", None, resume=True) as first:
        with Journal(tmp_path / "new", None, resume=True) as second:
            first.begin(head)
            first.append(b"a line\n")
            with pytest.raises(InputError, match="another run of predict writes"):
                second.begin(head)
        assert first.path.read_bytes().endswith(b"a line\n")
        assert list(first.unfinished.iterdir()) == []
    assert run_job([pictures], out, resume=True)[1] == []


def test_a_picture_named_twice_is_done_once(tmp_path: Path) -> None:
    pictures, out = draw_many(tmp_path / "in", 3), tmp_path / "out"
    words = [pictures / "001.png", pictures, pictures / ".." / "in" / "002.png"]
    job, done = run_job(words, out)
    assert [prediction.source.name for prediction in done] == ["001.png", "000.png", "002.png"]
    assert job.selection.total == 3
    _, done = run_job(words, out, resume=True)
    assert done == []


def test_other_files_at_a_mask_s_place_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    pictures, out = draw_many(tmp_path / "in", 2), tmp_path / "out"
    out.mkdir()
    Image.new("L", (3, 3)).save(out / "001.png")
    with pytest.raises(InputError, match="not written by fcn-deploy"):
        run_job([pictures], out)
    assert [path.name for path in out.iterdir()] == ["001.png"]
    with pytest.raises(InputError, match="would overwrite its picture"):
        run_job([pictures], pictures)
