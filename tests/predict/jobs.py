"""Jobs of ``predict`` as tests run them: with a fake network, stopped where a test wants it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.predict import job as job_module
from fcn_deploy.predict import masks_on_disk
from fcn_deploy.predict.folder import Prediction
from fcn_deploy.predict.job import PredictJob
from fcn_deploy.predict.journal import Journal
from fcn_deploy.predict.masks_on_disk import MasksOnDisk
from fcn_deploy.predict.sources import Sources
from fcn_deploy.runners.base import Runner
from tests.fakes import FAKE_SPEC, FakeRunner


def draw(path: Path, seed: int, size: tuple[int, int] = (6, 8)) -> Path:
    """Draw a picture of flat class colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    truth = np.random.default_rng(seed).integers(0, FAKE_SPEC.num_classes, size)
    Image.fromarray(np.array(FAKE_SPEC.palette, np.uint8)[truth]).save(path)
    return path


def draw_many(folder: Path, count: int) -> Path:
    for number in range(count):
        draw(folder / f"{number:03}.png", number)
    return folder


def run_job(
    words: Sequence[str | Path],
    out: Path,
    *,
    runner: Runner | None = None,
    recursive: bool = False,
    **options: Any,
) -> tuple[PredictJob, list[Prediction]]:
    """Do a job to its end; return it, closed, and what became of the pictures."""
    runner = runner or FakeRunner()
    with (
        Sources([str(word) for word in words], recursive=recursive) as sources,
        PredictJob(sources, out, **options) as job,
    ):
        job.begin(runner)
        return job, list(job.predictions(runner))


def journal_lines(out: Path, name: str = "predictions.jsonl") -> list[dict[str, Any]]:
    """Return the pictures' lines of a journal, every one parsed as JSON."""
    _, *lines = (out / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def masks_of(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*.png"))
    }


def stamps_of(out: Path) -> dict[str, tuple[int, int]]:
    """Return what tells whether a mask was written anew, by its name."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in out.glob("*.png")
        if not path.name.startswith(".")
    }


def put_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no mask be moved into another folder, nor keep its mode: a link to another disk."""
    usual = os.replace

    def move(source: Path, target: Path) -> None:
        if source.parent != target.parent and ".jsonl" not in target.suffix:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        usual(source, target)

    monkeypatch.setattr(os, "replace", move)
    monkeypatch.delattr(shutil, "copystat")


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before_mask(count: int) -> None:
    _at_call(MasksOnDisk, "write", count, lambda *values: _kill())


def _within_mask(count: int) -> None:
    def half_a_mask(path: Path, *values: Any) -> None:
        path.write_bytes(b"\x89PNG\r\n\x1a\n half")
        _kill()

    _at_call(masks_on_disk, "write_mask", count, half_a_mask)


def _behind_mask(count: int) -> None:
    _at_call(Journal, "append", count, lambda *values: _kill())


def _within_line(count: int) -> None:
    def half_a_line(journal: Journal, line: bytes) -> None:
        with journal.path.open("ab") as stream:
            stream.write(line[: len(line) // 2])
        _kill()

    _at_call(Journal, "append", count, half_a_line)


def _behind_line(count: int) -> None:
    _at_call(job_module, "Prediction", count, lambda *values: _kill())


def _at_call(owner: Any, name: str, count: int, instead: Callable[..., Any]) -> None:
    usual, calls = getattr(owner, name), iter(range(1 << 20))
    setattr(
        owner,
        name,
        lambda *values: instead(*values) if next(calls) == count else usual(*values),
    )


#: Where a kill -9 may fall, for the so-manieth picture.
MOMENTS: dict[str, Callable[[int], None]] = {
    "before the mask": _before_mask,
    "within the mask": _within_mask,
    "between mask and line": _behind_mask,
    "within the line": _within_line,
    "behind the line": _behind_line,
}


def run_killed(words: Sequence[str | Path], out: Path, moment: str, count: int) -> None:
    """Do a job, resumed, in a process of its own that is killed at a moment."""
    child = os.fork()
    if not child:
        try:
            MOMENTS[moment](count)
            run_job(words, out, resume=True)
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == -signal.SIGKILL, code
