"""Nothing is lost: a run that is killed at any moment resumes to the same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fcn_deploy.core.files import read_json
from tests.conftest import WriteVocFolder

PROGRAMS = Path(__file__).parents[1] / "programs"


def figures(run: Path) -> tuple[int, list[dict[str, Any]]]:
    """Return the best epoch, and what is said of each but how long it took."""
    metrics = read_json(run / "metrics.json", "")
    epochs = [
        {k: v for k, v in epoch.items() if "second" not in k and k != "examples_per_s"}
        for epoch in metrics["epochs"]
    ]
    assert [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] == (
        metrics["epochs"]
    )
    return metrics["best_epoch"], epochs


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_twenty_kills_end_as_an_undisturbed_run(tmp_path: Path, voc_folder: WriteVocFolder) -> None:
    data = voc_folder(train=4, val=1, size=(80, 112))
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "killed_training.py"), str(data), str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=PROGRAMS.parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["kills"] == 20
    assert said["runs"] >= 4
    undisturbed = tmp_path / "undisturbed"
    for number in range(1, said["runs"] + 1):
        killed = tmp_path / f"killed{number}"
        assert figures(killed) == figures(undisturbed)
        for file in ("last.safetensors", "model.safetensors"):
            wanted, found = load_file(undisturbed / file), load_file(killed / file)
            assert found.keys() == wanted.keys()
            for name, weights in wanted.items():
                assert torch.equal(weights, found[name]), (file, name)
