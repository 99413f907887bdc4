"""predict --engine ray: two workers, one killed, and a picture that kills whoever reads it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from fcn_deploy.core.errors import InputError
from fcn_deploy.predict.ray_engine import RayEngine, RayOptions, require_files
from fcn_deploy.predict.sources import Sources
from tests.predict.jobs import draw, draw_many

COUNT = 60
BLACK, WHITE = "010.png", "030.png"


def without_network(*command: str | Path) -> list[str | Path]:
    """Return a command that sees loopback alone: Ray tells others the machine's address."""
    for flags in ("-n", "-rn"):
        lead = ["unshare", flags, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        if shutil.which("unshare") and not subprocess.run([*lead, "true"], stderr=-3).returncode:
            return [*lead, *command]
    pytest.skip("a network of loopback alone needs unshare, ip and the right to use them")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_a_killed_worker_costs_no_mask_and_a_deadly_picture_is_named(
    tiny_run: Path, tmp_path: Path
) -> None:
    pictures = draw_many(tmp_path / "pictures", COUNT)
    for name, grey in ((BLACK, 0), (WHITE, 255)):
        Image.new("RGB", (8, 6), (grey,) * 3).save(pictures / name)
    script = Path(__file__).parents[1] / "programs" / "ray_prediction.py"
    command = without_network(sys.executable, script, tiny_run, "pictures", tmp_path)
    with tempfile.TemporaryDirectory(prefix="r") as folder:  # short: sockets lie in it
        environment = {**os.environ, "RAY_TMPDIR": folder}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    seen = json.loads(done.stdout)
    names = sorted(f"pictures/{path.name}" for path in pictures.iterdir())
    assert seen["exit codes"] == [0, 1, 0, 2], seen["said"]
    assert seen["equal masks"] == COUNT - 1
    assert seen["listed"] == seen["listed in the end"] == names
    ((source, error),) = seen["failed"]
    assert source == f"pictures/{WHITE}"
    assert f"{source} ended its worker 2 times while no other picture was in work" in error
    assert f"wrote {COUNT - 1} of {COUNT} masks to shot (ort on cpu)" in seen["said"][0]
    assert "workers were lost, the last: process" in seen["said"][0]
    assert seen["left over"] == []
    assert not seen["once left"]
    assert seen["done again"] == [WHITE]
    assert seen["equal masks in the end"] == COUNT
    assert seen["shares as of the local engine"]
    assert "1 workers were lost" in seen["said"][1]
    assert "of another model (ort fp32" in seen["said"][2]


def test_pictures_in_archives_are_refused_with_the_repair(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 0)
    shutil.make_archive(str(tmp_path / "b"), "zip", tmp_path, "a.png")
    with Sources([str(tmp_path / "a.png"), str(tmp_path / "b.zip")]) as sources:
        with pytest.raises(InputError, match=r"b\.zip/a\.png is no file .*; unpack the archive"):
            require_files(list(sources))
        require_files(list(sources)[:1])
