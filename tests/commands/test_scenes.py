"""``fcn-deploy scenes`` writes a folder that ``train`` takes."""

from pathlib import Path

from tests.command_line import FcnDeploy, refused
from tests.commands.quick_training import QUICK


def test_scenes_are_data_that_train_takes(fcn_deploy: FcnDeploy, tmp_path: Path) -> None:
    fcn_deploy("scenes", "data", "--train", "4", "--val", "2", "--size", "80x112").succeeded()
    trained = fcn_deploy("train", "--data", "data", *QUICK)
    assert "read 4 training and 2 validation examples of 8 classes" in trained.out
    assert trained.code == 0, trained.err
    refused(fcn_deploy("scenes", "data"), "not empty")
