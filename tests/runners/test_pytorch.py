from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fcn_deploy.artifacts import Run
from fcn_deploy.errors import BackendError, MissingStageError
from fcn_deploy.runners.base import Runner, open_runner
from fcn_deploy.spec import Precision
from tests.runners.contract import RunnerContract, pictures


class TestTorchRunner(RunnerContract):
    @pytest.fixture(autouse=True)
    def _run(self, tiny_run: Run) -> None:
        self.run_directory = tiny_run

    def open(self, outputs: tuple[str, ...]) -> Runner:
        return open_runner(self.run_directory, "torch", outputs=outputs, device="cpu")


def test_threads_are_pinned(tiny_run: Run) -> None:
    before = torch.get_num_threads()
    try:
        with open_runner(tiny_run, "torch", threads=1, device="cpu") as runner:
            assert runner.describe().threads == 1
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_is_never_replaced_by_the_cpu(tiny_run: Run) -> None:
    with pytest.raises(BackendError, match="no CUDA device"):
        open_runner(tiny_run, "torch", device="cuda")


def test_without_a_checkpoint_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingStageError, match="fcn-deploy train --out"):
        open_runner(Run(tmp_path / "nothing"), "torch")


def test_unknown_backend_names_the_known_ones(tiny_run: Run) -> None:
    with pytest.raises(BackendError, match="torch"):
        open_runner(tiny_run, "tensorflow")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_fp16_on_the_gpu_gives_masks(tiny_run: Run) -> None:
    with open_runner(tiny_run, "torch", precision=Precision.FP16, device="cuda") as runner:
        assert runner.run(pictures(2, 97, 131)).mask.shape == (2, 97, 131)
        assert "cuda" in runner.describe().device
