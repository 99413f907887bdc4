"""Two processes by torchrun and gloo: the same as one with twice the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fcn_deploy.cli import main
from fcn_deploy.dataset import VocDataset
from fcn_deploy.distributed import World, lost_ranks_named
from fcn_deploy.errors import LostProcessError
from fcn_deploy.networks import build_model
from fcn_deploy.scenes import SCENE_CLASS_NAMES
from tests.conftest import WriteVocFolder

HERE = Path(__file__).parent
WORDS = ["--recipe", "tutorial", "--crop-size", "64x64", "--lr", "0.003", "--amp", "off"]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not torch.distributed.is_available(), reason="needs gloo"
)


@pytest.fixture
def data(voc_folder: WriteVocFolder) -> Path:
    return voc_folder(train=8, val=3, size=(80, 112))


def torchrun(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, "--nproc-per-node", "2", *map(str, words)],
        capture_output=True, text=True, check=False, cwd=HERE.parent, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_two_processes_equal_one_with_twice_the_batch(data: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with pytest.raises(SystemExit) as end:
        main(
            [
                "train",
                "--data",
                str(data),
                "--out",
                str(one),
                *WORDS,
                *["--epochs", "1", "--batch-size", "4"],
            ]
        )
    assert end.value.code == 0
    done = torchrun(
        "-m", "fcn_deploy", "train", "--data", data, "--out", two, *WORDS,
        *["--epochs", "1", "--batch-size", "2", "--sync-batch-norm"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1") == 1  # rank 0 alone speaks
    alone, together = (
        json.loads((run / "metrics.json").read_text())["epochs"] for run in (one, two)
    )
    for one_epoch, same in zip(together, alone, strict=True):
        assert one_epoch["loss"] == pytest.approx(same["loss"], rel=2e-3)
        for name in ("train_pixel_accuracy", "val_pixel_accuracy"):  # near ties may fall otherwise
            assert one_epoch[name] == pytest.approx(same[name], abs=0.01)
    torch.manual_seed(0)
    begun = build_model("fcn32s-resnet18", len(SCENE_CLASS_NAMES)).state_dict()
    expected, found = (load_file(run / "last.safetensors") for run in (one, two))
    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        # Of what was learned; a rounding may switch a ReLU, so not to the last bit.
        learned = (weights - begun[name]).float().norm()
        assert (found[name] - weights).float().norm() <= 0.02 * learned, name


def test_a_killed_rank_ends_the_run_with_a_word_and_a_checkpoint(
    data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = (
        "train", "--data", data, "--out", run, *WORDS, *["--epochs", "2", "--batch-size", "2"]
    )  # fmt: skip
    done = torchrun(HERE / "lost_rank.py", *words)
    assert done.returncode != 0
    # Whichever comes first: gloo finds the connection closed, or torchrun ends the others.
    said = [line for line in done.stderr.splitlines() if line.startswith("fcn-deploy: ")]
    assert len(said) == 1, done.stderr
    assert "rank 0 of 2 lost another process" in said[0] or "stopped by a signal" in said[0]
    assert "--resume" in said[0]
    assert json.loads((run / "metrics.json").read_text())["epochs"][-1]["epoch"] == 1
    assert load_file(run / "model.safetensors")
    resumed = torchrun("-m", "fcn_deploy", *words, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stdout
    assert json.loads((run / "metrics.json").read_text())["epochs"][-1]["epoch"] == 2
    assert not (run / "state.pt").exists()


def test_only_a_lost_process_is_called_one() -> None:
    with pytest.raises(RuntimeError, match="shapes"), lost_ranks_named(World(0, 2)):
        raise RuntimeError("shapes do not fit")
    with (
        pytest.raises(LostProcessError, match="lost another process"),
        lost_ranks_named(World(0, 2)),
    ):
        raise RuntimeError("[gloo/transport] Connection closed by peer")


def test_too_few_images_for_all_processes(data: Path, tmp_path: Path) -> None:
    from fcn_deploy.artifacts import Run
    from fcn_deploy.errors import DataError
    from fcn_deploy.recipes import RECIPES
    from fcn_deploy.train import TrainPlan, train

    train_set, val_set = (VocDataset.open(data, split) for split in ("train", "val"))
    with pytest.raises(DataError, match="fewer processes"):
        train(TrainPlan(RECIPES["tutorial"]), train_set, val_set, Run(tmp_path), world=World(0, 2))
