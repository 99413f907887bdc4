"""Run by test_killed_prediction.py: predict is killed five times, and shared out to four workers.

    python killed_prediction.py RUN PICTURES FOLDER      → what was seen, as JSON

The imports cost seconds, so they are done once; every start is a fork of this process, which has
run nothing yet that starts threads.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime  # noqa: F401 (imported before the forks)
from PIL import Image

from fcn_deploy.cli import main
from fcn_deploy.predict.job import PredictJob  # noqa: F401 (likewise)

KILLS, SHARDS = 5, 4


def start(run: Path, pictures: Path, out: Path, *more: str) -> int:
    """Begin a run of predict in a process of its own; return its number."""
    child = os.fork()
    if child:
        return child
    log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    words = ["predict", run, pictures, "--out", out, "--threads", "1", *more]
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(int(end.code or 0))
    os._exit(1)


def wait_for(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finished_masks(out: Path) -> dict[str, tuple[int, int]]:
    """Return what tells whether a mask was written anew, by its name; each has to be whole."""
    found = {}
    for mask in out.glob("[!.]*.png"):
        with Image.open(mask) as image:
            np.asarray(image)
        found[mask.name] = (mask.stat().st_ino, mask.stat().st_mtime_ns)
    return found


def same_masks(one: Path, other: Path) -> int:
    """Return the number of masks of two folders; all have to be equal."""
    names = sorted(path.name for path in one.glob("*.png"))
    assert names == sorted(path.name for path in other.glob("*.png"))
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)
    return len(names)


def listed(*journals: Path) -> list[str]:
    lines = [line for journal in journals for line in journal.read_text().splitlines()[1:]]
    return sorted(json.loads(line)["source"] for line in lines)


def killed_runs(run: Path, pictures: Path, folder: Path) -> None:
    sources = sorted(str(path) for path in pictures.iterdir())
    whole, out, shared = folder / "undisturbed", folder / "killed", folder / "shared"
    begun = time.perf_counter()
    assert wait_for(start(run, pictures, whole)) == 0
    seconds = time.perf_counter() - begun
    moments, kept = random.Random(0), []
    while len(kept) < KILLS:
        before = finished_masks(out)
        child = start(run, pictures, out, "--resume")
        time.sleep(moments.uniform(0.2, 1) * seconds / (KILLS + 2))
        os.kill(child, signal.SIGKILL)
        assert wait_for(child) == -signal.SIGKILL, "it had ended before it was killed"
        after = finished_masks(out)
        assert {name: after[name] for name in before} == before, "a finished mask was computed"
        kept.append(len(after))
    before = finished_masks(out)
    assert wait_for(start(run, pictures, out, "--resume")) == 0
    after = finished_masks(out)
    assert {name: after[name] for name in before} == before, "a finished mask was computed again"
    assert listed(out / "predictions.jsonl") == sources
    refused = wait_for(start(run, pictures, out, "--resume", "--fp16"))
    children = [start(run, pictures, shared, "--shard", f"{n}/{SHARDS}") for n in range(SHARDS)]
    assert [wait_for(child) for child in children] == [0] * SHARDS
    assert listed(*shared.glob("predictions.*-of-4.jsonl")) == sources
    seen = {
        "pictures": len(sources),
        "masks after each kill": kept,
        "equal masks of the killed run": same_masks(whole, out),
        "equal masks of the shards": same_masks(whole, shared),
        "with another precision": refused,
        "said": (folder / "killed.log").read_text().splitlines()[-1],
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    killed_runs(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
