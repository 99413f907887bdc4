"""Run by test_ray_engine.py where there is no network but loopback: predict on Ray's workers.

    python ray_prediction.py RUN COUNT      → what was said, as JSON; pictures/ lies in the folder

A worker that sees the white picture is killed while there is a file ``deadly``; one that sees the
black one, or the white, is killed if there is a file ``once``, which it takes away.
"""

from __future__ import annotations

import json
import os
import signal
import sys
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

RUN, COUNT = sys.argv[1], int(sys.argv[2])
WHITE = "030"


def shoot(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    once = Path("once").exists() and bool((images == images.flat[0]).all())
    if once:
        Path("once").unlink()
    if once or (Path("deadly").exists() and (images == 255).all()):
        os.kill(os.getpid(), signal.SIGKILL)
    return images


class Shot(predict_engine.OpenRunner):
    """Sent to the workers with its code, as that of a main program is."""

    def __call__(self, stack: ExitStack, threads: int | None) -> tuple[Runner, FiniteCheck]:
        runner, check = super().__call__(stack, threads)
        stream = runner.stream
        runner.stream = lambda batches: stream(map(shoot, batches))  # type: ignore[method-assign]
        return runner, check


def predict(out: str, *more: str) -> tuple[int, str]:
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            main(["predict", RUN, "pictures", "--out", out, "--threads", "1", *more])
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
    raise AssertionError


def lines(out: str) -> dict[str, dict[str, Any]]:
    """Return what the journal tells of each picture, listed once, by its name."""
    told = [
        json.loads(line) for line in Path(out, "predictions.jsonl").read_text().splitlines()[1:]
    ]
    assert len({line["source"] for line in told}) == len(told) == COUNT
    return {Path(line.pop("source")).stem: {**line, "ms": 0} for line in told}


def masks(out: str) -> dict[str, tuple[bytes, int]]:
    return {file.stem: (file.read_bytes(), file.stat().st_ino) for file in Path(out).glob("*.png")}


def run() -> None:
    from ray.cluster_utils import Cluster

    assert predict("local")[0] == 0
    whole, told = masks("local"), lines("local")
    predict_engine.OpenRunner = Shot  # type: ignore[misc]
    Path("once").touch()
    Path("deadly").touch()
    code, killed = predict("out", "--engine", "ray", "--workers", "2")
    assert (code, Path("once").exists()) == (1, False), killed
    before, listed = masks("out"), lines("out")
    error = listed.pop(WHITE)["error"]
    assert "ended its worker 2 times while no other picture was in work" in error
    assert "workers lost: 4, the last: process " in killed
    assert f"wrote {COUNT - 1} of {COUNT} masks" in killed
    assert listed == {name: line for name, line in told.items() if name != WHITE}
    assert {n: mask[0] for n, mask in before.items()} == {n: whole[n][0] for n in listed}
    assert not [path for path in Path("out").iterdir() if path.name.startswith(".")]

    Path("deadly").unlink()
    Path("once").touch()
    head = {"num_cpus": 2, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        code, resumed = predict("out", "--engine", "ray", "--address", cluster.address, "--resume")
    finally:
        cluster.shutdown()
    assert (code, Path("once").exists()) == (0, False), resumed
    assert "workers lost: 1, " in resumed
    assert "wrote 1 of 1 masks" in resumed
    assert lines("out") == told
    after = masks("out")
    assert after.pop(WHITE)[0] == whole[WHITE][0]
    assert after == before  # none was written again
    print(json.dumps({"failed": error, "killed": killed, "resumed": resumed}))


if __name__ == "__main__":
    run()
