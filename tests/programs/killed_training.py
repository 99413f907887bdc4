"""Run by tests/training/test_killed.py: a training run is killed and resumed twenty times.

    python killed_training.py DATA FOLDER      → "kills 20, runs N" and the runs' folders

Every second run saves its state after each batch, so that kills fall into that as well.  The
imports cost seconds, so they are done once; every start is a fork of this process, which has run
nothing yet that starts threads.
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
import torch
from PIL import Image

from fcn_deploy.cli import main
from fcn_deploy.networks.architectures import build_model
from fcn_deploy.networks.checkpoint import load_weights, read_spec
from fcn_deploy.training import trainer

KILLS, KILLS_A_RUN = 20, 5


def start(data: Path, run: Path, *more: str, often: bool = False) -> int:
    """Begin or resume a run in a process of its own; return its number."""
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)
    if often:
        trainer.SAVE_SECONDS = 0.0
    words = (
        "--recipe scratch --epochs 3 --batch-size 2 --crop-size 64x64 --ema 0.9 "
        "--validate-every 1 --deterministic"
    )
    try:
        main(["train", "--data", str(data), "--out", str(run), *words.split(), *more])
    except SystemExit as end:
        sys.stderr.flush()
        os._exit(int(end.code or 0))
    os._exit(1)


def require_readable(run: Path) -> None:
    """Open every file that stands under its own name."""
    for path in (path for path in run.rglob("*") if path.is_file() and path.name[0] != "."):
        if path.suffix == ".safetensors":
            spec = read_spec(path)
            load_weights(path, build_model(spec.architecture, spec.num_classes))
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            [json.loads(line) for line in path.read_text().splitlines()]
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True, mmap=True)
        else:
            np.asarray(Image.open(path))


def wait_for(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_runs(data: Path, folder: Path) -> None:
    begun = time.perf_counter()
    assert wait_for(start(data, folder / "undisturbed")) == 0
    whole = time.perf_counter() - begun
    moments = random.Random(0)
    kills, runs = 0, 0
    while kills < KILLS:
        runs += 1
        run, often = folder / f"killed{runs}", runs % 2 == 1
        for _ in range(min(KILLS_A_RUN, KILLS - kills)):
            child = start(data, run, "--resume", often=often)
            time.sleep(moments.uniform(0, whole / 4))
            os.kill(child, signal.SIGKILL)  # whoever has ended waits as a zombie, and is not hit
            code = wait_for(child)
            if code == 0:
                break
            assert code == -signal.SIGKILL, code
            kills += 1
            if run.exists():
                require_readable(run)
        assert wait_for(start(data, run, "--resume")) == 0
    print(json.dumps({"kills": kills, "runs": runs}))


if __name__ == "__main__":
    killed_runs(Path(sys.argv[1]), Path(sys.argv[2]))
