"""Nothing is lost: a run that is killed at any moment resumes to the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import WriteVocFolder

HERE = Path(__file__).parent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_twenty_kills_end_as_an_undisturbed_run(tmp_path: Path, voc_folder: WriteVocFolder) -> None:
    data = voc_folder(train=4, val=1, size=(80, 112))
    done = subprocess.run(
        [sys.executable, str(HERE / "killed_training.py"), str(data), str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=HERE.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["kills"] == 20
    undisturbed = load_file(tmp_path / "undisturbed" / "last.safetensors")
    for number in range(1, said["runs"] + 1):
        killed = load_file(tmp_path / f"last{number}.safetensors")
        assert killed.keys() == undisturbed.keys()
        for name, weights in undisturbed.items():
            assert torch.equal(weights, killed[name]), name
