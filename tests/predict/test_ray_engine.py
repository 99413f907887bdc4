"""predict --engine ray: two workers, one killed, and a picture that kills whoever reads it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from fcn_deploy.core.errors import BackendError, InputError
from fcn_deploy.predict.ray_engine import plan, require_files
from fcn_deploy.predict.sources import Sources
from tests.predict.jobs import draw, draw_many

COUNT = 60


def loopback_alone() -> list[str]:
    """Return what a command is begun with so that no other network is there.

    Ray tells others the machine's address.
    """
    for flags in ("-n", "-rn"):
        lead = ["unshare", flags, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        if shutil.which("unshare") and not subprocess.run([*lead, "true"], stderr=-3).returncode:
            return lead
    pytest.skip("a network of loopback alone needs unshare, ip and the right to use them")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_a_killed_worker_costs_no_mask_and_a_deadly_picture_is_named(
    tiny_run: Path, tmp_path: Path
) -> None:
    pictures = draw_many(tmp_path / "pictures", COUNT)
    for name, grey in (("010.png", 0), ("030.png", 255)):
        Image.new("RGB", (8, 6), (grey,) * 3).save(pictures / name)
    script = Path(__file__).parents[1] / "programs" / "ray_prediction.py"
    command = [*loopback_alone(), sys.executable, str(script), str(tiny_run), str(COUNT)]
    with tempfile.TemporaryDirectory(prefix="r") as folder:  # short: sockets lie in it
        env = {**os.environ, "RAY_TMPDIR": folder}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    print(done.stdout)


def test_pictures_in_archives_are_refused_with_the_repair(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 0)
    shutil.make_archive(str(tmp_path / "b"), "zip", tmp_path, "a.png")
    with Sources([str(tmp_path / "a.png"), str(tmp_path / "b.zip")]) as sources:
        require_files(list(sources)[:1])
        with pytest.raises(InputError, match=r"b\.zip/a\.png is no file .*; unpack the archive"):
            require_files(list(sources))


def test_a_worker_gets_a_gpu_or_a_share_of_its_node() -> None:
    cpus = [{"CPU": 8.0, "memory": 1e9}, {"CPU": 4.0}, {"memory": 1e9}]
    gpus = [*cpus, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 64.0, "GPU": 8.0}]
    assert plan(cpus) == (2, 4, 0)
    assert plan(cpus, 12) == (12, 1, 0)
    assert plan(gpus) == (12, 5, 1)
    assert plan(gpus, gpu=False) == (4, 4, 0)
    with pytest.raises(InputError, match="--workers 13 is too many for 12 GPUs; give at most 12"):
        plan(gpus, 13)
    with pytest.raises(BackendError, match="the Ray cluster has no GPU"):
        plan(cpus, gpu=True)
