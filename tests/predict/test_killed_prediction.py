"""The proof at full size: 2,000 pictures, five kills at random moments, four shards at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.predict.jobs import draw

PICTURES = 2000


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forks")
def test_killed_and_shared_runs_give_the_masks_of_an_undisturbed_one(
    tiny_run: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    for number in range(PICTURES):
        draw(pictures / f"{number:04}.png", number, (24, 32))
    script = Path(__file__).parents[1] / "programs" / "killed_prediction.py"
    done = subprocess.run(
        [sys.executable, script, tiny_run, pictures, tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    seen = json.loads(done.stdout)
    assert seen["equal masks of the killed run"] == PICTURES
    assert seen["equal masks of the shards"] == PICTURES
    assert max(seen["masks after each kill"]) < PICTURES
    assert any(seen["masks after each kill"])
    assert seen["with another precision"] == 2
    assert "of another model (ort fp32" in seen["said"]
