"""Fixtures of the benchmark's tests, and the place of its scripts."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec
from tests.benchmarks.gpu_machine import Borrow, Machine
from tests.benchmarks.table_inputs import pictures

# As `python benchmarks/table.py` finds them: they are no part of the package.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_spec: ModelSpec, traced_once: object) -> Run:
    """A network whose classes are told apart by the picture, with its plain export."""
    import torch

    from fcn_deploy.export.baseline import ensure_baseline
    from fcn_deploy.networks.architectures import build_model
    from fcn_deploy.networks.checkpoint import save_checkpoint

    run = Run(tmp_path_factory.mktemp("peers"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(tiny_spec.architecture, tiny_spec.num_classes)
        # As after a little training: the statistics of batch normalisation are those of pictures.
        # With those of an untrained network the same class would win everywhere.
        batch = torch.from_numpy(pictures((4, 128, 160))).permute(0, 3, 1, 2).float()
        mean = 255 * torch.tensor(tiny_spec.mean).view(1, 3, 1, 1)
        std = 255 * torch.tensor(tiny_spec.std).view(1, 3, 1, 1)
        with torch.no_grad():
            for _ in range(5):
                model((batch - mean) / std)
    save_checkpoint(run.checkpoint, model.eval(), tiny_spec)
    ensure_baseline(run)
    return run


@pytest.fixture
def borrow(tmp_path: Path) -> Iterator[Borrow]:
    """Borrow a machine for a list of steps; it is given back at the end."""
    machines: list[Machine] = []

    def borrowed(steps: str) -> Machine:
        machines.append(Machine(tmp_path, steps))
        return machines[-1]

    yield borrowed
    for machine in machines:
        machine.end()
