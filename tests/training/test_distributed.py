"""Two processes by torchrun and gloo: the same as one with twice the batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fcn_deploy.core.errors import DataError, InputError, LostProcessError
from fcn_deploy.core.files import read_json
from fcn_deploy.core.run import Run
from fcn_deploy.data.voc import VocDataset
from fcn_deploy.training.distributed import World, lost_ranks_named, synchronised
from fcn_deploy.training.loop import train
from fcn_deploy.training.plan import TrainPlan
from fcn_deploy.training.recipes import RECIPES
from fcn_deploy.training.train_state import load_state
from tests.conftest import WriteVocFolder

PROGRAMS = Path(__file__).parents[1] / "programs"
WORDS = ["--recipe", "tutorial", "--crop-size", "64x64", "--lr", "0.003", "--amp", "off"]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not torch.distributed.is_available(), reason="needs gloo"
)


@pytest.fixture
def data(voc_folder: WriteVocFolder) -> Path:
    return voc_folder(train=8, val=3, size=(80, 112))


def process(*words: object) -> subprocess.CompletedProcess[str]:
    """Run Python with one thread: how many there are decides in which order sums are taken."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True, text=True, check=False, cwd=PROGRAMS.parents[1], timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def torchrun(*words: object) -> subprocess.CompletedProcess[str]:
    return process("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, *words)


@pytest.mark.slow
def test_two_processes_learn_what_one_with_twice_the_batch_learns(data: Path) -> None:
    done = torchrun(PROGRAMS / "two_ranks.py", data)
    assert done.returncode == 0, done.stderr
    off = json.loads(done.stdout.splitlines()[-1])
    assert off.pop("correct")["worst_tensor"] <= 1e-9, off
    assert len(off) == 4
    for mistake, distances in off.items():
        assert distances["whole"] >= 1e-2, mistake


@pytest.mark.slow
def test_the_command_under_torchrun(data: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    words = ("-m", "fcn_deploy", "train", "--data", data, *WORDS, "--epochs", "1")
    alone = process(*words, "--out", one, "--batch-size", "4")
    assert alone.returncode == 0, alone.stderr
    done = torchrun(*words, "--out", two, "--batch-size", "2", "--sync-batch-norm")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1") == 1  # rank 0 alone speaks
    ((wanted,), (found,)) = (read_json(run / "metrics.json", "")["epochs"] for run in (one, two))
    # The second step starts from weights that rounding has moved apart; exact: the test above.
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-2)
    for name in ("train_pixel_accuracy", "val_pixel_accuracy"):  # near ties may fall otherwise
        assert found[name] == pytest.approx(wanted[name], abs=0.01), name


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_with_a_word_and_a_checkpoint(
    data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = (
        "train", "--data", data, "--out", run, *WORDS, *["--epochs", "2", "--batch-size", "2"]
    )  # fmt: skip
    done = torchrun(PROGRAMS / "lost_rank.py", "SIGKILL", *words)
    assert done.returncode != 0
    # Whichever comes first: gloo finds the connection closed, or torchrun ends the others.
    said = [line for line in done.stderr.splitlines() if line.startswith("fcn-deploy: ")]
    assert len(said) == 1, done.stderr
    assert "rank 0 of 2 lost another process" in said[0] or "stopped by a signal" in said[0]
    assert "--resume" in said[0]
    assert read_json(run / "metrics.json", "")["epochs"][-1]["epoch"] == 1
    assert load_file(run / "model.safetensors")
    resumed = torchrun("-m", "fcn_deploy", *words, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stdout
    assert read_json(run / "metrics.json", "")["epochs"][-1]["epoch"] == 2
    assert not (run / "state.pt").exists()


@pytest.mark.slow
def test_a_rank_that_is_told_to_end_ends_all_with_their_state_saved(
    data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = (*WORDS, "--epochs", "2", "--batch-size", "2")
    done = torchrun(
        PROGRAMS / "lost_rank.py", "SIGTERM", "train", "--data", data, "--out", run, *words
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("fcn-deploy: ")]
    assert said == [
        "fcn-deploy: stopped by a signal in epoch 2, batch 1; "
        "go on with the same command and --resume"
    ]
    state = load_state(run / "state.pt")
    assert (state.epoch, state.sums.batches, state.sums.examples) == (2, 1, 2)
    assert int(state.sums.confusion.sum()) > 2 * 64 * 64 * 0.9  # of both ranks' crops
    fewer = process("-m", "fcn_deploy", "train", "--out", run, "--resume")
    assert fewer.returncode == 2
    assert "the run was begun with 2 processes, not 1" in fewer.stderr


@pytest.mark.slow
def test_only_a_lost_process_is_called_one() -> None:
    with pytest.raises(RuntimeError, match="shapes"), lost_ranks_named(World(0, 2)):
        raise RuntimeError("shapes do not fit")
    with (
        pytest.raises(LostProcessError, match="lost another process"),
        lost_ranks_named(World(0, 2)),
    ):
        raise RuntimeError("[gloo/transport] Connection closed by peer")


@pytest.mark.slow
def test_too_few_images_for_all_processes(data: Path, tmp_path: Path) -> None:
    train_set, val_set = (VocDataset.open(data, split) for split in ("train", "val"))
    with pytest.raises(DataError, match="fewer processes"):
        train(TrainPlan(RECIPES["tutorial"]), train_set, val_set, Run(tmp_path), world=World(0, 2))


class NormAndActivation(nn.BatchNorm2d):
    """As timm has it: batch normalisation with the activation inside."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


def test_batch_normalisation_that_does_more_is_not_replaced() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), NormAndActivation(3))
    with pytest.raises(InputError, match="NormAndActivation; drop --sync-batch-norm"):
        synchronised(network, torch.device("cpu"))
    assert [type(module) for module in network] == [nn.BatchNorm2d, NormAndActivation]
