"""Run by test_ray_engine.py where there is no network but loopback: predict on Ray's workers.

    python ray_prediction.py RUN PICTURES FOLDER      → what was seen, as JSON

A worker that sees a black picture is killed as long as FOLDER/once is there, which it takes away;
one that sees a white picture as long as FOLDER/deadly is there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.cli import main
from fcn_deploy.commands import predict_engine
from fcn_deploy.predict.stream import FiniteCheck
from fcn_deploy.runners.base import Runner

RUN, PICTURES, FOLDER = (Path(word) for word in sys.argv[1:])
STORE = 80_000_000


def shoot(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if (images == 255).all() and (FOLDER / "deadly").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if (images == images.flat[0]).all() and (FOLDER / "once").exists():
        (FOLDER / "once").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return images


class Shot(predict_engine.OpenInWorker):
    """Sent to the workers with its code, as it stands in the main program."""

    def __call__(self, stack: ExitStack, threads: int | None) -> tuple[Runner, FiniteCheck]:
        runner, check = super().__call__(stack, threads)
        stream = runner.stream
        runner.stream = lambda batches: stream(map(shoot, batches))  # type: ignore[method-assign]
        return runner, check


def predict(out: str, *more: str) -> tuple[int, str, float]:
    """Return the exit code, what was said, and the seconds."""
    begun, said = time.perf_counter(), StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            main(["predict", str(RUN), "pictures", "--out", out, "--threads", "1", *more])
        except SystemExit as end:
            code = int(end.code or 0)
    return code, said.getvalue(), round(time.perf_counter() - begun, 1)


def lines(out: str) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in Path(out, "predictions.jsonl").read_text().splitlines()[1:]
    ]


def masks(out: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(out).glob("*.png")}


def inodes(out: str) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in Path(out).glob("*.png")}


def seen() -> dict[str, Any]:
    from ray.cluster_utils import Cluster

    local = predict("local")
    for name in ("once", "deadly"):
        Path(name).touch()
    first = predict("shot", "--engine", "ray", "--workers", "2")
    hidden = [path.name for path in Path("shot").iterdir() if path.name.startswith(".")]
    after_first, listed, before = masks("shot"), lines("shot"), inodes("shot")
    Path("deadly").unlink()
    Path("once").touch()  # the white picture, alone now, ends one worker by chance
    head = {"num_cpus": 2, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        joined = ("--engine", "ray", "--address", cluster.address)
        second = predict("shot", *joined, "--resume")
        third = predict("shot", *joined, "--resume", "--fp16")
    finally:
        cluster.shutdown()
    after, whole = inodes("shot"), masks("local")
    return {
        "exit codes": [local[0], first[0], second[0], third[0]],
        "seconds": [local[2], first[2], second[2], third[2]],
        "said": [first[1], second[1], third[1]],
        "equal masks": sum(whole[name] == after_first[name] for name in after_first),
        "failed": [(line["source"], line["error"]) for line in listed if line["error"]],
        "listed": sorted(line["source"] for line in listed),
        "left over": hidden,
        "once left": Path("once").exists(),
        "done again": sorted(name for name in after if after[name] != before.get(name)),
        "equal masks in the end": sum(whole[name] == mask for name, mask in masks("shot").items()),
        "listed in the end": sorted(line["source"] for line in lines("shot")),
        "shares as of the local engine": {line["source"]: line["shares"] for line in lines("shot")}
        == {line["source"]: line["shares"] for line in lines("local")},
    }


if __name__ == "__main__":
    os.chdir(FOLDER)
    predict_engine.OpenInWorker = Shot  # type: ignore[misc]
    print(json.dumps(seen()))
