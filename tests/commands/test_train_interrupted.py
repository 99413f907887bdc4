"""``fcn-deploy train`` that is stopped by Ctrl-C."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fcn_deploy.core.files import file_digest
from tests.command_line import FcnDeploy
from tests.commands.quick_training import QUICK


def test_ctrl_c_keeps_the_last_whole_checkpoint(
    fcn_deploy: FcnDeploy, monkeypatch: pytest.MonkeyPatch, few_scenes: None, tmp_path: Path
) -> None:
    from fcn_deploy.networks.checkpoint import load_checkpoint
    from fcn_deploy.training import trainer

    honest = trainer.segmentation_loss
    losses: list[object] = []

    def interrupted_in_the_second_epoch(*arguments: object) -> object:
        losses.append(None)
        if len(losses) == 2:  # one batch an epoch
            raise KeyboardInterrupt
        return honest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "segmentation_loss", interrupted_in_the_second_epoch)
    words = ["3" if word == "1" else word for word in QUICK]
    finished = fcn_deploy("train", *words)
    assert finished.code == 130
    assert "stopped" in finished.err
    assert load_checkpoint(tmp_path / "runs/fcn/model.safetensors").spec.num_classes == 8
    metrics = json.loads((tmp_path / "runs/fcn/metrics.json").read_text())
    assert len(metrics["epochs"]) == 1
    assert metrics["checkpoint_digest"] == file_digest(tmp_path / "runs/fcn/model.safetensors")
